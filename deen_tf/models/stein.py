"""Stein contrastive divergence (Liu and Wang 2017): the negative points move by SVGD.

Stein variational gradient descent moves n points at once towards exp(-E) / Z,

    x_i^- = x_i + step phi(x_i),
    phi(y) = 1/n sum_j [ k(x_j, y) psi(x_j) + grad_{x_j} k(x_j, y) ],
    k(x, y) = exp(-|x - y|^2 / h),

phi being the direction, in the kernel's function space, in which the Kullback-Leibler
divergence falls fastest. The first term draws the points to low energy, each by the score
averaged around it; the second pushes them apart. Theirs is then the update of contrastive
divergence (their Algorithm 1; Eq. 27 of the DEEN paper),

    theta <- theta + eps [grad_theta E(x^-) - grad_theta E(x)],

with x^- held fixed. It is random in the choice of the minibatch alone. For step -> 0 it
descends step times the kernelised Stein discrepancy E k(x, x') (psi - psi_p)(x) .
(psi - psi_p)(x'), in which the kernel blurs the difference of the scores over its width
sqrt(h): details finer than that are learned slowly, or lost in the noise of a minibatch.

The bandwidth is the median heuristic, h = m^2 / log(n), m the median of the distances in
the minibatch (taken over the pairs of its first 32 points, which costs no sort of n^2).

Which density: by default that of xi = x + sigma nu, as DEEN.
"""

import keras
import tensorflow as tf

from deen_tf.checks import positive
from deen_tf.models.energy import EnergyModel

MEDIAN_POINTS = 32


@keras.saving.register_keras_serializable(package="deen_tf")
class SteinContrastiveDivergence(EnergyModel):
    """An energy trained by contrastive divergence with one SVGD step.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`. A step needs a minibatch of several points, and costs n^2 kernels.
    step : float, optional
        Of SVGD, in squared units of the data; by default sigma^2, as in Eq. 26.
    bandwidth : float, optional
        sqrt(h), in the units of the data; by default the median heuristic's.
    smooth : bool
        Learn the density of xi = x + sigma nu, as DEEN does; if not, that of the data.
    """

    settings = (*EnergyModel.settings, "step", "bandwidth", "smooth")
    power = 0  # nats

    def __init__(self, *args, step=None, bandwidth=None, smooth=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.step = step if step is None else positive(step, "step")
        self.bandwidth = (
            bandwidth if bandwidth is None else positive(bandwidth, "bandwidth")
        )
        self.smooth = bool(smooth)

    def negative_sample(self, x, sigma, training=False):
        """Return x + step phi(x), as a constant of the gradient, in the network's units."""
        each = self.scales()[1]
        step = sigma**2 if self.step is None else self.step / each**2
        unit = 1.0 if self.bandwidth is None else self.bandwidth / each
        psi = self.score_at(x, sigma, training)
        shape = tf.shape(x)
        # In units of the bandwidth points are rows y = x / unit, with the score unit psi.
        y, psi = (tf.reshape(v, (shape[0], -1)) for v in (x / unit, psi * unit))
        h = median_bandwidth(y) if self.bandwidth is None else 1.0
        phi = tf.reshape(svgd_direction(y, psi, h), shape) / unit
        return tf.stop_gradient(x + step * phi)

    def objective(self, x, nu, sigma, training=False):
        """Return E(x) - E(x^-) of each point, whose descent is the update."""
        if self.smooth:
            x = x + sigma * nu
        negative = self.negative_sample(x, sigma, training)
        return self.energy_at(x, sigma, training) - self.energy_at(
            negative, sigma, training
        )


def svgd_direction(x, psi, h):
    """Return phi at the points themselves.

    Parameters
    ----------
    x, psi : tensor, shape (n, d)
        The points, and the score there.
    h : scalar
        Squared bandwidth of the kernel.

    Returns
    -------
    tensor, shape (n, d)
    """
    n = tf.cast(tf.shape(x)[0], x.dtype)
    x = x - tf.reduce_mean(x, axis=0)  # differences alone count: less to round
    k = tf.exp(-_square_distances(x) / h)  # (n, n), symmetric
    # sum_j grad_{x_j} k(x_j, x_i) = 2/h sum_j (x_i - x_j) k_ij
    push = 2 / h * (x * tf.reduce_sum(k, axis=1, keepdims=True) - k @ x)
    return (k @ psi + push) / n


def median_bandwidth(x):
    """Return h = m^2 / log(n), m the median distance of (at most 32) points; > 0."""
    some = x[:MEDIAN_POINTS]
    squares = tf.sort(tf.reshape(_square_distances(some), (-1,)))
    count, n = tf.shape(some)[0], tf.shape(x)[0]
    # The distances of points to themselves, `count` zeros, come first.
    median = squares[
        tf.minimum(tf.size(squares) + count, 2 * tf.size(squares) - 1) // 2
    ]
    n = tf.cast(tf.maximum(n, 3), x.dtype)
    return tf.maximum(median / tf.math.log(n), 1e-37)  # a normal number in every type


def _square_distances(x):
    """Return |x_i - x_j|^2, (n, n), through inner products about the mean."""
    x = x - tf.reduce_mean(x, axis=0)
    squares = tf.reduce_sum(tf.square(x), axis=1)
    inner = tf.matmul(x, x, transpose_b=True)
    return tf.maximum(squares[:, None] + squares - 2 * inner, 0)
