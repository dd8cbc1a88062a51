"""Any network with a Gaussian part: it starts at the Wiener filter, whatever the network.

    E(x) = (x - m)^T (C + sigma^2 I)^-1 (x - m) / 2  +  g network(x)

m and C are the mean and covariance of the data, fixed; sigma the noise level, the model's
own; g a learned number. It begins as the energy of the best Gaussian, whose single step
(Eq. 11) is the Wiener filter, the best linear denoiser, and no network has to build the
quadratic well out of bounded units: the package's networks begin with a last layer of zeros,
for any other g is zero at first. (Not both, or nothing would ever move; and no network that
begins as a Gaussian's energy itself: what the Wiener filter leaves has no correlation with
any linear function, and g would stay where it is.)

With C = V diag(v) V^T the experts (Eq. 24) of the first part are u_i^2 / 2 (v_i + sigma^2),
u = V^T (x - m). They grow without bound, so that exp(-E) has an integral if the network is
bounded, as one of tanh units is: chains that leave the data come back. And dE/dx no longer
lies in the row space of the network's first layer: there is no rank bound.
"""

import keras
import numpy as np
import tensorflow as tf

from deen_tf.training.start import principal_axes

UNIT = 0.1  # of g: Adam's steps of 1e-3 are steps of 1e-2 in it


def begin_silent(network, gate):
    """Let g network(x) begin at zero, by the network's last layer if it can, else by g."""
    if hasattr(network, "silence"):
        network.silence()
        gate.assign(UNIT)
    else:
        gate.assign(0.0)


@keras.saving.register_keras_serializable(package="deen_tf.networks")
class WithGaussian(keras.layers.Layer):
    """A network and the energy of a Gaussian with the data's mean and covariance.

    Parameters
    ----------
    network : keras layer
        Maps points to experts.
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

    def build(self, input_shape):
        d = int(np.prod(input_shape[1:]))
        constant = {"trainable": False, "initializer": "zeros"}
        self.mean = self.add_weight(name="mean", shape=(d,), **constant)
        self.axes = self.add_weight(name="axes", shape=(d, d), **constant)
        self.variances = self.add_weight(name="variances", shape=(d,), **constant)
        self.gate = self.add_weight(name="gate", shape=(), initializer="zeros")
        self.built = True

    def start(self, x, sigma, gain, rng):
        x = np.asarray(x, "float64").reshape(len(x), -1)
        mean, variances, axes = principal_axes(x)
        self.mean.assign(mean)
        self.axes.assign(axes)
        self.variances.assign(variances)
        begin_silent(self.network, self.gate)

    def call(self, x, sigma, training=False):
        experts = self.network(x, training=training)
        experts = tf.reshape(experts, (tf.shape(x)[0], -1))  # (n, k)
        gate = tf.cast(self.gate, experts.dtype) / UNIT
        return tf.concat([gate * experts, self.gaussian(x, sigma)], axis=1)

    def gaussian(self, x, sigma):
        """Return the d experts u_i^2 / 2 (v_i + sigma^2) of the Gaussian, (n, d)."""
        mean, axes, variances = (
            tf.cast(w, x.dtype) for w in (self.mean, self.axes, self.variances)
        )
        u = tf.reshape(x, (-1, mean.shape[0])) - mean
        sigma = tf.reshape(tf.cast(sigma, x.dtype), (-1, 1))  # (1, 1) or (n, 1)
        return tf.square(u @ axes) / (2 * (variances + tf.square(sigma)))
