"""Parzen density: the empirical distribution smoothed by a Gaussian, and its bandwidth.

    P(xi)  = 1/n sum_k S(xi | x_k),  S = N(xi; x_k, sigma^2 I)           (Eqs. 12, 16)
    score  = grad log P = (x_hat - xi) / sigma^2
    x_hat  = sum_k w_k x_k,  w_k proportional to S(xi | x_k)             (Eq. 11)

x_hat is the posterior mean: the best answer to a noisy point if the data were nothing but
the centres. sigma is chosen where the mean of log P over held-out points is largest
(Sec. 3).

Squared distances come from one matrix product in float32, |b|^2 - 2 a.b, after centring
the data. Of its n terms only those within 40 nats of the nearest centre are kept: the
others together change log P by less than n e^-40. The product's rounding, about
e = 4 eps (|a|^2 + |b|^2), enters log P as e / 2 sigma^2; where that passes 1e-3 the
distances kept are computed again, as differences in float64.
"""

from typing import NamedTuple

import numpy as np

from deen_tf.validation import as_points, positive, whole

BLOCK = 2**24  # distances held at once: 64 MB
NEGLIGIBLE = 40.0  # nats below the nearest centre at which a centre is left out


class Parzen:
    """Parzen density with Gaussian kernels on given centres.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The centres: the data.
    sigma : float
        Bandwidth, in the units of the data.
    """

    def __init__(self, x, sigma):
        self.sigma = positive(sigma)
        self._centres = Centres(as_points(x))
        self.dimension = self._centres.shape[1]

    def log_density(self, points, progress=False):
        """Return log P (Eq. 12), normalised.

        Parameters
        ----------
        points : array_like, shape (m, d)
        progress : bool
            Show a bar.

        Returns
        -------
        ndarray, shape (m,), float64
            In nats.
        """
        beta = 1 / (2 * self.sigma**2)
        parts = []
        for near in self._near(points, progress):
            mass = near.sum(np.exp(-beta * near.excess))
            parts.append(np.log(mass) - beta * near.nearest)
        n, d = self._centres.shape
        return np.concatenate(parts) - np.log(n) + 0.5 * d * np.log(beta / np.pi)

    def energy(self, points, progress=False):
        """Return -log P, normalised, shape (m,)."""
        return -self.log_density(points, progress)

    def score(self, points, progress=False):
        """Return grad log P, shape (m, d), float32."""
        points = as_points(points, self.dimension, "points")
        step = self.denoise(points, progress) - points
        return step / np.float32(self.sigma**2)

    def denoise(self, xi, progress=False):
        """Return the posterior mean of the centres given xi (Eq. 11), (m, d), float32."""
        beta = 1 / (2 * self.sigma**2)
        parts = []
        for near in self._near(xi, progress):
            weight = np.zeros(near.kept.shape, "float32")
            weight[near.kept] = np.exp(-beta * near.excess)
            mean = self._centres.weighted_sum(weight)
            parts.append(mean / weight.sum(axis=1)[:, None] + self._centres.mean)
        return np.concatenate(parts)

    def _near(self, points, progress):
        points = as_points(points, self.dimension, "points")
        return self._centres.near(points, self.sigma, self.sigma, progress)


class Near(NamedTuple):
    """For a block of points, the centres that matter and how far they are."""

    nearest: np.ndarray  # (b,) squared distance to the nearest centre
    kept: np.ndarray  # (b, n) whether a centre matters
    starts: np.ndarray  # (b,) where each point's centres begin in `excess`
    excess: np.ndarray  # squared distance above the nearest, of all kept, row by row

    def sum(self, values):
        """Sum values of the kept centres for each point."""
        return np.add.reduceat(values, self.starts)


class Centres:
    """Centred data, ready for the product that gives squared distances."""

    def __init__(self, x):
        self.shape = x.shape
        self.mean = x.mean(axis=0, dtype="float64").astype("float32")
        # (-2 b, |b|^2): its product with (a, 1) is |a - b|^2 - |a|^2.
        self.table = np.empty((x.shape[0], x.shape[1] + 1), "float32")
        np.subtract(x, self.mean, out=self.table[:, :-1])
        self.square = np.einsum("nd,nd->n", self.table[:, :-1], self.table[:, :-1])
        self.table[:, :-1] *= -2
        self.table[:, -1] = self.square

    def weighted_sum(self, weight):
        """Return sum_k weight[:, k] (x_k - mean), (b, d)."""
        return (weight @ self.table)[:, :-1] * np.float32(-0.5)

    def near(self, points, finest, widest, progress=False, text="Parzen"):
        """Yield `Near` for blocks of points.

        Parameters
        ----------
        points : ndarray, shape (m, d)
        finest, widest : float
            Least and largest bandwidth that the distances will be used with.
        """
        rows = max(1, BLOCK // len(self.table))
        window = 2 * widest**2 * (NEGLIGIBLE + np.log(len(self.table)))
        with _bar(len(points), progress, text) as bar:
            for first in range(0, len(points), rows):
                a = points[first : first + rows] - self.mean
                square = np.einsum("nd,nd->n", a, a, dtype="float64")
                one = np.ones((len(a), 1), "float32")
                distance = np.concatenate([a, one], axis=1) @ self.table.T
                least = distance.min(axis=1)
                error = 4 * np.finfo("float32").eps * (self.square.max() + square.max())
                refine = error / (2 * finest**2) > 1e-3
                reach = window + 2 * error if refine else window
                kept = distance <= (least + np.float32(reach))[:, None]
                count = kept.sum(axis=1)
                starts = np.cumsum(count) - count
                if refine:
                    excess = self._exact(a, kept)
                else:
                    excess = distance[kept].astype("float64") + np.repeat(square, count)
                nearest = np.minimum.reduceat(excess, starts)
                yield Near(nearest, kept, starts, excess - np.repeat(nearest, count))
                bar.update(len(a))

    def _exact(self, a, kept):
        parts = []
        for point, row in zip(a.astype("float64"), kept, strict=True):
            difference = point + 0.5 * self.table[row, :-1]  # the table holds -2 b
            parts.append(np.einsum("kd,kd->k", difference, difference))
        return np.concatenate(parts)


class Curve(NamedTuple):
    """Mean held-out log-likelihood against the bandwidth."""

    sigmas: np.ndarray  # increasing
    log_likelihoods: np.ndarray  # nats per point


def select_sigma(
    train, validation=None, folds=5, return_curve=False, progress=False, seed=0
):
    """Choose the bandwidth that maximises the mean held-out log-likelihood (Sec. 3).

    One pass over the distances serves all bandwidths: with beta = 1 / 2 sigma^2 on an even
    grid, exp(-beta_k d) = exp(-beta_0 d) exp(-delta d)^k takes one product for each
    further bandwidth. A start is found on a few points by the fixed point that the
    likelihood has at its maximum,

        sigma^2 = mean over points of sum_k w_k |x - x_k|^2 / d.

    Parameters
    ----------
    train : array_like, shape (n, d)
        Centres.
    validation : array_like, shape (m, d), optional
        Held-out points. Without them, cross-validation over `folds` parts of `train`.
    folds : int
    return_curve : bool
        Also return the likelihood against sigma.
    progress : bool
        Show a bar.
    seed : int
        Of the folds.

    Returns
    -------
    sigma : float
        To a relative 1e-3.
    curve : Curve
        If `return_curve`: 33 bandwidths from about 0.6 to 1.7 times sigma.

    Raises
    ------
    ValueError
        If shapes do not agree, there are fewer points than folds, or the likelihood has
        no maximum because every held-out point is one of the centres.
    """
    train = as_points(train, name="train")
    if validation is not None:
        validation = as_points(validation, train.shape[1], "validation")
        parts = [(Centres(train), validation)]
    else:
        if whole(folds, "folds", least=2) > len(train):
            raise ValueError(f"{folds} folds need as many points, got {len(train)}")
        order = np.random.default_rng(seed).permutation(len(train))
        parts = []
        for held_out in np.array_split(order, folds):
            kept = np.delete(train, held_out, axis=0)
            parts.append((Centres(kept), train[held_out]))
    sigma = _fixed_point(*parts[0])
    for _ in range(20):
        curve = _likelihoods(parts, sigma, progress)
        best, inside = _maximum(curve)
        if inside:
            return (best, curve) if return_curve else best
        sigma = best
    raise ValueError("the likelihood has no maximum in sigma on these points")


def _fixed_point(centres, points, most=300):
    """Return sigma near the maximum of the likelihood of (some of) the points."""
    rng = np.random.default_rng(0)
    points = points[rng.permutation(len(points))[: min(most, len(points))]]
    d = points.shape[1]
    scale = np.sqrt(
        max(centres.square.max(), ((points - centres.mean) ** 2).sum(1).max())
    )
    if scale == 0:
        _refuse(scale)
    # The distance to the nearest centre bounds sigma sqrt(d) from below.
    near = centres.near(points, 1e-4 * scale, 1e-4 * scale)
    nearest = np.concatenate([block.nearest for block in near])
    if nearest.max() <= (1e-6 * scale) ** 2:
        _refuse(scale)
    sigma = np.sqrt(nearest.mean() / d)
    for _ in range(200):
        beta, moment = 1 / (2 * sigma**2), 0.0
        for block in centres.near(points, sigma, sigma):
            weight = np.exp(-beta * block.excess)
            mean = block.sum(weight * block.excess) / block.sum(weight)
            moment += np.sum(block.nearest + mean)
        previous, sigma = sigma, np.sqrt(moment / len(points) / d)
        if abs(sigma - previous) < 0.02 * sigma:
            break
    return float(sigma)


def _refuse(scale):
    raise ValueError(
        "the likelihood grows without bound as sigma -> 0: every held-out point lies on "
        f"a centre (the data extend over {scale:.3g})"
    )


def _likelihoods(parts, sigma, progress, count=33):
    betas = np.linspace(
        1 / (2 * (1.7 * sigma) ** 2), 1 / (2 * (0.6 * sigma) ** 2), count
    )
    total, points = np.zeros(count), 0
    for k, (centres, held_out) in enumerate(parts):
        n, d = centres.shape
        text = "bandwidth" if len(parts) == 1 else f"fold {k + 1} of {len(parts)}"
        for near in centres.near(held_out, 0.6 * sigma, 1.7 * sigma, progress, text):
            weight = np.exp(-betas[0] * near.excess)
            ratio = np.exp((betas[0] - betas[1]) * near.excess)
            for i, beta in enumerate(betas):
                total[i] += np.sum(np.log(near.sum(weight)) - beta * near.nearest)
                weight *= ratio
            points += len(near.nearest)
        total += len(held_out) * (0.5 * d * np.log(betas / np.pi) - np.log(n))
    order = np.argsort(-betas)
    return Curve(np.sqrt(1 / (2 * betas))[order], (total / points)[order])


def _maximum(curve):
    """Return where a spline through the curve is largest, and whether that is inside."""
    from scipy import interpolate

    x, y = np.log(curve.sigmas), curve.log_likelihoods
    top = int(np.argmax(y))
    if top in (0, len(y) - 1):
        return float(curve.sigmas[top]), False
    spline = interpolate.CubicSpline(x, y)
    roots = spline.derivative().roots(extrapolate=False)
    return float(np.exp(roots[np.argmax(spline(roots))])), True


def _bar(total, progress, text):
    from tqdm import tqdm

    return tqdm(total=total, desc=text, unit="pt", disable=not progress, leave=False)
