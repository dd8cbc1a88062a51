"""Deep energy estimator network: Parzen score matching of an energy (Eqs. 19-23).

    xi = x + sigma nu,  nu ~ N(0, I)
    L_DEEN = E |x - xi + sigma^2 dE(xi)/dxi|^2                           (Eq. 19)

At its minimum E is, up to a constant, -log of the data density smoothed by
N(0, sigma^2 I). A minibatch takes a fresh single noisy observation of each data point
(Sec. 3, "double-SGD"); `noise_samples` is m of Eq. 23.

Several noise levels, sigma = (low, high): an energy E(x, sigma), with a fresh sigma for each
point and step, log-uniform. At each level it aims at the density smoothed by that level, and
L / sigma^2 counts every one: of d, the noise that a step leaves alone, a part. That is all
for a network that says `normalised = False`, whose energies of two levels are not compared.

Its constant, dual score matching (Guth, Kadkhodaie, Simoncelli 2025). With p_sigma the
density of xi, log p(xi | x) = -|xi - x|^2 / 2 sigma^2 - d log sigma + const, and

    -d log p_sigma(xi) / d log sigma  =  E[ d - |xi - x|^2 / sigma^2  |  xi ],

for d p_sigma = integral p(x) d p(xi | x), whose logarithmic derivative is a mean over the
posterior. A regression of dE / d log sigma on d - |nu|^2 therefore learns how the energies of
all levels hang together, and the largest is a Gaussian whose constant is known
(`networks.Levels`): E(x, sigma) = -log p_sigma(x), normalised. What is descended is

    |nu + sigma psi(xi)|^2  +  (dE / d log sigma - (d - |nu|^2))^2 / 4d,

the weight such that the noise of the second term, Var |nu|^2 / 4d = 1/2, is small beside d.

The gradients are nested: the inner tape, in `EnergyModel.score_at`, gives dE/dxi; the outer
tape, in `ScoreModel.descend`, gives the gradient of the objective in the parameters.
"""

import keras
import tensorflow as tf

from deen_tf import networks
from deen_tf.checks import whole
from deen_tf.models.base import squared_length
from deen_tf.models.energy import EnergyModel


@keras.saving.register_keras_serializable(package="deen_tf")
class DEEN(EnergyModel):
    """Deep energy estimator network.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`.

    Examples
    --------
    >>> x = deen.laws.GaussianMixture.ring(modes=8).sample(5000, seed=0)
    >>> model = deen.DEEN(hidden_units=(32, 32, 32), sigma=0.1, seed=0)
    >>> model.compile()
    >>> history = model.fit(x, batch_size=1000, epochs=5, verbose=0)
    >>> model.energy(x).shape, model.score(x).shape, model.denoise(x).shape
    ((5000,), (5000, 2), (5000, 2))
    >>> bool(history.history["loss"][-1] < history.history["loss"][0])
    True
    """

    def objective(self, x, nu, sigma, training=False):
        """Return |x - xi + sigma^2 dE/dxi|^2 / sigma^2 of each point (Eq. 19)."""
        xi = x + sigma * nu
        if self.normalised:
            return self._dual_objective(xi, nu, sigma, training)
        dE_dxi = -self.score_at(xi, sigma, training)
        return squared_length((x - xi + sigma**2 * dE_dxi) / sigma)

    def _dual_objective(self, xi, nu, sigma, training):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([xi, sigma])
            energy = self.energy_at(xi, sigma, training)
        dE_dxi, dE_dsigma = tape.gradient(energy, [xi, sigma])
        score_term = squared_length(sigma * dE_dxi - nu)
        slope = tf.reshape(sigma * dE_dsigma, (-1,))  # dE / d log sigma
        d = tf.cast(self.dimension, xi.dtype)
        excess = slope - (d - squared_length(nu))
        return score_term + tf.square(excess) / (4 * d)


@keras.saving.register_keras_serializable(package="deen_tf")
class FieldOfExperts(DEEN):
    """A DEEN whose network is `networks.FieldOfExperts`, under the name it had in 0.1.

    Parameters
    ----------
    hidden_units, size, stride, shape
        See `networks.FieldOfExperts`.
    sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    """

    settings = (*DEEN.settings, "size", "stride", "shape")

    def __init__(
        self,
        hidden_units=(64, 32),
        sigma=0.1,
        seed=0,
        size=8,
        stride=2,
        shape=None,
        **kwargs,
    ):
        network = networks.FieldOfExperts(
            hidden_units, size, stride, shape, seed, dtype=kwargs.get("dtype")
        )
        super().__init__(sigma=sigma, seed=seed, network=network, **kwargs)
        self._own_network = True
        self.size, self.stride, self.shape = network.size, network.stride, network.shape


@keras.saving.register_keras_serializable(package="deen_tf")
class MixtureOfDEENs(DEEN):
    """A DEEN whose network is `networks.Average` of M MLPs (end of Sec. 3).

    Parameters
    ----------
    hidden_units : sequence of int
        Widths of each network.
    sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    networks : int
        M.
    """

    settings = (*DEEN.settings, "networks")

    def __init__(self, hidden_units=(32, 32, 32), *args, networks=4, **kwargs):
        seed = kwargs.get("seed", args[1] if len(args) > 1 else 0)
        network = average(hidden_units, networks, seed, kwargs.get("dtype"))
        super().__init__(None, *args, network=network, **kwargs)
        self._own_network = True
        self.networks = len(network.members)

    def _load_0_1(self, store):
        raise ValueError(
            "a mixture of DEENs written by deen_tf 0.1 has its weights in another order: "
            "train it anew, or use it with deen_tf 0.1"
        )


def average(hidden_units, count, seed=0, dtype=None):
    """Return the average of some MLPs; the first begins as a single one of this seed does."""
    seeds = [seed + 1_000_003 * m for m in range(whole(count, "networks"))]
    return networks.Average(
        [networks.MLP(hidden_units, seed=s, dtype=dtype) for s in seeds], dtype=dtype
    )
