"""Mixtures in any dimension, of Gaussians and of Student-t distributions.

    p_sigma(x) = sum_k w_k p_k,sigma(x),    psi(x) = sum_k r_k(x) psi_k(x),

r_k the posterior of the component. A Gaussian stays one when smoothed; a product of
one-dimensional t distributions becomes a product of smoothed ones (`univariate`).
"""

import numpy as np

from deen_tf.checks import as_points, positive, whole
from deen_tf.laws.gaussian import Gaussian
from deen_tf.laws.law import Law, posterior
from deen_tf.laws.univariate import Student


class Mixture(Law):
    """What mixtures share: centres, shape (k, d), and weights."""

    def _set(self, means, weights):
        self.means = as_points(means, None, "means", "float64")
        k, self.dimension = self.means.shape
        weights = np.ones(k) if weights is None else weights
        weights = as_points([weights], None, "weights", "float64")[0]
        if weights.shape != (k,) or not (weights > 0).all():
            raise ValueError(f"weights must be {k} positive numbers, got {weights}")
        self.weights = weights / weights.sum()
        self.terms = k * (self.dimension + 2)

    def centers(self, parts=None):
        """Return the modes, shape (k, d)."""
        return self.means


class GaussianMixture(Mixture):
    """A mixture of Gaussians.

    Parameters
    ----------
    means : array_like, shape (k, d)
    covariances : array_like, shape (k, d, d), (d, d) or (k,), or float
        Of each component or of all; or standard deviations of isotropic ones, of each or
        of all.
    weights : array_like, shape (k,), optional
        Positive; brought to sum 1. Equal if not given.

    Raises
    ------
    ValueError, TypeError
        If shapes do not agree, a covariance is not symmetric positive definite, or a
        weight is not positive.

    Examples
    --------
    >>> law = deen.laws.GaussianMixture.ring(modes=8)
    >>> law.sample(1000, seed=0).shape
    (1000, 2)
    >>> law.smoothed(0.1).score([[0.0, 0.0]]).round(6) + 0.0  # by symmetry
    array([[0., 0.]])
    """

    def __init__(self, means, covariances, weights=None):
        self._set(means, weights)
        k, d = self.means.shape
        shape = np.shape(covariances)
        if shape in ((), (k,)):
            name = "covariances (a standard deviation)"
            stds = np.asarray(covariances).reshape(-1).tolist()
            self._powers = np.full(k, [positive(s, name) ** 2 for s in stds])  # (k,)
            self._components = None
            widest = self._powers
        elif shape in ((d, d), (k, d, d)):
            flat = np.reshape(covariances, (1, -1))
            flat = as_points(flat, None, "covariances", "float64")
            matrices = np.broadcast_to(flat.reshape(shape), (k, d, d))
            if not np.allclose(matrices, matrices.transpose(0, 2, 1)):
                raise ValueError("covariances must be symmetric")
            variances, axes = np.linalg.eigh(matrices)
            if not variances.min() > 0:
                raise ValueError(
                    "covariances must be positive definite, the least eigenvalue is "
                    f"{variances.min():.3g}"
                )
            parts = zip(self.means, variances, axes, strict=True)
            self._components = [Gaussian.from_axes(*part) for part in parts]
            widest = variances[:, -1]
        else:
            raise ValueError(
                f"covariances must have shape {(d, d)} or {(k, d, d)}, or be one standard "
                f"deviation or {k}, got {shape}"
            )
        self.extent = float((np.abs(self.means).max(1) + 5.5 * np.sqrt(widest)).max())
        self._arguments = {"means": self.means.tolist(), "covariances": "..."}

    @classmethod
    def ring(cls, modes=8, radius=1.0, std=0.15):
        """Equal round modes on a circle.

        With the defaults neighbours lie 0.77 apart: at sigma = 0.1 a mode's smoothed width
        is 0.18, and the density between two neighbours is 0.2 of its peak. The modes are
        seen apart, and still the relative height of any two is identified.
        """
        angle = 2 * np.pi * np.arange(whole(modes, "modes")) / modes
        means = positive(radius, "radius") * np.stack([np.cos(angle), np.sin(angle)], 1)
        law = cls(means, positive(std, "std"))
        law._arguments = {"modes": modes, "radius": radius, "std": std}
        return law

    @classmethod
    def grid(cls, side=3, spacing=0.8, std=0.15):
        """Equal round modes on a square lattice, side x side, about the origin."""
        at = positive(spacing, "spacing") * (
            np.arange(whole(side, "side")) - (side - 1) / 2
        )
        x1, x2 = np.meshgrid(at, at)
        law = cls(np.stack([x1.ravel(), x2.ravel()], 1), positive(std, "std"))
        law._arguments = {"side": side, "spacing": spacing, "std": std}
        return law

    @classmethod
    def scattered(cls, dimension=2, modes=40, reach=40.0, std=1.0, seed=0):
        """Equal round modes at places uniform in [-reach, reach]^d."""
        law = cls(_scattered(dimension, modes, reach, seed), positive(std, "std"))
        law._arguments = {
            "dimension": dimension,
            "modes": modes,
            "reach": reach,
            "std": std,
            "seed": seed,
        }
        return law

    @classmethod
    def two_scales(cls, dimension=1000, stds=(1.0, 4.0)):
        """Round Gaussians about one point, in equal parts: shells of different radius."""
        law = cls(np.zeros((len(stds), whole(dimension, "dimension"))), stds)
        law._arguments = {"dimension": dimension, "stds": stds}
        return law

    @property
    def covariances(self):
        """Of the components, shape (k, d, d)."""
        if self._components:
            return np.stack([g.covariance for g in self._components])
        return self._powers[:, None, None] * np.eye(self.dimension)

    def _draw(self, n, rng):
        k = rng.choice(len(self.weights), size=n, p=self.weights)
        white = rng.normal(size=(n, self.dimension))
        if not self._components:
            return self.means[k] + white * np.sqrt(self._powers)[k, None]
        for j, g in enumerate(self._components):
            white[k == j] = white[k == j] * np.sqrt(g.variances) @ g.directions.T
        return self.means[k] + white

    def _refuse_no_width(self):
        pass  # its components have densities

    def _log_density_and_score(self, x, sigma):
        if self._components:
            E = np.stack([g.energy(x, sigma) for g in self._components], 1)  # (n, k)
            psi = np.stack([g.score(x, sigma) for g in self._components], 1)
            total, share = posterior(np.log(self.weights) - E)
            return total, np.einsum("nk,nkd->nd", share, psi)
        # Round ones by two matrix products. What all have in common, b |y|^2 / 2 with the
        # least b, is kept out of their differences, in which it would drown them.
        center = self.means.mean(0)
        y, m = x - center, self.means - center
        square = np.einsum("nd,nd->n", y, y)
        beta = 1 / (self._powers + sigma**2)  # (k,)
        log_p = beta * (y @ m.T - 0.5 * np.sum(m**2, axis=1))
        log_p -= 0.5 * np.multiply.outer(square, beta - beta.min())
        log_p += np.log(self.weights) + 0.5 * self.dimension * np.log(beta)
        total, share = posterior(log_p)
        total -= 0.5 * (beta.min() * square + self.dimension * np.log(2 * np.pi))
        share *= beta
        return total, share @ m - share.sum(1)[:, None] * y


class StudentMixture(Mixture):
    """A mixture of products of one-dimensional Student-t distributions of unit scale.

    Parameters
    ----------
    means : array_like, shape (k, d)
        Centres.
    freedom : float
        Degrees of freedom.
    weights : array_like, shape (k,), optional
        Positive; brought to sum 1. Equal if not given.
    """

    def __init__(self, means, freedom=2.0, weights=None):
        self._set(means, weights)
        self._coordinate = Student(freedom)
        self.terms *= 8
        self._arguments = {"means": self.means.tolist(), "freedom": freedom}

    @classmethod
    def scattered(cls, dimension=2, modes=10, reach=10.0, freedom=2.0, seed=0):
        """Equal components with centres uniform in [-reach, reach]^d."""
        law = cls(_scattered(dimension, modes, reach, seed), freedom)
        law._arguments = {
            "dimension": dimension,
            "modes": modes,
            "reach": reach,
            "freedom": freedom,
            "seed": seed,
        }
        return law

    def _draw(self, n, rng):
        k = rng.choice(len(self.weights), size=n, p=self.weights)
        return self.means[k] + self._coordinate.draw((n, self.dimension), rng)

    def _refuse_no_width(self):
        pass

    def _log_density_and_score(self, x, sigma):
        log_p = np.tile(np.log(self.weights), (len(x), 1))
        psi = np.empty((len(self.weights), *x.shape))
        for k, mean in enumerate(self.means):
            values, psi[k] = self._coordinate.evaluate(x - mean, sigma)
            log_p[:, k] += values.sum(1)
        total, share = posterior(log_p)
        return total, np.einsum("nk,knd->nd", share, psi)


def _scattered(dimension, modes, reach, seed):
    shape = (whole(modes, "modes"), whole(dimension, "dimension"))
    rng = np.random.default_rng(whole(seed, "seed", least=0))
    return positive(reach, "reach") * rng.uniform(-1, 1, shape)
