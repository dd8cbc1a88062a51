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
from deen_tf.models.pointwise import as_tensor, pointwise
from deen_tf.models.units import UnitModel
from deen_tf.training import loop, noise, replicas, sources


class ScoreModel(UnitModel):
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
    power = 2  # the objective is in units of sigma to this power

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = MeanLoss("loss")

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
        return (
            self.score_at(self.to_network(x), self.level_at(sigma)) / self.scales()[1]
        )

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
        each, level = self.scales()[1], self.level_at(sigma)
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
        if self.several_levels:  # one for each point, log-uniform
            low, high = self.levels
            levels = noise.key(self.seed, step, stream + noise.LEVELS, replica)
            u = noise.uniform(tf.shape(x)[:1], levels, x.dtype)
            sigma = low * (high / low) ** u
        draws = self.draw(x, key)
        values = self.objective(x, *draws, self.level_at(sigma), training=training)
        return tf.reduce_mean(values), tf.reduce_mean(values * sigma**self.power)

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
        pairs = zip(gradients, self.trainable_variables, strict=True)
        with replicas.alone(self.optimizer):
            # (None: an energy's last bias, as E is free up to a constant.)
            self.optimizer.apply_gradients((g, v) for g, v in pairs if g is not None)
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
            Its losses are means over the steps of an epoch; the loss of every step is in
            `model.step_losses`, (steps,), of a fit on points in memory.

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
        sources.check_schedule(how)
        validation_data = sources.alone(validation_data)
        self.step_losses = np.empty(0)
        if not sources.in_memory(x):
            stream, data = sources.peek(x)
            if data is not None:
                self._prepare(data)
            elif not self.built:
                raise ValueError(
                    "a distributed stream shows nothing in advance: call adapt(sample) or "
                    "build((None, d)) first"
                )
            self._check_trainable()
            if split:
                raise ValueError(
                    "validation_split needs points in memory: give validation_data"
                )
            validation_data = sources.for_validation(
                validation_data, self.point_shape, how, self.variable_dtype
            )
            # Keras would reorder a PyDataset unasked, and warns of any other stream.
            how["shuffle"] = bool(shuffle) and isinstance(x, keras.utils.PyDataset)
            with sources.told_if_not_finite(self.optimizer):
                return loop.fit_stream(
                    self, super().fit, stream, data, validation_data, how
                )
        x = as_points(x, self.point_shape or ..., dtype=self.variable_dtype)
        if np.ndim(self.sigma):
            check_shape(x.shape, self.sigma.shape)
        check_resolution(x, self.sigma)
        x, validation_data = sources.validation(x, split, validation_data)
        validation_data = sources.for_validation(
            validation_data, x.shape[1:], how, self.variable_dtype
        )
        batch_size = whole(32 if batch_size is None else batch_size, "batch_size")
        sources.check_steps(kwargs.get("steps_per_epoch"), batch_size, len(x))
        self._prepare(x)
        self._check_trainable()
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
        if y is not None or kwargs.pop("sample_weight", None) is not None:
            raise ValueError(f"{type(self).__name__} takes no y, no sample_weight")
        if not sources.in_memory(x):
            if not self.compiled:
                raise ValueError("call compile() before evaluate() on a stream")
            if "_use_cached_eval_dataset" not in kwargs:  # not within Keras' fit
                x, data = sources.peek(x)
                if data is not None:
                    self.see_shape(data.shape)
            x = sources.as_keras_takes(x)
            with sources.told_if_not_finite(self.optimizer):
                return super().evaluate(x, batch_size=batch_size, **kwargs)
        kwargs.pop("_use_cached_eval_dataset", None)  # within Keras' fit of a stream
        x = as_points(x, self.point_shape or ..., dtype=self.variable_dtype)
        self.see_shape(x.shape)
        batch_size = whole(32 if batch_size is None else batch_size, "batch_size")
        return loop.evaluate(self, x, batch_size, **kwargs)

    def train_step(self, data):
        """Descend once on a batch of a stream."""
        x = self._points_of(data)
        self.loss_tracker.update_state(self.descend(x))
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
        x = as_tensor(x, self.point_shape, self.variable_dtype)
        return tf.debugging.assert_all_finite(x, sources.NOT_FINITE)

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

    def reset_state(self):
        super().reset_state()
        self.batches.assign(0)


def squared_length(r):
    """Return |r|^2 of each point r (n, ...) as a tensor (n,)."""
    return tf.reduce_sum(tf.square(r), axis=list(range(1, len(r.shape))))
