"""Gross outliers: rows so far from all others that they are sentinels or mistakes.

One row of -9999 among 20,000 decides a mean, a variance and a bandwidth. With m the
coordinatewise median, u_i the 99% quantile of |x_i - m_i|, and

    r(x)^2 = 1/d sum_i ((x_i - m_i) / u_i)^2

a row is a gross outlier if r exceeds 20 times the 99% quantile of r. Gaussian data have
none, however many. At most 1% of the rows, or one of a hundred or fewer, are found. The
units of the coordinates do not matter, x_i -> a_i x_i + b_i, but for those that are constant
in 99% of the rows (the margin of images): these take the rms of the others' units.
"""

import warnings

import numpy as np

SAMPLE = 4096  # rows from which medians and quantiles are found
FEW = 10  # fewer rows do not tell how far is far
BULK = 0.99
FACTOR = 20.0
BLOCK = 2**20  # numbers held at once in float64


def gross_outliers(x):
    """Return the rows that lie far beyond all others.

    Parameters
    ----------
    x : ndarray, shape (n, d)
        Finite.

    Returns
    -------
    ndarray of int, shape (k,)
        Ascending; empty for nearly all data.
    """
    n, d = x.shape
    if n < FEW:
        return np.empty(0, int)
    some = x
    if n > SAMPLE:
        some = x[np.sort(np.random.default_rng(0).choice(n, SAMPLE, replace=False))]
    some = some.astype("float64")
    center = np.median(some, axis=0)
    unit = _bulk(np.abs(some - center))
    varies = unit > 0
    unit[~varies] = np.sqrt(np.mean(unit[varies] ** 2)) if varies.any() else 1.0

    def squares(x):
        with np.errstate(over="ignore"):  # infinite is far, too
            z = (x - center) / unit
            return np.einsum("ij,ij->i", z, z)

    reach = FACTOR**2 * _bulk(squares(some))
    if reach == 0:  # 99% of the rows are one point: no length to compare with
        return np.empty(0, int)
    rows = max(1, BLOCK // d)
    far = [squares(x[i : i + rows]) > reach for i in range(0, n, rows)]
    return np.flatnonzero(np.concatenate(far))


def warn_of_outliers(rows, n, what):
    """Issue one UserWarning that names the first of these rows.

    Parameters
    ----------
    rows : ndarray of int
        From `gross_outliers`; without any, nothing happens.
    n : int
        The number of all rows.
    what : str
        What is done about them, as in "are left out of the mean and the scale".
    """
    if not len(rows):
        return
    named = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    one = len(rows) == 1
    warnings.warn(
        f"{len(rows)} of {n} rows {'lies' if one else 'lie'} more than {FACTOR:.0f} times as "
        f"far out as 99% of all do ({'row' if one else 'rows'} {named}): sentinels for "
        f"missing values, or mistakes? They {what}",
        stacklevel=4,
    )


def _bulk(values):
    """Return the 99% quantile along the first axis; of few, the second largest."""
    return np.quantile(values, BULK, axis=0, method="lower")
