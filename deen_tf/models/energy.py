"""An energy in the form of a multi-layer perceptron, and what follows from it.

    q(x)    = exp(-E(x)),  p = q / Z            unnormalised density    (Eqs. 1-2)
    psi(x)  = -dE/dx                            score                   (Eq. 3)
    E(x)    = MLP(x), tanh layers, linear last  energy                  (Eq. 18)
            = sum_alpha w_alpha h_alpha(x)      = sum of experts        (Eq. 24)

Sign: LOW energy is HIGH density. E is defined up to a constant, so the last layer has
no bias.

Rank bound. With r = dim(h^(1)), dE/dx = W1^T g(x) for some g(x) in R^r, where W1 (r, d)
holds the first layer's weights. Every score therefore lies in the row space V of W1,
dim V <= r. Split the noise xi - x = sigma nu into its part in V and the rest: the step
sigma^2 psi(xi) cannot touch the rest, so

    |x - x_hat(xi)|^2 >= sigma^2 |P_rest nu|^2,    L_DEEN >= sigma^2 (d - r),

whatever the other layers and however long the training. A single step removes at most
the fraction r / d of the noise power.
"""

import keras
import tensorflow as tf

from deen_tf.models.pointwise import pointwise
from deen_tf.models.score_model import ScoreModel
from deen_tf.training import start as initialization


@keras.saving.register_keras_serializable(package="deen_tf")
class EnergyModel(ScoreModel):
    """An MLP energy; subclasses bring the objective.

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain
        See `ScoreModel`.
    """

    signatures = ("energy", "score", "denoise", "experts")
    outputs_per_point = 1

    def _start(self, *data):
        initialization.gaussian_energy(self.hidden, self.last, *data)

    def call(self, x):
        # The sum of the experts (Eq. 24). As a product of matrix and vector, which it is
        # too, its gradient in w takes XLA ten times as long.
        w = tf.squeeze(self.last.kernel, axis=1)
        return tf.reduce_sum(self.last_hidden(x) * w, axis=1)

    @pointwise
    def energy(self, x):
        """Return E(x) (Eq. 18), up to a constant.

        Parameters
        ----------
        x : array_like or tensor, shape (n, d)

        Returns
        -------
        ndarray or tensor, shape (n,)
            In nats.
        """
        return self(x)

    @pointwise
    def score(self, x):
        """Return psi(x) = -dE/dx (Eq. 3).

        Parameters
        ----------
        x : array_like or tensor, shape (n, d)

        Returns
        -------
        ndarray or tensor, shape (n, d)
            In nats per unit of the data.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            energy = self(x)
        return -tape.gradient(energy, x)

    @pointwise
    def experts(self, x):
        """Return the experts eps_alpha(x) = w_alpha h_alpha(x) (Eq. 24).

        Parameters
        ----------
        x : array_like or tensor, shape (n, d)

        Returns
        -------
        ndarray or tensor, shape (n, dim(h^(L)))
            Their sum over the last axis is the energy.
        """
        h = self.last_hidden(x)
        # Outside `call` Keras leaves weights in their own type, whatever the policy.
        return h * tf.cast(tf.squeeze(self.last.kernel, axis=1), h.dtype)

    def loss_bound(self):
        """Return sigma^2 (d - r), r = min(d, dim h^(1)): no training goes below it.

        Raises
        ------
        ValueError
            If the model has not seen data yet.
        """
        if self.dimension is None:
            raise ValueError("the bound needs the dimension: build the model first")
        rank = min(self.dimension, self.hidden_units[0])
        return self.sigma**2 * (self.dimension - rank)
