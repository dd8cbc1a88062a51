"""An energy of x and sigma: any network, in units in which it can work at all noise levels.

    E(x, sigma) = |x - m|^2 / 2 v + d / 2 log(2 pi v)  +  fade(sigma) g network(z, t),

    v = s^2 + sigma^2,    z = (x - m) / sqrt(v),    fade = min(1, s / sigma),

s^2 the mean variance of the data. Noisy data xi = x + sigma nu have variance v, so that z is
of order one at every level; the level itself the network is told by three numbers of order
one, t = (u, tanh 2u, exp(-4 u^2)) with u = log(sigma / s) / 4, as further coordinates of a
row, or further channels of an image: every network takes them. The rest is the energy of the
Gaussian N(m, v I), NORMALISED: where sigma is much larger than s the smoothed density is that
Gaussian, the network's part fades, and the constant that an energy is otherwise free by is
known there. It begins at zero, see `networks.WithGaussian`.
"""

import keras
import numpy as np
import tensorflow as tf

from deen_tf.networks.with_gaussian import UNIT, begin_silent


@keras.saving.register_keras_serializable(package="deen_tf.networks")
class Levels(keras.layers.Layer):
    """A network that is told the noise level, and the Gaussian of that level.

    Parameters
    ----------
    network : keras layer
        Maps rows (n, d + 3), or images (n, height, width, channels + 3), to experts.
    """

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return super().get_config() | {"network": network}

    @classmethod
    def from_config(cls, config):
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**(config | {"network": network}))

    @property
    def center(self):
        return getattr(self.network, "center", None)

    def build(self, input_shape):
        self.mean = self.add_weight(
            name="mean", shape=input_shape[1:], trainable=False, initializer="zeros"
        )
        self.variance = self.add_weight(
            name="variance", shape=(), trainable=False, initializer="ones"
        )
        self.gate = self.add_weight(name="gate", shape=(), initializer="ones")
        self.gate.assign(UNIT)
        self.built = True

    def start(self, x, sigma, gain, rng):
        mean = x.mean(0)
        self.mean.assign(mean)
        self.variance.assign(np.mean(np.square(x - mean)))
        begin_silent(self.network, self.gate)

    def call(self, x, sigma, training=False):
        x = x - tf.cast(self.mean, x.dtype)
        s2 = tf.cast(self.variance, x.dtype)
        v = s2 + tf.square(sigma)  # () or (n, 1, ..., 1)
        z = x / tf.sqrt(v)
        axes = list(range(1, len(x.shape)))
        u = tf.math.log(sigma / tf.sqrt(s2)) / 4
        t = tf.stack([u, tf.tanh(2 * u), tf.exp(-tf.square(2 * u))], axis=-1)
        t = tf.reshape(t, (-1, *[1] * (len(axes) - 1), 3))
        t = tf.broadcast_to(t, tf.concat([tf.shape(x)[:-1], [3]], 0))
        experts = self.network(tf.concat([z, t], axis=-1), training=training)
        experts = tf.reshape(experts, (tf.shape(x)[0], -1))  # (n, k)
        fade = tf.minimum(tf.ones_like(v), tf.sqrt(s2) / sigma)
        fade = tf.reshape(fade, (-1, 1)) * tf.cast(self.gate, x.dtype) / UNIT
        d = np.prod(x.shape[1:])
        gaussian = tf.reduce_sum(tf.square(z), axis=axes) / 2
        gaussian += d / 2 * tf.math.log(2 * np.pi * tf.reshape(v, (-1,)))
        return tf.concat([fade * experts, gaussian[:, None]], axis=1)
