"""Laws of the plane whose smoothed density is known: curves, rings, boards.

What they answer, and the mathematics of it, stands in `deen_tf.laws.law`. Here is, for
each, how to draw from it and its density smoothed by N(0, sigma^2 I):

- points along a curve (spirals, moons): a one-dimensional integral, by quadrature;
- concentric rings: in closed form with a modified Bessel function;
- a checkerboard: in closed form with the normal distribution function.

Mixtures of Gaussians, of the plane and of any dimension, are in `deen_tf.laws.mixtures`.
"""

import numpy as np
from scipy import special

from deen_tf.checks import positive, whole
from deen_tf.laws.law import Law, posterior
from deen_tf.laws.mixtures import GaussianMixture

__all__ = ["Checkerboard", "GaussianMixture", "Moons", "Rings", "Spiral"]

NODES = 12  # of a quadrature panel


class Curve(Law):
    """Points spread evenly along curves in the plane, with isotropic jitter `std`.

    p_sigma(x) = integral N(x; c(t), (std^2 + sigma^2) I) dt over unit t, by Gauss-Legendre
    quadrature on panels no longer than the Gaussian is wide (relative error below 1e-9).
    A subclass gives `_curve(t)`, (m,) -> (m, 2), at constant speed, and `length`.
    """

    dimension = 2

    def _draw(self, n, rng):
        return self._curve(rng.random(n))

    def centers(self, parts=8):
        """Return points in the middle of equal pieces of the curve, shape (parts, 2)."""
        return self._curve((np.arange(whole(parts, "parts")) + 0.5) / parts)

    def _panels(self, sigma):
        # A multiple of 8: where several arms share t, none lies across an edge.
        width = np.hypot(self.std, sigma)
        return 8 * int(np.clip(np.ceil(self.length / width / 8), 4, 20_000))

    def _terms(self, sigma):
        return 2 * NODES * self._panels(sigma)

    def _log_density_and_score(self, x, sigma):
        panels = self._panels(sigma)
        node, weight = np.polynomial.legendre.leggauss(NODES)
        t = (np.arange(panels)[:, None] + (node + 1) / 2).ravel() / panels
        c = self._curve(t)  # (m, 2)
        s2 = self.std**2 + sigma**2
        distance = (x[:, :1] - c[:, 0]) ** 2 + (x[:, 1:] - c[:, 1]) ** 2  # (n, m)
        nearest = distance.min(axis=1)
        # In place: with many nodes this array is what evaluation costs.
        distance -= nearest[:, None]
        distance *= -0.5 / s2
        mass = np.exp(distance, out=distance)
        mass *= np.tile(weight, panels) / (2 * panels)
        total = mass.sum(axis=1)
        log_p = np.log(total) - 0.5 * nearest / s2 - np.log(2 * np.pi * s2)
        return log_p, (mass @ c / total[:, None] - x) / s2


class Spiral(Curve):
    """An Archimedean spiral, r growing evenly with the angle, points even in length.

    Parameters
    ----------
    arms : 1 or 2
        Two arms are one arm and its point reflection.
    turns : float
        Of each arm.
    radius : float
        Of the outer end.
    inner : float
        Radius of the inner end.
    std : float
        Gaussian jitter across and along the curve.

    With the defaults the one arm is a connected ridge: at sigma = 0.1 its smoothed width
    is 0.14, and neighbouring turns lie 0.64 apart.
    """

    def __init__(self, arms=1, turns=1.25, radius=1.0, inner=0.2, std=0.1):
        if whole(arms, "arms") > 2:
            raise ValueError(f"arms must be 1 or 2, got {arms}")
        self.arms, self.std = arms, positive(std, "std", zero=True)
        self.turns, self.radius = positive(turns, "turns"), positive(radius, "radius")
        self.inner = positive(inner, "inner", zero=True)
        if self.inner >= self.radius:
            raise ValueError(f"inner must be below radius {radius}, got {inner}")
        self.extent = self.radius
        # Arc length of r = a + b phi in closed form, inverted by interpolation.
        self._slope = (self.radius - self.inner) / (2 * np.pi * self.turns)
        self._radii = np.linspace(self.inner, self.radius, 20_001)
        self._lengths = self._arc_length(self._radii) - self._arc_length(self.inner)
        self.length = self.arms * float(self._lengths[-1])
        self._arguments = {
            "arms": arms,
            "turns": turns,
            "radius": radius,
            "inner": inner,
            "std": std,
        }

    def _arc_length(self, r):
        b = self._slope
        return (r * np.hypot(r, b) / b + b * np.arcsinh(r / b)) / 2

    def _curve(self, t):
        u = t * self.arms
        arm = np.minimum(np.floor(u), self.arms - 1)
        r = np.interp((u - arm) * self._lengths[-1], self._lengths, self._radii)
        # One step of Newton takes the interpolation to rounding.
        excess = self._arc_length(r) - self._arc_length(self.inner)
        excess = excess - (u - arm) * self._lengths[-1]
        r = r - excess * self._slope / np.hypot(r, self._slope)
        angle = (r - self.inner) / self._slope + np.pi * arm
        return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=-1)


class Moons(Curve):
    """Two half circles that reach into each other.

    Parameters
    ----------
    radius : float
    std : float
        Gaussian jitter.
    """

    def __init__(self, radius=0.8, std=0.08):
        self.radius, self.std = (
            positive(radius, "radius"),
            positive(std, "std", zero=True),
        )
        self.length = 2 * np.pi * self.radius
        self.extent = 1.5 * self.radius
        self._arguments = {"radius": radius, "std": std}

    def _curve(self, t):
        second = t >= 0.5
        angle = 2 * np.pi * t - np.where(second, np.pi, 0)
        x1 = np.where(second, 0.5 - np.cos(angle), np.cos(angle) - 0.5)
        x2 = np.where(second, 0.25 - np.sin(angle), np.sin(angle) - 0.25)
        return self.radius * np.stack([x1, x2], axis=-1)


class Rings(Law):
    """Concentric circles, every one with the same number of points on average.

    With R the radius of a circle and s^2 = std^2 + sigma^2, its smoothed density is
    exp(-(r - R)^2 / 2 s^2) i0e(r R / s^2) / (2 pi s^2), i0e(z) = exp(-z) I_0(z).

    Parameters
    ----------
    radii : sequence of float
    std : float
        Gaussian jitter.
    """

    dimension = 2

    def __init__(self, radii=(0.5, 1.2), std=0.08):
        if np.ndim(radii) != 1:
            raise TypeError(f"radii must be a sequence of numbers, got {radii!r}")
        self.radii = np.array([positive(r, "radii") for r in radii])
        if not len(self.radii):
            raise ValueError("radii must name at least one circle, got ()")
        self.std = positive(std, "std", zero=True)
        self.extent = float(self.radii.max())
        self.terms = 4 * len(self.radii)
        self._arguments = {"radii": tuple(radii), "std": std}

    def _draw(self, n, rng):
        r = rng.choice(self.radii, size=n)
        angle = 2 * np.pi * rng.random(n)
        return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)

    def centers(self, parts=8):
        """Return points on the circles, shape (circles * parts, 2)."""
        angle = 2 * np.pi * np.arange(whole(parts, "parts")) / parts
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.concatenate([r * ring for r in self.radii])

    def _log_density_and_score(self, x, sigma):
        s2 = self.std**2 + sigma**2
        r = np.linalg.norm(x, axis=1)[:, None]  # (n, 1)
        z = r * self.radii / s2
        log_p = -0.5 * (r - self.radii) ** 2 / s2 + np.log(special.i0e(z))
        log_p -= np.log(2 * np.pi * s2 * len(self.radii))
        total, share = posterior(log_p)
        # d/dr log = (R I1/I0 - r) / s^2
        slope = (share * (self.radii * special.i1e(z) / special.i0e(z) - r)).sum(1)
        direction = x / np.maximum(r, np.finfo(float).tiny)
        return total, slope[:, None] / s2 * direction


class Checkerboard(Law):
    """Uniform on the squares of one colour of a board.

    The density smoothed by s is a sum, over squares, of products of differences of normal
    distribution functions.

    Parameters
    ----------
    squares : int
        Along a side.
    side : float
        Of the whole board, centred on the origin.
    """

    dimension = 2

    def __init__(self, squares=4, side=2.4):
        self.squares, self.side = whole(squares, "squares"), positive(side, "side")
        self.extent = self.side / 2
        cells = np.argwhere(np.add.outer(*[np.arange(squares)] * 2) % 2 == 0)
        self._cell = self.side / self.squares
        self._low = cells * self._cell - self.extent  # (k, 2)
        self.terms = 12 * len(cells)
        self._arguments = {"squares": squares, "side": side}

    def _draw(self, n, rng):
        k = rng.integers(len(self._low), size=n)
        return self._low[k] + self._cell * rng.random((n, 2))

    def centers(self, parts=None):
        """Return the middles of the squares, shape (k, 2)."""
        return self._low + self._cell / 2

    def _log_density_and_score(self, x, sigma):
        a = (self._low - x[:, None]) / sigma  # (n, k, 2)
        b = a + self._cell / sigma
        # By symmetry evaluate in the lower tail, where log_ndtr is accurate.
        flip = a + b > 0
        low, high = np.where(flip, -b, a), np.where(flip, -a, b)
        log_low, log_high = special.log_ndtr(low), special.log_ndtr(high)
        log_mass = log_high + np.log1p(-np.exp(np.minimum(log_low - log_high, -1e-300)))
        log_p = log_mass.sum(2) - np.log(len(self._low) * self._cell**2)
        total, share = posterior(log_p)
        # d/dx of Phi(b) - Phi(a) is (phi(a) - phi(b)) / sigma.
        log_phi = -0.5 * np.stack([a, b]) ** 2 - 0.5 * np.log(2 * np.pi)
        slope = (np.exp(log_phi[0] - log_mass) - np.exp(log_phi[1] - log_mass)) / sigma
        psi = np.einsum("nk,nkd->nd", share, slope)
        far = ~(total > -1e9)
        if far.any():  # differences drown in rounding: the board's nearest point is all
            corners = np.clip(x[far, None], self._low, self._low + self._cell)
            squares = ((corners - x[far, None]) ** 2).sum(2)  # (n, k)
            nearest = corners[np.arange(len(corners)), squares.argmin(1)]
            total[far] = -squares.min(1) / (2 * sigma**2)
            psi[far] = (nearest - x[far]) / sigma**2
        return total, psi
