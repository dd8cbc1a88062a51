"""Contrastive divergence with one Langevin step (Eqs. 26-27; Hyvaerinen 2007).

    x^-     = x - s^2 dE(x; theta_t)/dx + sqrt(2) s nu                   (Eq. 26, s = sigma)
    theta  <- theta + eps [grad_theta E(x^-) - grad_theta E(x)]          (Eq. 27)

with eps = 1e-3 and nu ~ N(0, I). The negative sample x^- is held fixed in the gradient,
so the update is one step of gradient descent on E(x) - E(x^-); there is no function that
it descends over time.

Eq. 26 has one sigma. It is a step of the chain, and no noise level: the model aims at the
density of the data. Here the two can be set apart: `step` is s, and with `smooth` the
points are xi = x + sigma nu', so that the model aims at the density that DEEN learns.

How long a step may be. For data N(0, w^2 I) and E = k |x|^2 / 2 the negative sample has
variance (1 - s^2 k)^2 w^2 + 2 s^2. The update stands still where that is w^2, at

    k = (1 - sqrt(1 - 2 s^2 / w^2)) / s^2  =  (1 + s^2 / 2 w^2 + ...) / w^2,

and nowhere if s > w / sqrt(2): x^- is then wider than the data at every k, and k grows
without end. The mixture of Fig. 1 has modes of w = 0.15, its sigma is 0.1: at the edge.
"""

import keras
import tensorflow as tf

from deen_tf.checks import positive
from deen_tf.models.energy import EnergyModel
from deen_tf.training import noise


@keras.saving.register_keras_serializable(package="deen_tf")
class ContrastiveDivergence(EnergyModel):
    """An energy trained by contrastive divergence.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`.
    step : float, optional
        s, of the Langevin chain, in the units of the data; by default sigma.
    smooth : bool
        Learn the density of xi = x + sigma nu', as DEEN does; by default that of the data,
        as the paper has it.
    """

    settings = (*EnergyModel.settings, "step", "smooth")
    power = 0  # nats

    def __init__(self, *args, step=None, smooth=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.step = step if step is None else positive(step, "step")
        self.smooth = bool(smooth)

    def default_optimizer(self):
        """Eq. 27: plain gradient steps of size 1e-3."""
        return keras.optimizers.SGD(learning_rate=1e-3)

    def draw(self, x, key):
        """Return the noise nu of the chain and nu' of the points."""
        (nu,) = super().draw(x, key)
        if not self.smooth:
            return nu, None
        return nu, noise.standard_normal(tf.shape(x), key(1), dtype=x.dtype)

    def negative_sample(self, x, nu, sigma, training=False):
        """Return x^- (Eq. 26), as a constant of the gradient, in the network's units."""
        step = sigma if self.step is None else self.step / self.scales()[1]
        psi = self.score_at(x, sigma, training)
        return tf.stop_gradient(x + step**2 * psi + 2**0.5 * step * nu)

    def objective(self, x, nu, nu_points, sigma, training=False):
        """Return E(x) - E(x^-) of each point, whose descent is Eq. 27."""
        if self.smooth:
            x = x + sigma * nu_points
        negative = self.negative_sample(x, nu, sigma, training)
        return self.energy_at(x, sigma, training) - self.energy_at(
            negative, sigma, training
        )
