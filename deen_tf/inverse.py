"""An energy as a prior: the most probable point behind a measurement.

    y = A x + s nu,    x_hat = argmin_x  |A x - y|^2 / 2 s^2  +  strength E(x),

for denoising (A = I), deblurring (A a blur), inpainting (A leaves out what is missing): by
strength 1 the maximum of the posterior where E is minus the logarithm of the density of x. It
is found by L-BFGS, from values and slopes of E alone.

A model's E is that of the density smoothed by its noise level, and known where its noisy data
lie: at a small level that is near clean images, and far from the first x. With `sigmas`, a schedule down the levels of a model
of several, each minimum is the start of the search at the next level, and the last is the
answer.

One step of Eq. 11 is another estimate: the mean of the posterior, which has the least squared
error, and from the energy of the noise level s itself. It is there for A = I only.
"""

import numpy as np

from deen_tf.checks import as_numbers, as_points, positive, whole

MEMORY = 10  # steps that L-BFGS remembers


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
        The measurement, one.
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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; or `adjoint` is not the transpose of `forward`.
    """
    from scipy.optimize import minimize

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

    def posterior(flat, prior):
        x = flat.reshape(shape)
        residual = forward(x) - y
        points = x.reshape(batch).astype("float32")
        energy = float(np.asarray(prior.energy(points), "float64")[0])
        score = np.asarray(prior.score(points), "float64").reshape(shape)
        value = np.sum(residual**2) / (2 * power) + strength * energy
        return value, (adjoint(residual) / power - strength * score).ravel()

    shape = x.shape
    for prior in _priors(model, sigmas):
        found = minimize(
            posterior,
            x.ravel(),
            args=(prior,),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxcor": MEMORY},
        )
        x = found.x.reshape(shape)
    return x.astype("float32")


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
