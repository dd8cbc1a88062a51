"""Deep energy estimator network: Parzen score matching of an energy (Eqs. 19-23).

    xi = x + sigma nu,  nu ~ N(0, I)
    L_DEEN = E |x - xi + sigma^2 dE(xi)/dxi|^2                           (Eq. 19)

At its minimum E is, up to a constant, -log of the data density smoothed by
N(0, sigma^2 I). A minibatch takes a fresh single noisy observation of each data point
(Sec. 3, "double-SGD"); `noise_samples` is m of Eq. 23.

The gradients are nested: the inner tape, in `EnergyModel.score`, gives dE/dxi; the outer
tape, in `ScoreModel.train_step`, gives the gradient of the objective in the parameters.
"""

import keras

from deen_tf.models.energy import EnergyModel
from deen_tf.models.score_model import squared_length


@keras.saving.register_keras_serializable(package="deen_tf")
class DEEN(EnergyModel):
    """Deep energy estimator network.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.

    Examples
    --------
    >>> x = deen.datasets.GaussianMixture.ring(modes=8).sample(100_000, seed=0)
    >>> model = deen.DEEN(hidden_units=(32, 32, 32), sigma=0.1, seed=0)
    >>> model.compile()
    >>> history = model.fit(x, batch_size=4096, epochs=40)
    >>> model.energy(x), model.score(x), model.denoise(x)
    """

    def objective(self, x, nu):
        """Return |x - xi + sigma^2 dE/dxi|^2 of each point (Eq. 19); see `ScoreModel`."""
        xi = x + self.sigma * nu
        dE_dxi = -self.score(xi)
        return squared_length(x - xi + self.sigma**2 * dE_dxi)
