"""A network that answers with a vector: a score without an energy.

Deep score matching (end of Sec. 3): a network R^d -> R^d learns the score itself,

    psi(x) = network(x),    L = E |x - (xi + sigma^2 psi(xi))|^2         (Eq. 17)

Denoising autoencoder, and the score it holds for small noise (Eq. 25):

    r(xi) = network(xi),    L = E |x - r(xi)|^2
    (r(x) - x) / sigma^2  ->  grad log p(x)  as sigma -> 0               (Eq. 25)

At any sigma the best r is the posterior mean, so that (r(xi) - xi) / sigma^2 is the score
of the smoothed density (Eq. 11): the objective is that of DSM, with r in the place of
xi + sigma^2 psi(xi).

Nothing makes these scores gradients: their curl need not vanish (Fig. 1 g, h).
"""

import keras
import numpy as np
import tensorflow as tf

from deen_tf.models.base import ScoreModel
from deen_tf.networks.mlp import MLP


class VectorModel(ScoreModel):
    """A model whose network puts out something of the shape of a point."""

    use_bias = False

    def _make_network(self, hidden_units):
        super()._make_network(hidden_units)  # checks the widths

    def build(self, input_shape):
        if self._own_network:
            self.network = MLP(
                self.hidden_units,
                outputs=int(np.prod(input_shape[1:])),
                use_bias=self.use_bias,
                seed=self.seed,
                dtype=self.dtype_policy,
                name="mlp",
            )
        super().build(input_shape)

    def vector_at(self, z, sigma, training=False):
        """Return what the network puts out, shape of z."""
        return tf.reshape(self.outputs_at(z, sigma, training), tf.shape(z))

    def last_hidden(self, x):
        """Return h^(L)(x) of a network of the package, (n, dim h^(L)), of a tensor x."""
        return self.network.last_hidden(self.to_network(x))


@keras.saving.register_keras_serializable(package="deen_tf")
class DSM(VectorModel):
    """Deep score matching: the MLP of DEEN with d outputs, trained on Eq. 17.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`.
    """

    def score_at(self, z, sigma, training=False):
        """Return psi(z), in the network's units."""
        return self.vector_at(z, sigma, training)

    def call(self, x, sigma=None, training=False):
        """Return psi(x), (n, ...)."""
        level = self.level_at(self.level(x, sigma))
        return self.score_at(self.to_network(x), level, training) / self.scales()[1]


@keras.saving.register_keras_serializable(package="deen_tf")
class DenoisingAutoencoder(VectorModel):
    """The MLP of DEEN with d outputs that reconstruct the clean point.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`.
    """

    use_bias = True  # the mean of the data

    def score_at(self, z, sigma, training=False):
        """Return (r(z) - z) / sigma^2 (Eq. 25), in the network's units."""
        return (self.vector_at(z, sigma, training) - z) / sigma**2

    def call(self, x, sigma=None, training=False):
        """Return r(x), (n, ...)."""
        level = self.level_at(self.level(x, sigma))
        r = self.vector_at(self.to_network(x), level, training)
        return self.from_network(r)
