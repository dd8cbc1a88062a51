"""The Parzen density: exact log-likelihood, score and posterior mean, and the choice of sigma.

    S(xi|x) = (2 pi sigma^2)^(-d/2) exp(-|xi - x|^2 / 2 sigma^2)            kernel        (Eq. 16)
    P(xi)   = 1/n sum_k S(xi|x_k)                                           density       (Eq. 12)
    w_k(xi) = S(xi|x_k) / sum_l S(xi|x_l)                                   posterior of x_k
    x_hat(xi) = sum_k w_k(xi) x_k = xi + sigma^2 psi(xi)                    posterior mean (Eq. 11)
    E(xi) = -log P(xi),   psi(xi) = -dE/dxi = sum_k w_k(xi) (x_k - xi) / sigma^2

Low energy is high density; here E is normalised, in nats. sigma is chosen to maximise the
mean log P of held-out points xi_1, ..., xi_m. In t = log sigma

    d/dt mean log P = d (V(sigma) / sigma^2 - 1),   V(sigma) = mean_i sum_k w_k |xi_i - x_k|^2 / d,

and V grows with sigma from the mean squared distance to the nearest centre (over d) to that to
all centres (over d): every maximum lies between the square roots of the two.

How it is computed. One matrix product in float32 gives, for a block of points and of centres,
a_k = xi.x_k - |x_k|^2 / 2 = (|xi|^2 - |xi - x_k|^2) / 2, in coordinates centred on the mean of
the centres and in units of their spread. With u = 2^-24 and r = max |x_k|, rounding changes a_k
by e = (d + 5) u (|xi| r + r^2 / 2) at most (by sqrt(d) u (...) or less in practice). A centre
whose a_k lies more than sigma^2 T + 2 e below the largest has a weight below e^-T of the largest
for certain; T = log n + 16, so all those together change log P by less than e^-16 = 1e-7 nats.
Of the others,
- if they are few, as in high dimension, |xi - x_k|^2 is computed again in float64 from the
  differences: there is no cancellation, so sigma may be as small as one likes;
- if they are many and sigma is so large that float32 is accurate, they are summed as they are.
The distances do not depend on sigma, so one pass serves the whole likelihood curve.
"""

import warnings
from typing import NamedTuple

import numpy as np

from deen_tf.validation import as_points, positive, whole

POINTS, CENTRES = 2048, 4096  # a block: large enough for the matrix product's full rate
UNIT_ROUNDOFF = 2.0**-24  # of float32
NEGLECTED = 16.0  # nats: the far centres together hold less than e^-16 of the density
TOLERANCE = 1e-3  # nats: rounding error of one log P at which float32 is not enough
CURVE_TOLERANCE = 0.1  # the same in a mean over held-out points, where it averages out
PER_OCTAVE = 12  # bandwidths of the likelihood curve to a factor of two
SAMPLE = 512  # held-out points that locate the maximum before all are used


class Parzen:
    """The Parzen density of given centres with a Gaussian kernel (Eqs. 12, 16).

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
    """

    def __init__(self, x, sigma):
        self.x = _as_given(x, name="x")
        self.sigma = positive(sigma)
        self._centres = _Centres(self.x)

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
        for block, sums in self._sums(points, False, progress):
            out[block] = sums.log_densities()[:, 0]
        return out

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
        for block, sums in self._sums(points, True, progress):
            out[block] = sums.mean_differences() / self.sigma**2
        return out

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
        for block, sums in self._sums(xi, True, progress):
            out[block] = xi[block] + sums.mean_differences()
        return out

    def _checked(self, points):
        return _as_given(points, self.x.shape[1], "points")

    def _sums(self, points, differences, progress):
        with _bar(self._centres.blocks(points), progress) as bar:
            yield from self._centres.sums(points, [self.sigma], TOLERANCE, bar, differences)


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
    train, validation=None, *, folds=5, seed=0, sigmas=(), return_curve=False, progress=False
):
    """Choose the bandwidth that maximises the mean log-likelihood of held-out points.

    The maximum is sought among half octaves on a random sample of held-out points, over all
    bandwidths at which there can be one; then all of them give the likelihood at twelve
    bandwidths an octave, an octave to each side, and a quartic through the five nearest gives
    the maximum, to a relative 1e-3 or better.

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
    seed = whole(seed, "seed", 0)
    sigmas = sorted({positive(sigma, "each of sigmas") for sigma in sigmas})
    if validation is None:
        if len(train) < 2:
            raise ValueError("train holds one point: without validation it takes two or more")
        fold_of = np.random.default_rng(seed).permutation(len(train)) % _folds(folds, len(train))
        held_out = [fold_of == fold for fold in range(folds)]
        splits = [lambda h=h: (_Centres(train[~h]), train[h]) for h in held_out]
        m = len(train)
    else:
        validation = _as_given(validation, train.shape[1], "validation")
        only = _Centres(train), validation
        splits, m = [lambda: only], len(validation)
    sample = np.random.default_rng(seed + 1)
    start = _locate(*splits[0](), sample, "train" if validation is None else "validation")

    def evaluate(wanted):
        wanted = np.asarray(wanted)
        total = np.zeros(len(wanted))
        bar = None
        for split in splits:
            centres, points = split()
            if bar is None:
                bar = _bar(len(splits) * centres.blocks(points), progress)
            for _, sums in centres.sums(points, wanted, CURVE_TOLERANCE, bar):
                total += sums.log_densities().sum(0)
        bar.close()
        return dict(zip(wanted.tolist(), total / m, strict=True))

    curve, known = {}, {}
    while True:
        steps = [j for j in range(start - PER_OCTAVE, start + PER_OCTAVE + 1) if j not in known]
        near = [s for s in sigmas if s not in curve and 0.5 < s / _bandwidth(start) < 2]
        curve |= evaluate([_bandwidth(j) for j in steps] + near)
        known |= {j: curve[_bandwidth(j)] for j in steps}
        start = max(known, key=known.get)
        if start - 2 in known and start + 2 in known:
            break
    while far := [s for s in sigmas if s not in curve]:
        curve |= evaluate([s for s in far if s <= 4 * far[0]])
    best = _peak(start, [known[j] for j in range(start - 2, start + 3)])
    if not return_curve:
        return best
    wanted = np.array(sorted(curve))
    return best, LikelihoodCurve(wanted, np.array([curve[s] for s in wanted.tolist()]))


def _locate(centres, points, random, name):
    """Return j such that sigma = 2^(j / 12) is about the best for a sample of the points."""
    d = points.shape[1]
    points = points[random.permutation(len(points))[:SAMPLE]]
    spread = float(np.sqrt(centres.mean_square_distance(points) / d))

    def passes(sigmas):
        bar = _bar(0, False)
        return [sums for _, sums in centres.sums(points, sigmas, CURVE_TOLERANCE, bar)]

    nearest = np.zeros(len(points))
    if spread > 0:  # so small a bandwidth has the nearest centre found in float64
        nearest = np.concatenate([sums.nearest() for sums in passes([1e-6 * spread])])
    shared = np.count_nonzero(nearest == 0)
    if shared == len(points):
        raise ValueError(
            f"all of {shared} held-out points of {name} are among the centres too: the likelihood "
            "grows without bound as sigma goes to zero; leave repeated points out"
        )
    if shared:
        warnings.warn(
            f"{shared} of {len(points)} sampled held-out points of {name} are among the centres "
            "too: this draws sigma towards zero",
            stacklevel=3,
        )
    lowest = PER_OCTAVE * np.log2(np.sqrt(np.mean(nearest) / d))
    steps = np.arange(np.floor(lowest), PER_OCTAVE * np.log2(spread) + 6, 6).astype(int)
    for _ in range(2):
        likelihoods = sum(sums.log_densities().sum(0) for sums in passes(_bandwidth(steps)))
        best = int(steps[np.argmax(likelihoods)])
        steps = np.arange(best - 6, best + 7)
    return best


def _bandwidth(j):
    return 2.0 ** (j / PER_OCTAVE)


def _peak(j, likelihoods):
    """Return where the quartic through five values, at j - 2, ..., j + 2, is largest."""
    quartic = np.polynomial.Polynomial.fit(range(-2, 3), likelihoods, 4, domain=[-1, 1])
    roots = quartic.deriv().roots()
    roots = np.clip(roots[np.abs(roots.imag) < 1e-6].real, -1, 1)
    return float(_bandwidth(j + max([0.0, *roots], key=quartic)))


def _folds(folds, n):
    folds = whole(folds, "folds", 2)
    if folds > n:
        raise ValueError(f"folds must be at most the number of points, {n}, got {folds}")
    return folds


def _as_given(x, dimension=None, name="points"):
    """Return points in float32 or, if they are held more precisely, in float64."""
    try:
        dtype = np.result_type(np.asarray(x).dtype, np.float32)
    except (TypeError, ValueError):
        dtype = np.float32  # as_points says what is wrong
    return as_points(x, dimension, name, "float64" if dtype == np.float64 else "float32")


def _bar(total, progress):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="Parzen", unit="block", disable=not progress, leave=False)


class _Centres:
    """Centres in the form that one matrix product turns into a_k (see the module)."""

    def __init__(self, x):
        self.x = x
        n, d = x.shape
        self.mean = x.mean(0, dtype="float64")
        square = 0.0
        for rows in _slices(n, CENTRES):
            square += np.sum((x[rows] - self.mean) ** 2)
        self.variance = square / n  # mean |x_k - mean|^2
        self.unit = np.sqrt(self.variance) or 1.0
        # Each row (x_k, h, l): h + l = -|x_k|^2 / 2 in two float32, exact to 2^-48.
        self.rows = np.empty((n, d + 2), "float32")
        self.radius = 0.0
        for rows in _slices(n, CENTRES):
            z = self.rows[rows, :d] = self._scaled(x[rows])
            half = -0.5 * _squares(z)
            self.rows[rows, d] = half
            self.rows[rows, d + 1] = half - self.rows[rows, d]
            self.radius = max(self.radius, np.sqrt(-2 * half.min()))

    def _scaled(self, x):
        return ((x - self.mean) / self.unit).astype("float32")

    def mean_square_distance(self, points):
        return self.variance + np.mean(_squares(points - self.mean))

    def blocks(self, points):
        return len(_slices(len(points), self._height())) * len(_slices(len(self.x), CENTRES))

    def _height(self):
        return max(64, min(POINTS, 2**25 // self.rows.shape[1]))

    def sums(self, points, sigmas, tolerance, bar, differences=False):
        """Yield (slice of the points, their _Sums for all the bandwidths)."""
        n, width = self.rows.shape
        d = width - 2
        betas = (self.unit / np.asarray(sigmas, "float64")) ** 2  # 1 / sigma^2 in our units
        cut = (np.log(n) + NEGLECTED) / betas.min()
        height = min(len(points), self._height())
        rows, products = np.ones((height, width), "float32"), np.empty((height, CENTRES), "float32")
        for block in _slices(len(points), height):
            xi = points[block]
            z = rows[: len(xi), :d] = self._scaled(xi)
            lengths = np.sqrt(_squares(z))
            scale = UNIT_ROUNDOFF * (lengths * self.radius + self.radius**2 / 2)
            exact = np.sqrt(width) * scale * betas.max() > tolerance
            margin = cut + 2 * (width + 3) * scale
            sums = _Sums(self, xi, lengths, betas, differences)
            peak = np.full(len(xi), -np.inf)
            for part in _slices(n, CENTRES):
                a = products[: len(xi), : part.stop - part.start]
                np.matmul(rows[: len(xi)], self.rows[part].T, out=a)
                highest = a.max(1)
                peak = np.maximum(peak, highest)
                floor = peak - margin
                for refine in (True, False):
                    active = np.flatnonzero((highest >= floor) & (exact == refine))
                    # A few rows at a time stay in the cache; a product needs more to be fast.
                    for some in _slices(len(active), 512 if differences else 64):
                        sums.add(a, active[some], floor, part, refine)
                bar.update()
            yield block, sums


class _Sums:
    """sum_k exp(-|xi - x_k|^2 / 2 sigma^2) for a block of points, kept as (top, total).

    top: the largest -|xi - x_k|^2 / 2 so far, (m,), in squared units of the centres; total: the
    sum relative to it, (m, g), one for each bandwidth; moment: for a single bandwidth
    sum_k exp(...) (x_k - xi), relative too, (m, d).
    """

    def __init__(self, centres, xi, lengths, betas, differences):
        self.centres, self.xi, self.betas = centres, xi, betas
        self.half_squares = lengths**2 / 2
        self.top = np.full(len(xi), -np.inf)
        self.total = np.zeros((len(xi), len(betas)))
        self.moment = np.zeros(xi.shape) if differences else None

    def add(self, a, rows, floor, part, refine):
        """Add the centres of `part` that are near enough to the points `rows`."""
        a = a[rows]
        near = a >= floor[rows, None].astype("float32")
        if refine or np.count_nonzero(near) * (self.xi.shape[1] + 50) < near.size:
            i, k = np.divmod(np.flatnonzero(near), near.shape[1])
            self._add_pairs(rows[i], k + part.start)
        else:
            self._add_all(a, rows, part)

    def _add_pairs(self, i, k):
        """Add centre k[p] to point i[p], i ascending, from differences in float64."""
        d = self.xi.shape[1]
        for some in _slices(len(i), max(1, 2**18 // (d + len(self.betas)))):
            difference = np.subtract(self.centres.x[k[some]], self.xi[i[some]], dtype="float64")
            a = -0.5 * _squares(difference) / self.centres.unit**2
            first = np.flatnonzero(np.diff(i[some], prepend=-1))
            rows = i[some][first]
            top = self._raise(rows, np.maximum.reduceat(a, first))
            a -= np.repeat(top, np.diff(first, append=len(a)))
            weights = np.exp(a[:, None] * self.betas)
            self.total[rows] += np.add.reduceat(weights, first)
            if self.moment is not None:
                difference *= weights
                self.moment[rows] += np.add.reduceat(difference, first)

    def _add_all(self, a, rows, part):
        """Add all the centres of `part` to the points `rows`, in float32."""
        offset = self.half_squares[rows]
        top = self._raise(rows, a.max(1) - offset)
        a -= (top + offset)[:, None].astype("float32")
        weights = np.empty_like(a)
        for g, beta in enumerate(self.betas.astype("float32")):
            np.exp(np.multiply(a, beta, out=weights), out=weights)
            self.total[rows, g] += np.einsum("ij->i", weights)
        if self.moment is not None:
            c = self.centres
            moment = (weights @ c.rows[part, :-2]).astype("float64")
            weight = weights.sum(1, dtype="float64")[:, None]
            self.moment[rows] += c.unit * moment + weight * (c.mean - self.xi[rows])

    def _raise(self, rows, highest):
        """Let `top` be at least `highest` and return it."""
        top = np.maximum(self.top[rows], highest)
        shrink = np.exp((self.top[rows] - top)[:, None] * self.betas)
        self.top[rows] = top
        self.total[rows] *= shrink
        if self.moment is not None:
            self.moment[rows] *= shrink
        return top

    def log_densities(self):
        """Return log P, (m, g)."""
        n, d = self.centres.x.shape
        log_norm = np.log(n) + 0.5 * d * np.log(2 * np.pi * self.centres.unit**2 / self.betas)
        return self.top[:, None] * self.betas + np.log(self.total) - log_norm

    def mean_differences(self):
        """Return sum_k w_k (x_k - xi), (m, d)."""
        return self.moment / self.total

    def nearest(self):
        """Return the squared distance to the nearest centre, (m,)."""
        return -2 * self.top * self.centres.unit**2


def _slices(n, size):
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _squares(x):
    return np.einsum("ij,ij->i", x, x, dtype="float64")
