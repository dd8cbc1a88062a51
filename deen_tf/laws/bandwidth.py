"""The bandwidth of a Parzen density: the noise level at which held-out points are likeliest.

sigma maximises the mean log P (Eq. 12) of held-out points xi_1, ..., xi_m. In t = log sigma

    d/dt mean log P = d (V(sigma) / sigma^2 - 1),   V(sigma) = mean_i sum_k w_k |xi_i - x_k|^2 / d,

and V grows with sigma, from the mean squared distance to the nearest centre (over d) to that
to all centres (over d): every maximum lies between the square roots of the two.
"""

import warnings
from typing import NamedTuple

import numpy as np

from deen_tf.checks import positive, whole
from deen_tf.laws.kernel_sums import Centres, blocks
from deen_tf.laws.law import as_given
from deen_tf.outliers import gross_outliers, warn_of_outliers

CURVE_TOLERANCE = 0.1  # nats: rounding error of one log P; it averages out in the mean
PER_OCTAVE = 12  # bandwidths of the likelihood curve to a factor of two
SAMPLE = 256  # held-out points that locate the maximum before all are used


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
    per_coordinate=False,
    return_curve=False,
    progress=False,
):
    """Choose the bandwidth that maximises the mean log-likelihood of held-out points.

    A random sample of held-out points locates the maximum among half octaves, over all
    bandwidths at which there can be one. Then one pass over all the distances gives the curve
    at twelve bandwidths an octave, an octave to each side, and a quartic through the five
    highest the maximum, to a relative 1e-3 or better. Rows that are gross outliers
    (`deen_tf.outliers`: sentinels such as -9999) are left out, with a warning.

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
    per_coordinate : bool
        For tables, whose coordinates have units of their own: the coordinates are divided
        by their standard deviations over `train` (without outliers), one bandwidth is chosen for all, and
        each is multiplied by that again. With x_i -> a_i x_i + b_i it becomes |a_i| sigma_i.
    return_curve : bool
        Return the curve as well.
    progress : bool
        Show a progress bar.

    Returns
    -------
    sigma : float, or ndarray, shape (d,)
        In the units of `train`.
    curve : LikelihoodCurve
        Only if `return_curve`. Per coordinate, sigmas are in units of the standard
        deviations; the likelihood is that of `train`'s units all the same.

    Raises
    ------
    ValueError
        If the held-out points are all among the centres, so that the likelihood grows without
        bound as sigma goes to zero; if a coordinate that is to have a bandwidth of its own
        is constant; or if arguments are out of range.

    Warns
    -----
    UserWarning
        If some of the sampled held-out points are among the centres, or rows are gross
        outliers.

    Notes
    -----
    With several maxima the one that is highest on the sample is taken.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(3000, 1))
    >>> round(deen.parzen.select_sigma(x[:2000], x[2000:]), 1)  # a tenth of their spread
    0.1
    """
    train = _ordinary(as_given(train, name="train"), "train")
    if validation is not None:
        validation = as_given(validation, train.shape[1], "validation")
        validation = _ordinary(validation, "validation")
    spread = np.ones(())
    if per_coordinate:
        mean, spread = train.mean(0, dtype="float64"), train.std(0, dtype="float64")
        if not spread.min() > 0:
            raise ValueError(
                f"coordinate {spread.argmin()} of train is constant: it has no bandwidth"
            )
        train = (train - mean) / spread
        validation = None if validation is None else (validation - mean) / spread
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
    top = [steps[j] for j in range(start - 2, start + 3)]
    if not np.isfinite(top).all():
        raise ValueError(
            "the held-out points lie too far from the centres for their likelihood to be "
            "told in floating-point numbers: are there outliers among them?"
        )
    best = _peak(start, top) * spread
    best = best if per_coordinate else float(best)
    if not return_curve:
        return best
    wanted = np.array(sorted(curve))
    likelihoods = np.array([curve[s] for s in wanted]) - np.log(spread).sum()
    return best, LikelihoodCurve(wanted, likelihoods)


class _Splits:
    """Pairs (Centres, held-out points): one for a validation set, else one for each fold."""

    def __init__(self, train, validation, folds, seed):
        self.train, self.validation = train, validation
        if validation is not None:
            self.name = "validation"
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
        with progress_bar(progress, sum(blocks(n, m, d) for n, m in self.sizes)) as bar:
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
            for _, sums in centres.sums(
                points, sigmas, CURVE_TOLERANCE, progress_bar(False)
            )
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


def _ordinary(x, name):
    """Return the points without gross outliers, and warn of those."""
    rows = gross_outliers(x)
    warn_of_outliers(rows, len(x), f"are left out of the choice of sigma ({name})")
    return np.delete(x, rows, axis=0) if len(rows) else x


def _bandwidth(j):
    return 2.0 ** (j / PER_OCTAVE)


def _peak(j, likelihoods):
    """Return where the quartic through five values, at j - 2, ..., j + 2, is largest."""
    quartic = np.polynomial.Polynomial.fit(range(-2, 3), likelihoods, 4, domain=[-1, 1])
    roots = quartic.deriv().roots()
    roots = np.clip(roots[np.abs(roots.imag) < 1e-6].real, -1, 1)
    return float(_bandwidth(j + max([0.0, *roots], key=quartic)))


def progress_bar(progress, total=None):
    from tqdm.auto import tqdm

    return tqdm(
        total=total, desc="Parzen", unit="block", disable=not progress, leave=False
    )
