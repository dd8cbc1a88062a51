"""The units in which a network works: z = (x - m) / s, whatever the units of the data.

    m        mean of the data: of each coordinate of rows, of each channel of images
    s^2      mean over the coordinates of Var(x_i) + sigma^2: noisy data have variance 1

With a noise level for each coordinate (kelvin beside hectopascal) both are taken in units of
it: s_i = sigma_i (mean_j Var(x_j) / sigma_j^2 + 1)^(1/2), so that in z the kernel is round
again. An energy is a number in nats, E(x) = E(z); scores and noise levels follow,

    psi(x) = psi(z) / s,    sigma_z = sigma / s.

What is learned from a x + b at noise level a sigma is then what is learned from x at sigma:
z is the same. m and s are weights of a model, kept and exported with it.

Rows that lie out of all proportion (`deen_tf.outliers`: sentinels such as -9999) are left out
of m and s, and named in a warning.
"""

import numpy as np

from deen_tf.outliers import gross_outliers, warn_of_outliers

SAMPLE = 100_000  # points from which m and s are taken
PART = 1 << 18  # numbers that are squared at once


def ordinary(x):
    """Return the points x (n, ...) without gross outliers, and warn of those."""
    rows = gross_outliers(x.reshape(len(x), -1))
    warn_of_outliers(
        rows, len(x), "are left out of the data's mean and scale, not of the training"
    )
    return np.delete(x, rows, axis=0) if len(rows) else x


def center_and_scale(x, sigma, center="coordinate"):
    """Return m and s of data without outliers.

    Parameters
    ----------
    x : ndarray, shape (n, ...)
    sigma : float or ndarray of a point's shape
    center : "coordinate", "channel" or "all"
        What a mean is taken of.

    Returns
    -------
    m : ndarray, float64, which a point's shape broadcasts with
    s : ndarray, float64, shape of sigma
    """
    x = x[:: -(-len(x) // SAMPLE)]
    axes = {
        "coordinate": 0,
        "channel": tuple(range(x.ndim - 1)),
        "all": tuple(range(x.ndim)),
    }[center]
    m = np.asarray(x, "float64").mean(axis=axes)
    squares = np.empty(x.shape)  # part by part: no more than this beside the data
    rows = max(1, PART * len(x) // x.size)
    for k in range(0, len(x), rows):
        squares[k : k + rows] = np.square(
            np.subtract(x[k : k + rows], m, dtype="float64") / sigma
        )
    return m, sigma * np.sqrt(squares.mean() + 1)
