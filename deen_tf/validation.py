"""Checks of what a user passes in, made at the edge, before any work starts.

Every function returns the value in the form the mathematics wants, or raises an
error that says what was given and what was wanted.
"""

import numbers
import os

import numpy as np


def as_points(x, dimension=None, name="x", dtype="float32"):
    """Return `x` as a finite, C-contiguous array of points.

    Parameters
    ----------
    x : array_like, shape (n, d)
        Real numbers; integers, booleans, lists, read-only and strided arrays are accepted.
    dimension : int, optional
        The wanted d.
    name : str
        What the caller calls this argument, for the error message.
    dtype : str
        Floating-point type of the result.

    Returns
    -------
    ndarray, shape (n, d)

    Raises
    ------
    TypeError
        If `x` does not hold real numbers.
    ValueError
        If `x` has another rank or width, has no points, or holds NaN or infinity (also
        when a value is too large for `dtype`).
    """
    try:
        points = np.asarray(x)
    except ValueError as error:
        raise ValueError(
            f"{name} must be a rectangular array of shape (n, d): {error}"
        ) from None
    if points.dtype.kind not in "fiub" and points.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold real numbers, got dtype {points.dtype}")
    wanted = f"(n, {'d' if dimension is None else dimension})"
    if points.ndim != 2 or (dimension is not None and points.shape[1] != dimension):
        raise ValueError(f"{name} must have shape {wanted}, got {points.shape}")
    if points.shape[0] == 0 or points.shape[1] == 0:
        raise ValueError(
            f"{name} must hold at least one point, got shape {points.shape}"
        )
    with np.errstate(over="ignore"):
        points = np.ascontiguousarray(points, dtype=dtype)
    finite = np.isfinite(points)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{name} must be finite in {dtype}, got {points[row, column]} at row {row}, column "
            f"{column} ({np.count_nonzero(~finite)} such values)"
        )
    return points


def positive(value, name="sigma", zero=False):
    """Return a finite positive float (or zero, if `zero`), or raise TypeError or ValueError."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    value = float(value)
    if not np.isfinite(value) or value < 0 or (value == 0 and not zero):
        wanted = "finite and not negative" if zero else "positive and finite"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return value


def whole(value, name, least=1):
    """Return an int of at least `least`, or raise TypeError or ValueError."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def output_folder(path):
    """Create the folder `path` if it is missing and return it, sure that it can be written.

    Raises
    ------
    OSError
        If it cannot be created, is not a folder, or nothing can be written in it.
    """
    path = os.path.abspath(path)
    try:
        os.makedirs(path, exist_ok=True)
        probe = os.path.join(path, f".write-test-{os.getpid()}")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise type(error)(
            f"cannot write to the output folder {path}: {error.strerror}"
        ) from None
    return path
