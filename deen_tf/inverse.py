"""An energy as a prior: the most probable point behind a measurement.

    y = A x + s nu,    x_hat = argmin_x  |A x - y|^2 / 2 s^2  +  strength E(x),

for denoising (A = I), deblurring (A a blur), inpainting (A leaves out what is missing): by
strength 1 the maximum of the posterior where E is minus the logarithm of the density of x. It
is found by L-BFGS, from values and slopes of E alone, in the units of the model's data and from
the value at the start, so that neither units nor the free constant of an energy matter. How far
the answer is from the minimum is told by the slope that is left, times s: with A = I, so many
standard deviations of the noise at most where E is convex.

A model's E is that of the density smoothed by its noise level, and known where its noisy data
lie: at a small level that is near clean images, and far from the first x. With `sigmas`, a
schedule down the levels of a model of several, each minimum is the start of the search at the
next level, and the last is the answer.

Far from its data E is whatever the network makes of it, and may fall without bound: a search
that finds lower values there, or none, has nothing to find. Far is a coordinate 20 scales of
the model's data from their center (of data in units of their own, each in its own) and twice
as far as the start: nothing that the model has seen lies there. (What is far and higher L-BFGS
turns back from.)

One step of Eq. 11 is another estimate: the mean of the posterior, which has the least squared
error, and from the energy of the noise level s itself. It is there for A = I only.
"""

import warnings

import numpy as np

from deen_tf.checks import FAR, LARGEST_SINGLE, as_numbers, as_points, positive, whole
from deen_tf.fields import dtype_of, shape_of, units_of

# L-BFGS goes on while a step gains this part of all that was gained, a long way below the
# rounding of float32, and a slope is left.
STOP = {"maxcor": 10, "ftol": 1e-12, "gtol": 1e-5}
LEFT = 0.05  # the slope that an answer may have, times s: root mean square
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
        Where the search begins; by default the multiple of A^T y that suits y best.
    sigmas : sequence of float, optional
        Noise levels of a model of several, in the order in which their energies are
        minimised.
    strength : float
        Of the prior.
    iterations : int
        Of L-BFGS, at most, at each level.

    Returns
    -------
    ndarray, shape of x, float64

    Warns
    -----
    UserWarning
        If L-BFGS stopped on a slope, at the last level: x is not a minimum. More `iterations`
        are needed; or the score does not belong to the energy.

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
    y = _one(y, "y")
    power, strength = (
        positive(noise_level, "noise_level") ** 2,
        positive(strength, "strength"),
    )
    iterations = whole(iterations, "iterations")
    if (forward is None) != (adjoint is None):
        raise ValueError("give forward and adjoint both, or none")
    given = "y" if start is None and forward is None else "start"
    forward, adjoint = _in_float64(forward), _in_float64(adjoint)
    x = _first(y, forward, adjoint) if start is None else _one(start, "start")
    shape, priors = x.shape, _priors(model, sigmas)
    batch = _batch(model, shape, given)
    _check_adjoint(forward, adjoint, x, y)
    x = as_points(x.reshape(batch), shape_of(model), given, "float64")
    center, _, scales = units_of(model)
    if np.isfinite(scales).all():
        _check_start((x - center) / scales, np.divide(priors[0].sigma, scales))
        farthest = np.maximum(FAR * scales, 2 * np.abs(x - center).max())
    else:
        scales = max(np.abs(x).max(), np.abs(y).max(), power**0.5)
        farthest = UNKNOWN * scales

    def posterior(u, prior, origin, constant, lowest):
        """The value less `constant` strength, and its slope, at origin + scales u."""
        points = origin + scales * u.reshape(batch)
        if not np.abs(points).max() < LARGEST_SINGLE:
            raise _lost(prior)
        residual = forward(points.reshape(shape)) - y
        energy, score = _asked(prior, points)
        value = np.sum(residual**2) / (2 * power) + strength * (energy - constant)
        slope = adjoint(residual).reshape(batch) / power - strength * score
        far = (np.abs(points - center) > farthest).any() and value < lowest[0]
        if far or not (np.isfinite(value) and np.isfinite(slope).all()):
            raise _lost(prior)
        lowest[0] = min(value, lowest[0])
        return value, (scales * slope).ravel()

    for prior in priors:
        found = minimize(
            posterior,
            np.zeros(x.size),
            args=(prior, x, _asked(prior, x)[0], [np.inf]),
            jac=True,
            method="L-BFGS-B",
            options=STOP | {"maxiter": iterations},
        )
        x = x + scales * found.x.reshape(batch)
    left = np.sqrt(power * np.mean(np.square(found.jac.reshape(batch) / scales)))
    if left > LEFT:
        warnings.warn(
            f"L-BFGS stopped after {found.nit} iterations: the answer is not a minimum, a slope "
            f"of {left:.2g} is left, times noise_level. More iterations go on; if few were "
            "made, the score may not belong to the energy",
            stacklevel=2,
        )
    return x.reshape(shape)


def _one(x, name):
    """Return one point, or measurement, of any shape but that of a number."""
    x = as_numbers(x, name)
    if x.ndim == 0:
        raise ValueError(f"{name} must be an array, got the number {x}")
    return as_points(x[None], ..., name, "float64")[0]


def _in_float64(operator):
    if operator is None:
        return lambda x: x
    return lambda x: np.asarray(operator(x), "float64")


def _first(y, forward, adjoint):
    """Return t A^T y of the least |A x - y|."""
    x = adjoint(y)
    there = forward(x)
    return x * (np.sum(x**2) / (np.sum(there**2) or 1.0))


def _batch(model, shape, name):
    """Return the shape of a batch of one x for the model."""
    wanted = shape_of(model)
    if wanted is ...:
        return (1, *shape)
    wanted = (wanted,) if np.ndim(wanted) == 0 else tuple(wanted)
    if wanted == (np.prod(shape),):
        return (1, *wanted)  # an image for a model of rows
    # A photograph without its one channel.
    found = (*shape, 1) if wanted[-1] == 1 and len(wanted) > len(shape) else shape
    if len(found) != len(wanted) or any(
        w not in (None, f) for w, f in zip(wanted, found, strict=True)
    ):
        raise ValueError(f"{name} must be one point of shape {wanted}, got {shape}")
    return (1, *found)


def _check_start(z, level):
    """Refuse a start in other units than the model's data, whose scales are the unit of z."""
    away = np.sqrt(np.mean(z**2))
    if away > np.hypot(FAR, 2 * np.sqrt(np.mean(np.square(level)))):
        raise ValueError(
            f"the start lies {away:.3g} scales of the data that the model was trained on from "
            "their center: it must be in the units of those (pixels in [0, 1], say, and not in "
            "0 to 255); give start= where A^T y is not"
        )


def _asked(prior, points):
    """Return energy and score of one point, in float64."""
    points = points.astype(dtype_of(prior, "float64"))
    energy, score = prior.energy(points), prior.score(points)
    return float(np.asarray(energy, "float64")[0]), np.asarray(score, "float64")


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
