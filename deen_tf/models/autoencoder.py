"""Denoising autoencoder, and the score it holds for small noise (Eq. 25).

    r(xi) = MLP(xi),    L = E |x - r(xi)|^2
    (r(x) - x) / sigma^2  ->  grad log p(x)  as sigma -> 0               (Eq. 25)

At any sigma the best r is the posterior mean, so that (r(xi) - xi) / sigma^2 is the score
of the smoothed density (Eq. 11): the same objective as DSM's, with r in the place of
xi + sigma^2 psi(xi). Nothing makes this score a gradient.
"""

import keras

from deen_tf.models.pointwise import pointwise
from deen_tf.models.score_model import ScoreModel
from deen_tf.training import start as initialization


@keras.saving.register_keras_serializable(package="deen_tf")
class DenoisingAutoencoder(ScoreModel):
    """The MLP of DEEN with d outputs that reconstruct the clean point.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    """

    output_bias = True  # the mean of the data

    def _start(self, *data):
        initialization.units_at_data(self.hidden[0], *data)

    def call(self, x):
        return self.last(self.last_hidden(x))

    @pointwise
    def score(self, x):
        """Return (r(x) - x) / sigma^2 (Eq. 25), (n, d)."""
        return (self(x) - x) / self.sigma**2
