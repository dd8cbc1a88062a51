"""The Parzen density: exact log-likelihood, score and posterior mean, and the choice of sigma.

    S(xi|x) = (2 pi sigma^2)^(-d/2) exp(-|xi - x|^2 / 2 sigma^2)            kernel         (Eq. 16)
    P(xi)   = 1/n sum_k S(xi|x_k)                                           density        (Eq. 12)
    w_k(xi) = S(xi|x_k) / sum_l S(xi|x_l)                                   posterior of x_k
    x_hat(xi) = sum_k w_k(xi) x_k = xi + sigma^2 psi(xi)                    posterior mean (Eq. 11)
    E(xi) = -log P(xi),   psi(xi) = -dE/dxi = sum_k w_k(xi) (x_k - xi) / sigma^2

Low energy is high density; here E is normalised, in nats. sigma is chosen to maximise the
mean log P of held-out points xi_1, ..., xi_m. In t = log sigma

    d/dt mean log P = d (V(sigma) / sigma^2 - 1),   V(sigma) = mean_i sum_k w_k |xi_i - x_k|^2 / d,

and V grows with sigma, from the mean squared distance to the nearest centre (over d) to that
to all centres (over d): every maximum lies between the square roots of the two.
"""

import warnings
from typing import NamedTuple

import numpy as np

from deen_tf.checks import as_points, positive, whole
from deen_tf.laws.kernel_sums import Centres, blocks

TOLERANCE = 1e-3  # nats: rounding error of one log P at which float32 is not enough
CURVE_TOLERANCE = 0.1  # the same in a mean over held-out points, where it averages out
PER_OCTAVE = 12  # bandwidths of the likelihood curve to a factor of two
SAMPLE = 256  # held-out points that locate the maximum before all are used


class Parzen:
    """The Parzen density of given centres with a Gaussian kernel (Eqs. 12, 16).

    Answers are exact to float32's rounding, and better at small sigma: see `kernel_sums`.
    Memory beyond `x`: a float32 copy of it and about 100 MB.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The centres. An array of float32 or float64 is not copied: do not change it later.
    sigma : float
        Bandwidth, in the units of `x`.

    Raises
    ------
    TypeError, ValueError
        If `x` does not hold finite real numbers in this shape, or sigma is not positive.
        The methods refuse what has no place in floating-point numbers: points some 1e36
        times the centres' spread away, scores too large for the type of the points.
    """

    def __init__(self, x, sigma):
        self.x = _as_given(x, name="x")
        self.dimension = self.x.shape[1]
        self.sigma = positive(sigma)
        self._centres = Centres(self.x)

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
                out[block] = sums.mean_differences() / self.sigma**2
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
            out[block] = xi[block] + sums.mean_differences()
        return out

    def _checked(self, points):
        return _as_given(points, self.dimension, "points")

    def _told(self, answer, name):
        if not np.isfinite(answer).all():
            raise ValueError(
                f"the {name} at sigma = {self.sigma:g} overflows {answer.dtype} so far from the "
                "centres: give points in float64, or rescale"
            )
        return answer

    def _sums(self, points, progress, differences=False):
        with _bar(progress, blocks(len(self.x), *points.shape)) as bar:
            yield from self._centres.sums(
                points, [self.sigma], TOLERANCE, bar, differences
            )


class LikelihoodCurve(NamedTuple):
    """Mean held-out log-likelihood against bandwidth.

    Attributes
    ----------
    sigmas : ndarray, shape (g,)
        Ascending.
    log_likelihoods : ndarray, shape (g,)
        Nats per point.
    """

    sigmas: np.ndarray
    log_likelihoods: np.ndarray


def select_sigma(
    train,
    validation=None,
    *,
    folds=5,
    seed=0,
    sigmas=(),
    return_curve=False,
    progress=False,
):
    """Choose the bandwidth that maximises the mean log-likelihood of held-out points.

    A random sample of held-out points locates the maximum among half octaves, over all
    bandwidths at which there can be one. Then one pass over all the distances gives the curve
    at twelve bandwidths an octave, an octave to each side, and a quartic through the five
    highest the maximum, to a relative 1e-3 or better.

    Parameters
    ----------
    train : array_like, shape (n, d)
        Centres of the Parzen density.
    validation : array_like, shape (m, d), optional
        Held-out points. Without them, `folds`-fold cross-validation on `train`, in which the
        densities have n (1 - 1 / folds) centres: for n centres the best sigma is a little less.
    folds : int
        At least 2, at most n.
    seed : int
        Of the sample, and of the folds: point i is held out in fold
        `np.random.default_rng(seed).permutation(n)[i] % folds`.
    sigmas : sequence of float
        Bandwidths at which the curve is wanted too.
    return_curve : bool
        Return the curve as well.
    progress : bool
        Show a progress bar.

    Returns
    -------
    sigma : float
        In the units of `train`.
    curve : LikelihoodCurve
        Only if `return_curve`.

    Raises
    ------
    ValueError
        If the held-out points are all among the centres, so that the likelihood grows without
        bound as sigma goes to zero; or if arguments are out of range.

    Warns
    -----
    UserWarning
        If some of the sampled held-out points are among the centres.

    Notes
    -----
    With several maxima the one that is highest on the sample is taken.
    """
    train = _as_given(train, name="train")
    if np.ndim(sigmas) != 1:
        raise TypeError(f"sigmas must be a sequence of numbers, got {sigmas!r}")
    sigmas = sorted({positive(sigma, "each of sigmas") for sigma in sigmas})
    splits = _Splits(train, validation, folds, whole(seed, "seed", 0))
    start = _locate(*next(iter(splits)), np.random.default_rng([seed, 1]), splits.name)
    steps, curve = {}, {}
    while True:
        wanted = [
            j
            for j in range(start - PER_OCTAVE, start + PER_OCTAVE + 1)
            if j not in steps
        ]
        near = [s for s in sigmas if s not in curve and 0.5 < s / _bandwidth(start) < 2]
        curve |= splits.curve([_bandwidth(j) for j in wanted] + near, progress)
        steps |= {j: curve[_bandwidth(j)] for j in wanted}
        start = max(steps, key=steps.get)
        if {start - 2, start + 2} <= steps.keys():
            break
    while far := [s for s in sigmas if s not in curve]:
        curve |= splits.curve([s for s in far if s <= 4 * far[0]], progress)
    best = _peak(start, [steps[j] for j in range(start - 2, start + 3)])
    if not return_curve:
        return best
    wanted = sorted(curve)
    return best, LikelihoodCurve(np.array(wanted), np.array([curve[s] for s in wanted]))


class _Splits:
    """Pairs (Centres, held-out points): one for a validation set, else one for each fold."""

    def __init__(self, train, validation, folds, seed):
        self.train, self.validation = train, validation
        if validation is not None:
            self.name = "validation"
            self.validation = _as_given(validation, train.shape[1], "validation")
            self.centres = Centres(train)
            self.sizes = [(len(train), len(self.validation))]
            return
        n, self.name, self.folds = len(train), "train", whole(folds, "folds", 2)
        if self.folds > n:
            raise ValueError(
                f"folds must be at most the number of points, {n}, got {folds}"
            )
        self.fold_of = np.random.default_rng(seed).permutation(n) % self.folds
        self.sizes = [(n - m, m) for m in np.bincount(self.fold_of)]

    def __iter__(self):
        if self.validation is not None:
            yield self.centres, self.validation
            return
        for fold in range(self.folds):
            held_out = self.fold_of == fold
            yield Centres(self.train[~held_out]), self.train[held_out]

    def curve(self, sigmas, progress):
        """Return {sigma: mean log P of the held-out points}."""
        d = self.train.shape[1]
        total = np.zeros(len(sigmas))
        with _bar(progress, sum(blocks(n, m, d) for n, m in self.sizes)) as bar:
            for centres, points in self:
                for _, sums in centres.sums(points, sigmas, CURVE_TOLERANCE, bar):
                    total += sums.log_densities().sum(0)
        return dict(zip(sigmas, total / sum(m for _, m in self.sizes), strict=True))


def _locate(centres, points, random, name):
    """Return j such that sigma = 2^(j / 12) is within a half octave of a sample's best."""
    d = points.shape[1]
    points = points[random.permutation(len(points))[:SAMPLE]]
    spread = np.sqrt((centres.variance + np.mean((points - centres.mean) ** 2) * d) / d)

    def passes(sigmas):
        return [
            sums
            for _, sums in centres.sums(points, sigmas, CURVE_TOLERANCE, _bar(False))
        ]

    nearest = np.zeros(len(points))
    if spread > 0:  # at so small a bandwidth the nearest centre is found in float64
        nearest = np.concatenate([sums.nearest() for sums in passes([1e-6 * spread])])
    shared = np.count_nonzero(nearest == 0)
    if shared == len(points):
        raise ValueError(
            f"the held-out points of {name} are all among the centres: the likelihood grows "
            "without bound as sigma goes to zero; leave repeated points out"
        )
    if shared:
        warnings.warn(
            f"{shared} of {len(points)} sampled held-out points of {name} are among the centres: "
            "they draw sigma towards zero",
            stacklevel=3,
        )
    lowest, highest = PER_OCTAVE * np.log2([np.sqrt(nearest.mean() / d), spread])
    steps = np.arange(np.floor(lowest), highest + 6, 6)
    return int(
        steps[
            np.argmax(sum(s.log_densities().sum(0) for s in passes(_bandwidth(steps))))
        ]
    )


def _bandwidth(j):
    return 2.0 ** (j / PER_OCTAVE)


def _peak(j, likelihoods):
    """Return where the quartic through five values, at j - 2, ..., j + 2, is largest."""
    quartic = np.polynomial.Polynomial.fit(range(-2, 3), likelihoods, 4, domain=[-1, 1])
    roots = quartic.deriv().roots()
    roots = np.clip(roots[np.abs(roots.imag) < 1e-6].real, -1, 1)
    return float(_bandwidth(j + max([0.0, *roots], key=quartic)))


def _as_given(x, dimension=None, name="points"):
    """Return points in float32 or, if they are held more precisely, in float64."""
    try:
        precise = np.result_type(np.asarray(x).dtype, np.float32) == np.float64
    except (TypeError, ValueError):
        precise = False  # as_points says what is wrong
    return as_points(x, dimension, name, "float64" if precise else "float32")


def _bar(progress, total=None):
    from tqdm.auto import tqdm

    return tqdm(
        total=total, desc="Parzen", unit="block", disable=not progress, leave=False
    )
