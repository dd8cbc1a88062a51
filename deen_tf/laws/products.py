"""Laws whose coordinates are independent, perhaps after a linear map.

    x = A s,    p(x) = prod_i p_i(s_i) / |det A|,    psi(x) = A^-T psi_s(A^-1 x)

Smoothing by N(0, sigma^2 I) keeps the coordinates of s independent if A is orthogonal, and
then each p_i is smoothed by itself (`univariate`).
"""

import numpy as np

from deen_tf.checks import as_points, positive, whole
from deen_tf.laws.law import Law
from deen_tf.laws.univariate import DoubleWell, Laplace, Logistic, Normal

SOURCES = {"laplace": Laplace, "logistic": Logistic}


class Product(Law):
    """Independent coordinates, all alike in each of several sets of them.

    A subclass sets `dimension` and `_coordinates`: pairs (slice, univariate density).
    """

    def bayes_loss(self, sigma):
        """Return the floor L* of Eqs. 17, 19: the sum of the coordinates'."""
        sigma = positive(sigma)
        count = range(self.dimension)
        return sum(len(count[i]) * p.bayes_loss(sigma) for i, p in self._coordinates)

    def _terms(self, sigma):
        return 8 * self.dimension

    def _draw(self, n, rng):
        s = np.empty((n, self.dimension))
        for i, p in self._coordinates:
            s[:, i] = p.draw(s[:, i].shape, rng)
        return s

    def _refuse_no_width(self):
        pass

    def _log_density_and_score(self, s, sigma):
        log_p, psi = np.zeros(len(s)), np.empty_like(s)
        for i, p in self._coordinates:
            values, psi[:, i] = p.evaluate(s[:, i], sigma)
            log_p += values.sum(1)
        return log_p, psi


class ManyWells(Product):
    """Pairs (x, y) with E = -x / 2 - 6 x^2 + x^4 + y^2 / 2: a double well in every pair.

    2^(d/2) modes, the deeper well of each pair with `mass_right` of its mass.

    Parameters
    ----------
    dimension : int
        Even.

    Attributes
    ----------
    log_z : float
        log integral exp(-E), 164.6957 for d = 32: `energy` is E + log_z.
    mass_right : float
        Mass of x > 0.
    """

    def __init__(self, dimension=32):
        self.dimension = whole(dimension, "dimension", 2)
        if self.dimension % 2:
            raise ValueError(f"dimension must be even, got {dimension}")
        well = DoubleWell()
        self._coordinates = [(slice(0, None, 2), well), (slice(1, None, 2), Normal())]
        self.log_z = self.dimension / 2 * (well.log_z + 0.5 * np.log(2 * np.pi))
        self.mass_right = well.mass_right
        self._arguments = {"dimension": dimension}


class IndependentComponents(Product):
    """x = A s with independent sources of unit variance: the model of ICA.

    Parameters
    ----------
    mixing : array_like, shape (d, d)
        A, invertible. The smoothed density is known where it is orthogonal; for another
        only the clean one.
    source : "laplace" or "logistic"
    """

    def __init__(self, mixing, source="laplace"):
        self.mixing = as_points(mixing, None, "mixing", "float64")
        self.dimension = d = self.mixing.shape[1]
        if len(self.mixing) != d or np.linalg.matrix_rank(self.mixing) < d:
            raise ValueError(
                f"mixing must be an invertible ({d}, {d}), got {self.mixing.shape} of rank "
                f"{np.linalg.matrix_rank(self.mixing)}"
            )
        if source not in SOURCES:
            raise ValueError(f"source must be one of {list(SOURCES)}, got {source!r}")
        self._coordinates = [(slice(None), SOURCES[source]())]
        self._unmixing = np.linalg.inv(self.mixing)
        self._log_volume = np.linalg.slogdet(self.mixing)[1]
        self._orthogonal = np.allclose(self.mixing @ self.mixing.T, np.eye(d))
        self._arguments = {"mixing": "...", "source": source}

    @classmethod
    def random(cls, dimension=16, source="laplace", orthogonal=True, seed=0):
        """A random mixing: a rotation, uniform over all, or of independent normals."""
        d = whole(dimension, "dimension")
        rng = np.random.default_rng(whole(seed, "seed", least=0))
        mixing = rng.normal(size=(d, d))
        if orthogonal:
            mixing, r = np.linalg.qr(mixing)
            mixing *= np.sign(np.diag(r))
        law = cls(mixing, source)
        law._arguments = {
            "dimension": dimension,
            "source": source,
            "orthogonal": orthogonal,
            "seed": seed,
        }
        return law

    def bayes_loss(self, sigma):
        """Return the floor L* of Eqs. 17, 19, for an orthogonal mixing."""
        self._refuse_smoothing(sigma)
        return super().bayes_loss(sigma)

    def _draw(self, n, rng):
        return super()._draw(n, rng) @ self.mixing.T

    def _log_density_and_score(self, x, sigma):
        self._refuse_smoothing(sigma)
        log_p, psi = super()._log_density_and_score(x @ self._unmixing.T, sigma)
        return log_p - self._log_volume, psi @ self._unmixing

    def _refuse_smoothing(self, sigma):
        if sigma and not self._orthogonal:
            raise ValueError(
                "smoothed independent components are known for an orthogonal mixing only"
            )
