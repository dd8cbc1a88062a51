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
    """An energy trained to tell the data from noise.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`.
    noise : "uniform", "gaussian", "smoothed", or a `NoiseLaw`
        What the data are told from. "smoothed" has bandwidth 2 sigma. It is adapted to the
        data by `fit`, or by `adapt(sample)` for a stream.
    ratio : int
        r: points of noise to one of the data.
    smooth : bool
        Learn the density of xi = x + sigma nu, as DEEN does; if not, that of the data.
    """

    settings = (*EnergyModel.settings, "ratio", "smooth")
    power = 0  # nats

    def __init__(self, *args, noise="gaussian", ratio=1, smooth=True, **kwargs):
        super().__init__(*args, **kwargs)
        if self.compute_dtype != self.variable_dtype:
            raise ValueError(
                "NoiseContrastive compares densities and needs one precision throughout: "
                f"float32 or float64, got the policy {self.dtype_policy.name}"
            )
        if isinstance(noise, str):
            named = {
                "uniform": UniformNoise,
                "gaussian": GaussianNoise,
                "smoothed": functools.partial(SmoothedNoise, seed=self.seed),
            }
            if noise not in named:
                raise ValueError(f"noise must be one of {sorted(named)}, got {noise!r}")
            if noise == "smoothed" and np.ndim(self.sigma):
                raise ValueError("noise='smoothed' needs one sigma for all coordinates")
            width = (2 * self.sigma,) if noise == "smoothed" else ()
            noise = named[noise](*width, dtype=self.dtype_policy.name)
        if not isinstance(noise, NoiseLaw):
            raise TypeError(f"noise must be a name or a NoiseLaw, got {noise!r}")
        self.noise = noise
        self.ratio = whole(ratio, "ratio")
        self.smooth = bool(smooth)

    def get_config(self):
        return super().get_config() | {
            "noise": keras.saving.serialize_keras_object(self.noise)
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        noise = keras.saving.deserialize_keras_object(config["noise"])
        return super().from_config(config | {"noise": noise}, custom_objects)

    def build(self, input_shape):
        self.c = self.add_weight(name="c", shape=(), initializer="zeros")
        if not self.noise.built:
            self.noise.build((None, int(np.prod(input_shape[1:]))))
        super().build(input_shape)

    def adapt(self, x):
        """Suit units and network to the data, fit the noise, start c in the middle.

        See `ScoreModel.adapt`; c starts where model and noise agree on average over x.
        """
        super().adapt(x)
        self._fit_noise(x)

    def _fit_noise(self, x):
        x = as_points(x, self.point_shape, dtype="float64")[:100_000]
        rows = x.reshape(len(x), -1)
        self.noise.adapt(rows)
        agree = self.energy(x[:10_000]) - np.asarray(
            self.noise.energy(tf.constant(rows[:10_000], self.variable_dtype))
        )
        self.c.assign(np.mean(agree))

    def _prepare(self, x):
        super()._prepare(x)
        if any(np.isnan(w).any() for w in self.noise.get_weights()):
            self._fit_noise(x)

    @pointwise
    def log_density(self, x, sigma):
        """Return log p_m(x) = c - E(x), (n,), normalised as far as learned."""
        energy = self.energy_at(self.to_network(x), self.level_at(sigma))
        return tf.convert_to_tensor(self.c) - energy

    def log_odds_at(self, u, sigma, training=False):
        """Return G(u) = log p_m(u) - log p_n(u) - log r, (n,); u in the network's units."""
        log_m = tf.convert_to_tensor(self.c) - self.energy_at(u, sigma, training)
        rows = tf.reshape(self.from_network(u), (tf.shape(u)[0], self.dimension))
        return log_m + self.noise.energy(rows) - np.log(self.ratio)

    def objective(self, x, nu, y, sigma, training=False):
        """Return the log loss of each point and its share of the noise.

        Parameters
        ----------
        x, nu, sigma, training
            See `ScoreModel.objective`.
        y : tensor, shape (r n, ...)
            Points of the noise law.

        Returns
        -------
        tensor, shape (n,)
        """
        u = x + sigma * nu if self.smooth else x
        noise_losses = tf.math.softplus(self.log_odds_at(y, sigma, training))
        noise_losses = tf.reshape(noise_losses, (-1, self.ratio))
        losses = tf.math.softplus(-self.log_odds_at(u, sigma, training))
        return losses + tf.reduce_sum(noise_losses, axis=1)

    def draw(self, x, key):
        """Return the noise nu of the points, and points y of the noise law."""
        n = self.ratio * tf.shape(x)[0]
        y = tf.reshape(self.noise.sample(n, key(1)), (n, *self.point_shape))
        return *super().draw(x, key), self.to_network(y)


def _uniform(z):
    """Return the standard normal distribution function of z: uniform if z is normal."""
    return 0.5 + 0.5 * tf.math.erf(z / np.sqrt(2))
