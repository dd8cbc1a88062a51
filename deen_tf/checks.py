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


def as_points(x, shape=None, name="x", dtype="float32"):
    """Return `x` as a finite, C-contiguous array of points.

    Parameters
    ----------
    x : array_like, shape (n, d) or (n, *shape)
        Real numbers, in anything that `numpy.asarray` makes an array of: lists, frames,
        tables on disk, integers, booleans, read-only and strided arrays.
    shape : int, tuple of int, None or ...
        Of one point. d stands for (d,), None for rows of any length, ... for any shape.
    name : str
        What the caller calls this argument, for the error message.
    dtype : str
        Floating-point type of the result.

    Returns
    -------
    ndarray, shape (n, d) or (n, *shape)

    Raises
    ------
    TypeError
        If `x` does not hold real numbers.
    ValueError
        If `x` has another shape, has no points, holds NaN or infinity (also when
        a value is too large for `dtype`), values so large that their squares overflow
        (beyond 1e15 in float32, 1e145 in float64), or masked ones.
    """
    points = as_numbers(x, name)
    check_shape(points.shape, shape, name)
    if points.size == 0:
        raise ValueError(
            f"{name} must hold at least one point, got shape {points.shape}"
        )
    with np.errstate(over="ignore"):
        points = np.ascontiguousarray(points, dtype=dtype)
    finite = np.isfinite(points)
    if not finite.all():
        row, *place = np.argwhere(~finite)[0].tolist()
        where = f"column {place[0]}" if len(place) == 1 else f"place {tuple(place)}"
        raise ValueError(
            f"{name} must be finite in {dtype}, got {points[(row, *place)]} at row {row}, "
            f"{where} ({np.count_nonzero(~finite)} such values)"
        )
    largest = LARGEST.get(points.dtype.name, LARGEST_SINGLE)
    most = max(float(points.max()), -float(points.min()))
    if most > largest:
        raise ValueError(
            f"{name} must lie within {largest:g} of 0, or its squares overflow in {dtype}, "
            f"got {most:g}: rescale it"
        )
    return points


def as_numbers(x, name="x"):
    """Return an array of real numbers, or raise TypeError or ValueError."""
    if x is None or isinstance(x, dict | str | bytes):
        raise TypeError(
            f"{name} must be an array of points, shape (n, d), or a stream of them, got "
            f"{'None' if x is None else type(x).__name__}"
        )
    if type(x).__name__ == "KerasTensor":
        raise TypeError(f"{name} must hold numbers, got a symbolic KerasTensor")
    if np.ma.is_masked(x):
        raise ValueError(f"{name} must not hold masked values: fill them, or leave out")
    try:
        points = np.asarray(x)
        if points.dtype == object:  # a frame of nullable columns, for one
            if not all(isinstance(v, numbers.Real) for v in points.flat):
                raise TypeError
            points = points.astype("float64")
    except ValueError as error:
        raise ValueError(
            f"{name} must be a rectangular array of shape (n, d): {error}"
        ) from None
    except TypeError:
        strange = next(v for v in points.flat if not isinstance(v, numbers.Real))
        raise TypeError(f"{name} must hold real numbers, got {strange!r:.60}") from None
    if points.dtype.kind not in "fiub" and points.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold real numbers, got dtype {points.dtype}")
    return points


def check_shape(got, shape, name="x"):
    """Raise ValueError if (n, ...) = `got` is no shape of points of the given shape.

    None in `shape` is a side of any length.
    """
    if shape is ...:
        good, wanted = len(got) >= 2 and 0 not in got[1:], "(n, d) or (n, ...)"
    elif shape is None:
        good, wanted = len(got) == 2 and got[1] != 0, "(n, d)"
    else:
        shape = (shape,) if isinstance(shape, numbers.Integral) else tuple(shape)
        sides = ("any" if side is None else str(side) for side in shape)
        good, wanted = len(got) == 1 + len(shape), f"(n, {', '.join(sides)})"
        pairs = zip(got[1:], shape, strict=False)
        good &= all(a == b if b is not None else a != 0 for a, b in pairs)
    if not good:
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(got)}")


def positive(value, name="sigma", zero=False, dtype="float64"):
    """Return a finite positive float (or zero, if `zero`), or raise TypeError or ValueError.

    Its square must be a normal number of the type `dtype` as well.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r:.60}")
    try:
        value = float(value)
    except OverflowError:
        value = float("inf")
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


FAR = 20  # standard deviations of its data: so far out a model has seen nothing


def check_units(x, level, spread, name="image"):
    """Refuse x, noisy by `level`, in other units than a model's data of std `spread`."""
    if x.std() > np.hypot(FAR * spread, 2 * level):
        raise ValueError(
            f"the model was trained on data of standard deviation {spread:.3g}, the {name}'s "
            f"is {x.std():.3g}: it must be in the units of those (pixels in [0, 1], say, and "
            "not in 0 to 255)"
        )


def check_resolution(x, sigma):
    """Raise ValueError if noise of level sigma is lost in the rounding of the points x.

    At the largest |x| one unit in the last place must not exceed sigma, or xi = x + sigma nu
    is little else than x.

    Parameters
    ----------
    x : ndarray, shape (n, ...)
        In the type in which they are used.
    sigma : float or ndarray, shape of a point
    """
    # One sigma: of all numbers at once, for along rows of two it takes 50 times as long.
    axis = None if np.ndim(sigma) == 0 else 0
    largest = np.maximum(x.max(axis=axis), -x.min(axis=axis)).astype("float64")
    epsilon = 2.0**-7 if x.dtype.name == "bfloat16" else float(np.finfo(x.dtype).eps)
    with np.errstate(divide="ignore"):
        last_place = epsilon * 2.0 ** np.floor(np.log2(largest))
    lost = np.asarray(sigma < last_place)
    if lost.any():
        worst = np.argmax(lost)
        at, level, place = (
            float(np.broadcast_to(v, lost.shape).flat[worst])
            for v in (largest, sigma, last_place)
        )
        raise ValueError(
            f"noise of sigma = {level:g} is lost in the rounding of x, which is "
            f"{place:.2g} in {x.dtype.name} at the largest value, {at:.3g}: centre "
            "the data in float64 first, or give the model dtype='float64'"
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
