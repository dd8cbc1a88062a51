"""How near a model is to the truth, and a denoised image to the clean one.

Densities, with p* = exp(-E*) exact and q = exp(-E) / Z the model's (Eqs. 1-3):

    relative score error   E|psi - psi*|^2 / E|psi*|^2
    Fisher divergence      E|psi - psi*|^2                      (Eqs. 4, 13; no factor 1/2)
    grid KL                sum p* log(p* / q)  over the cells of a grid, in nats
    total variation        1/2 sum |p* - q|
    relative curl          rms(d1 psi2 - d2 psi1) / rms ||J||_F                  two dimensions
    asymmetry              sum ||J - J^T||_F^2 / (4 sum ||J||_F^2)               any dimension

On a grid, E needs to be known up to a constant only: q is normalised over the grid's box.
(A tanh network's energy is bounded, so that exp(-E) has no integral over the whole plane:
the box is part of the definition and goes with every number.)

Images: the paper's err/pixel |x - x_hat|^2 / d (Sec. 4), PSNR and SSIM, per patch;
`mean_and_standard_error` takes their mean over patches with its error over images.

Energies are functions (n, 2) -> (n,), or anything with such an `.energy`.
"""

import numpy as np

from deen_tf.checks import as_points, image_shape, positive, whole

LOST_MASS = 1e-6  # of the exact density, outside the grid or between its points


def fisher_divergence(score, true_score):
    """Return E|psi - psi*|^2, the mean over points drawn from the exact density.

    Parameters
    ----------
    score, true_score : array_like, shape (n, d)
        The model's and the exact score at the same points.
    """
    psi, true = _alike(score, true_score, "score", "true_score")
    return float(np.sum((psi - true) ** 2) / len(psi))


def relative_score_error(score, true_score):
    """Return E|psi - psi*|^2 / E|psi*|^2: 0 for the exact score, 1 for a score of zero.

    Parameters are those of `fisher_divergence`.
    """
    psi, true = _alike(score, true_score, "score", "true_score")
    power = np.sum(true**2)
    if power == 0:
        raise ValueError("true_score is zero everywhere: no error relative to it")
    return float(np.sum((psi - true) ** 2) / power)


def grid_kl(true_energy, energy, box, points=400):
    """Return KL(exact density || normalised model) in nats, by quadrature.

    Parameters
    ----------
    true_energy : callable or object with .energy
        E* = -log p* of a NORMALISED density, which is how its mass in the box is checked.
    energy : callable or object with .energy
        The model's E, up to a constant.
    box : ((low, high), (low, high)) or (low, high)
        Edges of the grid along x1 and x2; one pair serves for both.
    points : int
        Cells along each axis; the midpoint rule.

    Returns
    -------
    float
        Not negative; infinite if the model has no mass where the truth has.

    Raises
    ------
    ValueError
        If the grid does not hold all but 1e-6 of the exact mass (too small, or too coarse),
        or an energy is NaN.
    """
    log_p, log_q = _both(true_energy, energy, box, points)
    p = np.exp(log_p)
    held = p > 0  # elsewhere p log p = 0
    return max(0.0, float(np.sum(p[held] * (log_p[held] - log_q[held]))))


def total_variation(true_energy, energy, box, points=400):
    """Return 1/2 sum |p* - q| on a grid: 0 for equal densities, 1 for disjoint ones.

    Parameters and errors are those of `grid_kl`.
    """
    log_p, log_q = _both(true_energy, energy, box, points)
    return float(0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum())


def mode_masses(energy, centers, box, points=400):
    """Return the mass of the normalised density that lies nearest to each centre.

    Parameters
    ----------
    energy : callable or object with .energy
    centers : array_like, shape (k, 2)
        The modes, or points along a curve.
    box, points
        See `grid_kl`.

    Returns
    -------
    ndarray, shape (k,)
        They sum to 1.
    """
    nearest, k = _nearest(centers, box, points)
    return np.bincount(nearest, np.exp(_log_masses(energy, box, points)), k)


def mass_in_modes(true_energy, energy, box, points=400, level=0.99):
    """Return the model's mass where the data are: `level` if it is right, 0 if it is elsewhere.

    "Where the data are" is the exact density's region of highest density that holds the
    fraction `level` of its mass. A model whose mass has gone to a place without data has
    little there. It does not see whether the mass is shared rightly between modes: for
    that, `smallest_mode_ratio`.

    Parameters and errors are those of `grid_kl`.
    """
    log_p, log_q = _both(true_energy, energy, box, points)
    return float(np.exp(log_q)[_highest(log_p, level)].sum())


def smallest_mode_ratio(true_energy, energy, centers, box, points=400, level=0.99):
    """Return the least, over the modes, of (model's mass) / (exact mass) of a mode.

    1 if every mode has its share, 0 if one is lost: mode collapse in one number. A mode is
    the part of the exact density's `level` region of highest density (see `mass_in_modes`)
    nearest to its centre, so that mass far from all data counts for none. Between 0 and 1.

    Parameters
    ----------
    centers : array_like, shape (k, 2)
        The modes, or points along a curve (the pieces of a spiral).
    true_energy, energy, box, points, level
        See `mass_in_modes`.

    Raises
    ------
    ValueError
        As `grid_kl`, or if a centre has none of the exact mass.
    """
    log_p, log_q = _both(true_energy, energy, box, points)
    nearest, k = _nearest(centers, box, points)
    region = _highest(log_p, level)
    true = np.bincount(nearest[region], np.exp(log_p)[region], k)
    if true.min() <= 0:
        raise ValueError(
            f"no data near centre {np.argmin(true)}: not a mode of the truth"
        )
    return min(
        1.0,
        float(np.min(np.bincount(nearest[region], np.exp(log_q)[region], k) / true)),
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
    """
    J = _jacobians(jacobians)
    with np.errstate(invalid="ignore"):
        return float(np.sum((J - J.transpose(0, 2, 1)) ** 2) / (4 * np.sum(J**2)))


def err_per_pixel(x, x_hat):
    """Return |x - x_hat|^2 / d of each patch (Sec. 4), shape (n,).

    Parameters
    ----------
    x, x_hat : array_like, shape (n, d)
        Clean and denoised patches.
    """
    x, x_hat = _alike(x, x_hat, "x", "x_hat")
    return np.mean((x - x_hat) ** 2, axis=1)


def psnr(x, x_hat, peak):
    """Return 10 log10(peak^2 / err_per_pixel) of each patch in decibel, shape (n,).

    Parameters
    ----------
    x, x_hat : array_like, shape (n, d)
    peak : float or array_like, shape (n,)
        The largest possible signal, or the range of each clean patch.
    """
    error = err_per_pixel(x, x_hat)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(_ranges(peak, len(error), "peak") ** 2 / error)


def ssim(x, x_hat, shape, data_range):
    """Return the structural similarity (Wang et al. 2004) of each patch, shape (n,).

    scikit-image's, with that paper's Gaussian window (standard deviation 1.5, 11 x 11).

    Parameters
    ----------
    x, x_hat : array_like, shape (n, d)
    shape : pair of int
        (height, width), 11 at least.
    data_range : float or array_like, shape (n,)
        Of the values, of all or of each patch.
    """
    from skimage.metrics import structural_similarity

    x, x_hat = _alike(x, x_hat, "x", "x_hat")
    ranges = _ranges(data_range, len(x), "data_range")
    shape = image_shape(shape)
    if np.prod(shape) != x.shape[1] or min(shape) < 11:
        raise ValueError(
            f"shape must be 11 x 11 or more of {x.shape[1]} pixels, got {shape}"
        )
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    triples = zip(x.reshape(-1, *shape), x_hat.reshape(-1, *shape), ranges, strict=True)
    return np.array(
        [structural_similarity(a, b, data_range=r, **settings) for a, b, r in triples]
    )


def mean_and_standard_error(values, groups=None):
    """Return the mean over patches and its standard error over images.

    Patches of one image are not independent, so the error is that of a mean of clusters:
    SE^2 = G / (G - 1) sum_g (sum_{i in g} (v_i - mean))^2 / n^2, G groups, n values. With a
    group for each value it is the usual std / sqrt(n).

    Parameters
    ----------
    values : array_like, shape (n,)
    groups : array_like, shape (n,), optional
        Which image each patch comes from (`Patches.image_of`).

    Returns
    -------
    mean, standard_error : float
        The error is NaN if there is one group only.
    """
    n = np.size(values)
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if np.ndim(values) != 1 or groups.shape != (n,) or not n:
        raise ValueError(
            f"values {np.shape(values)} and groups {groups.shape} must be one (n,)"
        )
    values = as_points(np.reshape(values, (n, 1)), 1, "values", "float64")[:, 0]
    mean = values.mean()
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, values - mean)
    if len(sums) == 1:
        return float(mean), float("nan")
    variance = len(sums) / (len(sums) - 1) * np.sum(sums**2) / len(values) ** 2
    return float(mean), float(np.sqrt(variance))


def removed_noise_fraction(x, xi, x_hat):
    """Return 1 - E|x - x_hat|^2 / E|x - xi|^2: 1 if all noise is gone, 0 if none.

    Parameters
    ----------
    x, xi, x_hat : array_like, shape (n, d)
        Clean, noisy and denoised points.
    """
    noise = err_per_pixel(x, xi).mean()
    if noise == 0:
        raise ValueError("xi equals x: there is no noise to remove")
    return float(1 - err_per_pixel(x, x_hat).mean() / noise)


def _both(true_energy, energy, box, points):
    """Return the logarithms of both densities' masses in the cells, each summing to 1."""
    log_p = _log_masses(true_energy, box, points, exact=True)
    return log_p, _log_masses(energy, box, points)


def _log_masses(energy, box, points, exact=False):
    centers, cell = _grid(box, points)
    if not callable(getattr(energy, "energy", energy)):
        raise TypeError(f"an energy must be a function or have one, got {energy!r}")
    E = np.asarray(getattr(energy, "energy", energy)(centers), "float64")
    if E.shape != (len(centers),):
        raise ValueError(f"an energy must have shape ({len(centers)},), got {E.shape}")
    if np.isnan(E).any() or not (E > -np.inf).all() or not np.isfinite(E).any():
        raise ValueError(
            "an energy on the grid is NaN, minus infinity or infinite everywhere"
        )
    lowest = E.min()
    log_mass = np.log(np.sum(np.exp(lowest - E))) - lowest
    if exact and abs(np.expm1(log_mass + np.log(cell))) > LOST_MASS:
        raise ValueError(
            f"the grid of {points} x {points} cells over {box} holds a mass of "
            f"{np.exp(log_mass + np.log(cell)):.8f} of the exact density, not 1 to {LOST_MASS:g}: "
            "widen the box, add points, or normalise the density"
        )
    return -E - log_mass


def _grid(box, points):
    """Return the midpoints of the cells, (points^2, 2), x2 fastest, and a cell's area."""
    points = whole(points, "points", 2)
    try:
        edges = np.asarray(box, "float64")
    except (TypeError, ValueError):
        edges = np.empty(0)
    edges = np.stack([edges, edges]) if edges.shape == (2,) else edges
    if (
        edges.shape != (2, 2)
        or not np.isfinite(edges).all()
        or (edges[:, 0] >= edges[:, 1]).any()
    ):
        raise ValueError(
            f"box must be ((low, high), (low, high)) or (low, high), got {box}"
        )
    steps = (edges[:, 1] - edges[:, 0]) / points
    x1, x2 = edges[:, :1] + steps[:, None] * (np.arange(points) + 0.5)
    centers = np.stack(np.meshgrid(x1, x2, indexing="ij"), axis=2).reshape(-1, 2)
    return centers, float(steps.prod())


def _nearest(centers, box, points):
    """Return the index of the centre nearest to each cell, and the number of centres."""
    from scipy.spatial import cKDTree

    centers = as_points(centers, 2, "centers", "float64")
    return cKDTree(centers).query(_grid(box, points)[0])[1], len(centers)


def _highest(log_p, level):
    """Return which cells make up the region of highest density with mass `level`."""
    level = positive(level, "level")
    if level > 1:
        raise ValueError(f"level is a fraction of the mass, got {level}")
    order = np.argsort(-log_p, kind="stable")
    inside = np.zeros(len(log_p), bool)
    reached = np.searchsorted(np.cumsum(np.exp(log_p[order])), level)
    inside[order[: reached + 1]] = True
    return inside


def _alike(a, b, name_a, name_b):
    a = as_points(a, name=name_a, dtype="float64")
    b = as_points(b, a.shape[1], name_b, "float64")
    if len(a) != len(b):
        raise ValueError(f"{name_a} has {len(a)} points but {name_b} has {len(b)}")
    return a, b


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


def _ranges(value, n, name):
    if np.ndim(value) == 0:
        return np.full(n, positive(np.asarray(value).item(), name))
    if np.shape(value) != (n,):
        raise ValueError(
            f"{name} must be one number or {n}, one for each patch, got shape "
            f"{np.shape(value)}"
        )
    value = as_points(np.reshape(value, (n, 1)), 1, name, "float64")[:, 0]
    if value.min() <= 0:
        raise ValueError(f"{name} must be positive, got {value.min()}")
    return value
