"""An energy of x and sigma: any network, in units in which it can work at all noise levels.

    E(x, sigma) = (x - m)^T (C + sigma^2 I)^-1 (x - m) / 2  +  log det 2 pi (C + sigma^2 I) / 2
                  +  fade(sigma) g network(z, t),

    z = (x - m) / sqrt(s^2 + sigma^2),    fade = s^2 / (s^2 + sigma^2),

s^2 the mean variance of the data. Noisy data xi = x + sigma nu have variance s^2 + sigma^2, so
that z is of order one at every level; the level itself the network is told by three numbers of
order one, t = (u, tanh 2u, exp(-4 u^2)) with u = log(sigma / s) / 4. A network whose call has
an argument `level` gets them there, (n, 3); any other as further coordinates of a row, or
further channels of an image: every network takes them. The rest is the energy of the Gaussian
N(m, C + sigma^2 I), NORMALISED: where sigma is much larger than s the smoothed density is that
Gaussian up to terms of order (s / sigma)^2 (of order 3 with the whole covariance), the
network's part fades as fast, and the constant that an energy is otherwise free by is known
there: fading with s / sigma alone ("slow"), the energy of two scales in 1000 dimensions was 17
nats off at sigma = 20 s and all levels below. It begins at zero, see `networks.WithGaussian`.

C is s^2 I ("isotropic"), or the data's whole covariance ("full"), in whose principal axes the
matrix is diagonal at every level. That begins at the Wiener filter at all of them and leaves
the network what is not Gaussian: better for points whose coordinates go together, such as
images. It costs two products with a (d, d) matrix a point.
"""

import keras
import numpy as np
import tensorflow as tf

from deen_tf.networks.with_gaussian import UNIT, begin_silent
from deen_tf.training.start import principal_axes

COVARIANCES = ("isotropic", "full")
FADES = ("square", "slow")

# Details down to the lowest level need steep units. Three rings, 6000 steps, log density of
# fresh points (exact: -3.84): -3.98 from Glorot's weights (0.24), -3.93 at 2 and at 5.
FIRST_LAYER_GAIN = 2.0


@keras.saving.register_keras_serializable(package="deen_tf.networks")
class Levels(keras.layers.Layer):
    """A network that is told the noise level, and the Gaussian of that level.

    Parameters
    ----------
    network : keras layer
        Maps rows (n, d + 3), or images (n, height, width, channels + 3), to experts; or,
        with the call (x, level), points of the data's shape and levels (n, 3).
    covariance : "isotropic" or "full"
        Of the Gaussian.
    fade : "square" or "slow"
        How the network's part fades; "slow" is min(1, s / sigma).
    """

    def __init__(self, network, covariance="isotropic", fade="square", **kwargs):
        super().__init__(**kwargs)
        if covariance not in COVARIANCES:
            raise ValueError(
                f"covariance must be one of {COVARIANCES}, got {covariance!r}"
            )
        self.network, self.covariance = network, covariance
        if fade not in FADES:
            raise ValueError(f"fade must be one of {FADES}, got {fade!r}")
        self.fade = fade

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        more = {"network": network, "covariance": self.covariance, "fade": self.fade}
        return super().get_config() | more

    @classmethod
    def from_config(cls, config):
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**({"fade": "slow"} | config | {"network": network}))

    @property
    def center(self):
        return getattr(self.network, "center", None)

    def build(self, input_shape):
        constant = {"trainable": False, "initializer": "zeros"}
        self.mean = self.add_weight(name="mean", shape=input_shape[1:], **constant)
        self.variance = self.add_weight(
            name="variance", shape=(), trainable=False, initializer="ones"
        )
        if self.covariance == "full":
            d = int(np.prod(input_shape[1:]))
            self.axes = self.add_weight(name="axes", shape=(d, d), **constant)
            self.variances = self.add_weight(name="variances", shape=(d,), **constant)
            self.axes.assign(np.eye(d))
            self.variances.assign(np.ones(d))
        self.gate = self.add_weight(name="gate", shape=(), initializer="ones")
        self.gate.assign(UNIT)
        self._told_apart = "level" in self.network._call_signature.parameters
        self.built = True

    def start(self, x, sigma, gain, rng):
        mean = x.mean(0)
        self.mean.assign(mean)
        self.variance.assign(np.mean(np.square(x - mean)))
        if self.covariance == "full":
            _, variances, axes = principal_axes(x.reshape(len(x), -1))
            self.axes.assign(axes)
            self.variances.assign(variances)
        if hasattr(self.network, "bend"):
            z = (x - mean) / np.sqrt(np.mean(np.square(x - mean)))
            self.network.bend(z.reshape(len(z), -1), gain or FIRST_LAYER_GAIN, rng)
        begin_silent(self.network, self.gate)

    def call(self, x, sigma, training=False):
        x = x - tf.cast(self.mean, x.dtype)
        s2 = tf.cast(self.variance, x.dtype)
        v = s2 + tf.square(sigma)  # () or (n, 1, ..., 1)
        z = x / tf.sqrt(v)
        experts = self._experts(z, tf.math.log(sigma / tf.sqrt(s2)) / 4, training)
        if self.fade == "square":
            fade = s2 / v
        else:
            fade = tf.minimum(tf.ones_like(v), tf.sqrt(s2) / sigma)
        fade = tf.reshape(fade, (-1, 1)) * tf.cast(self.gate, x.dtype) / UNIT
        gaussian = self._gaussian(x, z, v, sigma)
        return tf.concat([fade * experts, gaussian[:, None]], axis=1)

    def _experts(self, z, u, training):
        """Return what the network puts out, (n, k), told the level."""
        n = tf.shape(z)[0]
        t = tf.stack([u, tf.tanh(2 * u), tf.exp(-tf.square(2 * u))], axis=-1)
        if self._told_apart:
            t = tf.broadcast_to(tf.reshape(t, (-1, 3)), (n, 3))
            experts = self.network(z, level=t, training=training)
        else:
            t = tf.reshape(t, (-1, *[1] * (len(z.shape) - 2), 3))
            t = tf.broadcast_to(t, tf.concat([tf.shape(z)[:-1], [3]], 0))
            experts = self.network(tf.concat([z, t], axis=-1), training=training)
        return tf.reshape(experts, (n, -1))

    def _gaussian(self, x, z, v, sigma):
        """Return -log N(x; 0, C + sigma^2 I), (n,), of centred points."""
        d = np.prod(x.shape[1:])
        if self.covariance == "isotropic":
            squares = tf.reduce_sum(tf.square(z), axis=list(range(1, len(x.shape))))
            return squares / 2 + d / 2 * tf.math.log(2 * np.pi * tf.reshape(v, (-1,)))
        power = tf.reshape(tf.square(sigma), (-1, 1))  # (1, 1) or (n, 1)
        variances = tf.cast(self.variances, x.dtype) + power
        u = tf.reshape(x, (-1, d)) @ tf.cast(self.axes, x.dtype)
        log_det = tf.reduce_sum(tf.math.log(2 * np.pi * variances), axis=1)
        return (tf.reduce_sum(tf.square(u) / variances, axis=1) + log_det) / 2
