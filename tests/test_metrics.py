"""Metrics against closed forms and hand-made cases."""

import numpy as np
import pytest
from scipy import stats

from deen_tf import metrics
from deen_tf.laws.mixtures import GaussianMixture

BOX = (-8, 8)


class Gaussian:
    """N(mean, s^2 I) in two dimensions."""

    def __init__(self, mean=(0, 0), s=1.0, constant=0.0):
        self.mean, self.s, self.constant = np.array(mean, float), s, constant

    def energy(self, x):
        quadratic = 0.5 * np.sum((x - self.mean) ** 2, axis=1) / self.s**2
        return quadratic + np.log(2 * np.pi * self.s**2) + self.constant

    def score(self, x):
        return -(x - self.mean) / self.s**2


def mixture(weights, centers, s=0.3):
    """Energy of a normalised mixture of N(center, s^2 I)."""

    def energy(x):
        parts = [
            w * np.exp(-Gaussian(c, s).energy(x))
            for w, c in zip(weights, centers, strict=True)
        ]
        return -np.log(sum(parts) + 1e-300)

    return energy


# ------------------------------------------------------------------ scores


def test_score_errors_by_hand():
    true = np.array(
        [[1.0, 0.0], [0.0, 2.0], [2.0, 2.0]]
    )  # mean square norm (1 + 4 + 8) / 3
    score = true + np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert metrics.fisher_divergence(score, true) == pytest.approx(2 / 3)
    assert metrics.relative_score_error(score, true) == pytest.approx(2 / 13)
    assert metrics.relative_score_error(0 * true, true) == 1
    assert metrics.relative_score_error(-true, true) == 4
    assert metrics.relative_score_error(true, true) == 0


def test_fisher_divergence_of_two_gaussians():
    x = 0.7 * np.random.default_rng(0).standard_normal((200_000, 2))
    found = metrics.fisher_divergence(
        Gaussian(s=1.1).score(x), Gaussian(s=0.7).score(x)
    )
    # E|x|^2 = d s^2. The mean of 2 n squares of normals is good to sqrt(1 / n) = 0.0022.
    wanted = 2 * 0.7**2 * (1 / 1.1**2 - 1 / 0.7**2) ** 2
    assert found == pytest.approx(wanted, rel=0.01)


def test_score_errors_refuse_what_does_not_match():
    a = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"true_score must have shape \(n, 2\)"):
        metrics.fisher_divergence(a, np.ones((3, 1)))
    with pytest.raises(ValueError, match="score has 3 points but true_score has 1"):
        metrics.relative_score_error(a, np.ones((1, 2)))
    with pytest.raises(ValueError, match="score must be finite"):
        metrics.relative_score_error(a * np.nan, a)
    with pytest.raises(ValueError, match="zero everywhere"):
        metrics.relative_score_error(a, 0 * a)


# ------------------------------------------------------------------ densities on a grid


@pytest.mark.parametrize(
    "mean, s", [((0, 0), 1.0), ((0.5, -1), 1.0), ((0.3, 0.2), 0.7)]
)
def test_kl_of_two_gaussians(mean, s):
    truth, model = Gaussian((0.1, 0.4), 1.0), Gaussian(mean, s, constant=123.4)
    shift = np.sum((np.array(mean) - truth.mean) ** 2)
    wanted = 2 * np.log(s) + 1 / s**2 - 1 + 0.5 * shift / s**2  # KL(truth || model)
    found = metrics.grid_kl(truth, model, BOX)
    # The midpoint rule is exact to rounding here; the box loses 1e-13 of the mass.
    assert found == pytest.approx(wanted, abs=1e-9)
    assert metrics.grid_kl(truth.energy, model.energy, BOX) == found


def test_kl_of_a_density_from_itself_is_zero_whatever_the_constant():
    for constant in (-1e4, 0, 7, 1e4):
        kl = metrics.grid_kl(Gaussian(), Gaussian(constant=constant), BOX)
        # The constant costs digits: 1e4 x 2e-16 in every energy.
        assert 0 <= kl < 1e-10
        assert (
            metrics.total_variation(Gaussian(), Gaussian(constant=constant), BOX)
            < 1e-10
        )


def test_the_grid_may_be_oblong_and_x1_comes_first():
    truth = Gaussian((20, 0))
    box = ((12, 28), (-7, 9))
    assert metrics.grid_kl(truth, Gaussian((20, 1)), box) == pytest.approx(
        0.5, abs=1e-9
    )
    with pytest.raises(ValueError, match="holds a mass of 0.0"):
        metrics.grid_kl(truth, truth, box[::-1])


@pytest.mark.parametrize("mean", [(1, 0), (0, -2.5), (3, 4)])
def test_total_variation_of_shifted_gaussians(mean):
    wanted = 2 * stats.norm.cdf(np.linalg.norm(mean) / 2) - 1
    found = metrics.total_variation(Gaussian(), Gaussian(mean), (-9, 11))
    # |p - q| has a kink on a line: the midpoint rule is good to (step 0.05)^2.
    assert found == pytest.approx(wanted, abs=1e-3)


def test_the_grid_must_hold_the_truth():
    with pytest.raises(ValueError, match="holds a mass of 0.99.*widen the box"):
        metrics.grid_kl(Gaussian(), Gaussian(), (-3, 3))
    with pytest.raises(ValueError, match="holds a mass of"):  # between the points
        metrics.grid_kl(Gaussian(s=0.01), Gaussian(), BOX, points=100)
    with pytest.raises(ValueError, match="holds a mass of .*normalise"):
        metrics.total_variation(Gaussian(constant=1e-5), Gaussian(), BOX)
    # Up to 1e-6 may be lost: 4.8 standard deviations, 1 - erf(4.8 / sqrt 2)^2 = 3e-6, 5.2: 4e-7.
    with pytest.raises(ValueError, match="0.99999"):
        metrics.grid_kl(Gaussian(), Gaussian(), (-4.8, 4.8))
    assert metrics.grid_kl(Gaussian(), Gaussian(), (-5.2, 5.2)) < 1e-9


def test_extreme_models():
    def without_left(x):
        return np.where(x[:, 0] < 0, np.inf, 0.0)

    assert metrics.grid_kl(Gaussian(), without_left, BOX) == np.inf
    # Flat on the right half: 1/2 sum |p - q| by parts.
    assert 0.5 < metrics.total_variation(Gaussian(), without_left, BOX) < 1
    steep = Gaussian((0, 0), 1e-3)  # energies of 1e8 nats on the grid
    assert 1e5 < metrics.grid_kl(Gaussian(), steep, BOX) < np.inf
    for broken in (np.nan, -np.inf, np.inf):
        with pytest.raises(ValueError, match="energy on the grid is NaN"):
            metrics.grid_kl(Gaussian(), lambda x, e=broken: np.full(len(x), e), BOX)
    with pytest.raises(ValueError, match="energy must have shape"):
        metrics.grid_kl(Gaussian(), Gaussian().score, BOX)
    for box in ((1, 1), (2, -2), ((0, 1), (1, 0)), (0, np.inf), (1, 2, 3)):
        with pytest.raises(ValueError, match="box must be"):
            metrics.grid_kl(Gaussian(), Gaussian(), box)


# ------------------------------------------------------------------ modes


CENTERS = np.array([[-2.0, -2.0], [2.0, -1.0], [0.0, 2.5]])
WEIGHTS = np.array([0.2, 0.3, 0.5])
TRUTH = mixture(WEIGHTS, CENTERS)


@pytest.mark.parametrize(
    "weights, ratio, variation",
    [
        (WEIGHTS, 1.0, 0.0),
        ((0.3, 0.2, 0.5), 2 / 3, 0.1),  # worst where 0.3 became 0.2
        ((0.0, 0.5, 0.5), 0.0, 0.2),  # one mode lost
        ((0.0, 0.0, 1.0), 0.0, 0.5),
    ],
)
def test_collapse_shows_in_the_least_ratio(weights, ratio, variation):
    model = mixture(weights, CENTERS)
    found = metrics.smallest_mode_ratio(TRUTH, model, CENTERS, (-5, 5))
    assert found == pytest.approx(ratio, abs=1e-3)
    assert metrics.total_variation(TRUTH, model, (-5, 5)) == pytest.approx(
        variation, abs=1e-3
    )


def test_mass_away_from_the_data_shows_in_the_least_ratio():
    away = np.vstack([CENTERS, [[-3.0, 3.0]]])
    model = mixture(np.append(0.1 * WEIGHTS, 0.9), away)
    # Nearest to the third centre, but not in its region.
    ratio = metrics.smallest_mode_ratio(TRUTH, model, CENTERS, (-5, 5))
    assert ratio == pytest.approx(0.1, abs=1e-3)


def test_a_flat_model_has_the_area_of_the_modes():
    """The `level` region of a mode of weight w is a disc of squared radius 2 s^2 log(w / c)."""

    def flat(x):
        return np.zeros(len(x))

    one = mixture([1.0], CENTERS[:1])
    for level in (0.5, 0.99):
        area = -2 * np.pi * 0.3**2 * np.log(1 - level)
        ratio = metrics.smallest_mode_ratio(one, flat, CENTERS[:1], (-5, 5), 800, level)
        # The disc is made of cells of (10 / 800)^2, within half a cell of its edge.
        assert ratio == pytest.approx(area / 100 / level, rel=0.01)


def test_modes_that_are_none():
    with pytest.raises(ValueError, match="no data near centre 3"):
        metrics.smallest_mode_ratio(
            TRUTH, TRUTH, np.vstack([CENTERS, [[4.5, 4.5]]]), (-5, 5)
        )
    with pytest.raises(ValueError, match="level is a fraction"):
        metrics.smallest_mode_ratio(TRUTH, TRUTH, CENTERS, (-5, 5), level=1.5)
    with pytest.raises(ValueError, match=r"centers must have shape \(n, 2\)"):
        metrics.smallest_mode_ratio(TRUTH, TRUTH, [1, 2], (-5, 5))


# ------------------------------------------------------------------ many dimensions


def test_energy_error_is_up_to_a_constant_and_trimmed():
    rng = np.random.default_rng(0)
    true = rng.normal(size=100_000)
    energy = true + 7 + 2 * rng.normal(size=true.shape)
    error = metrics.energy_error(energy, true)
    # |2 nu| has mean 2 sqrt(2 / pi); without its largest hundredth, mean over |nu| < a.
    a = stats.norm.ppf(0.995)
    wanted = 2 * 2 * (stats.norm.pdf(0) - stats.norm.pdf(a)) / 0.99
    assert error.constant == pytest.approx(7, abs=0.03)  # 4 * 2 / sqrt(n)
    assert error.mean == pytest.approx(wanted, rel=0.01)
    quantiles = 2 * stats.norm.ppf(0.5 + np.array([0.5, 0.9, 0.99]) / 2)
    np.testing.assert_allclose(error.quantiles, quantiles, rtol=0.02)
    energy[:100] = 1e9  # a few far off do not decide
    assert metrics.energy_error(energy, true).mean == pytest.approx(wanted, rel=0.02)
    assert metrics.energy_error(true - 3, true).mean < 1e-12
    whole = metrics.energy_error([1.0, 2, 3, 10], [0.0, 0, 0, 0], trim=0)
    assert whole.constant == 4 and whole.mean == 3


def test_mode_ratios_of_reweighted_mixtures():
    """Points of p*, weights 0.2, 0.3, 0.5; a model of weights 0.4, 0.3, 0.3."""
    means = 10.0 * np.eye(3)
    truth = GaussianMixture(means, 1.0, [0.2, 0.3, 0.5])
    model = GaussianMixture(means, 1.2, [0.4, 0.3, 0.3])
    pulls = []
    for seed in range(20):
        x = truth.sample(5000, seed, "float64")
        modes = x.argmax(1)
        found = metrics.mode_ratios(model.energy(x) + 100, truth.energy(x), modes)
        assert found.ratios == pytest.approx([2, 1, 0.6], rel=0.1)
        pulls.append((found.ratios - [2, 1, 0.6]) / found.errors)
    # 60 standard normals, of which two thirds are independent.
    assert 0.6 < np.mean(np.square(pulls)) < 1.6
    assert abs(np.mean(pulls)) < 0.5
    w = np.exp(truth.energy(x) - model.energy(x))
    w /= w.mean()
    for k in range(3):  # the influence of each point on the ratio
        inside, r = modes == k, w[modes == k].mean()
        influence = inside * (w - r) / inside.mean() - r * (w - 1)
        assert found.errors[k] == pytest.approx(influence.std() / np.sqrt(5000))
    # The truth has all its modes, from any points, and all of them count.
    same = metrics.mode_ratios(truth.energy(x), truth.energy(x), modes)
    np.testing.assert_allclose(same.ratios, 1, rtol=1e-12)
    np.testing.assert_allclose(same.errors, 0, atol=1e-9)
    assert same.effective == pytest.approx(5000)


class Linear:
    """psi = M x, in NumPy or TensorFlow."""

    def __init__(self, M):
        self.M = M

    def score(self, x):
        return x @ self.M.T


@pytest.mark.parametrize("step", (None, 0.1))
def test_asymmetry_by_projections(step):
    M = np.random.default_rng(1).standard_normal((6, 6))
    x = np.random.default_rng(2).standard_normal((3000, 6))
    wanted = metrics.asymmetry(M[None])
    found = metrics.projected_asymmetry(Linear(M), x, probes=4, step=step, batch=1000)
    # sqrt(8 / 12,000) = 2.6%; the transposed product has the same asymmetry.
    assert found == pytest.approx(wanted, rel=0.1)
    symmetric, rotation = Linear(M + M.T), Linear(M - M.T)
    assert metrics.projected_asymmetry(symmetric, x, 1, step) < 1e-20
    assert metrics.projected_asymmetry(rotation, x, 4, step) == pytest.approx(
        1, rel=0.1
    )


def test_asymmetry_by_projections_of_a_field_that_bends():
    """psi = (sin x_2, x_1 x_3, 0) against its Jacobians, point by point."""

    class Field:
        def score(self, x):
            return np.stack([np.sin(x[:, 1]), x[:, 0] * x[:, 2], 0 * x[:, 0]], axis=1)

    x = np.random.default_rng(3).standard_normal((20_000, 3))
    J = np.zeros((len(x), 3, 3))
    J[:, 0, 1], J[:, 1, 0], J[:, 1, 2] = np.cos(x[:, 1]), x[:, 2], x[:, 0]
    found = metrics.projected_asymmetry(Field(), x, probes=2, step=1e-4)
    assert found == pytest.approx(
        metrics.asymmetry(J), rel=0.05
    )  # sqrt(8 / 40,000) = 1.4%


def test_many_dimensions_refuse():
    with pytest.raises(ValueError, match=r"one \(n,\), got \(3,\) and \(2,\)"):
        metrics.energy_error([1.0, 2, 3], [1.0, 2])
    with pytest.raises(ValueError, match="energy must be finite"):
        metrics.mode_ratios([np.nan, 1], [0.0, 0], [0, 1])
    with pytest.raises(ValueError, match="trim must be less than 0.5"):
        metrics.energy_error([1.0, 2], [0.0, 0], trim=0.5)
    for modes in ([0, -1], [0.0, 1.0], [0]):
        with pytest.raises(ValueError, match="modes must be 2 whole numbers"):
            metrics.mode_ratios([1.0, 2], [0.0, 0], modes)
    with pytest.raises(ValueError, match="mode 1 has no point"):
        metrics.mode_ratios([1.0, 2], [0.0, 0], [0, 2])


# ------------------------------------------------------------------ Jacobians


def test_curl_and_asymmetry_of_known_fields():
    rotation = np.array([[[0.0, -3.0], [3.0, 0.0]]])
    assert metrics.relative_curl(rotation) == pytest.approx(np.sqrt(2))
    assert metrics.asymmetry(rotation) == pytest.approx(1)
    gradient = np.array([[[1.0, 2.0], [2.0, -5.0]], [[0.0, 1.0], [1.0, 0.0]]])
    assert metrics.relative_curl(gradient) == metrics.asymmetry(gradient) == 0
    shear = np.array([[[0.0, 1.0], [0.0, 0.0]]])  # half symmetric, half rotation
    assert metrics.relative_curl(shear) == pytest.approx(1)
    assert metrics.asymmetry(shear) == pytest.approx(0.5)
    # Over points the squares are averaged: curls 6 and 0, ||J||^2 = 18 and 34.
    both = np.concatenate([rotation, gradient[:1]])
    assert metrics.relative_curl(both) == pytest.approx(np.sqrt(36 / (18 + 34)))


def test_asymmetry_in_more_dimensions():
    J = np.random.default_rng(0).standard_normal((7, 5, 5))
    above = sum((m - m.T).ravel() @ (m - m.T).ravel() for m in J)
    below = 4 * sum(np.linalg.norm(m) ** 2 for m in J)
    assert metrics.asymmetry(J) == pytest.approx(above / below)
    assert metrics.asymmetry(J - J.transpose(0, 2, 1)) == pytest.approx(1)
    J = J[:, :2, :2]
    assert metrics.asymmetry(J) == pytest.approx(metrics.relative_curl(J) ** 2 / 2)


def test_a_constant_field_has_no_relative_curl():
    assert np.isnan(metrics.relative_curl(np.zeros((3, 2, 2))))
    assert np.isnan(metrics.asymmetry(np.zeros((3, 4, 4))))
    with pytest.raises(ValueError, match="two dimensions, got 3"):
        metrics.relative_curl(np.zeros((1, 3, 3)))
    with pytest.raises(ValueError, match=r"shape \(n, d, d\)"):
        metrics.asymmetry(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        metrics.asymmetry(np.full((1, 2, 2), np.nan))


# ------------------------------------------------------------------ images


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    x = random.standard_normal((6, 12 * 16)).astype("float32")
    return x, x + 0.5 * random.standard_normal(x.shape).astype("float32")


def test_err_per_pixel_by_hand():
    x = [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    x_hat = [[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]]
    np.testing.assert_allclose(metrics.err_per_pixel(x, x_hat), [1.0, 1.0])
    np.testing.assert_allclose(metrics.psnr(x, x_hat, 10), [20, 20])
    np.testing.assert_allclose(metrics.psnr(x, x_hat, [1, 100]), [0, 40])
    assert metrics.psnr(x, x, 1)[0] == np.inf
    with pytest.raises(ValueError, match="peak must be positive"):
        metrics.psnr(x, x_hat, 0)


def test_psnr_and_ssim_are_scikit_images(images):
    from skimage import metrics as reference

    x, x_hat = images
    ranges = np.ptp(x, axis=1)
    found = metrics.ssim(x, x_hat, (12, 16), ranges)
    assert found.shape == (6,) and 0 < found.min() and found.max() < 1
    a, b = (
        x[2].reshape(12, 16).astype("float64"),
        x_hat[2].reshape(12, 16).astype("float64"),
    )
    wanted = reference.structural_similarity(
        a, b, gaussian_weights=True, use_sample_covariance=False, data_range=ranges[2]
    )
    assert found[2] == pytest.approx(wanted)
    psnr = reference.peak_signal_noise_ratio(a, b, data_range=ranges[2])
    assert metrics.psnr(x, x_hat, ranges)[2] == pytest.approx(psnr)
    np.testing.assert_allclose(metrics.ssim(x, x, (12, 16), 1.0), 1)
    assert metrics.ssim(x, x_hat, (12, 16), 10.0)[2] > found[2]  # the range matters
    for shape in ((16, 16), (8, 24)):
        with pytest.raises(ValueError, match="11 x 11 or more of 192"):
            metrics.ssim(x, x_hat, shape, 1.0)


def test_removed_noise_fraction(images):
    x, xi = images
    assert metrics.removed_noise_fraction(x, xi, x) == 1
    assert metrics.removed_noise_fraction(x, xi, xi) == 0
    halved = x + (xi - x) / 2
    assert metrics.removed_noise_fraction(x, xi, halved) == pytest.approx(
        0.75, rel=1e-5
    )
    assert metrics.removed_noise_fraction(x, xi, x + 2 * (xi - x)) == pytest.approx(
        -3, rel=1e-5
    )
    # A ratio of means, not a mean of ratios: points with more noise count for more.
    found = metrics.removed_noise_fraction(
        [[0.0], [0.0]], [[1.0], [3.0]], [[1.0], [0.0]]
    )
    assert found == pytest.approx(0.9)
    with pytest.raises(ValueError, match="no noise"):
        metrics.removed_noise_fraction(x, x, x)


def test_standard_error_without_groups():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    mean, error = metrics.mean_and_standard_error(values)
    assert mean == 4 and error == pytest.approx(stats.sem(values))


def test_standard_error_over_images():
    random = np.random.default_rng(0)
    values = random.standard_normal((5, 7))
    names = np.repeat(list("acbed"), 7)
    mean, error = metrics.mean_and_standard_error(values.ravel(), names)
    # Of equal size, it is the error of the images' means.
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(stats.sem(values.mean(1)))
    shuffled = random.permutation(35)
    assert metrics.mean_and_standard_error(
        values.ravel()[shuffled], names[shuffled]
    ) == pytest.approx((mean, error))
    assert np.isnan(metrics.mean_and_standard_error(values.ravel(), np.zeros(35))[1])
    for bad in (values, values.ravel()[:3], []):
        with pytest.raises(ValueError, match="must be one"):
            metrics.mean_and_standard_error(bad, names)


def test_standard_error_is_the_spread_of_the_mean():
    # 20 images of 1 to 20 patches, whose values share a part with their image.
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), np.arange(1, 21))
    means, errors, naive = [], [], []
    for _ in range(2000):
        values = random.standard_normal(20)[groups] + 0.5 * random.standard_normal(
            len(groups)
        )
        mean, error = metrics.mean_and_standard_error(values, groups)
        means.append(mean)
        errors.append(error**2)
        naive.append(stats.sem(values) ** 2)
    # An estimate from 20 clusters is biased low by about their number's inverse, a little
    # more with unequal sizes; the spread of 2000 means is known to 2 %.
    assert np.sqrt(np.mean(errors)) == pytest.approx(np.std(means), rel=0.1)
    assert np.sqrt(np.mean(naive)) < 0.4 * np.std(means)
