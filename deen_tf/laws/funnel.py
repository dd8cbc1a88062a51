"""Neal's funnel: a coordinate v, and others whose width is exp(v / 2).

    v ~ N(0, s^2),    x_i | v ~ N(0, exp(v)),  i = 1, ..., k = d - 1

Smoothed by sigma, with xi = (xi_0, xi_1, ..., xi_k) and r^2 = sum_{i > 0} xi_i^2,

    p_sigma(xi) = integral N(v; 0, s^2) N(xi_0 - v; sigma^2) exp f(v) dv,
    f(v) = -k/2 log 2 pi w - r^2 / 2 w,    w(v) = exp(v) + sigma^2.

The two Gaussians are N(xi_0; s^2 + sigma^2) times N(v; m, t^2), m = xi_0 s^2 / (s^2 + sigma^2)
and t^2 = s^2 sigma^2 / (s^2 + sigma^2). With means over the posterior of v

    psi_0 = -xi_0 / (s^2 + sigma^2) + s^2 / (s^2 + sigma^2) E[f'(v)],    psi_i = -xi_i E[1 / w].

f is highest at w = r^2 / k, and -k/2 <= f' <= r^2 / 8 sigma^2: the posterior lies between m and
there, and less than t^2 times these slopes away from m, up to 9 t on both sides. There the
trapezoidal rule, which converges exponentially, takes steps of 0.4 of its least width.
"""

import numpy as np

from deen_tf.checks import positive, whole
from deen_tf.laws.law import BLOCK, Law

REACH = 9.0  # in units of t
STEP = 0.4
MANY = 4096  # nodes
DEPTH = 60.0  # nats
LEAST = -600.0  # of log w: what is so narrow overflows
GROUPS = 16  # of points that need a similar number of nodes


class Funnel(Law):
    """Neal's funnel.

    Parameters
    ----------
    dimension : int
        At least 2.
    std : float
        s, of the first coordinate.
    """

    terms = 512

    def __init__(self, dimension=10, std=3.0):
        self.dimension = whole(dimension, "dimension", 2)
        self.spread = positive(std, "std")
        self._arguments = {"dimension": dimension, "std": std}

    def _draw(self, n, rng):
        x = rng.normal(size=(n, self.dimension))
        x[:, 0] *= self.spread
        x[:, 1:] *= np.exp(x[:, :1] / 2)
        return x

    def _refuse_no_width(self):
        pass

    def _log_density_and_score(self, x, sigma):
        k, s2, power = self.dimension - 1, self.spread**2, sigma**2
        square = np.einsum("nd,nd->n", x[:, 1:], x[:, 1:])
        total = s2 + power
        m, t = x[:, 0] * s2 / total, np.sqrt(s2 * power / total)
        if sigma:
            low, high, nodes = self._ends(m, t, square, sigma)
        else:  # one node, at v = x_0
            low, high, nodes = m, m, np.zeros(len(x), int)
        log_p = -0.5 * (x[:, 0] ** 2 / total + np.log(2 * np.pi * total))
        mean = np.empty((2, len(x)))  # of f' and of 1 / w
        for rows in _groups(nodes):
            most = nodes[rows].max()
            step = (high[rows] - low[rows])[:, None] / max(1, most)
            v = low[rows, None] + step * np.arange(most + 1)
            f, log_w, r = self._f(v, square[rows, None], sigma)
            if sigma:
                f -= 0.5 * ((v - m[rows, None]) / t) ** 2
                f += np.log(step / (t * np.sqrt(2 * np.pi)))
            peak = f.max(1)
            p = np.exp(f - peak[:, None])
            mass = p.sum(1)
            log_p[rows] += peak + np.log(mass)
            p /= mass[:, None]
            mean[0, rows] = np.sum(p * np.exp(v - log_w) * (r - k), axis=1) / 2
            mean[1, rows] = np.sum(p * np.exp(-log_w), axis=1)
        psi = -x * mean[1][:, None]
        psi[:, 0] = (s2 * mean[0] - x[:, 0]) / total
        return log_p, psi

    def _f(self, v, square, sigma):
        """Return f(v), log w and r^2 / w."""
        log_w = np.logaddexp(v, 2 * np.log(sigma)) if sigma else np.maximum(v, LEAST)
        r = square * np.exp(-log_w)
        return -0.5 * ((self.dimension - 1) * (log_w + np.log(2 * np.pi)) + r), log_w, r

    def _ends(self, m, t, square, sigma):
        """Return between which ends the posterior of v lies, and the number of nodes."""
        k = self.dimension - 1
        top = np.log(np.maximum(square / k - sigma**2, 1e-300))  # of f
        low = np.minimum(m, np.maximum(top, m - t**2 * k / 2))
        high = np.maximum(m, np.minimum(top, m + t**2 * square / (8 * sigma**2)))
        step = STEP / np.sqrt((1 + high - low) / t**2 + k / 2)
        low, high = low - REACH * t, high + REACH * t
        nodes = np.ceil((high - low) / step).astype(int)
        for i in np.flatnonzero(nodes > MANY):  # far from all data: look closer
            for _ in range(60):
                v = np.linspace(low[i], high[i], MANY)
                g = self._f(v, square[i], sigma)[0] - 0.5 * ((v - m[i]) / t) ** 2
                near = np.flatnonzero(g > g.max() - DEPTH)
                low[i], high[i] = v[max(near[0] - 1, 0)], v[min(near[-1] + 1, MANY - 1)]
                if len(near) > MANY // 16:
                    break
            nodes[i] = MANY
        return low, high, nodes


def _groups(nodes):
    """Yield index arrays of points with similar numbers of nodes, not too many at once."""
    for rows in np.array_split(np.argsort(nodes, kind="stable"), GROUPS):
        size = max(1, BLOCK // (nodes[rows].max(initial=0) + 1))
        for first in range(0, len(rows), size):
            yield rows[first : first + size]
