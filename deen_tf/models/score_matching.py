"""Score matching with the exact second derivatives (Eqs. 8-10; Hyvaerinen 2005).

    L_0 = 1/n sum_k sum_i [ (dE/dx_i)^2 - 2 d2E/dx_i^2 ]                  (Eq. 9)
        = 1/n sum_k [ |psi|^2 + 2 div psi ]                              (Eq. 8)

By parts E_p[div psi] = -E_p[psi . grad log p], so that L_0 = E_p |psi - grad log p|^2
- E_p |grad log p|^2: least at the score of whatever density p the points come from.

Which density. On clean points it is that of the data; for a finite data set L_0 then has
no lower bound (a narrow well at every point). `ScoreMatching` takes by default the noisy
points xi = x + sigma nu, afresh at each step: p is the smoothed density that DEEN learns,
and L_0 + const = L_DEEN / sigma^4. `smooth=False` is Eq. 9 as printed.

Regularisation (Kingma and LeCun 2010). With e ~ N(0, lambda I) and the point's loss
l(x) = |grad E|^2 - 2 laplace E,

    E_e l(x + e) = l + lambda/2 laplace l + O(lambda^2)
                 = l + lambda [ sum_ij (d2E/dx_i dx_j)^2
                                + sum_i dE/dx_i d(laplace E)/dx_i
                                - laplace(laplace E) ].

Without the third and fourth derivatives and the off-diagonal entries there remains

    L_lambda = L_0 + lambda 1/n sum_k sum_i (d2E/dx_i^2)^2,              ("squared")

which is theirs. Eq. 10 prints the second derivative WITHOUT the square, and no 1/n. As
printed it regularises nothing: with the mean over k (lambda here is n lambda there),

    L_0 + lambda 1/n sum_k sum_i d2E/dx_i^2                              ("printed")
        = E_p [ |grad E|^2 - (2 - lambda) laplace E ],

whose minimum is E = -(1 - lambda/2) log p: the right energy times a constant, flat at
lambda = 2 and upside down beyond. (With the sign reversed it would only steepen.) For
p = N(0, s^2 I) and E = k |x|^2 / 2 the minima are k = 1 / (s^2 + lambda) for "squared",
the smoothed density's at lambda = sigma^2, and k = (1 - lambda/2) / s^2 for "printed".

The lambda of a mean is what does not depend on the number of points: so it is here.

Cost. The Hessian's diagonal takes d backward passes through the score, so a step costs
O(d) times that of DEEN.
"""

import keras
import tensorflow as tf

from deen_tf.checks import positive
from deen_tf.models.energy import EnergyModel

FEW = 8  # dimensions: up to here one backward pass each, beyond them all in one


def score_and_slopes(model, x, sigma, training=False):
    """Return psi(x) and the diagonal of its Jacobian, d psi_i / d x_i = -d2E/dx_i^2.

    Both ways compile with XLA (vectorised `batch_jacobian` runs there forty times slower).

    Parameters
    ----------
    model : EnergyModel
    x : tensor, shape (n, ...)
    sigma : tensor
        Both in the network's units.
    training : bool

    Returns
    -------
    psi, slopes : tensors, shape of x
        Exact, and differentiable in the parameters.
    """
    shape = tf.shape(x)
    n, d = shape[0], model.dimension
    if d <= FEW:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            psi = model.score_at(x, sigma, training)
            components = tf.unstack(tf.reshape(psi, (n, d)), axis=1)
        # psi at a point depends on that point alone: the gradient of the sum over points
        # keeps them apart.
        zero = tf.UnconnectedGradients.ZERO
        slopes = [
            tf.reshape(tape.gradient(psi_i, x, unconnected_gradients=zero), (n, d))[
                :, i
            ]
            for i, psi_i in enumerate(components)
        ]
        return psi, tf.reshape(tf.stack(slopes, axis=1), shape)
    # A program of the same size whatever d: d copies of each point, one for each unit
    # vector e, and the gradient of e . psi.
    x = tf.repeat(x, d, axis=0)  # (n d, ...)
    e = tf.reshape(tf.tile(tf.eye(d, dtype=x.dtype), [n, 1]), tf.shape(x))
    axes = list(range(1, len(x.shape)))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        psi = model.score_at(x, sigma, training)
        component = tf.reduce_sum(e * psi, axis=axes)
    slopes = tf.reduce_sum(e * tape.gradient(component, x), axis=axes)
    return psi[::d], tf.reshape(slopes, shape)


@keras.saving.register_keras_serializable(package="deen_tf")
class ScoreMatching(EnergyModel):
    """An energy trained by exact score matching (Eq. 9).

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`.
    smooth : bool
        Learn the density of xi = x + sigma nu, as DEEN does. If not, that of the data, and
        sigma serves `denoise` alone.
    """

    settings = (*EnergyModel.settings, "smooth")
    power = -2

    def __init__(self, *args, smooth=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.smooth = bool(smooth)

    def objective(self, x, nu, sigma, training=False):
        """Return sigma^2 (|psi|^2 + 2 div psi) of each point (Eqs. 8, 9)."""
        if self.smooth:
            x = x + sigma * nu
        psi, slopes = score_and_slopes(self, x, sigma, training)
        return sigma**2 * sum_of(tf.square(psi) + 2 * slopes)


@keras.saving.register_keras_serializable(package="deen_tf")
class RegularizedScoreMatching(EnergyModel):
    """Score matching on the clean points, with Kingma and LeCun's term (Eq. 10).

    Parameters
    ----------
    hidden_units, sigma, seed, noise_samples, first_layer_gain, network
        See `ScoreModel`.
    regularization : float, optional
        lambda, in squared units of the data. By default sigma^2, the variance of the cloud
        of which the term is the first order: for small sigma the model then aims at the
        density that DEEN learns.
    form : "squared" or "printed"
        The term as derived, or as Eq. 10 has it, which only rescales the energy; there
        lambda has no unit.
    """

    settings = (*EnergyModel.settings, "regularization", "form")
    power = -2

    def __init__(self, *args, regularization=None, form="squared", **kwargs):
        super().__init__(*args, **kwargs)
        if regularization is not None:
            regularization = positive(regularization, "regularization", zero=True)
        self.regularization = regularization
        if form not in ("squared", "printed"):
            raise ValueError(f"form must be 'squared' or 'printed', got {form!r}")
        self.form = form

    def objective(self, x, nu, sigma, training=False):
        """Return sigma^2 (|psi|^2 + 2 div psi + lambda sum_i (d2E/dx_i^2)^2) of each point."""
        psi, slopes = score_and_slopes(self, x, sigma, training)
        curvature = -slopes  # d2E/dx_i^2
        s, each = self.scales()
        if self.form == "squared":
            weight = self.regularization
            weight = sigma**2 if weight is None else weight / each**2
            extra = weight * tf.square(curvature)
        else:
            weight = self.regularization
            extra = (sigma * s) ** 2 if weight is None else weight
            extra = extra * curvature
        return sigma**2 * sum_of(tf.square(psi) - 2 * curvature + extra)


def sum_of(terms):
    """Return the sum over the coordinates of each point, (n,)."""
    return tf.reduce_sum(terms, axis=list(range(1, len(terms.shape))))
