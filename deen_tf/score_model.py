"""What every model of this package shares: noise, one objective for training and test,
batched evaluation of points, checks, saving and export.

A model answers with a score psi(x), (n, d), and through it with the least-squares
estimate of the clean point from a noisy one (Eq. 11),

    x_hat(xi) = xi + sigma^2 psi(xi).

Its objective is given per data point; the loss is the mean over the batch. The default
is Parzen score matching in its denoising form (Eq. 17): with xi = x + sigma nu,
nu ~ N(0, I),

    L = E |x - x_hat(xi)|^2,

the SUM over dimensions. Its floor is the Bayes error L* of the smoothed density, and
L - L* = sigma^4 E |psi - psi*|^2 (Eqs. 13-17).
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from deen_tf import noise, training
from deen_tf.atomic import replacing
from deen_tf.pointwise import pointwise
from deen_tf.validation import as_points, positive, whole


class ScoreModel(keras.Model):
    """Base of all models: an MLP with tanh hidden layers and a linear last layer.

    Parameters
    ----------
    hidden_units : sequence of int
        Widths dim(h^(1)), ..., dim(h^(L)).
    sigma : float
        Noise level: standard deviation of the smoothing kernel (Eq. 16), in the units
        of the data.
    seed : int
        Of the initial weights, the noise, and the order of the data.
    noise_samples : int
        m of Eq. 23: noisy observations per data point and step.
    first_layer_gain : float, optional
        Standard deviation, over noisy data, of what the first layer's tanh units see at
        the start; by default 1, and for an energy `initialization.default_gain`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    """

    signatures = ("score", "denoise")
    outputs_per_point = None  # of the last layer; None stands for d
    # An energy is defined up to a constant, which no gradient reaches: no bias.
    output_bias = False

    def __init__(
        self,
        hidden_units=(32, 32, 32),
        sigma=0.1,
        seed=0,
        noise_samples=1,
        first_layer_gain=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(hidden_units, int | str):
            raise TypeError(
                f"hidden_units must be a sequence of widths, got {hidden_units!r}"
            )
        self.hidden_units = tuple(whole(u, "hidden_units") for u in hidden_units)
        if not self.hidden_units:
            raise ValueError("hidden_units must name at least one hidden layer, got ()")
        self.sigma = positive(sigma)
        self.seed = whole(seed, "seed", least=0)
        self.noise_samples = whole(noise_samples, "noise_samples")
        if first_layer_gain is not None:
            first_layer_gain = positive(first_layer_gain, "first_layer_gain")
        self.first_layer_gain = first_layer_gain
        self.loss_tracker = keras.metrics.Mean("loss")
        self.dimension = None
        self.hidden = []
        self._programs = training.Programs()
        self._epochs = None  # set while `fit` runs on data in memory

    def get_config(self):
        return super().get_config() | {
            "hidden_units": self.hidden_units,
            "sigma": self.sigma,
            "seed": self.seed,
            "noise_samples": self.noise_samples,
            "first_layer_gain": self.first_layer_gain,
        }

    def build(self, input_shape):
        self.dimension = int(input_shape[-1])
        width = self.dimension
        for layer, units in enumerate(self.hidden_units):
            dense = keras.layers.Dense(
                units,
                activation="tanh",
                kernel_initializer=keras.initializers.GlorotUniform(
                    seed=self._layer_seed(layer)
                ),
                dtype=self.dtype_policy,
                name=f"h{layer + 1}",
            )
            dense.build((None, width))
            self.hidden.append(dense)
            width = units
        self.last = keras.layers.Dense(
            self.outputs_per_point or self.dimension,
            use_bias=self.output_bias,
            kernel_initializer=keras.initializers.GlorotUniform(
                seed=self._layer_seed(len(self.hidden_units))
            ),
            dtype=self.dtype_policy,
            name="last",
        )
        self.last.build((None, width))
        self.built = True

    def _layer_seed(self, layer):
        # Distinct for every (seed, layer), within the 32 bits that Keras takes.
        return (self.seed * 1000003 + layer) % 2**31

    def adapt(self, x):
        """Draw the initial weights to suit the data x; see `deen_tf.initialization`.

        An energy starts at that of a Gaussian with the data's mean and covariance: its
        single step is the Wiener filter. `fit` calls this for a model that has no weights
        yet and data in memory. For a stream, call it with a sample of the data; for
        Keras' usual initial weights (Glorot and Bengio 2010), call `build((None, d))`.

        Parameters
        ----------
        x : array_like, shape (n, d)
            At most 20,000 of the points are used.
        """
        x = as_points(x, self.dimension, dtype="float64")
        self._check_width(x)
        if not self.hidden:  # a subclass with an energy of its own
            return
        rng = np.random.default_rng([self.seed, 1])
        self._start(x, self.sigma, self.first_layer_gain, rng)

    def last_hidden(self, x):
        """Return h^(L)(x), (n, dim h^(L))."""
        for layer in self.hidden:
            x = layer(x)
        return x

    # ---- what a point is worth -------------------------------------------------------

    @pointwise
    def denoise(self, xi):
        """Return the single-step estimate x_hat = xi + sigma^2 psi(xi) (Eq. 11).

        Parameters
        ----------
        xi : array_like or tensor, shape (n, d)
            Noisy points of noise level sigma.

        Returns
        -------
        ndarray or tensor, shape (n, d)
        """
        return xi + self.sigma**2 * self.score(xi)

    @property
    def evaluation_batch(self):
        """Points evaluated at once: as many as keep the activations near 32 MB."""
        width = sum(self.hidden_units) + (self.dimension or 1)
        return max(256, 2**23 // width)

    def _check_width(self, x):
        if x.ndim != 2 or self.dimension not in (None, x.shape[1]):
            wanted = "d" if self.dimension is None else self.dimension
            raise ValueError(
                f"x must have shape (n, {wanted}), got {tuple(x.shape)}: the model was "
                f"built for points of {wanted} dimensions"
            )
        if not self.built:
            self.build((None, x.shape[1]))

    def _compiled(self, function):
        spec = tf.TensorSpec((None, self.dimension), self.compute_dtype)
        return self._programs.get(
            function,
            lambda: tf.function(
                functools.partial(function, self), input_signature=[spec]
            ),
        )

    # ---- training --------------------------------------------------------------------

    def objective(self, x, nu):
        """Return the objective of each data point for the given noise.

        Parameters
        ----------
        x : tensor, shape (n, d)
            Clean data.
        nu : tensor, shape (n, d)
            Standard normal noise.

        Returns
        -------
        tensor, shape (n,)
            |x - (xi + sigma^2 psi(xi))|^2 with xi = x + sigma nu (Eq. 17).
        """
        xi = x + self.sigma * nu
        x_hat = xi + self.sigma**2 * self.score(xi)
        return squared_length(x - x_hat)

    def _loss(self, data, step, stream):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is not None or sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} learns from points alone: pass x without "
                "targets or sample weights"
            )
        x = tf.cast(x, self.compute_dtype)
        x = tf.repeat(x, self.noise_samples, axis=0)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group

        def key(source=0):
            return noise.key(self.seed, step, stream + 8 * source, replica)

        return tf.reduce_mean(self.objective(x, *self.draw(x, key)))

    def draw(self, x, key):
        """Return what is random in a step, as the arguments of `objective` after x.

        Parameters
        ----------
        x : tensor, shape (n, d)
        key : callable
            `key(source)` is the key of the step's noise from one of several independent
            sources, 0, 1, ...; see `deen_tf.noise`.

        Returns
        -------
        tuple of tensors
            Here nu, standard normal, (n, d), alone.
        """
        return (noise.standard_normal(tf.shape(x), key(), dtype=x.dtype),)

    def train_step(self, data):
        """Draw the noise, descend the objective once."""
        with tf.GradientTape() as tape:
            loss = self._loss(data, self.optimizer.iterations, noise.TRAINING)
            # Gradients are summed over replicas: scale so that the sum is the mean.
            replicas = self.distribute_strategy.num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss / replicas)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        """Measure the same objective, with the same noise at every evaluation."""
        step = tf.cast(self.loss_tracker.count, tf.int64)
        loss = self._loss(data, step, noise.EVALUATION)
        rows = tf.shape(tf.nest.flatten(data)[0])[0]
        self.loss_tracker.update_state(loss, sample_weight=rows)
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker]

    def compile(
        self,
        optimizer=None,
        steps_per_execution="auto",
        jit_compile="auto",
        **kwargs,
    ):
        """Choose the optimizer; by default the paper's, Adam at learning rate 1e-3.

        Parameters
        ----------
        optimizer : keras optimizer or str, optional
        steps_per_execution : int or "auto"
            Steps that run as one program. "auto": see `fit`.
        jit_compile : bool or "auto"
            Compile with XLA. "auto": see `fit`.
        **kwargs
            Of `keras.Model.compile`, but the loss: a model brings its own.
        """
        for name in ("loss", "metrics", "loss_weights", "weighted_metrics"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"{type(self).__name__} brings its own objective: compile() takes no "
                    f"{name}"
                )
        self._auto = {
            "steps_per_execution": steps_per_execution == "auto",
            "jit_compile": jit_compile == "auto",
        }
        self._programs = training.Programs()
        super().compile(
            optimizer=self.default_optimizer() if optimizer is None else optimizer,
            steps_per_execution=(
                1 if self._auto["steps_per_execution"] else steps_per_execution
            ),
            jit_compile=False if self._auto["jit_compile"] else jit_compile,
            **kwargs,
        )

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "steps_per_execution": (
                "auto"
                if self._auto["steps_per_execution"]
                else self.steps_per_execution
            ),
            "jit_compile": "auto" if self._auto["jit_compile"] else self.jit_compile,
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def default_optimizer(self):
        return keras.optimizers.Adam(learning_rate=1e-3)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        steps_per_epoch=None,
        **kwargs,
    ):
        """Train; as `keras.Model.fit`, without targets.

        Points in memory (an array, a list, an eager tensor) go the fast way: they stay
        on the device, and whole runs of steps are one compiled program in which
        minibatches are gathered and noise is drawn (see `deen_tf.training`). Anything
        else (tf.data, generators, a distribution strategy) goes through Keras' own loop.

        Parameters
        ----------
        x : array_like (n, d), tf.data.Dataset, keras.utils.PyDataset or generator
        batch_size : int, optional
            32 if not given, as Keras has it.
        epochs, validation_split, validation_data, shuffle, steps_per_epoch, **kwargs
            As in `keras.Model.fit`.

        Returns
        -------
        keras.callbacks.History
        """
        if y is not None:
            raise ValueError(
                f"{type(self).__name__} learns from points alone: fit() takes no y"
            )
        return training.fit(
            self,
            super().fit,
            x,
            batch_size=batch_size,
            epochs=epochs,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, **kwargs):
        """Return the objective on the points x; as `keras.Model.evaluate`."""
        if training.in_memory(x):
            x = as_points(x, self.dimension, dtype=self.compute_dtype)
            self._check_width(x)
        return super().evaluate(x, y, **kwargs)

    def make_train_function(self, force=False):
        if self._epochs is None:
            return super().make_train_function(force)
        self.train_function = self._epochs
        return self.train_function

    # ---- saving ----------------------------------------------------------------------

    def export(self, filepath, format="tf_saved_model", verbose=False, **kwargs):
        """Write a SavedModel with the signatures of this model.

        Each signature takes `x` of shape (n, d), any n, and answers with a dictionary
        whose one entry has the signature's name. The model loads with
        `tf.saved_model.load` in a process that knows neither Keras nor this package.

        Parameters
        ----------
        filepath : str
            A folder; replaced if it exists, and never seen half written.
        """
        if format != "tf_saved_model":
            return super().export(filepath, format=format, verbose=verbose, **kwargs)
        if kwargs:
            raise TypeError(f"export() got unexpected arguments {sorted(kwargs)}")
        if not self.built:
            raise ValueError(
                "the model has no weights yet: fit it, or evaluate a point, before export()"
            )
        archive = keras.export.ExportArchive()
        archive.track(self)
        spec = tf.TensorSpec((None, self.dimension), self.compute_dtype, name="x")
        for name in self.signatures:
            archive.add_endpoint(name, self._endpoint(name), input_signature=[spec])
        with replacing(filepath) as temporary:
            archive.write_out(temporary, verbose=verbose)

    def _endpoint(self, name):
        function = getattr(type(self), name).tensor_function
        return lambda x: {name: function(self, x)}


def squared_length(r):
    """Return |r|^2 of each row of r (n, d) as a tensor (n,).

    By a product with ones: XLA on a CPU sums along rows one number at a time.
    """
    return tf.linalg.matvec(tf.square(r), tf.ones_like(r[0]))
