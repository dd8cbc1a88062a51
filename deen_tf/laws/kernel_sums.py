"""Sums over the centres of a Gaussian kernel by float32 matrix products, with a proven error.

    sum_k exp(-|xi - x_k|^2 / 2 sigma^2)    and    sum_k exp(-|xi - x_k|^2 / 2 sigma^2) (x_k - xi)

For a block of points and of centres one product gives
    a_k = xi.x_k - |x_k|^2 / 2 = (|xi|^2 - |xi - x_k|^2) / 2
in coordinates centred on the mean of the centres and in units of their spread. With
u = 2^-24 and r = max |x_k|, rounding changes a_k by at most e = (d + 5) u (|xi| r + r^2 / 2),
in practice by less than sqrt(d) u (|xi| r + r^2 / 2). A centre whose a_k lies more than
sigma^2 T + 2 e below the largest one's has for certain less than e^-T of the largest weight.
T = log n + 16: all those together hold less than e^-16 = 1e-7 of the sum, and are left out.
Of the others,
- if they are few, as in high dimension, |xi - x_k|^2 is computed again in float64 from the
  differences: there is no cancellation, so sigma may be as small as one likes;
- if they are many, and sigma so large that float32 is accurate, they are summed as they are.
The distances do not depend on sigma: one pass serves any number of bandwidths.
"""

import numpy as np

POINTS, CENTRES = 2048, 4096  # a block: large enough for the matrix product's full rate
UNIT_ROUNDOFF = 2.0**-24  # of float32
NEGLECTED = 16.0  # nats
FARTHEST = 1e36  # |xi| max |x_k| in units of the centres' spread: float32 ends at 3e38


class Centres:
    """Centres in the form that one matrix product turns into a_k.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32 or float64

    Attributes
    ----------
    variance : float
        Mean |x_k - mean|^2.
    unit : float
        What lengths are divided by: their scale, rounded to a power of two.
    """

    def __init__(self, x):
        self.x = x
        n, d = x.shape
        self.mean = x.mean(0, dtype="float64")
        # The scale of some of the centres is enough against overflow and underflow.
        some = x[:: -(-n // CENTRES)] - self.mean
        self.unit = 2.0 ** np.round(np.log2(np.sqrt(_squares(some).mean()) or 1.0))
        # Each row (x_k, h, l): h + l = -|x_k|^2 / 2 in two float32, exact to 2^-48.
        self.rows = np.empty((n, d + 2), "float32")
        halves = np.empty(n)
        for part in _slices(n, 512):  # these stay in the cache
            half = halves[part] = -0.5 * self._scale(x[part], self.rows[part, :d])
            self.rows[part, d] = half
            self.rows[part, d + 1] = half - self.rows[part, d]
        self.variance = -2 * halves.mean() * self.unit**2
        self.radius = np.sqrt(-2 * halves.min())
        if not self.radius < FARTHEST**0.5:
            raise ValueError(
                "the centres differ by too much, or too little, for float32: rescale, or "
                "is one an outlier?"
            )

    def _scale(self, x, out):
        """Write (x - mean) / unit into `out`, float32, and return its squared lengths."""
        with np.errstate(all="ignore"):  # what overflows is refused by the caller
            np.subtract(x, self.mean, out=out, casting="same_kind")
            out /= np.float32(self.unit)
            return _squares(out)

    def sums(self, points, sigmas, tolerance, progress, differences=False):
        """Sum over the centres for all points and bandwidths.

        Parameters
        ----------
        points : ndarray, shape (m, d)
        sigmas : sequence of g floats
        tolerance : float
            Where rounding could change log(sum) by more (nats), float32 is not enough.
        progress : tqdm
            Is told of each block.
        differences : bool
            Also the sum with x_k - xi; for one bandwidth only.

        Yields
        ------
        block : slice
            Of the points.
        sums : Sums
        """
        n, width = self.rows.shape
        betas = (
            self.unit / np.asarray(sigmas, "float64")
        ) ** 2  # 1 / sigma^2 in our units
        cut = (np.log(n) + NEGLECTED) / betas.min()
        height = min(len(points), _height(width))
        rows = np.ones((height, width), "float32")
        products = np.empty((height, min(n, CENTRES)), "float32")
        for block in _slices(len(points), height):
            xi = points[block]
            lengths = np.sqrt(self._scale(xi, rows[: len(xi), :-2]))
            if not lengths.max() * max(self.radius, 1) < FARTHEST:
                raise ValueError(
                    "a point lies too far from the centres for float32, at more than "
                    f"{FARTHEST:g} times their spread, {self.unit:.3g}"
                )
            scale = UNIT_ROUNDOFF * (lengths * self.radius + self.radius**2 / 2)
            exact = np.sqrt(width) * scale * betas.max() > tolerance
            margin = cut + 2 * (width + 3) * scale
            sums = Sums(self, xi, lengths, betas, differences)
            peak = np.full(len(xi), -np.inf)
            for part in _slices(n, CENTRES):
                a = products[: len(xi), : part.stop - part.start]
                np.matmul(rows[: len(xi)], self.rows[part].T, out=a)
                highest = a.max(1)
                peak = np.maximum(peak, highest)
                with np.errstate(over="ignore"):  # at a huge sigma all are near
                    floor = (peak - margin).astype("float32")
                for refine in (True, False):
                    active = np.flatnonzero((highest >= floor) & (exact == refine))
                    # Few rows at a time stay in the cache; a product of them wants more.
                    for some in _slices(len(active), 512 if differences else 64):
                        sums.add(a, active[some], floor, part, refine)
                progress.update()
            yield block, sums


class Sums:
    """The sums for a block of points, as (top, total), so that nothing underflows.

    Attributes
    ----------
    top : ndarray, shape (m,)
        The largest -|xi - x_k|^2 / 2, in squared units of the centres.
    total : ndarray, shape (m, g)
        sum_k exp(-|xi - x_k|^2 / 2 sigma^2), relative to its largest term.
    moment : ndarray, shape (m, d), or None
        sum_k exp(-|xi - x_k|^2 / 2 sigma^2) (x_k - xi), relative to the same.
    """

    def __init__(self, centres, xi, lengths, betas, differences):
        self.centres, self.xi, self.betas = centres, xi, betas
        self.half_squares = lengths**2 / 2
        self.top = np.full(len(xi), -np.inf)
        self.total = np.zeros((len(xi), len(betas)))
        self.moment = np.zeros(xi.shape) if differences else None

    def log_densities(self):
        """Return log P, (m, g), in nats."""
        n, d = self.centres.x.shape
        log_norm = np.log(n) + 0.5 * d * np.log(
            2 * np.pi * self.centres.unit**2 / self.betas
        )
        return self.top[:, None] * self.betas + np.log(self.total) - log_norm

    def mean_differences(self):
        """Return sum_k w_k (x_k - xi), (m, d)."""
        return self.moment / self.total

    def nearest(self):
        """Return the squared distance to the nearest centre, (m,)."""
        return -2 * self.top * self.centres.unit**2

    def add(self, a, rows, floor, part, refine):
        """Add those centres of `part` that are near enough to the points `rows`."""
        a = a[rows]
        near = a >= floor[rows, None]
        few = np.count_nonzero(near) * (self.xi.shape[1] + 50) < near.size
        if not (refine or few):
            self._add_all(a, rows, part)
            return
        i, k = np.divmod(np.flatnonzero(near), near.shape[1])
        # In a mean over many points rounding averages out; one point gets full accuracy.
        refine = refine or len(self.betas) == 1
        a = None if refine else a[i, k] - self.half_squares[rows[i]]
        self._add_pairs(rows[i], k + part.start, a)

    def _add_pairs(self, i, k, known):
        """Add centre k[p] to point i[p], i ascending, from differences if a is not known."""
        for some in _slices(
            len(i), max(1, 2**18 // (self.xi.shape[1] + len(self.betas)))
        ):
            if known is None:
                x, xi = self.centres.x[k[some]], self.xi[i[some]]
                difference = np.subtract(x, xi, dtype="float64")
                a = -0.5 * _squares(difference) / self.centres.unit**2
            else:
                a = known[some]
            first = np.flatnonzero(np.diff(i[some], prepend=-1))
            rows = i[some][first]
            top = self._raise(rows, np.maximum.reduceat(a, first))
            a = a - np.repeat(top, np.diff(first, append=len(a)))
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
        for g, beta in enumerate(np.minimum(self.betas, 1e38).astype("float32")):
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


def blocks(n, m, d):
    """Return the number of blocks in the sums of m points over n centres."""
    return len(_slices(m, _height(d + 2))) * len(_slices(n, CENTRES))


def _height(width):
    return max(64, min(POINTS, 2**25 // width))


def _slices(n, size):
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _squares(x):
    return np.einsum("ij,ij->i", x, x, dtype="float64")
