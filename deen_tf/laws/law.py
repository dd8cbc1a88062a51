"""Laws whose density, smoothed by N(0, sigma^2 I), is known: the truth of the figures.

With xi = x + sigma nu the smoothed density is p_sigma = p * N(0, sigma^2 I), and

    energy(x, sigma)   = -log p_sigma(x)                  normalised, in nats
    score(x, sigma)    = grad log p_sigma(x)              (Eq. 3)
    denoise(xi, sigma) = xi + sigma^2 score(xi, sigma)    = E[x | xi]    (Eq. 11)
    bayes_loss(sigma)  = E|x - denoise(xi)|^2             the floor L* of Eqs. 17, 19
                       = sigma^2 d - sigma^4 E|score(xi)|^2

All in float64 and by log-sum-exp, so that far from the data nothing overflows.
"""

import numpy as np

from deen_tf.checks import as_points, positive, whole
from deen_tf.grids import midpoints

BLOCK = 2**21  # numbers held at once while evaluating


class Law:
    """What the laws share: a subclass knows how to draw, and its smoothed density.

    It sets `dimension`, `std` (the width of its own Gaussian jitter; 0 for none), `extent`
    (half the side of a cube around the origin that holds all clean points without jitter;
    None where the tails are too heavy for one) and `terms`, and writes `_draw(n, rng)` and
    `_log_density_and_score(x, sigma)`.
    """

    std = 0.0
    extent = None
    terms = 1  # numbers needed for each point
    log_z = 0.0  # of exp(-energy) as the law is defined, where that is not normalised

    def __repr__(self):
        values = ", ".join(f"{k}={v!r}" for k, v in self._arguments.items())
        return f"{type(self).__name__}({values})"

    def sample(self, n, seed, dtype="float32"):
        """Draw n points, shape (n, d); the same seed gives the same points."""
        rng = np.random.default_rng(whole(seed, "seed", least=0))
        x = self._draw(whole(n, "n"), rng)
        if self.std:
            x = x + self.std * rng.normal(size=x.shape)
        return x.astype(dtype)

    def sample_smoothed(self, n, sigma, seed, dtype="float32"):
        """Draw n points of the density smoothed by sigma, shape (n, d)."""
        x = self.sample(n, seed, dtype)
        rng = np.random.default_rng([seed, 1])
        noise = positive(sigma, zero=True) * rng.normal(size=x.shape)
        return (x + noise).astype(dtype)

    def energy(self, x, sigma=0.0):
        """Return -log p_sigma(x), normalised.

        Parameters
        ----------
        x : array_like, shape (n, d)
        sigma : float
            Noise level. 0 asks for the density itself, where it has one.

        Returns
        -------
        ndarray, shape (n,)
        """
        return -self._evaluate(x, sigma)[0]

    def score(self, x, sigma=0.0):
        """Return grad log p_sigma(x), shape (n, d); parameters as in `energy`."""
        return self._evaluate(x, sigma)[1]

    def denoise(self, xi, sigma):
        """Return E[x | xi] = xi + sigma^2 score(xi, sigma) (Eq. 11), shape (n, d)."""
        sigma = positive(sigma)
        xi = as_points(xi, self.dimension, "xi", "float64")
        return xi + sigma**2 * self.score(xi, sigma)

    def smoothed(self, sigma):
        """Return this law at one noise level, with the methods of a trained model."""
        return Smoothed(self, sigma)

    def box(self, sigma=0.0):
        """Return (low, high): a cube that holds nearly all of p_sigma's mass.

        In the plane all but 1e-6; outside 5.5 widths lies less than 4e-8 on each side.
        """
        if self.extent is None:
            raise ValueError(f"{self!r} has tails too heavy for a box")
        width = np.hypot(self.std, positive(sigma, zero=True))
        high = float(self.extent + 5.5 * width)
        return -high, high

    def bayes_loss(self, sigma, n=200_000, seed=0):
        """Return the floor L* of the objective at noise level sigma (Eqs. 17, 19).

        In the plane by the midpoint rule on a grid fine enough for the width of the
        density; else from n drawn points, with an error of order L* / sqrt(n d).
        """
        sigma = positive(sigma)
        if self.dimension != 2 or self.extent is None:
            psi = self.score(self.sample_smoothed(n, sigma, seed, "float64"), sigma)
            power = np.mean(np.sum(psi**2, axis=1))
            return self.dimension * sigma**2 - sigma**4 * power
        low, high = self.box(sigma)
        if sigma > self.extent:
            # L* is the small difference of two numbers like sigma^2: the tails count.
            low, high = low - 3.5 * sigma, high + 3.5 * sigma
        side = int(np.clip((high - low) / np.hypot(self.std, sigma) * 8, 64, 1500))
        x, cell = midpoints((low, high), side)
        log_p, psi = self._evaluate(x, sigma)
        power = cell * np.sum(np.exp(log_p) * np.sum(psi**2, axis=1))
        return 2 * sigma**2 - sigma**4 * power

    def _evaluate(self, x, sigma):
        sigma = positive(sigma, zero=True)
        x = as_points(x, self.dimension, dtype="float64")
        if sigma == 0 and self.std == 0:
            self._refuse_no_width()
        batch = max(1, BLOCK // self._terms(sigma))
        with np.errstate(all="ignore"):  # far away products of 0 and infinity arise
            parts = [
                self._log_density_and_score(x[i : i + batch], sigma)
                for i in range(0, len(x), batch)
            ]
        return tuple(np.concatenate(p) for p in zip(*parts, strict=True))

    def _terms(self, sigma):
        return self.terms

    def _refuse_no_width(self):
        raise ValueError(
            f"{self!r} has no smooth density of its own: sigma must be positive"
        )


def as_given(x, shape=None, name="points"):
    """Return points in float32 or, if they are held more precisely, in float64."""
    try:
        precise = np.result_type(np.asarray(x).dtype, np.float32) == np.float64
    except (TypeError, ValueError):
        precise = False  # as_points says what is wrong
    return as_points(x, shape, name, "float64" if precise else "float32")


def posterior(log_p):
    """Return log sum_k exp(log_p_k), (n,), and what share of it each k has, (n, k)."""
    top = log_p.max(axis=1)
    share = np.exp(log_p - top[:, None])
    total = share.sum(1)
    return top + np.log(total), share / total[:, None]


class Smoothed:
    """A law at one noise level: `.energy(x)`, `.score(x)`, `.denoise(xi)`, `.sample`."""

    def __init__(self, law, sigma):
        self.law, self.sigma = law, positive(sigma, zero=True)
        self.dimension = law.dimension

    def energy(self, x):
        return self.law.energy(x, self.sigma)

    def score(self, x):
        return self.law.score(x, self.sigma)

    def denoise(self, xi):
        return self.law.denoise(xi, self.sigma)

    def sample(self, n, seed, dtype="float32"):
        return self.law.sample_smoothed(n, self.sigma, seed, dtype)
