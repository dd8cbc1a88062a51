"""Samples of a density known by its energy or score: Langevin, Hamiltonian, walk-jump, annealed.

Target exp(-E(x)) / Z, psi = -dE/dx; a point may have any shape, and each is a chain of its own.

Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): momentum p ~ N(0, I), L leapfrog
steps of size e in units of x,

    p <- p + e/2 psi(x);  x <- x + e p;  p <- p + e/2 psi(x),

accepted with probability min(1, exp(H - H')), H = E + |p|^2 / 2.

Langevin, step h in squared units of x (Eq. 26 has h = sigma^2):

    x' = x + h psi(x) + sqrt(2 h) nu                       nu ~ N(0, I)

is one leapfrog step with e = sqrt(2 h), p = nu. Unadjusted, its stationary density is off by
O(h); of N(0, v) it makes the variance v / (1 - h / 2v). Accepted or rejected as above it is
exact, and the same as MALA: with g(x'|x) = N(x + h psi(x), 2 h I),

    H' - H = E(x') - E(x) - log g(x|x') + log g(x'|x).

Walk-jump (Saremi and Hyvaerinen 2019): walk by Langevin on the density smoothed by sigma,
which is easy to walk on and is what DEEN learns; at any time jump, x_hat = xi +
sigma^2 psi(xi) (Eq. 11). Walk and jump are apart: a jump's result is never walked from.

Annealed Langevin (Song and Ermon 2019, Algorithm 1): down a list of noise levels, at each some
steps on the density smoothed by it, h = c sigma^2. Their alpha_i = eps sigma_i^2 / sigma_L^2 is
2 h. The widest levels mix, and each is a warm start for the next. Between two of them a chain
stays where it is, or takes the ancestral step (Ho et al. 2020; Song et al. 2021, predictor and
corrector)

    x' = x + (sigma^2 - sigma'^2) psi(x) + sigma' (1 - sigma'^2 / sigma^2)^(1/2) nu,

a draw of the level below, given x and that x_hat(x) is the clean point.

Step found in a warm-up, where none is given: dual averaging of log e (Hoffman and Gelman 2014,
Sec. 3.2, with their constants, as in Stan), of a rate averaged over all chains: of acceptance,
to 0.574 for MALA (Roberts and Rosenthal 1998) and 0.8 for Hamiltonian Monte Carlo; where
nothing is rejected of 1 / (1 + b), b the bias in Stein's identity (`deen_tf.diagnostics`), to
1 / 1.05: the variance of a Gaussian comes out 5% too large. The first guess is |e psi| = |p|
(bias: 5%), and it is not stretched tenfold as in Stan: a step that is far too long throws
unadjusted chains out of reach.

(TensorFlow Probability 0.25 has these kernels and they run under TensorFlow 2.21, but it
brings Keras 2 (tf-keras) in beside Keras 3. The steps below are shorter than what would
fit its interface to a model.)
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from deen_tf import diagnostics
from deen_tf.checks import as_points, positive, whole
from deen_tf.fields import check, shape_of
from deen_tf.transitions import Walk

WARMUP = 200  # steps, to find a step size in
DRAWS = 32  # of each chain, that R-hat is taken of


class Chains(NamedTuple):
    """Many chains side by side, and what they tell of themselves (`deen_tf.diagnostics`).

    Attributes
    ----------
    states : ndarray, shape (kept, n, ...)
        Evenly spaced in time; the last is the final one.
    acceptance : ndarray, shape (n,)
        Fraction of each chain's proposals that were accepted; 1 without adjustment.
    step : float
        The step, as given or found.
    r_hat : float
        Rank-normalised split R-hat: the largest of those of the energy and of up to 64
        coordinates, over 32 draws or more along the way. NaN if fewer than four.
    ess : float
        Bulk effective sample size of the same draws of all chains: the smallest.
    escaped : ndarray of bool, shape (n,), or None
        Chains that end where the energy does not hold them. None without an energy.
    bias : float
        b of an unadjusted step, the relative excess of variance; 0 with adjustment.
    """

    states: np.ndarray
    acceptance: np.ndarray
    step: float = np.nan
    r_hat: float = np.nan
    ess: float = np.nan
    escaped: np.ndarray | None = None
    bias: float = 0.0


def langevin(
    density, x, *, step=None, steps, seed=0, adjusted=False, kept=1, warmup=None
):
    """Run Langevin chains from the points x.

    Parameters
    ----------
    density : object with `.score`, and `.energy` if adjusted
        A model of this package, an exact law, a Parzen density.
    x : array_like, shape (n, ...)
        Where the chains start.
    step : float, optional
        h, in squared units of x. If not given it is found in the warm-up.
    steps : int
    seed : int
        Below 2^64. The same seed gives the same chains.
    adjusted : bool
        Accept or reject each step (MALA).
    kept : int
        How many states of each chain to return; divides `steps`.
    warmup : int, optional
        Steps before those, not returned; by default 200 if a step is to be found, else 0.

    Returns
    -------
    Chains

    Warns
    -----
    ChainsWarning
        If chains have escaped or not mixed, or the step is too large to go unadjusted.

    Raises
    ------
    TypeError, ValueError
        If the density has no score, or no energy to adjust with, an argument is out of
        range, or a chain runs off to infinity: the step is too large.

    Examples
    --------
    >>> law = deen.laws.Gaussian([0.0, 0.0], np.eye(2))
    >>> x = law.sample(500, seed=0)
    >>> chains = deen.sampling.langevin(law, x, step=0.5, steps=100, adjusted=True)
    >>> chains.states.shape, bool(abs(chains.states[-1].var() - 1) < 0.2)
    ((1, 500, 2), True)
    """
    method = "mala" if adjusted else "langevin"
    return _run(density, x, method, step, steps, seed, kept, warmup)


def hamiltonian(
    density, x, *, step=None, leapfrogs, steps, seed=0, kept=1, warmup=None
):
    """Run Hamiltonian Monte Carlo from the points x.

    Parameters
    ----------
    density : object with `.energy` and `.score`
    x, steps, seed, kept, warmup
        See `langevin`; `steps` and `warmup` count trajectories.
    step : float, optional
        e, of the leapfrog, in units of x. If not given it is found in the warm-up.
    leapfrogs : int
        L, to a trajectory.

    Returns
    -------
    Chains
    """
    leapfrogs = whole(leapfrogs, "leapfrogs")
    return _run(density, x, "hamiltonian", step, steps, seed, kept, warmup, leapfrogs)


def walk_jump(
    density, xi, *, step=None, steps, seed=0, adjusted=False, kept=1, warmup=None
):
    """Walk on the smoothed density from the points xi, and jump to clean ones (Eq. 11).

    Parameters
    ----------
    density : object with `.score` and `.denoise`
        At one noise level sigma: a trained DEEN, `law.smoothed(sigma)`, a Parzen density.
    xi : array_like, shape (n, ...)
        Where the walks start: noisy points.
    step, steps, seed, adjusted, kept, warmup
        See `langevin`.

    Returns
    -------
    x_hat : ndarray, shape (kept, n, ...)
        The jumps.
    walk : Chains
        The noisy points they were made from.
    """
    if not hasattr(density, "denoise"):
        raise TypeError(f"walk_jump needs a density with denoise, got {density!r}")
    xi = as_points(xi, shape_of(density), "xi", "float64")
    check(density, "denoise", xi[:1], xi[:1].shape)
    method = "mala" if adjusted else "langevin"
    walk = _run(density, xi, method, step, steps, seed, kept, warmup)
    jumps = [np.asarray(density.denoise(states)) for states in walk.states]
    return np.stack(jumps), walk


def annealed_langevin(
    model, x, sigmas, steps_per_level, *, ratio=0.1, seed=0, adjusted=False, kept=1,
    denoise=True, ancestral=False,
):  # fmt: skip
    """Run Langevin chains down a list of noise levels, from noise to data.

    Parameters
    ----------
    model : object with `.smoothed`
        A model of several noise levels, or an exact law: `smoothed(sigma)` is the density at
        one level, with `.score` (and `.energy` if adjusted). One in TensorFlow answers
        `.score(x, sigma)` as well, sigma a scalar tensor: one program serves all levels.
    x : array_like, shape (n, ...)
        Where the chains start: noise as wide as the first level, or points that noisy.
    sigmas : sequence of float
        Noise levels, falling.
    steps_per_level : int
    ratio : float
        c: the step at level sigma is c sigma^2. A tenth makes no variance more than 5.3% too
        large (see `deen_tf.diagnostics`).
    seed, adjusted
        See `langevin`.
    kept : int
        At how many levels, evenly spaced, the states are returned; divides their number.
    denoise : bool
        End with the single step x + sigma^2 psi(x) at the last level (Eq. 11).
    ancestral : bool
        Go from level to level by what it would be if the denoised point were the clean one,
        instead of staying where the chain is: levels may then be few and far apart. The
        score is known there: it costs none.

    Returns
    -------
    Chains
        Acceptance is over all levels; step, bias and escape are of the last. Chains on their
        way down are not stationary: they have no R-hat.

    Warns
    -----
    ChainsWarning
        If chains have escaped at the last level, or the step there is too large.

    Raises
    ------
    TypeError, ValueError
        As `langevin`, or if the levels do not fall, or one lies out of the model's range.
    """
    if not callable(getattr(model, "smoothed", None)):
        raise TypeError(f"annealed_langevin needs a model with smoothed, got {model!r}")
    try:
        sigmas = [positive(sigma, "each of sigmas") for sigma in sigmas]
    except TypeError:
        raise TypeError(
            f"sigmas must be a sequence of noise levels, got {sigmas!r}"
        ) from None
    if not sigmas or sigmas != sorted(set(sigmas), reverse=True):
        raise ValueError(f"sigmas must fall from level to level, got {sigmas}")
    steps, kept = whole(steps_per_level, "steps_per_level"), whole(kept, "kept")
    if len(sigmas) % kept:
        raise ValueError(f"kept must divide the {len(sigmas)} levels, got {kept}")
    ratio = positive(ratio, "ratio")
    for sigma in sigmas:
        model.smoothed(sigma)  # refuses what is out of its range
    method = "mala" if adjusted else "langevin"
    walk = Walk(model, x, method, seed, sigma=sigmas[0], smoothed=model.smoothed)
    states, acceptance = [], 0
    rng = np.random.default_rng([seed, len(x)])
    for i, sigma in enumerate(sigmas, 1):
        if ancestral and i > 1:
            walk.descend(sigmas[i - 2], sigma, rng)
        walk.settle(ratio * sigma**2, sigma)
        walk.go(steps)
        acceptance += walk.state.accepted.numpy() / (steps * len(sigmas))
        if i * kept % len(sigmas) == 0:
            states.append(walk.state.x.numpy())
    chains = _chains(walk, states, steps)
    diagnostics.warn(chains, stacklevel=2)
    if denoise:
        chains.states[-1] += sigma**2 * walk.state.psi.numpy()
    return chains._replace(acceptance=acceptance)


def _run(density, x, method, step, steps, seed, kept, warmup, leapfrogs=1):
    steps, kept = whole(steps, "steps"), whole(kept, "kept")
    if steps % kept:
        raise ValueError(f"kept must divide steps = {steps}, got {kept}")
    if warmup is None:
        warmup = WARMUP if step is None else 0
    warmup = whole(warmup, "warmup", least=int(step is None))
    walk = Walk(density, x, method, seed, leapfrogs)
    if step is None:
        walk.find_step(warmup)
    else:
        walk.settle(positive(step, "step"))
        walk.go(warmup)
        walk.settle(step)
    every = steps // kept
    draws = min(every, math.ceil(DRAWS / kept))
    times = np.linspace(0, every, draws + 1).round().astype(int)
    coordinates = diagnostics.some_coordinates(
        len(walk.starts), walk.starts[0].size, draws * kept
    )
    states, way = [], []
    for _ in range(kept):
        for start, end in itertools.pairwise(times):
            walk.go(end - start)
            way.append(walk.draw(coordinates))
        states.append(walk.state.x.numpy())
    chains = _chains(walk, states, steps)
    way = np.stack(way)  # (draws, n, coordinates + 1)
    chains = chains._replace(
        r_hat=diagnostics.r_hat(way), ess=diagnostics.effective_sample_size(way)
    )
    diagnostics.warn(chains, stacklevel=3)
    return chains


def _chains(walk, states, steps):
    """Return the chains after as many steps since the step was settled."""
    escaped, bias = None, 0.0
    if walk.has_energy:
        escaped = diagnostics.escaped(walk.energies, states[-1], walk.starts)
    if not walk.adjusted:
        bias = walk.step / 2 * walk.state.squares.numpy().mean(dtype="float64") / steps
    acceptance = walk.state.accepted.numpy() / steps
    step = float(walk.step)
    return Chains(np.stack(states), acceptance, step, escaped=escaped, bias=bias)
