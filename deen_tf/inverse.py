"""An energy as a prior: the most probable point behind a measurement.

    y = A x + s nu,    x_hat = argmin_x  |A x - y|^2 / 2 s^2  +  strength E(x),

for denoising (A = I), deblurring (A a blur), inpainting (A leaves out what is missing): by
strength 1 the maximum of the posterior where E is minus the logarithm of the density of x. It
is found by L-BFGS, from values and slopes of E alone.

A model's E is that of the density smoothed by its noise level, and known where its noisy data
lie: at a small level that is near clean images, and far from the first x. With `sigmas`, a
schedule down the levels of a model of several, each minimum is the start of the search at the
next level, and the last is the answer.

Far from its data E is whatever the network makes of it, and may fall without bound: a search
that finds lower values there, or none, has nothing to find. Far is a coordinate 20 scales of
the model's data from their center, and twice as far as the start: a model knows these units,
and nothing that it has seen lies there. (What is far and higher L-BFGS turns back from.)

One step of Eq. 11 is another estimate: the mean of the posterior, which has the least squared
error, and from the energy of the noise level s itself. It is there for A = I only.
"""

import warnings

import numpy as np

from deen_tf.checks import (
    FAR,
    LARGEST_SINGLE,
    as_numbers,
    as_points,
    check_units,
    positive,
    whole,
)
from deen_tf.fields import shape_of, units_of

MEMORY = 10  # steps that L-BFGS remembers
UNKNOWN = 1e8  # scales of data, in those of the measurement, where no model tells them


def minimise(
    model,
    y,
    noise_level,
    forward=None,
    adjoint=None,
    start=None,
    sigmas=None,
    strength=1.0,
    iterations=100,
):
    """Return the minimiser of |A x - y|^2 / 2 s^2 + strength E(x).

    Parameters
    ----------
    model : any object with `energy` and `score`
        Of points of the shape of x; a photograph (height, width) will do for a model of
        images (height, width, 1).
    y : array_like, any shape
        The measurement, one. x is in the units of the model's data.
    noise_level : float
        s, the standard deviation of its noise.
    forward, adjoint : callable, optional
        A and its transpose, of arrays in float64: from the shape of x to that of y and back.
        By default A = I.
    start : array_like, optional
        Where the search begins; by default A^T y.
    sigmas : sequence of float, optional
        Noise levels of a model of several, in the order in which their energies are
        minimised.
    strength : float
        Of the prior.
    iterations : int
        Of L-BFGS, at most, at each level.

    Returns
    -------
    ndarray, shape of x, float32

    Warns
    -----
    UserWarning
        If L-BFGS stopped at `iterations` at the last level: x is not a minimum.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; `adjoint` is not the transpose of `forward`; the
        start is not in the units of the model's data; or a search leaves where the energy
        knows anything, as one does that has no minimum near.
    """
    from scipy.optimize import minimize

    if isinstance(model, type):
        raise TypeError(f"model must be an instance, got the class {model.__name__}")
    if not (hasattr(model, "energy") and hasattr(model, "score")):
        raise TypeError(f"model must have energy and score, got {model!r:.80}")
    y = as_points(as_numbers(y, "y")[None], ..., "y", "float64")[0]
    power, strength = (
        positive(noise_level, "noise_level") ** 2,
        positive(strength, "strength"),
    )
    iterations = whole(iterations, "iterations")
    if (forward is None) != (adjoint is None):
        raise ValueError("give forward and adjoint both, or none")
    forward, adjoint = forward or (lambda x: x), adjoint or (lambda r: r)
    x = adjoint(y) if start is None else start
    x = as_points(as_numbers(x, "start")[None], ..., "start", "float64")[0]
    _check_adjoint(forward, adjoint, x, y)
    point = getattr(model, "point_shape", None) or x.shape
    batch = (1, *x.shape, 1) if len(point) == x.ndim + 1 and point[-1] == 1 else (1, -1)
    batch = batch if len(point) != x.ndim else (1, *x.shape)

    shape, priors = x.shape, _priors(model, sigmas)
    center, scale, scales = units_of(model)
    z = as_points(x.reshape(batch), shape_of(model), "start", "float64") - center
    if np.isfinite(scale):
        level = np.sqrt(np.mean(np.square(getattr(priors[0], "sigma", 0.0))))
        check_units(z * (scale / scales), level, scale, "start")
    else:
        scales = UNKNOWN * max(np.abs(x).max(), np.abs(y).max(), power**0.5)
    farthest = np.maximum(FAR * scales, 2 * np.abs(z).max())

    def posterior(flat, prior, lowest):
        x = flat.reshape(shape)
        points = x.reshape(batch)
        if not np.abs(x).max() < LARGEST_SINGLE:
            raise _lost(prior)
        residual, xi = forward(x) - y, points.astype("float32")
        energy = float(np.asarray(prior.energy(xi), "float64")[0])
        score = np.asarray(prior.score(xi), "float64").reshape(shape)
        value = np.sum(residual**2) / (2 * power) + strength * energy
        slope = adjoint(residual) / power - strength * score
        far = (np.abs(points - center) > farthest).any() and value < lowest[0]
        if far or not (np.isfinite(value) and np.isfinite(slope).all()):
            raise _lost(prior)
        lowest[0] = min(value, lowest[0])
        return value, slope.ravel()

    for prior in priors:
        found = minimize(
            posterior,
            x.ravel(),
            args=(prior, [np.inf]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxcor": MEMORY},
        )
        x = found.x.reshape(shape)
    if found.status == 1:
        warnings.warn(
            f"L-BFGS stopped after {found.nit} iterations: the answer is not a minimum",
            stacklevel=2,
        )
    return x.astype("float32")


def _lost(prior):
    sigma = getattr(prior, "sigma", None)
    at = "" if sigma is None or np.ndim(sigma) else f" at sigma={sigma:.4g}"
    return ValueError(
        f"the energy{at} has no minimum near here: end the schedule at a higher level, use "
        "fewer iterations or less strength"
    )


def _priors(model, sigmas):
    """Return what is minimised, one after another."""
    several = getattr(model, "several_levels", False)
    if several != (sigmas is not None):
        wanted = "must be given to a model of several noise levels, and only to one"
        raise ValueError(f"sigmas {wanted}, got {sigmas!r}")
    if not several:
        return [model]
    if not np.size(sigmas):
        raise ValueError("sigmas must name at least one level")
    return [model.smoothed(sigma) for sigma in np.ravel(sigmas)]


def _check_adjoint(forward, adjoint, x, y):
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=x.shape), rng.normal(size=y.shape)
    images = {"forward": (np.shape(forward(u)), y.shape)}
    images["adjoint"] = np.shape(adjoint(v)), x.shape
    for name, (got, wanted) in images.items():
        if got != wanted:
            raise ValueError(f"{name} must give the shape {wanted}, got {got}")
    there, back = np.sum(forward(u) * v), np.sum(u * adjoint(v))
    if not np.isclose(there, back, rtol=1e-4, atol=1e-4 * np.sqrt(y.size)):
        raise ValueError(
            "adjoint must be the transpose of forward: <A u, v> = "
            f"{there:.6g}, <u, A^T v> = {back:.6g} for random u, v"
        )
