"""The Parzen density: exact log-likelihood, score and posterior mean.

    S(xi|x) = (2 pi sigma^2)^(-d/2) exp(-|xi - x|^2 / 2 sigma^2)            kernel         (Eq. 16)
    P(xi)   = 1/n sum_k S(xi|x_k)                                           density        (Eq. 12)
    w_k(xi) = S(xi|x_k) / sum_l S(xi|x_l)                                   posterior of x_k
    x_hat(xi) = sum_k w_k(xi) x_k = xi + sigma^2 psi(xi)                    posterior mean (Eq. 11)
    E(xi) = -log P(xi),   psi(xi) = -dE/dxi = sum_k w_k(xi) (x_k - xi) / sigma^2

Low energy is high density; here E is normalised, in nats. The choice of sigma: `bandwidth`.
"""

import numpy as np

from deen_tf.checks import as_points, positive
from deen_tf.laws.bandwidth import LikelihoodCurve, progress_bar, select_sigma
from deen_tf.laws.kernel_sums import Centres, blocks
from deen_tf.laws.law import as_given

__all__ = ["LikelihoodCurve", "Parzen", "select_sigma"]

TOLERANCE = 1e-3  # nats: rounding error of one log P at which float32 is not enough


class Parzen:
    """The Parzen density of given centres with a Gaussian kernel (Eqs. 12, 16).

    Answers are exact to float32's rounding, and better at small sigma: see `kernel_sums`.
    Memory beyond `x`: a float32 copy of it and about 100 MB.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The centres. An array of float32 or float64 is not copied: do not change it later.
    sigma : float or array_like, shape (d,)
        Bandwidth, in the units of `x`; of all coordinates or of each.

    Raises
    ------
    TypeError, ValueError
        If `x` does not hold finite real numbers in this shape, or sigma is not positive.
        The methods refuse what has no place in floating-point numbers: points some 1e36
        times the centres' spread away, scores too large for the type of the points.

    Examples
    --------
    >>> density = deen.laws.Parzen([[0.0, 0.0]], 1.0)  # of one point: a Gaussian
    >>> density.score([[1.0, 2.0]])
    array([[-1., -2.]])
    """

    def __init__(self, x, sigma):
        self.x = as_given(x, name="x")
        self.dimension = self.x.shape[1]
        # With a bandwidth for each coordinate all is done in units in which the kernel is
        # round and that have the same volume.
        self._unit = None
        if np.ndim(sigma) == 0:
            self.sigma = self._level = positive(sigma)
            self._centres = Centres(self.x)
            return
        self.sigma = as_points([sigma], self.dimension, "sigma", "float64")[0]
        positive(self.sigma.min())
        self._level = float(np.exp(np.mean(np.log(self.sigma))))
        self._unit = (self.sigma / self._level).astype(self.x.dtype)
        self._centres = Centres(self.x / self._unit)

    def log_density(self, points, progress=False):
        """Return log P at the points (Eq. 12), normalised.

        Parameters
        ----------
        points : array_like, shape (m, d)
        progress : bool
            Show a progress bar.

        Returns
        -------
        ndarray, shape (m,), float64
            In nats.
        """
        points = self._checked(points)
        out = np.empty(len(points))
        for block, sums in self._sums(points, progress):
            out[block] = sums.log_densities()[:, 0]
        return self._told(out, "log density")

    def energy(self, points, progress=False):
        """Return E = -log P, shape (m,), float64, in nats; see `log_density`."""
        return -self.log_density(points, progress)

    def score(self, points, progress=False):
        """Return psi = d log P / dxi.

        Parameters
        ----------
        points : array_like, shape (m, d)
        progress : bool

        Returns
        -------
        ndarray, shape (m, d)
            In nats per unit of `x`; float64 if `points` is, else float32.
        """
        points = self._checked(points)
        out = np.empty_like(points)
        for block, sums in self._sums(points, progress, differences=True):
            with np.errstate(over="ignore"):
                out[block] = sums.mean_differences() / self._level**2
        if self._unit is not None:
            out /= self._unit
        return self._told(out, "score")

    def denoise(self, xi, progress=False):
        """Return the posterior mean x_hat(xi) = sum_k w_k(xi) x_k of noisy points (Eq. 11).

        Parameters
        ----------
        xi : array_like, shape (m, d)
        progress : bool

        Returns
        -------
        ndarray, shape (m, d)
            float64 if `xi` is, else float32.
        """
        xi = self._checked(xi)
        out = np.empty_like(xi)
        for block, sums in self._sums(xi, progress, differences=True):
            step = sums.mean_differences()
            out[block] = xi[block] + (step if self._unit is None else step * self._unit)
        return out

    def _checked(self, points):
        return as_given(points, self.dimension, "points")

    def _told(self, answer, name):
        if not np.isfinite(answer).all():
            raise ValueError(
                f"the {name} at sigma = {self._level:g} overflows {answer.dtype} so far from the "
                "centres: give points in float64, or rescale"
            )
        return answer

    def _sums(self, points, progress, differences=False):
        if self._unit is not None:
            points = points / self._unit
        with progress_bar(progress, blocks(len(self.x), *points.shape)) as bar:
            yield from self._centres.sums(
                points, [self._level], TOLERANCE, bar, differences
            )
