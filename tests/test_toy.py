"""The exact smoothed densities, against quadrature, sampling and finite differences."""

import numpy as np
import pytest
from scipy import stats

from deen_tf.laws.plane import Checkerboard, GaussianMixture, Moons, Rings, Spiral

LAWS = [
    GaussianMixture.ring(),
    GaussianMixture.grid(),
    GaussianMixture(
        [[0, 0], [1, -0.5]], [[[0.1, 0.05], [0.05, 0.2]], np.eye(2) / 20], [3, 1]
    ),
    Spiral(),
    Spiral(arms=2),
    Moons(),
    Rings(),
    Checkerboard(),
]
laws = pytest.mark.parametrize("law", LAWS, ids=lambda law: repr(law)[:40])


def nodes(law, sigma, side=300):
    low, high = law.box(sigma)
    cell = (high - low) / side
    at = low + cell * (np.arange(side) + 0.5)
    x1, x2 = np.meshgrid(at, at)
    return np.stack([x1.ravel(), x2.ravel()], axis=1), cell**2


def noisy(law, n, sigma, seed):
    x = law.sample(n, seed).astype("float64")
    return x, x + sigma * np.random.default_rng([seed, 9]).normal(size=x.shape)


@laws
@pytest.mark.parametrize("sigma", (0.1, 0.4))
def test_density_is_normalised_and_its_box_holds_it(law, sigma):
    x, cell = nodes(law, sigma)
    # The midpoint rule of a Gaussian-smoothed density converges exponentially.
    assert np.exp(-law.energy(x, sigma)).sum() * cell == pytest.approx(1, abs=1e-6)


@laws
def test_score_is_minus_the_slope_of_the_energy(law):
    x = np.random.default_rng(0).uniform(-1.5, 1.5, (200, 2))
    step = 1e-5
    for sigma in (0.1, 1.0):
        psi = law.score(x, sigma)
        for i, e in enumerate(np.eye(2) * step):
            slope = (law.energy(x + e, sigma) - law.energy(x - e, sigma)) / (2 * step)
            # Truncation step^2 times a third derivative of up to 1/sigma^3.
            np.testing.assert_allclose(psi[:, i], -slope, rtol=1e-5, atol=1e-5)


@laws
def test_density_is_what_the_samples_smoothed_have(law):
    """Against the definition: p_sigma(x) = E over clean samples of N(x; x_k, sigma^2 I)."""
    sigma = 0.2
    clean = law.sample(100_000, seed=1).astype("float64")
    for x in law.sample(20, seed=2).astype("float64") + 0.1:
        kernel = np.exp(-((x - clean) ** 2).sum(1) / (2 * sigma**2))
        kernel /= 2 * np.pi * sigma**2
        error = 5 * kernel.std() / np.sqrt(len(clean))
        density = np.exp(-law.energy(x[None], sigma))[0]
        assert abs(density - kernel.mean()) < error
        # Eq. 11: denoise is the posterior mean, the kernel-weighted mean of clean points.
        weight = kernel / kernel.sum()
        mean = weight @ clean
        error = 5 * np.sqrt(((weight**2)[:, None] * (clean - mean) ** 2).sum(0))
        assert (abs(law.denoise(x[None], sigma)[0] - mean) < error).all()


@laws
def test_samples_fill_the_density(law):
    """Chi-square over a coarse grid of cells: sampler and energy are of one law."""
    sigma, n = 0.15, 20_000
    x = law.sample_smoothed(n, sigma, seed=3)
    points, cell = nodes(law, sigma, side=240)
    low, high = law.box(sigma)
    edges = np.linspace(low, high, 13)
    mass = np.exp(-law.energy(points, sigma)) * cell
    expected = np.histogram2d(*points.T, bins=edges, weights=mass)[0].ravel() * n
    found = np.histogram2d(*x.T.astype("float64"), bins=edges)[0].ravel()
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    found = np.append(found[~rare], found[rare].sum())
    assert stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue > 1e-4


@laws
def test_bayes_loss_is_the_error_of_the_posterior_mean(law):
    sigma = 0.1
    n = 50_000
    x, xi = noisy(law, n, sigma, seed=4)
    errors = ((x - law.denoise(xi, sigma)) ** 2).sum(1)
    assert abs(errors.mean() - law.bayes_loss(sigma)) < 4 * errors.std() / n**0.5
    assert law.bayes_loss(sigma) < 2 * sigma**2


@laws
def test_loss_above_the_floor_is_sigma4_times_the_fisher_divergence(law):
    """Eqs. 13-17: L - L* = sigma^4 E|psi - psi*|^2 for any psi; here psi = 0.7 psi* + 1."""
    sigma = 0.15
    x, xi = noisy(law, 50_000, sigma, seed=5)
    exact = law.score(xi, sigma)
    psi = 0.7 * exact + 1
    ours = ((x - (xi + sigma**2 * psi)) ** 2).sum(1)
    best = ((x - (xi + sigma**2 * exact)) ** 2).sum(1)
    fisher = sigma**4 * ((psi - exact) ** 2).sum(1)
    gap = ours - best - fisher
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))
    assert fisher.mean() > 20 * gap.std() / np.sqrt(len(gap))


@laws
def test_far_away_and_extreme_sigma(law):
    """Far from all data the density is that of the nearest point, up to a bounded factor."""
    far = np.array([[3e3, -4e3]])
    for sigma in (1e-3, 1.0, 1e3):
        energy, psi = law.energy(far, sigma), law.score(far, sigma)
        assert np.isfinite(energy).all() and np.isfinite(psi).all()
        # The score points back at the data.
        assert (psi * far).sum() < 0
    # At sigma = 1000 the law looks like one Gaussian: E = |x|^2 / 2 sigma^2 + log 2 pi sigma^2.
    np.testing.assert_allclose(
        law.energy(far, 1e3), 12.5 + np.log(2 * np.pi * 1e6), rtol=1e-2
    )


def test_one_gaussian_in_closed_form():
    C = np.array([[0.5, 0.2, 0], [0.2, 0.4, 0.1], [0, 0.1, 0.3]])
    law = GaussianMixture([[1, 2, 3]], C)
    x = np.random.default_rng(0).normal(size=(20, 3))
    S = C + 0.6**2 * np.eye(3)
    reference = stats.multivariate_normal([1, 2, 3], S)
    np.testing.assert_allclose(law.energy(x, 0.6), -reference.logpdf(x), rtol=1e-12)
    np.testing.assert_allclose(
        law.score(x, 0.6), -np.linalg.solve(S, (x - [1, 2, 3]).T).T, rtol=1e-10
    )
    # Floor: tr(C) - tr(C S^-1 C), the posterior covariance of the Wiener filter.
    floor = np.trace(C - C @ np.linalg.solve(S, C))
    assert law.bayes_loss(0.6, n=200_000) == pytest.approx(floor, rel=0.01)


def test_a_mixture_without_noise_has_its_own_density():
    law = GaussianMixture.ring()
    np.testing.assert_allclose(
        law.energy([[1.0, 0.0]]), law.energy([[1.0, 0.0]], 1e-9), rtol=1e-9
    )


@pytest.mark.parametrize(
    "law", [Spiral(std=0), Moons(std=0), Rings(std=0), Checkerboard()]
)
def test_a_law_without_smooth_density_says_so(law):
    with pytest.raises(ValueError, match="sigma must be positive"):
        law.energy([[0.0, 0.0]])
    assert np.isfinite(law.energy([[0.0, 0.0]], 0.1)).all()


@pytest.mark.parametrize("law", [LAWS[0], LAWS[3]], ids=["ring", "spiral"])
def test_figure_1s_laws_are_connected_at_their_sigma(law):
    """Between neighbouring modes, or along the arm, no barrier of more than 4 nats."""
    centers = law.centers(60)
    if len(centers) < 60:  # modes: walk on straight lines from each to the next
        following = np.roll(centers, -1, axis=0)
        t = np.linspace(0, 1, 21)[:, None, None]
        centers = ((1 - t) * centers + t * following).reshape(-1, 2)
    energy = law.energy(centers, 0.1)
    assert np.ptp(energy) < 4
    # And still seen apart: the middle between modes, or between turns, is lower.
    between = [[0.5 * np.cos(np.pi / 8), 0.5 * np.sin(np.pi / 8)]]
    if isinstance(law, GaussianMixture):
        between = [(centers[0] + law.means[1]) / 2]
        assert law.energy(between, 0.1)[0] > energy.min() + 1


@laws
def test_seeds(law):
    np.testing.assert_array_equal(law.sample(10, 1), law.sample(10, 1))
    assert abs(law.sample(10, 1) - law.sample(10, 2)).max() > 0
    assert law.sample(10, 1).dtype == "float32"


@laws
def test_smoothed_speaks_as_a_model(law):
    model, x = law.smoothed(0.2), law.sample(5, 0)
    np.testing.assert_array_equal(model.energy(x), law.energy(x, 0.2))
    np.testing.assert_array_equal(model.score(x), law.score(x, 0.2))
    np.testing.assert_allclose(model.denoise(x), x + 0.04 * model.score(x))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: GaussianMixture([1, 2], 1.0), ValueError, r"means must have shape"),
        (lambda: GaussianMixture([[0, 0]], -1.0), ValueError, "must be positive"),
        (
            lambda: GaussianMixture([[0, 0]], [[1, 2], [2, 1]]),
            ValueError,
            "positive definite, the least eigenvalue is -1",
        ),
        (lambda: GaussianMixture([[0, 0]], [[1, 1], [0, 1]]), ValueError, "symmetric"),
        (lambda: GaussianMixture([[0, 0]], np.eye(3)), ValueError, r"got \(3, 3\)"),
        (lambda: GaussianMixture([[0, 0]], 1.0, [0]), ValueError, "1 positive numbers"),
        (lambda: GaussianMixture.ring(modes=0), ValueError, "modes must be at least 1"),
        (lambda: Spiral(arms=3), ValueError, "arms must be 1 or 2, got 3"),
        (lambda: Spiral(inner=2.0), ValueError, "inner must be below radius"),
        (lambda: Rings(()), ValueError, "at least one circle"),
        (lambda: Moons(std=-1), ValueError, "std must be finite and not negative"),
        (lambda: Checkerboard(squares=0), ValueError, "squares must be at least 1"),
        (lambda: Moons().sample(0, 0), ValueError, "n must be at least 1"),
        (lambda: Moons().sample(5, -1), ValueError, "seed must be at least 0"),
        (lambda: Moons().energy([[0, 0]], -0.1), ValueError, "sigma must be"),
        (lambda: Moons().energy([[0, 0, 0]]), ValueError, r"\(n, 2\), got \(1, 3\)"),
        (lambda: Moons().score([[np.nan, 0]]), ValueError, "finite"),
        (lambda: Moons().denoise([[0, 0]], 0), ValueError, "sigma must be positive"),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
