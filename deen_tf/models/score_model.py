"""What every model of this package shares: network, noise, objective, training step.

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

from deen_tf.checks import as_points, positive, whole
from deen_tf.models.pointwise import as_tensor, pointwise
from deen_tf.models.trainer import Trainer
from deen_tf.training import noise
from deen_tf.training import replicas as distribution


class ScoreModel(Trainer):
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
        self.sigma = positive(sigma, dtype=self.compute_dtype)
        self.seed = whole(seed, "seed", least=0)
        self.noise_samples = whole(noise_samples, "noise_samples")
        if first_layer_gain is not None:
            first_layer_gain = positive(first_layer_gain, "first_layer_gain")
        self.first_layer_gain = first_layer_gain
        self.loss_tracker = keras.metrics.Mean("loss")
        self.hidden = []

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
        """Draw the initial weights to suit the data x; see `deen_tf.training.start`.

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

    @property
    def weights_per_point(self):
        """Products of an activation and a weight in one evaluation of a point."""
        return sum(int(np.prod(v.shape)) for v in self.trainable_variables)

    def _compiled(self, function):
        spec = tf.TensorSpec((None, self.dimension), self.compute_dtype)
        return self._programs.get(
            function,
            lambda: tf.function(
                functools.partial(function, self),
                input_signature=[spec],
                autograph=False,
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
        x = as_tensor(x, self.dimension, self.compute_dtype)
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
            sources, 0, 1, ...; see `deen_tf.training.noise`.

        Returns
        -------
        tuple of tensors
            Here nu, standard normal, (n, d), alone.
        """
        return (noise.standard_normal(tf.shape(x), key(), dtype=x.dtype),)

    def train_step(self, data):
        """Draw the noise, descend the objective once."""
        data, share, _ = distribution.part_of_batch(data)
        with tf.GradientTape() as tape:
            loss = self._loss(data, self.optimizer.iterations, noise.TRAINING)
            loss *= tf.cast(share, loss.dtype)  # the sum over replicas is the mean
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        gradients = distribution.clipped(self.optimizer, gradients)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        self.loss_tracker.update_state(distribution.sum_over_replicas(loss))
        return self._logs()

    def test_step(self, data):
        """Measure the same objective, with the same noise at every evaluation."""
        step = tf.cast(self.loss_tracker.count, tf.int64)
        data, share, rows = distribution.part_of_batch(data)
        loss = self._loss(data, step, noise.EVALUATION)
        loss = distribution.sum_over_replicas(loss * tf.cast(share, loss.dtype))
        self.loss_tracker.update_state(loss, sample_weight=rows)
        return self._logs()

    def _logs(self):
        loss = self.loss_tracker.result()
        # Keras takes the mean of several workers' logs along axis 0.
        return {"loss": loss[None] if distribution.several_workers(self) else loss}

    @property
    def metrics(self):
        return [self.loss_tracker]


def squared_length(r):
    """Return |r|^2 of each row of r (n, d) as a tensor (n,).

    By a product with ones: XLA on a CPU sums along rows one number at a time.
    """
    return tf.linalg.matvec(tf.square(r), tf.ones_like(r[0]))
