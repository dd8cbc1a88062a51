"""Noise-contrastive estimation: an energy AND its normaliser (Gutmann and Hyvaerinen 2012).

A classifier tells points u of the density to learn from r times as many points of a noise
density p_n that is known. With a model log p_m(u) = c - E(u), c a parameter,

    G(u) = log p_m(u) - log p_n(u) - log r                   log odds of "data"
    L    = E_data log(1 + exp(-G(u))) + r E_noise log(1 + exp(G(u))).

It is least at p_m = the density of the data, normalised: c -> -log Z without any
constraint. There L is proper log loss, never above (1 + r) log(1 + r) - r log r, its value
for a model that is the noise density itself.

Which density. By default the "data" are xi = x + sigma nu, afresh at each step: the
smoothed density, which is what DEEN learns. `smooth=False` takes the clean points.

Which noise. Its points must cover those of the data, and tell something by not being
there: Sec. 5 of the DEEN paper supposes that the choice matters. Here are a uniform law on
a box, a Gaussian fitted to the data, and the data smoothed (a Parzen density, Eq. 12).
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from deen_tf.checks import as_points, positive, whole
from deen_tf.models.energy import EnergyModel
from deen_tf.models.pointwise import pointwise
from deen_tf.training import loop as training
from deen_tf.training import noise as random


class NoiseLaw(keras.layers.Layer):
    """A density p_n that is sampled and evaluated inside a compiled step.

    A subclass has `adapt(x)`, which takes its parameters from data and keeps them in
    weights, `sample(n, key)` -> (n, d) and `energy(u)` = -log p_n(u), NORMALISED, (n,); the key is one
    of `deen_tf.training.noise`.
    """

    def _constant(self, name, shape):
        # NaN until adapted: nothing can go on unnoticed without data.
        return self.add_weight(
            name=name,
            shape=shape,
            trainable=False,
            initializer=keras.initializers.Constant(np.nan),
        )


@keras.saving.register_keras_serializable(package="deen_tf")
class UniformNoise(NoiseLaw):
    """Uniform on the box that holds the data, widened on every side.

    Parameters
    ----------
    margin : float
        What is added on each side, as a fraction of the data's extent there. Noisy points
        outside the box have no noise to be told from: p_n there is taken as inside.
    """

    def __init__(self, margin=0.25, **kwargs):
        super().__init__(**kwargs)
        self.margin = positive(margin, "margin", zero=True)

    def get_config(self):
        return super().get_config() | {"margin": self.margin}

    def build(self, input_shape):
        self.low = self._constant("low", (input_shape[-1],))
        self.extent = self._constant("extent", (input_shape[-1],))
        self.built = True

    def adapt(self, x):
        low, high = x.min(0), x.max(0)
        if not (high > low).all():
            raise ValueError("a box needs data that vary in every dimension")
        self.low.assign(low - self.margin * (high - low))
        self.extent.assign((1 + 2 * self.margin) * (high - low))

    def sample(self, n, key):
        low, extent = tf.convert_to_tensor(self.low), tf.convert_to_tensor(self.extent)
        z = random.standard_normal((n, low.shape[0]), key, dtype=low.dtype)
        return low + extent * _uniform(z)

    def energy(self, u):
        log_volume = tf.reduce_sum(tf.math.log(tf.convert_to_tensor(self.extent)))
        return tf.fill(tf.shape(u)[:1], log_volume)


@keras.saving.register_keras_serializable(package="deen_tf")
class GaussianNoise(NoiseLaw):
    """The Gaussian with the mean and covariance of the data."""

    def build(self, input_shape):
        d = input_shape[-1]
        self.mean = self._constant("mean", (d,))
        self.root = self._constant("root", (d, d))  # lower triangular, C = root root^T
        self.built = True

    def adapt(self, x):
        self.mean.assign(x.mean(0))
        covariance = np.atleast_2d(np.cov(x, rowvar=False, bias=True))
        try:
            self.root.assign(np.linalg.cholesky(covariance))
        except np.linalg.LinAlgError:
            raise ValueError(
                "the covariance of the data is singular: there is no Gaussian density of "
                f"rank {covariance.shape[0]}"
            ) from None

    def sample(self, n, key):
        mean, root = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.root)
        z = random.standard_normal((n, mean.shape[0]), key, dtype=mean.dtype)
        return mean + tf.matmul(z, root, transpose_b=True)

    def energy(self, u):
        mean, root = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.root)
        white = tf.linalg.triangular_solve(root, tf.transpose(u - mean))  # (d, n)
        log_root = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(root)))
        half_log_2pi = 0.5 * mean.shape[0] * np.log(2 * np.pi)
        return 0.5 * tf.reduce_sum(tf.square(white), axis=0) + log_root + half_log_2pi


@keras.saving.register_keras_serializable(package="deen_tf")
class SmoothedNoise(NoiseLaw):
    """The data smoothed: the Parzen density (Eqs. 12, 16) of some of the points.

    Parameters
    ----------
    bandwidth : float
        Of its Gaussian kernel. So wide that `centres` points leave no holes.
    centres : int
        How many data points it stands on; each step costs n times as many kernels.
    seed : int
        Of their choice.
    """

    def __init__(self, bandwidth, centres=256, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.bandwidth = positive(bandwidth, "bandwidth")
        self.count = whole(centres, "centres")
        self.seed = whole(seed, "seed", least=0)

    def get_config(self):
        return super().get_config() | {
            "bandwidth": self.bandwidth,
            "centres": self.count,
            "seed": self.seed,
        }

    def build(self, input_shape):
        self.centres = self._constant("centres", (self.count, input_shape[-1]))
        self.built = True

    def adapt(self, x):
        rng = np.random.default_rng([self.seed, 3])
        rows = np.resize(rng.permutation(len(x)), self.count)  # in turn if too few
        self.centres.assign(x[rows])

    def sample(self, n, key):
        centres = tf.convert_to_tensor(self.centres)
        d = centres.shape[1]
        z = random.standard_normal((n, d + 1), key, dtype=centres.dtype)
        row = tf.cast(self.count * _uniform(z[:, d]), tf.int32)
        row = tf.minimum(row, self.count - 1)  # rounding may reach the end
        return tf.gather(centres, row) + self.bandwidth * z[:, :d]

    def energy(self, u):
        centres = tf.convert_to_tensor(self.centres)
        squares = tf.reduce_sum(
            tf.math.squared_difference(u[:, None], centres), axis=2
        )  # (n, centres)
        log_kernels = -0.5 * squares / self.bandwidth**2
        log_norm = np.log(self.count) + 0.5 * centres.shape[1] * np.log(
            2 * np.pi * self.bandwidth**2
        )
        return log_norm - tf.reduce_logsumexp(log_kernels, axis=1)


@keras.saving.register_keras_serializable(package="deen_tf")
class NoiseContrastive(EnergyModel):
    """The MLP energy of DEEN trained to tell the data from noise.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    noise : "uniform", "gaussian", "smoothed", or a `NoiseLaw`
        What the data are told from. "smoothed" has bandwidth 2 sigma. It is adapted to the
        data by `fit`, or by `adapt(sample)` for a stream.
    ratio : int
        r: points of noise to one of the data.
    smooth : bool
        Learn the density of xi = x + sigma nu, as DEEN does; if not, that of the data.
    """

    def __init__(self, *args, noise="gaussian", ratio=1, smooth=True, **kwargs):
        super().__init__(*args, **kwargs)
        if self.compute_dtype != self.variable_dtype:
            raise ValueError(
                "NoiseContrastive compares densities and needs one precision throughout: "
                f"float32 or float64, got the policy {self.dtype_policy.name}"
            )
        named = {
            "uniform": UniformNoise,
            "gaussian": GaussianNoise,
            "smoothed": functools.partial(
                SmoothedNoise, 2 * self.sigma, seed=self.seed
            ),
        }
        if isinstance(noise, str):
            if noise not in named:
                raise ValueError(f"noise must be one of {sorted(named)}, got {noise!r}")
            noise = named[noise](dtype=self.dtype_policy.name)
        if not isinstance(noise, NoiseLaw):
            raise TypeError(f"noise must be a name or a NoiseLaw, got {noise!r}")
        self.noise = noise
        self.ratio = whole(ratio, "ratio")
        self.smooth = bool(smooth)

    def get_config(self):
        return super().get_config() | {
            "noise": keras.saving.serialize_keras_object(self.noise),
            "ratio": self.ratio,
            "smooth": self.smooth,
        }

    @classmethod
    def from_config(cls, config):
        noise = keras.saving.deserialize_keras_object(config["noise"])
        return cls(**(config | {"noise": noise}))

    def build(self, input_shape):
        super().build(input_shape)
        self.c = self.add_weight(name="c", shape=(), initializer="zeros")
        if not self.noise.built:
            self.noise.build(input_shape)

    def adapt(self, x):
        """Draw the first layer to suit the data, fit the noise, start c in the middle.

        See `ScoreModel.adapt`; c starts where model and noise agree on average over x.
        """
        super().adapt(x)
        x = as_points(x, self.dimension, dtype="float64")[:100_000]
        self.noise.adapt(x)
        points = tf.constant(x[:10_000], self.compute_dtype)
        self.c.assign(tf.reduce_mean(self(points) - self.noise.energy(points)))

    def fit(self, x=None, *args, **kwargs):
        """Train; see `ScoreModel.fit`.

        Raises
        ------
        ValueError
            If the noise law has not seen data: points in memory are shown to it by the
            first `fit`; before a stream, or after the model has been evaluated, call
            `adapt` with a sample.
        """
        adapted = self.built and not any(
            np.isnan(w).any() for w in self.noise.get_weights()
        )
        if not adapted and (self.built or not training.in_memory(x)):
            raise ValueError(
                "the noise law has not seen data yet: call adapt(sample) before fit()"
            )
        return super().fit(x, *args, **kwargs)

    @pointwise
    def log_density(self, x):
        """Return log p_m(x) = c - E(x), (n,), normalised as far as learned."""
        return tf.convert_to_tensor(self.c) - self(x)

    def log_odds(self, u):
        """Return G(u) = log p_m(u) - log p_n(u) - log r, (n,)."""
        log_m = tf.convert_to_tensor(self.c) - self(u)
        return log_m + self.noise.energy(u) - np.log(self.ratio)

    def objective(self, x, nu, y):
        """Return the log loss of each point and its share of the noise.

        Parameters
        ----------
        x, nu : tensor, shape (n, d)
            See `ScoreModel.objective`.
        y : tensor, shape (r n, d)
            Points of the noise law.

        Returns
        -------
        tensor, shape (n,)
        """
        u = x + self.sigma * nu if self.smooth else x
        noise_losses = tf.reshape(tf.math.softplus(self.log_odds(y)), (-1, self.ratio))
        return tf.math.softplus(-self.log_odds(u)) + tf.reduce_sum(noise_losses, axis=1)

    def draw(self, x, key):
        """Return the noise nu of the points, and points y of the noise law."""
        y = self.noise.sample(self.ratio * tf.shape(x)[0], key(1))
        return *super().draw(x, key), y


def _uniform(z):
    """Return the standard normal distribution function of z: uniform if z is normal."""
    return 0.5 + 0.5 * tf.math.erf(z / np.sqrt(2))
