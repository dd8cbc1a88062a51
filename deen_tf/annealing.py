"""log Z of an energy by annealed importance sampling (Neal 2001), from below and from above.

    Z = integral exp(-E(x)) dx,    E_b = (1 - b) E_0 + b E,    0 = b_0 < ... < b_T = 1

with a start exp(-E_0) that is normalised and can be drawn from. A chain begins at a point of
the start; at each t its weight grows by the factor exp((b_t - b_{t-1}) (E_0 - E)(x)), and then x
moves by one Hamiltonian step that leaves exp(-E_{b_t}) invariant. Whatever the steps,

    E[w] = Z,    so that E[log mean w] <= log Z:  a lower bound in the mean.

The same backwards, from exact points of exp(-E) / Z down to the start, has E[1 / w] = 1 / Z:
- log mean 1 / w lies above log Z in the mean. The two bracket it; where they lie apart by more
than their errors, the chains were too short for either.

The temperatures b_t and the steps at each of them are found by a first, shorter run: steps
that are accepted four times in five, temperatures denser where E_0 - E varies more.
"""

from typing import NamedTuple

import numpy as np

from deen_tf.checks import as_points, whole
from deen_tf.fields import check_one_level

PILOT_CHAINS, PILOT_STEPS = 64, 200
ACCEPTANCE = 0.8
FARTHEST = 1e12  # a chain that comes so far is rejected back


class LogZ(NamedTuple):
    """An estimate of log Z, and one from the other side; in nats.

    Attributes
    ----------
    forward, forward_error : float
        From the start to the density, and its standard error: low in the mean.
    reverse, reverse_error : float
        From points of the density to the start: high in the mean. NaN without points.
    """

    forward: float
    forward_error: float
    reverse: float
    reverse_error: float


def log_z(density, start, x=None, *, chains=256, steps=1000, leapfrogs=4, seed=0):
    """Return log Z of exp(-density.energy).

    Parameters
    ----------
    density : object with `.energy` and `.score`
        A model with an integrable exp(-E), a law at one noise level.
    start : law
        Normalised, with `.sample(n, seed)`, `.energy`, `.score`, and wider than the density:
        for data x, `laws.Gaussian.fit(x)`.
    x : array_like, shape (n, d), optional
        Exact points of the density, for the reverse estimate: as many chains as points.
    chains : int
        Of the forward estimate.
    steps : int
        T.
    leapfrogs : int
        To a Hamiltonian step.
    seed : int

    Returns
    -------
    LogZ

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the density has several noise levels:
        `model.smoothed(sigma)` is one of them.

    Notes
    -----
    The standard error is that of the mean of the weights. With few effective chains it is too
    small; the other estimate tells.
    """
    check_one_level(density)
    steps, leapfrogs = whole(steps, "steps"), whole(leapfrogs, "leapfrogs")
    rng = np.random.default_rng(whole(seed, "seed", least=0))
    points = start.sample(whole(chains, "chains"), seed + 1, dtype="float64")
    path = _Path(density, start, leapfrogs, rng)
    betas, sizes = path.explore(points[:PILOT_CHAINS], steps)
    forward = _log_mean(path.weights(points, betas, sizes))
    reverse = (np.nan, np.nan)
    if x is not None:
        x = as_points(x, points.shape[1], "x", "float64")
        log_mean, error = _log_mean(path.weights(x, betas[::-1], sizes[::-1]))
        reverse = (-log_mean, error)
    return LogZ(*forward, *reverse)


class _Path:
    """The densities between the start and the end, and the chains' steps among them."""

    def __init__(self, density, start, leapfrogs, rng):
        self.ends, self.leapfrogs, self.rng = (start, density), leapfrogs, rng

    def explore(self, x, steps):
        """Return temperatures, (steps + 1,), and step sizes there, by a shorter run."""
        even = np.linspace(0, 1, min(PILOT_STEPS, steps) + 1)
        size, spreads, sizes = x.std() / x.shape[1] ** 0.25, [], []
        state = self._state(x)
        for beta in even:
            gap = state[1][0] - state[1][1]
            # A few chains far out would claim all temperatures: the middle half tells.
            spreads.append(np.subtract(*np.quantile(gap, (0.75, 0.25))))
            for _ in range(20 if beta == 0 else 2):
                state, accepted = self._move(state, beta, size)
                size *= np.exp(accepted.mean() - ACCEPTANCE)
            sizes.append(size)
        density = np.array(spreads) + 0.1 * np.mean(spreads) + 1e-300
        length = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2))
        betas = np.interp(np.linspace(0, length[-1], steps + 1), length, even)
        return betas, np.exp(np.interp(betas, even, np.log(sizes)))

    def weights(self, x, betas, sizes):
        """Return log w of chains from the points x along the temperatures, (n,)."""
        state = self._state(x)
        log_w = np.zeros(len(x))
        for before, beta, size in zip(betas[:-1], betas[1:], sizes[1:], strict=True):
            log_w += (beta - before) * (state[1][0] - state[1][1])
            state, _ = self._move(state, beta, size)
        return log_w

    def _state(self, x):
        """Return x, both energies (2, n) and both scores (2, n, d)."""
        return x, self._both("energy", x), self._both("score", x)

    def _both(self, method, x):
        return np.array([getattr(end, method)(x) for end in self.ends], "float64")

    def _move(self, state, beta, size):
        """Return the states after one Hamiltonian step, and which were accepted."""
        mix = np.array([1 - beta, beta])
        x, E, psi = state
        p = self.rng.normal(size=x.shape)
        before = mix @ E + 0.5 * np.sum(p**2, axis=1)
        y, lost = x, np.zeros(len(x), bool)
        for _ in range(self.leapfrogs):
            p = p + 0.5 * size * np.tensordot(mix, psi, 1)
            y = y + size * p
            lost |= ~(np.abs(y) < FARTHEST).all(1)
            y = np.where(lost[:, None], x, y)
            psi = self._both("score", y)
            p = p + 0.5 * size * np.tensordot(mix, psi, 1)
        E_new = self._both("energy", y)
        rise = mix @ E_new + 0.5 * np.sum(p**2, axis=1) - before
        accepted = ~lost & (rise < self.rng.exponential(size=len(x)))  # NaN: rejected
        row = accepted[:, None]
        state = (
            np.where(row, y, x),
            np.where(accepted, E_new, E),
            np.where(row, psi, state[2]),
        )
        return state, accepted


def _log_mean(log_w):
    """Return log of the mean of exp(log_w), and its standard error."""
    top = log_w.max()
    w = np.exp(log_w - top)
    error = w.std(ddof=1) / np.sqrt(len(w)) / w.mean() if len(w) > 1 else np.nan
    return float(top + np.log(w.mean())), float(error)
