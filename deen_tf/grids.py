"""Cells of a grid in the plane: the midpoint rule's nodes, and the pixels of a map."""

import numpy as np

from deen_tf.checks import whole


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
