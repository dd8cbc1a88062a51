"""Checks of what a user passes in, made at the edge, before any work starts.

Every function returns the value in the form the mathematics wants, or raises an
error that says what was given and what was wanted.
"""

import numbers
import os

import numpy as np

# Beyond these, sums of squares over a data set would overflow; other types: float32's range.
LARGEST = {"float64": 1e145, "float16": 6e4}
LARGEST_SINGLE = 1e15


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
        If `x` has another rank or width, has no points, holds NaN or infinity (also when
        a value is too large for `dtype`), values so large that their squares overflow
        (beyond 1e15 in float32, 1e145 in float64), or masked ones.
    """
    if np.ma.is_masked(x):
        raise ValueError(f"{name} must not hold masked values: fill them, or leave out")
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
    largest = LARGEST.get(points.dtype.name, LARGEST_SINGLE)
    most = max(float(points.max()), -float(points.min()))
    if most > largest:
        raise ValueError(
            f"{name} must lie within {largest:g} of 0, or its squares overflow in {dtype}, "
            f"got {most:g}: rescale it"
        )
    return points


def positive(value, name="sigma", zero=False, dtype="float64"):
    """Return a finite positive float (or zero, if `zero`), or raise TypeError or ValueError.

    Its square must be a normal number of the type `dtype` as well.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    value = float(value)
    if not np.isfinite(value) or value < 0 or (value == 0 and not zero):
        wanted = "finite and not negative" if zero else "positive and finite"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    # (bfloat16, which NumPy does not know, has the range of float32.)
    limits = np.finfo("float32" if dtype == "bfloat16" else dtype)
    low, high = (float(limit) ** 0.5 for limit in (limits.tiny, limits.max))
    if value and not low <= value <= high:
        raise ValueError(
            f"{name} must lie between {low:.2g} and {high:.2g}, where its square can be "
            f"told in {dtype}, got {value!r}"
        )
    return value


def whole(value, name, least=1):
    """Return an int of at least `least`, or raise TypeError or ValueError."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def image_shape(shape, name="shape"):
    """Return (height, width) of an image as two ints, or raise TypeError or ValueError."""
    if not isinstance(shape, tuple | list | np.ndarray) or len(shape) != 2:
        raise TypeError(f"{name} must be a pair (height, width), got {shape!r}")
    return tuple(whole(side, name) for side in shape)


def check_resolution(x, sigma):
    """Raise ValueError if noise of level sigma is lost in the rounding of the points x.

    At the largest |x| one unit in the last place must not exceed sigma, or xi = x + sigma nu
    is little else than x.

    Parameters
    ----------
    x : ndarray, shape (n, d)
        In the type in which they are used.
    sigma : float
    """
    largest = float(max(x.max(), -x.min()))
    if largest == 0:
        return
    epsilon = 2.0**-7 if x.dtype.name == "bfloat16" else float(np.finfo(x.dtype).eps)
    last_place = epsilon * 2.0 ** np.floor(np.log2(largest))
    if sigma < last_place:
        raise ValueError(
            f"noise of sigma = {sigma:g} is lost in the rounding of x, which is "
            f"{last_place:.2g} in {x.dtype.name} at the largest value, {largest:.3g}: centre "
            "and rescale the data, or give the model dtype='float64'"
        )


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
