"""Densities of one coordinate, smoothed: of these the laws of many coordinates are made.

    p_sigma(u) = integral p(t) N(u - t; sigma^2) dt

is known in closed form for a normal and a Laplace density. For others it is computed by the
trapezoidal rule over the posterior of t,

    p(t | u) ~ exp g(t),    g(t) = log p(t) - (u - t)^2 / 2 sigma^2,

between the places on both sides of its mode where g has fallen by 60 nats. That rule
converges exponentially for an analytic integrand. With the means over the posterior

    d/du log p_sigma    = E[(log p)'(t) | u]                    (integrated by parts)
    d^2/du^2 log p_sigma = Cov((log p)'(t), t | u) / sigma^2

there is no difference of nearly equal numbers, however small sigma is or far u. Many values
at one sigma are interpolated by quintics through these three, in cells that are halved until
they agree with the quadrature in their middles; beyond the cells, in the tails, each value
is a quadrature of its own.
"""

import numpy as np
from scipy import special

from deen_tf.checks import positive

DEPTH = 60.0  # nats below the mode at which the posterior ends
NODES = 160  # of a posterior near to normal: a third of its width apart, or less
TOLERANCE = 1e-11  # of the interpolation, in nats
MOST_CELLS = 2**16
KEPT = 8  # tables, each for one sigma
ROWS = 2048  # posteriors integrated at once
BLOCK = 2**20  # numbers held at once


class Normal:
    """N(0, 1)."""

    def draw(self, shape, rng):
        return rng.normal(size=shape)

    def evaluate(self, u, sigma):
        """Return log p_sigma(u) and its derivative, both of the shape of u."""
        variance = 1 + sigma**2
        return -0.5 * (u**2 / variance + np.log(2 * np.pi * variance)), -u / variance

    def bayes_loss(self, sigma):
        return sigma**2 / (1 + sigma**2)


class Univariate:
    """A density of one coordinate; a subclass gives its logarithm and the slope of that.

    It sets `length`, within which log p is smooth (at noise levels below a quarter of it
    every posterior has one mode), and `reach`: beyond |t| = reach, log p falls, without any
    feature. And it writes `_log_density(t)`, normalised, `_slope(t)` and `draw(shape, rng)`.
    """

    def __init__(self):
        self._tables = {}

    def evaluate(self, u, sigma):
        """Return log p_sigma(u) and its derivative, both of the shape of u.

        Parameters
        ----------
        u : ndarray
        sigma : float
        """
        if sigma == 0:
            return self._log_density(u), self._slope(u)
        if sigma not in self._tables:
            while len(self._tables) >= KEPT:
                del self._tables[next(iter(self._tables))]
            self._tables[sigma] = self._table(sigma)
        end, step, c = self._tables[sigma]
        x = (u + end) / step
        inside = (x >= 0) & (x < c.shape[1])
        cell = np.where(inside, x, 0).astype(np.intp)
        x -= cell
        c0, c1, c2, c3, c4, c5 = (row[cell] for row in c)
        value = c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * c5))))
        slope = c1 + x * (2 * c2 + x * (3 * c3 + x * (4 * c4 + x * 5 * c5)))
        slope /= step
        if not inside.all():
            value[~inside], slope[~inside], _ = self.quadrature(u[~inside], sigma)
        return value, slope

    def bayes_loss(self, sigma):
        """Return the floor L* of one coordinate: the mean posterior variance.

        sigma^2 - sigma^4 E[(d/du log p_sigma)^2], by the trapezoidal rule in asinh u.
        """
        unit = self.length + sigma
        far = np.arcsinh((1e4 * self.reach + 40 * sigma) / unit)
        v, step = np.linspace(-far, far, 20_001, retstep=True)
        log_p, psi = self.evaluate(unit * np.sinh(v), sigma)
        power = np.sum(np.exp(log_p) * psi**2 * np.cosh(v)) * unit * step
        return float(sigma**2 - sigma**4 * power)

    def quadrature(self, u, sigma):
        """Return log p_sigma(u) and its first two derivatives, each point by itself.

        Parameters
        ----------
        u : ndarray, shape (m,)
        sigma : float
            Positive.

        Returns
        -------
        tuple of three ndarrays, shape (m,)
        """
        parts = [
            self._quadrature(u[i : i + ROWS], sigma) for i in range(0, len(u), ROWS)
        ]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _quadrature(self, u, sigma):
        mode = self._mode(u, sigma)
        below, above = (self._end(u, sigma, mode, side) for side in (-1, 1))
        low, width, nodes, unit = -below, below + above, NODES, None
        if sigma > self.length / 4:  # the posterior may have the features of the law
            step = min(self.length / 5, sigma / 2.5)
            nodes = max(NODES, int(np.ceil(width.max() / step)))
        if nodes > 16 * NODES:  # heavy tails, in asinh(t / length)
            unit = self.length
            low = np.arcsinh((mode - below) / unit)
            width = np.arcsinh((mode + above) / unit) - low
            step = np.minimum(0.2, 0.4 * sigma / (sigma + np.abs(mode)))
            nodes = int(np.ceil((width / step).max()))
        rows = max(1, BLOCK // nodes)
        parts = []
        for first in range(0, len(u), rows):
            b = slice(first, first + rows)
            y = low[b, None] + width[b, None] * (np.arange(nodes + 1) / nodes)
            weight = width[b, None] / nodes
            if unit:
                weight = weight * unit * np.cosh(y)
                y = unit * np.sinh(y) - mode[b, None]
            parts.append(self._moments(u[b], sigma, mode[b], y, weight))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _moments(self, u, sigma, mode, y, weight):
        p = weight * np.exp(self._fall(u, sigma, mode, y))
        total = p.sum(1)
        p /= total[:, None]
        slope = self._slope(mode[:, None] + y)
        mean = np.sum(p * slope, axis=1)
        center = np.sum(p * y, axis=1)
        bend = np.sum(p * (slope - mean[:, None]) * (y - center[:, None]), axis=1)
        log_p = self._log_density(mode) - 0.5 * ((u - mode) / sigma) ** 2
        log_p += np.log(total / (sigma * np.sqrt(2 * np.pi)))
        return log_p, mean, bend / sigma**2

    def _fall(self, u, sigma, mode, y):
        """Return g(mode + y) - g(mode), (m, k), y of shape (m, k)."""
        mode, u = mode[:, None], u[:, None]  # (m, 1)
        change = self._log_density(mode + y) - self._log_density(mode)
        return change + y * (u - mode - y / 2) / sigma**2

    def _mode(self, u, sigma):
        """Return where the posterior of each u is highest, to within a width, (m,)."""
        sign, far = np.where(u < 0, -1.0, 1.0), np.maximum(np.abs(u), self.reach)
        narrow = sigma <= self.length / 4
        low = np.full(len(u), -self.reach if narrow else self.reach)
        for _ in range(100):
            middle = (low + far) / 2
            rises = sign * self._slope(sign * middle) * sigma**2 + sign * u > middle
            low, far = np.where(rises, middle, low), np.where(rises, far, middle)
        mode = sign * low
        if narrow:
            return mode
        bulk = np.linspace(-self.reach, self.reach, int(4 * self.reach / self.length))
        fall = self._fall(u, sigma, mode, bulk - mode[:, None])
        best, rows = fall.argmax(1), np.arange(len(u))
        return np.where(fall[rows, best] > 0, bulk[best], mode)

    def _end(self, u, sigma, mode, side):
        """Return how far from the mode g has fallen by DEPTH, within a factor of two."""
        y = np.full(len(u), 1e-6 * min(sigma, self.length))
        while True:
            inside = self._fall(u, sigma, mode, side * y[:, None])[:, 0] > -DEPTH
            if not inside.any():
                return y
            y[inside] *= 2

    def _table(self, sigma):
        """Return (end, step, coefficients (6, cells)) of quintics between -end and end."""
        end = self.reach + 15 * sigma
        u = np.linspace(-end, end, 65)
        f = np.array(self.quadrature(u, sigma))  # (3, nodes)
        while True:
            step = u[1] - u[0]
            middles = np.array(self.quadrature(u[:-1] + step / 2, sigma))
            guess = _quintics(f, step).T @ 0.5 ** np.arange(6)
            error = np.abs(guess - middles[0]) / np.maximum(1, np.abs(middles[0]))
            u = np.linspace(-end, end, 2 * len(u) - 1)
            f = np.insert(f, np.arange(1, f.shape[1]), middles, axis=1)
            # The quintics of the halved cells are better by another 2^6.
            if error.max() < TOLERANCE or len(u) > MOST_CELLS:
                return end, step / 2, _quintics(f, step / 2)


class Laplace(Univariate):
    """exp(-|u| / b) / 2 b with variance 2 b^2 = 1.

    With z = sigma / b, p_sigma = (T- + T+) / 2 b and its slope (T+ - T-) / b (T- + T+), where
    T+- = exp(z^2 / 2 +- u / b) Phi(-+ u / sigma - z).
    """

    scale = 0.5**0.5
    length, reach = scale, 40 * scale  # for the floor's integral

    def draw(self, shape, rng):
        return rng.laplace(scale=self.scale, size=shape)

    def evaluate(self, u, sigma):
        b, r = self.scale, np.abs(u)
        if sigma == 0:
            return -r / b - np.log(2 * b), -np.sign(u) / b
        # Both over exp(-u^2 / 2 sigma^2) / 2, where they are erfcx; T- too large for it is
        # taken over exp(z^2 / 2 - r / b) instead.
        below = (sigma / b - r / sigma) / np.sqrt(2)
        above = special.erfcx((sigma / b + r / sigma) / np.sqrt(2))
        inner = below > 0
        near = special.erfcx(np.where(inner, below, 0))
        outer = np.where(inner, 0, 2 * special.ndtr(-np.sqrt(2) * below))
        base = np.where(inner, -0.5 * (r / sigma) ** 2, 0.5 * (sigma / b) ** 2 - r / b)
        left = np.where(inner, near, outer)
        right = np.where(inner, above, above * np.exp(-(below**2)))
        log_p = base + np.log((left + right) / (4 * b))
        return log_p, np.sign(u) * (right - left) / (right + left) / b


class Logistic(Univariate):
    """exp(-u / s) / s (1 + exp(-u / s))^2 with variance (pi s)^2 / 3 = 1."""

    scale = 3**0.5 / np.pi
    length, reach = np.pi * scale, 40 * scale

    def draw(self, shape, rng):
        return rng.logistic(scale=self.scale, size=shape)

    def _log_density(self, t):
        r = np.abs(t) / self.scale
        return -r - 2 * np.log1p(np.exp(-r)) - np.log(self.scale)

    def _slope(self, t):
        return -np.tanh(t / (2 * self.scale)) / self.scale


class Student(Univariate):
    """Student's t distribution.

    Parameters
    ----------
    freedom : float
        Degrees of freedom; the variance is infinite up to 2.
    """

    def __init__(self, freedom=2.0):
        super().__init__()
        self.freedom = positive(freedom, "freedom")
        self.length = np.sqrt(self.freedom)
        self.reach = 40 * self.length
        half = self.freedom / 2
        self._constant = special.gammaln(half + 0.5) - special.gammaln(half)
        self._constant -= 0.5 * np.log(np.pi * self.freedom)

    def draw(self, shape, rng):
        return rng.standard_t(self.freedom, size=shape)

    def _log_density(self, t):
        half = (self.freedom + 1) / 2
        return self._constant - half * np.log1p(t**2 / self.freedom)

    def _slope(self, t):
        return -(self.freedom + 1) * t / (self.freedom + t**2)


class DoubleWell(Univariate):
    """exp(-E) / Z with E(u) = -u / 2 - 6 u^2 + u^4: wells of unequal depth at -1.71 and 1.75.

    Attributes
    ----------
    log_z : float
        log Z.
    mass_right : float
        Mass of u > 0.
    """

    length, reach = 0.3, 3.5  # at |u| = 3.5 lies exp(-85) of the highest density

    def __init__(self):
        super().__init__()
        nodes, step = np.linspace(-self.reach, self.reach, 20_001, retstep=True)
        self.log_z = 0.0
        p = np.exp(self._log_density(nodes))
        self.log_z = float(np.log(p.sum() * step))
        self._nodes, self._mass = nodes, (np.cumsum(p) - p / 2) / p.sum()
        self.mass_right = float(1 - np.interp(0.0, self._nodes, self._mass))

    def draw(self, shape, rng):
        # The inverse of the distribution function, linear between nodes 3.5e-4 apart.
        return np.interp(rng.random(shape), self._mass, self._nodes)

    def _log_density(self, t):
        return t / 2 + 6 * t**2 - t**4 - self.log_z

    def _slope(self, t):
        return 0.5 + 12 * t - 4 * t**3


def _quintics(f, step):
    """Return coefficients in (u - u_k) / step, (6, cells), from values and two derivatives."""
    f = f * step ** np.arange(3)[:, None]
    c0, c1, c2 = f[0, :-1], f[1, :-1], f[2, :-1] / 2
    a = f[0, 1:] - c0 - c1 - c2
    b = f[1, 1:] - c1 - 2 * c2
    c = f[2, 1:] / 2 - c2
    return np.stack(
        [c0, c1, c2, 10 * a - 4 * b + c, -15 * a + 7 * b - 2 * c, 6 * a - 3 * b + c]
    )
