"""What chains tell of themselves: whether they mix, whether their step biases them, who escaped.

None of it needs data, or a sample to compare with.

Mixing. Rank-normalised split R-hat and bulk effective sample size (Vehtari, Gelman, Simpson,
Carpenter and Buerkner 2021), computed by ArviZ. R-hat^2 is about 1 + 1/m if each half of a
chain is worth m independent draws: chains with R-hat above 1.1, fewer than five, still
remember where they started.

Bias of a step that nothing corrects. For any normalisable density, E[x . psi] = -d (Stein's
identity: integrate by parts). An unadjusted Langevin chain, x' = x + h psi + sqrt(2 h) nu,
settles where E|x'|^2 = E|x|^2, which is

    E[x . psi] = -d (1 + b),    b = (h / 2) E|psi|^2 / d.

b is its error in Stein's identity, whatever the density; for a Gaussian it is the excess of
the variance, exactly, relative and averaged over the principal axes. b is invariant under
x -> a x, h -> a^2 h. On a density smoothed by sigma no curvature exceeds 1 / sigma^2: a step
of c sigma^2 has b of about c / (2 - c) at most.

Escape. exp(-E) has an integral along the ray from c through x only if E rises faster than
d log s, with which the volume grows. A chain at x has escaped if this never happens beyond it,

    E(c + s (x - c)) - E(x) < d log s    for all s > 1:

nothing holds it, and it is driven outwards for ever. c is the median of the starts and ends of
all chains, s - 1 goes from 1/20 to 800, doubling. No chain can escape a density that has an
integral; the energy of an MLP of tanh units is bounded and has none. (Distance alone cannot
tell: heavy tails reach far. Nor the energy alone: a wide part of a mixture has a high one.)
"""

import warnings

import numpy as np
from arviz_stats.base import array_stats

MIXED = 1.1  # R-hat
BIASED = 0.1
STRETCHES = 1 + 0.05 * 2.0 ** np.arange(15)  # s
NUMBERS, COORDINATES = 2**20, 64  # in the draws that R-hat is taken of, at most


class ChainsWarning(UserWarning):
    """Chains that should not be believed as they are."""


def r_hat(draws):
    """Return the largest rank-normalised split R-hat.

    Parameters
    ----------
    draws : ndarray, shape (t, n, k)
        t draws of n chains, k quantities.

    Returns
    -------
    float
        NaN for fewer than four draws, or if nothing varies.
    """
    if draws.shape[1] == 1:  # ArviZ wants two chains: the halves of the one
        half = len(draws) // 2
        draws = np.concatenate([draws[:half], draws[-half:]], axis=1)
    return _worst(array_stats.rhat, np.nanmax, draws)


def effective_sample_size(draws):
    """Return the smallest bulk effective sample size, of t n draws; parameters as `r_hat`."""
    return _worst(array_stats.ess, np.nanmin, draws)


def _worst(statistic, worst, draws):
    if len(draws) < 4:
        return np.nan
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # what does not vary, stuck chains
        values = statistic(draws.astype("float64"), chain_axis=1, draw_axis=0)
        return float(worst(values))


def some_coordinates(n, d, draws):
    """Return which of d coordinates to follow: evenly spaced, and all if they are few."""
    k = np.clip(NUMBERS // (n * draws), 1, min(d, COORDINATES))
    return np.linspace(0, d - 1, k).astype(int)


def escaped(energy, x, starts):
    """Return which chains have escaped (see above).

    Parameters
    ----------
    energy : callable
        (n, ...) -> (n,), in nats.
    x, starts : ndarray, shape (n, ...)
        Where the chains are, and where they started.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    n, d = len(x), x[0].size
    c = np.median(np.concatenate([x, starts]), axis=0)
    ray = (x - c).astype("float64")
    r = np.sqrt(np.square(ray).reshape(n, d).sum(1))
    with np.errstate(all="ignore"):
        # A chain that happens to be near c looks out from a tenth of the others' distance.
        ray *= np.maximum(1, np.median(r) / 10 / r).reshape(-1, *(1,) * (x.ndim - 1))
        here, held = energy(x), np.zeros(n, bool)
        for s in STRETCHES:  # NaN counts as a wall
            rise = energy((c + s * ray).astype(x.dtype)) - here
            held |= ~(rise < d * np.log(s))
    return ~held


def warn(chains, stacklevel):
    """Warn, with one ChainsWarning, of all that speaks against the chains."""
    found = []
    if chains.escaped is not None and chains.escaped.any():
        found.append(
            f"{chains.escaped.sum()} of {chains.escaped.size} chains have escaped, to where "
            "the energy holds nothing: start at data, or give the energy a part that grows"
        )
    elif chains.r_hat > MIXED:
        found.append(
            "the chains are too short to forget where they started, R-hat = "
            f"{chains.r_hat:.3g} (forgotten: below {MIXED}): no better than their starts"
        )
    if chains.bias > BIASED:
        found.append(
            f"a step of {chains.step:.3g} is too large: it widens the density by "
            f"{chains.bias:.0%} (of its variance); take a smaller one, or adjusted=True"
        )
    if found:
        warnings.warn("; ".join(found), ChainsWarning, stacklevel=stacklevel + 1)
