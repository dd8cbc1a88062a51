"""Contrastive divergence with one Langevin step (Eqs. 26-27; Hyvaerinen 2007).

    x^-     = x - sigma^2 dE(x; theta_t)/dx + sqrt(2) sigma nu           (Eq. 26)
    theta  <- theta + eps [grad_theta E(x^-) - grad_theta E(x)]          (Eq. 27)

with eps = 1e-3 and nu ~ N(0, I). The negative sample x^- is held fixed in the gradient,
so the update is one step of gradient descent on E(x) - E(x^-); there is no function that
it descends over time.
"""

import keras
import tensorflow as tf

from deen_tf.energy import EnergyModel


@keras.saving.register_keras_serializable(package="deen_tf")
class ContrastiveDivergence(EnergyModel):
    """The MLP energy of DEEN trained by contrastive divergence.

    Unlike DEEN it aims at the density of the data, not at a smoothed one; sigma is the
    step of the Langevin chain.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    """

    def default_optimizer(self):
        """Eq. 27: plain gradient steps of size 1e-3."""
        return keras.optimizers.SGD(learning_rate=1e-3)

    def negative_sample(self, x, nu):
        """Return x^- (Eq. 26), (n, d), as a constant of the gradient."""
        step = self.sigma**2 * self.score(x) + 2**0.5 * self.sigma * nu
        return tf.stop_gradient(x + step)

    def objective(self, x, nu):
        """Return E(x) - E(x^-) of each point, whose descent is Eq. 27."""
        return self(x) - self(self.negative_sample(x, nu))
