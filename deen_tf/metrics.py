"""How near a model is to the truth.

With p* = exp(-E*) exact and q = exp(-E) / Z the model's (Eqs. 1-3):

    relative score error   E|psi - psi*|^2 / E|psi*|^2
    Fisher divergence      E|psi - psi*|^2                      (Eqs. 4, 13; no factor 1/2)
    energy error           E - E* up to a constant, over points of p*
    mode ratios            (mass of a mode under q) / (mass under p*), by points of p*
    relative curl          rms(d1 psi2 - d2 psi1) / rms ||J||_F                  two dimensions
    asymmetry              sum ||J - J^T||_F^2 / (4 sum ||J||_F^2)               any dimension

In the plane more can be measured, by quadrature: `deen_tf.grids`. Of images:
`deen_tf.image_metrics`. The names of both are here, too. log Z in many dimensions:
`deen_tf.annealing`.
"""

from typing import NamedTuple

import numpy as np

from deen_tf.checks import as_points, positive, whole
from deen_tf.grids import grid_kl, smallest_mode_ratio, total_variation
from deen_tf.image_metrics import (
    alike,
    err_per_pixel,
    mean_and_standard_error,
    psnr,
    removed_noise_fraction,
    ssim,
)

__all__ = [
    "asymmetry",
    "energy_error",
    "err_per_pixel",
    "fisher_divergence",
    "grid_kl",
    "mean_and_standard_error",
    "mode_ratios",
    "projected_asymmetry",
    "psnr",
    "relative_curl",
    "relative_score_error",
    "removed_noise_fraction",
    "smallest_mode_ratio",
    "ssim",
    "total_variation",
]


def fisher_divergence(score, true_score):
    """Return E|psi - psi*|^2, the mean over points drawn from the exact density.

    Parameters
    ----------
    score, true_score : array_like, shape (n, d)
        The model's and the exact score at the same points.
    """
    psi, true = alike(score, true_score, "score", "true_score")
    return float(np.sum((psi - true) ** 2) / len(psi))


def relative_score_error(score, true_score):
    """Return E|psi - psi*|^2 / E|psi*|^2: 0 for the exact score, 1 for a score of zero.

    Parameters are those of `fisher_divergence`.

    Examples
    --------
    >>> psi = np.ones((4, 2))
    >>> round(float(deen.metrics.relative_score_error(1.1 * psi, psi)), 4)
    0.01
    """
    psi, true = alike(score, true_score, "score", "true_score")
    power = np.sum(true**2)
    if power == 0:
        raise ValueError("true_score is zero everywhere: no error relative to it")
    return float(np.sum((psi - true) ** 2) / power)


class EnergyError(NamedTuple):
    """How far an energy is from the exact one, up to a constant; in nats.

    Attributes
    ----------
    constant : float
        c, the trimmed mean of E - E*.
    mean : float
        Trimmed mean of |E - E* - c|.
    quantiles : ndarray
        Of |E - E* - c|, all points counted.
    """

    constant: float
    mean: float
    quantiles: np.ndarray


def energy_error(energy, true_energy, trim=0.01, quantiles=(0.5, 0.9, 0.99)):
    """Return the error of an energy over points of the exact density.

    Parameters
    ----------
    energy, true_energy : array_like, shape (n,)
        E and E* at the same points.
    trim : float
        Fraction left out of the means: of the mean of E - E* at both ends, of that of
        |E - E* - c| at the upper one.
    quantiles : sequence of float

    Returns
    -------
    EnergyError
    """
    E, true = _rows(energy, true_energy, "energy", "true_energy")
    cut = int(positive(trim, "trim", zero=True) * len(E))
    if 2 * cut >= len(E):
        raise ValueError(f"trim must be less than 0.5, got {trim}")
    gap = np.sort(E - true)
    constant = gap[cut : len(gap) - cut].mean()
    gap = np.sort(np.abs(gap - constant))
    return EnergyError(
        float(constant),
        float(gap[: len(gap) - cut].mean()),
        np.quantile(gap, quantiles),
    )


class ModeRatios(NamedTuple):
    """Masses of modes under a model, over those under the exact density.

    Attributes
    ----------
    ratios : ndarray, shape (k,)
    errors : ndarray, shape (k,)
        Their standard errors.
    effective : float
        (sum w)^2 / sum w^2, the effective number of points: of few, errors mean little.
    """

    ratios: np.ndarray
    errors: np.ndarray
    effective: float


def mode_ratios(energy, true_energy, modes):
    """Return what mass each mode has under the model, over its exact mass.

    From points x_i of the exact density: with the weights w_i = exp(E*(x_i) - E(x_i)) they
    are points of the model's, as far as its mass lies where they do, and

        ratio_k = mean of w over the points of mode k / mean of w over all.

    Parameters
    ----------
    energy, true_energy : array_like, shape (n,)
        E and E*, each up to a constant.
    modes : array_like of int, shape (n,)
        Which mode each point belongs to, from 0 to k - 1; every one has a point.

    Returns
    -------
    ModeRatios
    """
    E, true = _rows(energy, true_energy, "energy", "true_energy")
    modes = np.asarray(modes)
    if modes.shape != E.shape or modes.dtype.kind not in "biu" or modes.min() < 0:
        raise ValueError(
            f"modes must be {len(E)} whole numbers from 0, one for each point, got {modes!r:.80}"
        )
    modes = modes.astype(np.intp)
    w = np.exp(true - E - np.max(true - E))
    w /= w.mean()
    count = np.bincount(modes)
    if count.min() == 0:
        raise ValueError(f"mode {count.argmin()} has no point")
    ratios = np.bincount(modes, w) / count
    # Delta method: a point of mode k moves the mean over k, and every point that over all.
    n, own = len(w), np.bincount(modes, w**2) / count - ratios**2
    variance = own * (n / count - 2 * ratios) + ratios**2 * w.var()
    return ModeRatios(
        ratios, np.sqrt(np.maximum(variance, 0) / n), float(n**2 / np.sum(w**2))
    )


def relative_curl(jacobians):
    """Return rms(d1 psi2 - d2 psi1) / rms ||J||_F over the points, from 0 to sqrt(2).

    0 for a gradient field, sqrt(2) for a pure rotation; NaN if J is zero everywhere.

    Parameters
    ----------
    jacobians : array_like, shape (n, 2, 2)
        J[k, i, j] = d psi_i / d x_j at point k.
    """
    J = _jacobians(jacobians)
    if J.shape[1] != 2:
        raise ValueError(
            f"a curl needs two dimensions, got {J.shape[1]}: see asymmetry"
        )
    with np.errstate(invalid="ignore"):
        return float(np.sqrt(np.sum((J[:, 1, 0] - J[:, 0, 1]) ** 2) / np.sum(J**2)))


def asymmetry(jacobians):
    """Return sum ||J - J^T||_F^2 / (4 sum ||J||_F^2) over the points, from 0 to 1.

    0 for a gradient field, 1 for a pure rotation; in two dimensions relative_curl^2 / 2;
    NaN if J is zero everywhere.

    Parameters
    ----------
    jacobians : array_like, shape (n, d, d)

    Examples
    --------
    >>> gradient, rotation = np.eye(2)[None], np.array([[[0.0, 1.0], [-1.0, 0.0]]])
    >>> float(deen.metrics.asymmetry(gradient)), float(deen.metrics.asymmetry(rotation))
    (0.0, 1.0)
    """
    J = _jacobians(jacobians)
    with np.errstate(invalid="ignore"):
        return float(np.sum((J - J.transpose(0, 2, 1)) ** 2) / (4 * np.sum(J**2)))


def projected_asymmetry(field, x, probes=4, step=None, seed=0, batch=1024):
    """Return `asymmetry` of a field in many dimensions, without its Jacobians.

    For independent v, w ~ N(0, I): E (v^T (J - J^T) w)^2 = ||J - J^T||_F^2 and
    E |J^T v|^2 = E |J v|^2 = ||J||_F^2, so that products of J with vectors do. The relative
    standard error is at most sqrt(8 / (n probes)).

    Parameters
    ----------
    field : object with `.score`
        (n, ...) -> (n, ...), each point for itself.
    x : array_like, shape (n, ...)
    probes : int
        Pairs v, w for each point.
    step : float, optional
        If given, J v by central differences of this step times v; otherwise J^T v by
        TensorFlow.
    seed : int
    batch : int
        Points at once.
    """
    dtype = getattr(field, "compute_dtype", "float64")
    x = as_points(x, ..., dtype=dtype)
    rng = np.random.default_rng(whole(seed, "seed", least=0))
    product = _transposed_products if step is None else _products
    above = below = 0.0
    for _ in range(whole(probes, "probes")):
        for first in range(0, len(x), whole(batch, "batch")):
            points = x[first : first + batch]
            v, w = rng.normal(size=(2, *points.shape)).astype(dtype)
            Jv, Jw = (
                np.asarray(J, "float64").reshape(len(points), -1)
                for J in product(field, points, v, w, step)
            )
            v, w = v.reshape(Jv.shape), w.reshape(Jv.shape)
            above += np.sum(np.sum(v * Jw - w * Jv, axis=1) ** 2)
            below += 2 * np.sum(Jv**2 + Jw**2)
    return float(above / below) if below else float("nan")


def _rows(a, b, name_a, name_b):
    if np.ndim(a) != 1 or np.shape(a) != np.shape(b):
        raise ValueError(
            f"{name_a} and {name_b} must be one (n,), got {np.shape(a)} and {np.shape(b)}"
        )
    columns = ((a, name_a), (b, name_b))
    return (
        as_points(np.reshape(c, (-1, 1)), 1, n, "float64")[:, 0] for c, n in columns
    )


def _transposed_products(field, x, v, w, _):
    """Return J^T v and J^T w."""
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        psi = field.score(x)
        pv, pw = tf.reduce_sum(psi * v), tf.reduce_sum(psi * w)
    return tape.gradient(pv, x), tape.gradient(pw, x)


def _products(field, x, v, w, step):
    """Return J v and J w by central differences."""
    step = positive(step, "step")
    return (
        (np.asarray(field.score(x + step * u)) - np.asarray(field.score(x - step * u)))
        / (2 * step)
        for u in (v, w)
    )


def _jacobians(jacobians):
    try:
        n, d, columns = np.shape(jacobians)
    except ValueError:
        d, columns = 0, 1
    if d != columns:
        raise ValueError(
            f"jacobians must be an array of shape (n, d, d), got {jacobians!r:.80}"
        )
    flat = as_points(np.reshape(jacobians, (n, d * d)), None, "jacobians", "float64")
    return flat.reshape(n, d, d)
