"""Densities of the plane compared on a grid, and the grid.

With p* = exp(-E*) exact and q = exp(-E) / Z the model's

    grid KL                sum p* log(p* / q)  over the cells of a grid, in nats
    total variation        1/2 sum |p* - q|
    smallest mode ratio    min over the modes of (mass under q) / (mass under p*)

E needs to be known up to a constant only: q is normalised over the grid's box. (A tanh
network's energy is bounded, so that exp(-E) has no integral over the whole plane: the box is
part of the definition and goes with every number.)

Energies are functions (n, 2) -> (n,), or anything with such an `.energy`. What is measured
here has its names in `deen_tf.metrics`, too.
"""

import numpy as np

from deen_tf.checks import as_points, positive, whole

LOST_MASS = 1e-6  # of the exact density, outside the grid or between its points


def midpoints(box, points):
    """Return the midpoints of a grid's cells, and the area of a cell.

    Parameters
    ----------
    box : (low, high) or ((low, high), (low, high))
        Edges of the grid, of both coordinates or of x1 and of x2.
    points : int
        Cells along each side, at least 2.

    Returns
    -------
    x : ndarray, shape (points^2, 2), float64
        Row by row, x1 running fastest: values reshaped to (points, points) are an image
        whose rows go up with x2.
    area : float

    Raises
    ------
    TypeError, ValueError
        If the box is none.
    """
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
    x1, x2 = np.meshgrid(x1, x2)
    return np.stack([x1.ravel(), x2.ravel()], axis=1), float(steps.prod())


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


def smallest_mode_ratio(true_energy, energy, centers, box, points=400, level=0.99):
    """Return the least, over the modes, of (model's mass) / (exact mass) of a mode.

    1 if every mode has its share, 0 if one is lost: mode collapse in one number. A mode is
    that part of where the data are, the exact density's region of highest density that holds
    the fraction `level` of its mass, which is nearest to its centre: mass far from all data
    counts for none. Between 0 and 1.

    Parameters
    ----------
    centers : array_like, shape (k, 2)
        The modes, or points along a curve (the pieces of a spiral).
    true_energy, energy, box, points
        See `grid_kl`.
    level : float

    Raises
    ------
    ValueError
        As `grid_kl`, or if a centre has none of the exact mass.
    """
    nearest, k = _nearest(centers, box, points)
    log_p, log_q = _both(true_energy, energy, box, points)
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


def _both(true_energy, energy, box, points):
    """Return the logarithms of both densities' masses in the cells, each summing to 1."""
    log_p = _log_masses(true_energy, box, points, exact=True)
    return log_p, _log_masses(energy, box, points)


def _log_masses(energy, box, points, exact=False):
    centers, cell = midpoints(box, points)
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


def _nearest(centers, box, points):
    """Return the index of the centre nearest to each cell, and the number of centres."""
    from scipy.spatial import cKDTree

    centers = as_points(centers, 2, "centers", "float64")
    return cKDTree(centers).query(midpoints(box, points)[0])[1], len(centers)


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
