"""What every model of this package shares: network, noise, units, training step.

A model answers with a score psi(x), of the shape of x, and through it with the least-squares
estimate of the clean point from a noisy one (Eq. 11),

    x_hat(xi) = xi + sigma^2 psi(xi).

Its objective is given per data point; the loss is the mean over the batch. The default
is Parzen score matching in its denoising form (Eq. 17): with xi = x + sigma nu,
nu ~ N(0, I),

    L = E |x - x_hat(xi)|^2,

the SUM over coordinates. Its floor is the Bayes error L* of the smoothed density, and
L - L* = sigma^4 E |psi - psi*|^2 (Eqs. 13-17).

Units. The network sees z = (x - m) / s (`deen_tf.training.scaling`), and there the noise has
the level sigma / s. The methods named `..._at`, `objective` and `draw` are about z: points,
noise levels and scores in the network's units. What is descended has no units, L / sigma^2;
what is reported is L, in squared units of x. With a noise level for each coordinate it is
sum_i r_i^2 / sigma_i^2 that is descended, and that times the mean sigma_i^2 that is reported.

The way of a step: `fit` (here) -> `deen_tf.training.loop`, many steps in one program ->
`descend` (here) -> `objective` and `score_at` of the model -> the network.
"""

import keras
import numpy as np
import tensorflow as tf

from deen_tf.checks import as_points, check_resolution, check_shape, positive, whole
from deen_tf.models.keras_methods import KerasMethods
from deen_tf.models.pointwise import as_tensor, pointwise
from deen_tf.networks.mlp import MLP
from deen_tf.training import loop, noise, replicas, scaling

START = 20_000  # points that a network's first weights are drawn to suit


class ScoreModel(KerasMethods):
    """Base of all models.

    Parameters
    ----------
    hidden_units : sequence of int
        Widths dim(h^(1)), ..., dim(h^(L)) of the paper's network, an MLP with tanh units; by
        default (32, 32, 32).
    sigma : float, or array_like of a point's shape
        Noise level: standard deviation of the smoothing kernel (Eq. 16), in the units of
        the data; of all coordinates or of each. It may be changed later, to another level
        in proportion: that takes effect at once.
    seed : int
        Of the initial weights, the noise, and the order of the data.
    noise_samples : int
        m of Eq. 23: noisy observations per data point and step.
    first_layer_gain : float, optional
        Standard deviation, over noisy data, of what the first layer's tanh units see at
        the start; by default what the network's `start` thinks best.
    network : keras model or layer, optional
        In place of the MLP: maps points, of any shape, to experts whose sum is the energy
        (see `deen_tf.networks`), or, where there is no energy, to the shape of a point.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    """

    signatures = ("score", "denoise")
    # What decides a model, but for sigma and network: fixed when it is made.
    settings = ("hidden_units", "seed", "noise_samples", "first_layer_gain")
    power = 2  # the objective is in units of sigma to this power
    several_levels = False

    def __init__(
        self,
        hidden_units=None,
        sigma=0.1,
        seed=0,
        noise_samples=1,
        first_layer_gain=None,
        network=None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if not tf.as_dtype(self.variable_dtype).is_floating:
            raise ValueError(
                f"dtype must be a floating-point type, got {self.variable_dtype}"
            )
        self.seed = whole(seed, "seed", least=0)
        self.noise_samples = whole(noise_samples, "noise_samples")
        if first_layer_gain is not None:
            first_layer_gain = positive(first_layer_gain, "first_layer_gain")
        self.first_layer_gain = first_layer_gain
        if network is None:
            self._make_network((32, 32, 32) if hidden_units is None else hidden_units)
        else:
            if hidden_units is not None:
                raise ValueError("give hidden_units or a network, not both")
            if not isinstance(network, keras.layers.Layer):
                raise TypeError(
                    f"network must be a Keras model or layer, got {network!r:.80}"
                )
            self.network = network
            self.hidden_units = getattr(network, "hidden_units", None)
        self._own_network = network is None  # made of the settings
        self._profile = None  # sigma of each coordinate, in units of the level
        self.noise_level = self.add_weight(
            name="noise_level", shape=(), trainable=False, initializer="ones"
        )
        self.sigma = sigma
        self.loss_tracker = MeanLoss("loss")

    def _make_network(self, hidden_units):
        self.network = MLP(
            hidden_units, seed=self.seed, dtype=self.dtype_policy, name="mlp"
        )
        self.hidden_units = self.network.hidden_units

    @property
    def hidden(self):
        """The hidden layers of a network of the package: a list of Dense."""
        return self.network.hidden

    @property
    def last(self):
        """The last layer of a network of the package: a Dense."""
        return self.network.last

    def __setattr__(self, name, value):
        if name in self.settings and name in self.__dict__:
            raise AttributeError(
                f"{name} is fixed when a {type(self).__name__} is made: make another one"
            )
        super().__setattr__(name, value)

    def get_config(self):
        config = {name: getattr(self, name) for name in self.settings}
        config["sigma"] = self.sigma.tolist() if np.ndim(self.sigma) else self.sigma
        if not self._own_network:
            network = keras.saving.serialize_keras_object(self.network)
            config |= {"network": network, "hidden_units": None}
        return super().get_config() | config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if config.get("network") is not None:
            network = keras.saving.deserialize_keras_object(
                config["network"], custom_objects
            )
            config = config | {"network": network}
        return cls(**config)

    # ---- points and units ------------------------------------------------------------

    @property
    def sigma(self):
        """The noise level, in the units of the data: a float, or an array of a point's shape."""
        level = float(str(self.noise_level.numpy()))  # 0.1, not 0.10000000149
        return level if self._profile is None else level * self._profile

    @sigma.setter
    def sigma(self, value):
        if np.ndim(value) == 0:
            level, profile = positive(value, dtype=self.variable_dtype), None
        else:
            value = as_points([value], ..., "sigma", "float64")[0]
            positive(value.min(), dtype=self.variable_dtype)
            level = float(np.sqrt(np.mean(np.square(value))))
            profile = value / level
        if self.built and not np.allclose(
            1.0 if profile is None else profile,
            1.0 if self._profile is None else self._profile,
            rtol=1e-5,
        ):
            raise ValueError(
                "sigma can only be changed in proportion: another ratio of the "
                "coordinates' noise levels needs another model"
            )
        if not self.built:
            self._profile = profile
        self.noise_level.assign(level)

    @property
    def dimension(self):
        """d, the number of coordinates of a point; None until the model is built."""
        return None if self.point_shape is None else int(np.prod(self.point_shape))

    @property
    def point_shape(self):
        """Shape of one point; None until the model is built."""
        return self._build_shapes_dict["input_shape"][1:] if self.built else None

    def build(self, input_shape):
        shape = tuple(input_shape[1:])
        check_shape(("n", *shape), ...)
        if self._profile is not None:
            check_shape(("n", *shape), self._profile.shape, "x")
        profile = np.ones(()) if self._profile is None else self._profile
        for name, of, value in (
            ("center", self._center_shape(shape), 0.0),
            ("scale", (), 0.0),  # 0: not known yet, taken for 1
            ("profile", profile.shape, profile),
        ):
            weight = self.add_weight(
                name=name, shape=of, trainable=False, initializer="zeros"
            )
            weight.assign(np.broadcast_to(value, of))
            setattr(self, name, weight)
        self._takes_sigma = "sigma" in self.network._call_signature.parameters
        z = tf.zeros((1, *shape), self.variable_dtype)
        self._check_network(self.outputs_at(z, tf.ones((), z.dtype)), shape)
        for layer in self.network._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                loop.log.warning(
                    "%s: with BatchNormalization what a point is worth in training depends "
                    "on its batch; LayerNormalization or GroupNormalization do not do that",
                    self.name,
                )
        self._build_shapes_dict = {"input_shape": (None, *shape)}
        self.built = True

    def _center_shape(self, shape):
        center = getattr(self.network, "center", None)
        if not isinstance(center, str):
            center = "coordinate" if len(shape) == 1 else "channel"
        self._centered = center
        return {"coordinate": shape, "channel": shape[-1:], "all": ()}[center]

    def _check_network(self, outputs, shape):
        if tf.size(outputs) != np.prod(shape):
            raise ValueError(
                f"the network of a {type(self).__name__} must map points of shape {shape} to "
                f"that shape, got {tuple(outputs.shape[1:])}"
            )

    def see_shape(self, shape):
        """Build the model for points (n, ...) of this shape, or check that it is theirs."""
        check_shape(shape, ... if self.point_shape is None else self.point_shape)
        if not self.built:
            with self.distribute_strategy.scope():
                self.build((None, *shape[1:]))

    def adapt(self, x):
        """Take units from the data x, and draw the initial weights to suit them.

        `fit` does so for a model that has no weights yet: with data in memory, or the first
        batches of a stream. To begin with a network's own weights, `build((None, d))` first.
        What suits is up to the network's `start`; the paper's begins at the energy of a
        Gaussian with the data's mean and covariance (`deen_tf.training.start`).

        Parameters
        ----------
        x : array_like, shape (n, ...)
        """
        x = as_points(x, self.point_shape or ..., dtype=self.variable_dtype)
        self.see_shape(x.shape)
        x = self._take_units(x)
        if hasattr(self.network, "start"):
            rng = np.random.default_rng([self.seed, 1])
            x = x[rng.permutation(len(x))[:START]].astype("float64")
            scale = self.scale.numpy().astype("float64") * self.profile.numpy()
            z = (x - self.center.numpy().astype("float64")) / scale
            level = float(self.noise_level.numpy() / self.scale.numpy())
            self.network.start(z, level, self.first_layer_gain, rng)

    def _take_units(self, x):
        """Set m and s by the data x, without those that lie out of all proportion."""
        x = scaling.ordinary(x)
        center, scale = scaling.center_and_scale(x, self.sigma, self._centered)
        self.center.assign(center)
        self.scale.assign(np.sqrt(np.mean(np.square(scale))))
        return x

    def _prepare(self, x):
        """Adapt to the points x as far as that has not been done."""
        fresh = not self.built and not self.network.built
        self.see_shape(x.shape)
        if fresh:
            self.adapt(x)
        elif self.scale.numpy() == 0:
            self._take_units(x)

    def scales(self):
        """Return s for all coordinates at once, (), and for each, a point's shape or ()."""
        s = tf.convert_to_tensor(self.scale)
        s = tf.where(s > 0, s, tf.ones_like(s))
        return s, s * tf.convert_to_tensor(self.profile)

    def to_network(self, x):
        """Return z = (x - m) / s."""
        return (x - tf.convert_to_tensor(self.center)) / self.scales()[1]

    def from_network(self, z):
        """Return x = m + s z."""
        return tf.convert_to_tensor(self.center) + self.scales()[1] * z

    def level(self, x, sigma=None):
        """Return the noise level, in the units of the data, as a tensor."""
        if sigma is not None:
            raise ValueError(
                f"this {type(self).__name__} has one noise level, model.sigma: its methods "
                "take no sigma"
            )
        return tf.convert_to_tensor(self.noise_level)

    def outputs_at(self, z, sigma, training=False):
        """Return what the network puts out for points and a noise level in its own units."""
        arguments = (z, sigma) if self._takes_sigma else (z,)
        return tf.cast(self.network(*arguments, training=training), z.dtype)

    # ---- what a point is worth -------------------------------------------------------

    @pointwise
    def score(self, x, sigma):
        """Return psi(x) (Eq. 3).

        Parameters
        ----------
        x : array_like or tensor, shape (n, ...)

        Returns
        -------
        ndarray or tensor, shape of x
            In nats per unit of the data.
        """
        s, each = self.scales()
        return self.score_at(self.to_network(x), sigma / s) / each

    @pointwise
    def denoise(self, xi, sigma):
        """Return the single-step estimate x_hat = xi + sigma^2 psi(xi) (Eq. 11).

        Parameters
        ----------
        xi : array_like or tensor, shape (n, ...)
            Noisy points of noise level sigma.

        Returns
        -------
        ndarray or tensor, shape of xi
        """
        s, each = self.scales()
        level = sigma / s
        return xi + each * level**2 * self.score_at(self.to_network(xi), level)

    # ---- training --------------------------------------------------------------------

    def objective(self, x, nu, sigma, training=False):
        """Return the objective of each data point for the given noise.

        Parameters
        ----------
        x : tensor, shape (n, ...)
            Clean data, in the network's units.
        nu : tensor, shape of x
            Standard normal noise.
        sigma : tensor
            Noise level, in the network's units.
        training : bool
            How layers behave that tell.

        Returns
        -------
        tensor, shape (n,)
            |x - (xi + sigma^2 psi(xi))|^2 with xi = x + sigma nu (Eq. 17), in units of
            sigma^2.
        """
        xi = x + sigma * nu
        x_hat = xi + sigma**2 * self.score_at(xi, sigma, training)
        return squared_length((x - x_hat) / sigma)

    def draw(self, x, key):
        """Return what is random in a step, as the arguments of `objective` after x.

        Parameters
        ----------
        x : tensor, shape (n, ...)
            In the network's units.
        key : callable
            `key(source)` is the key of the step's noise from one of several independent
            sources, 0, 1, ...; see `deen_tf.training.noise`.

        Returns
        -------
        tuple of tensors
            Here nu, standard normal, shape of x, alone.
        """
        return (noise.standard_normal(tf.shape(x), key(), dtype=x.dtype),)

    def losses(self, x, step, stream, training=False, replica=None):
        """Return the mean over the points x of what is descended, and of what is reported."""
        x = as_tensor(x, self.point_shape, self.variable_dtype)
        x = tf.repeat(self.to_network(x), self.noise_samples, axis=0)
        if replica is None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group

        def key(source=0):
            return noise.key(self.seed, step, stream, replica, source)

        sigma = tf.convert_to_tensor(self.noise_level)
        draws = self.draw(x, key)
        values = self.objective(x, *draws, sigma / self.scales()[0], training=training)
        descended = tf.reduce_mean(values)
        return descended, descended * sigma**self.power

    def descend(self, x):
        """Draw the noise, descend the objective once; return the loss of the batch x."""
        x, share = replicas.part_of_batch(x)
        with tf.GradientTape() as tape:
            step = self.optimizer.iterations
            descended, reported = self.losses(x, step, noise.TRAINING, training=True)
            descended *= tf.cast(share, descended.dtype)  # replicas' sum is the mean
            scaled = self.optimizer.scale_loss(descended)
        gradients = tape.gradient(scaled, self.trainable_variables)
        gradients = replicas.clipped(self.optimizer, gradients)
        self.optimizer.apply_gradients(
            (g, v)
            for g, v in zip(gradients, self.trainable_variables, strict=True)
            if g is not None  # an energy's last bias: E is free up to a constant
        )
        return replicas.sum_over(reported * tf.cast(share, reported.dtype))

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        check_divergence=True,
        **kwargs,
    ):
        """Train; as `keras.Model.fit`, without targets.

        Points in memory (an array, a list, a frame, a table on disk, an eager tensor) go the
        fast way: they are put on the device once, and as many steps and epochs as the
        callbacks allow are one compiled program (see `deen_tf.training.loop`). Streams
        (tf.data, generators) go through Keras' own loop, a step at a time.

        Parameters
        ----------
        x : array_like (n, ...), tf.data.Dataset, keras.utils.PyDataset or generator
            A model that has not seen data yet adapts to them, see `adapt`: a stream's
            first batches stand for all.
        batch_size : int, optional
            32 if not given, as Keras has it.
        epochs, verbose, callbacks, validation_split, validation_data, shuffle
            As in `keras.Model.fit`.
        check_divergence : bool
            Stop a training that has failed: see `deen_tf.training.guard`.
        **kwargs
            Of `keras.Model.fit`.

        Returns
        -------
        keras.callbacks.History
            Its losses are means over the steps of an epoch; the loss of every step of this
            fit is in `model.step_losses`.

        Raises
        ------
        DivergenceError
            If the loss is not finite, or the model has fallen into the dead state, loss =
            sigma^2 d and score 0. The model then has the last good weights.
        """
        name = type(self).__name__
        for argument in ("sample_weight", "class_weight"):
            if kwargs.pop(argument, None) is not None:
                raise ValueError(f"{name}: fit() takes no {argument}")
        if y is not None:
            raise ValueError(f"{name} learns from points alone: fit() takes no y")
        if not self.compiled:
            raise ValueError("call compile() before fit()")
        how = {
            "epochs": whole(epochs, "epochs", least=0),
            "verbose": verbose,
            "callbacks": callbacks,
            "check_divergence": check_divergence,
            **kwargs,
        }
        split = positive(validation_split, "validation_split", zero=True)
        if not loop.in_memory(x):
            stream, data = loop.peek(x)
            self._prepare(data)
            self._check_trainable()
            return loop.fit_stream(
                self, super().fit, stream, data, validation_data, how
            )
        x = as_points(x, self.point_shape or ..., dtype=self.variable_dtype)
        check_resolution(x, self.sigma)
        x, validation_data = loop.validation(x, split, validation_data)
        self._prepare(x)
        self._check_trainable()
        if loop.in_memory(validation_data):
            validation_data = as_points(
                validation_data, self.point_shape, "validation_data", x.dtype
            )
        batch_size = whole(32 if batch_size is None else batch_size, "batch_size")
        if replicas.by_keras(self):
            how["callbacks"] = loop.guarded(how, x)
            return replicas.fit(
                self, super().fit, x, batch_size, shuffle, validation_data, **how
            )
        return loop.fit(self, x, batch_size, shuffle, validation_data, **how)

    def _check_trainable(self):
        if not self.trainable_variables:
            raise ValueError(
                "nothing to train: the model has no trainable weights (model.trainable = "
                f"{self.trainable})"
            )

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        """Return the objective on the points x; as `keras.Model.evaluate`."""
        if y is not None:
            raise ValueError(f"{type(self).__name__} takes no y")
        if not loop.in_memory(x):
            if not self.built:
                x, data = loop.peek(x)
                self.see_shape(data.shape)
            return super().evaluate(x, batch_size=batch_size, **kwargs)
        x = as_points(x, self.point_shape or ..., dtype=self.variable_dtype)
        self.see_shape(x.shape)
        batch_size = whole(32 if batch_size is None else batch_size, "batch_size")
        return loop.evaluate(self, x, batch_size, **kwargs)

    def train_step(self, data):
        """Descend once on a batch of a stream."""
        self.loss_tracker.update_state(self.descend(self._points_of(data)))
        return self._logs()

    def test_step(self, data):
        """Measure the same objective, with the same noise at every evaluation."""
        x, share = replicas.part_of_batch(self._points_of(data))
        _, loss = self.losses(x, self.loss_tracker.batches, noise.EVALUATION)
        share = tf.cast(share, loss.dtype)
        loss = replicas.sum_over(loss * share)
        self.loss_tracker.update_state(loss, sample_weight=replicas.rows(x, share))
        return self._logs()

    def _points_of(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is not None or sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} learns from points alone: pass x without "
                "targets or sample weights"
            )
        return as_tensor(x, self.point_shape, self.variable_dtype)

    def _logs(self):
        loss = self.loss_tracker.result()
        # Keras takes the mean of several workers' logs along axis 0.
        return {"loss": loss[None] if replicas.several_workers(self) else loss}

    @property
    def metrics(self):
        return [self.loss_tracker]


class MeanLoss(keras.metrics.Mean):
    """The mean over the points, and how many batches have been seen."""

    def __init__(self, name="loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.batches = self.add_variable((), "zeros", dtype="int64", name="batches")

    def update_state(self, values, sample_weight=None):
        super().update_state(values, sample_weight=sample_weight)
        self.batches.assign_add(1)


def squared_length(r):
    """Return |r|^2 of each point r (n, ...) as a tensor (n,)."""
    return tf.reduce_sum(tf.square(r), axis=list(range(1, len(r.shape))))
