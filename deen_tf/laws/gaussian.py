"""The Gaussian density, and with it the Wiener filter.

Of x ~ N(m, C) the density smoothed by sigma is N(m, C + sigma^2 I). With C = V diag(v) V^T
and u = V^T (xi - m)

    E(xi)     = 1/2 sum_i [u_i^2 / (v_i + sigma^2) + log 2 pi (v_i + sigma^2)]
    psi(xi)   = -(C + sigma^2 I)^-1 (xi - m)
    x_hat(xi) = m + C (C + sigma^2 I)^-1 (xi - m) = xi + sigma^2 psi(xi)            (Eq. 11)
    L*        = sum_i v_i sigma^2 / (v_i + sigma^2)

x_hat is the posterior mean where the data are Gaussian; whatever they are, it is the best
linear estimate if m and C are theirs: the Wiener filter.
"""

import numpy as np

from deen_tf.checks import as_points, positive, whole
from deen_tf.laws.law import Law, as_given

BLOCK = 2**22  # numbers centred at once while fitting


class Gaussian(Law):
    """N(m, C).

    Every sigma is one noise level, or one for each point, shape (n,).

    Parameters
    ----------
    mean : array_like, shape (d,)
    covariance : array_like, shape (d, d)
        Symmetric, no eigenvalue negative beyond rounding. Where one is zero there is no
        density without noise.

    Attributes
    ----------
    mean : ndarray, shape (d,)
    variances : ndarray, shape (d,)
        The eigenvalues v of the covariance; ascending, if it was given as a matrix.
    directions : ndarray, shape (d, d)
        Their eigenvectors V, in the columns.

    Raises
    ------
    TypeError, ValueError
        If shapes do not agree, or the covariance is none.

    Examples
    --------
    >>> law = deen.laws.Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    >>> law.denoise([[1.0, 1.0]], 1.0)  # the Wiener filter: v / (v + sigma^2)
    array([[0.5, 0.8]])
    """

    def __init__(self, mean, covariance):
        mean = as_points([mean], None, "mean", "float64")[0]
        d = len(mean)
        covariance = as_points(covariance, d, "covariance", "float64")
        if len(covariance) != d or not np.allclose(covariance, covariance.T):
            raise ValueError(
                f"covariance must be a symmetric ({d}, {d}), got {covariance.shape}"
            )
        variances, directions = np.linalg.eigh(covariance)
        if variances[0] < -1e-9 * max(variances[-1], 0):
            raise ValueError(
                "covariance must be positive semidefinite, its least eigenvalue is "
                f"{variances[0]:.3g}"
            )
        self._set(mean, np.maximum(variances, 0), directions)

    @classmethod
    def from_axes(cls, mean, variances, directions):
        """Return the Gaussian with these principal axes, without a decomposition.

        Parameters
        ----------
        mean, variances : ndarray, shape (d,)
        directions : ndarray, shape (d, d)
            Orthogonal, the axes in its columns.
        """
        gaussian = cls.__new__(cls)
        gaussian._set(mean, variances, directions)
        return gaussian

    @classmethod
    def fit(cls, train):
        """Return the Gaussian with the mean and covariance of data: the Wiener filter's.

        Parameters
        ----------
        train : array_like, shape (n, d)
            Clean data, n >= 2. (The covariance's divisor is n.)
        """
        train = as_given(train, None, "train")
        n, d = train.shape
        if n < 2:
            raise ValueError(f"train must hold two points or more, got {n}")
        mean = train.mean(0, dtype="float64")
        covariance = np.zeros((d, d))
        rows = max(1, BLOCK // d)
        for first in range(0, n, rows):
            centred = train[first : first + rows] - mean
            covariance += centred.T @ centred
        variances, directions = np.linalg.eigh(covariance / n)
        return cls.from_axes(mean, np.maximum(variances, 0), directions)

    @classmethod
    def natural(cls, side=32, std=1.0):
        """Return a law of images with a spectrum like that of natural ones.

        Images of side x side pixels, periodic, whose power falls as 1 / f^2 with the spatial
        frequency f, in cycles an image; the mean has the power of the lowest frequency.
        C is circulant: V is the Hartley transform, v its power.

        Parameters
        ----------
        side : int
        std : float
            Of a pixel.
        """
        side, std = whole(side, "side", 2), positive(std, "std")
        at = np.arange(side)
        f = np.minimum(at, side - at)
        variances = 1 / np.maximum(np.add.outer(f**2, f**2), 1.0).ravel()
        variances *= std**2 / variances.mean()
        products = np.multiply.outer(at, at)  # place times frequency
        cycles = products[:, None, :, None] + products[None, :, None, :]
        phase = 2 * np.pi / side * (cycles % side).reshape(side**2, side**2)
        directions = (np.cos(phase) + np.sin(phase)) / side
        return cls.from_axes(np.zeros(side**2), variances, directions)

    def _set(self, mean, variances, directions):
        self.mean, self.variances, self.directions = mean, variances, directions
        self.dimension = len(mean)
        reach = 5.5 * np.sqrt(variances.max())
        self.extent = float(np.abs(mean).max() + reach)
        self._arguments = {"mean": "...", "covariance": "..."}

    @property
    def covariance(self):
        """C, shape (d, d)."""
        return self.directions * self.variances @ self.directions.T

    def energy(self, x, sigma=0.0):
        """Return -log N(x; m, C + sigma^2 I), shape (n,), in nats."""
        u, power = self._coordinates(x, sigma)
        variances = self._refuse_no_width(self.variances + power)
        return 0.5 * np.sum(u**2 / variances + np.log(2 * np.pi * variances), axis=1)

    def score(self, x, sigma=0.0):
        """Return psi = -(C + sigma^2 I)^-1 (x - m), shape (n, d)."""
        u, power = self._coordinates(x, sigma)
        return -(u / self._refuse_no_width(self.variances + power)) @ self.directions.T

    def denoise(self, xi, sigma):
        """Return x_hat = m + C (C + sigma^2 I)^-1 (xi - m) (Eq. 11), shape (n, d)."""
        u, power = self._coordinates(xi, sigma, "xi", zero=False)
        gain = self.variances / (self.variances + power)
        return self.mean + (u * gain) @ self.directions.T

    def bayes_loss(self, sigma):
        """Return the floor L* of Eqs. 17, 19: what the Wiener filter leaves."""
        power = positive(sigma) ** 2
        return float(np.sum(self.variances * power / (self.variances + power)))

    def _draw(self, n, rng):
        white = rng.normal(size=(n, self.dimension))
        return self.mean + white * np.sqrt(self.variances) @ self.directions.T

    def _coordinates(self, x, sigma, name="x", zero=True):
        """Return u = V^T (x - m), (n, d), and sigma^2, (n, 1)."""
        x = as_points(x, self.dimension, name, "float64")
        power = noise_levels(sigma, len(x), zero)[:, None] ** 2
        return (x - self.mean) @ self.directions, power

    def _refuse_no_width(self, variances):
        if not variances.min() > 0:
            raise ValueError(
                "a covariance that is not positive definite has no density of its own: "
                "sigma must be positive"
            )
        return variances


def noise_levels(sigma, n, zero=False):
    """Return one noise level for each of n points, (n,), float64, all positive.

    Parameters
    ----------
    sigma : float or array_like, shape (n,)
    zero : bool
        Zero will do, too.
    """
    if np.ndim(sigma) == 0:
        return np.full(n, positive(np.asarray(sigma).item(), zero=zero))
    if np.shape(sigma) != (n,):
        raise ValueError(
            f"sigma must be one number or {n}, one for each patch, got shape "
            f"{np.shape(sigma)}"
        )
    sigma = as_points(np.reshape(sigma, (n, 1)), 1, "sigma", "float64")[:, 0]
    if sigma.min() < 0 or (sigma.min() == 0 and not zero):
        raise ValueError(f"sigma must be positive, got {sigma.min()}")
    positive(sigma.min(), zero=True)  # not too small either
    return sigma
