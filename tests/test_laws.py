"""Laws in many dimensions against SciPy, quadrature, finite differences and sampling."""

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from deen_tf.laws import (
    Funnel,
    Gaussian,
    GaussianMixture,
    IndependentComponents,
    ManyWells,
    StudentMixture,
    univariate,
)

COVARIANCE = np.array([[0.5, 0.2, 0], [0.2, 0.4, 0.1], [0, 0.1, 0.3]])
LAWS = [
    Gaussian([1, 2, -1], COVARIANCE),
    GaussianMixture([[0, 0, 0], [1, 2, 0.5]], [COVARIANCE, np.eye(3)], [1, 3]),
    GaussianMixture.scattered(3, modes=5, reach=3.0),
    GaussianMixture.two_scales(3, stds=(0.5, 2.0)),
    StudentMixture.scattered(2, modes=3, reach=3.0),
    ManyWells(2),
    IndependentComponents.random(3, "laplace"),
    IndependentComponents.random(2, "logistic"),
    Funnel(3, std=1.5),
]
laws = pytest.mark.parametrize("law", LAWS, ids=lambda law: repr(law)[:45])


def near(law, n=20, seed=5):
    """Points where the law has mass, a little off."""
    return law.sample(n, seed, "float64") + 0.1


# ------------------------------------------------------------------ every law


@laws
@pytest.mark.parametrize("sigma", (0.0, 1e-3, 0.1, 0.7, 10.0))
def test_score_is_minus_the_slope_of_the_energy(law, sigma):
    x, step = near(law), 1e-5
    psi = law.score(x, sigma)
    for i, e in enumerate(np.eye(law.dimension) * step):
        slope = (law.energy(x + e, sigma) - law.energy(x - e, sigma)) / (2 * step)
        # Truncation step^2 times a third derivative; rounding 1e-15 E / step.
        np.testing.assert_allclose(psi[:, i], -slope, rtol=2e-6, atol=2e-6)


@laws
@pytest.mark.parametrize("sigma", (0.3, 1.0))
def test_density_and_denoiser_are_what_the_samples_have(law, sigma):
    """p_sigma(x) = E N(x; x_k, sigma^2 I) over clean samples, denoise their weighted mean."""
    clean = law.sample(100_000, seed=1, dtype="float64")
    xi = law.sample_smoothed(30, sigma, seed=2, dtype="float64")
    density, x_hat = np.exp(-law.energy(xi, sigma)), law.denoise(xi, sigma)
    gaps, pulls = [], []
    for x, p, found in zip(xi, density, x_hat, strict=True):
        kernel = np.exp(-((x - clean) ** 2).sum(1) / (2 * sigma**2))
        kernel /= (2 * np.pi * sigma**2) ** (law.dimension / 2)
        weight = kernel / kernel.sum()
        if 1 / np.sum(weight**2) < 100:
            continue  # too few samples there to tell
        gaps.append((kernel.mean() - p) / (kernel.std() / np.sqrt(len(clean))))
        error = np.sqrt(((weight**2)[:, None] * (clean - found) ** 2).sum(0))
        pulls.append((weight @ clean - found) / error)
    assert len(gaps) >= 10
    # Standard normal, nearly: 30 points, up to 3 coordinates, none beyond 5.
    assert np.abs(gaps).max() < 5 and np.abs(pulls).max() < 5
    assert np.mean(np.square(gaps)) < 3 and np.mean(np.square(pulls)) < 3


@laws
def test_bayes_loss_is_the_error_of_the_posterior_mean(law):
    sigma, n = 0.5, 100_000
    x = law.sample(n, seed=3, dtype="float64")
    xi = x + sigma * np.random.default_rng(4).normal(size=x.shape)
    errors = ((x - law.denoise(xi, sigma)) ** 2).sum(1)
    floor = law.bayes_loss(sigma)
    # Those of 200,000 points of its own add half the variance.
    assert abs(errors.mean() - floor) < 5 * errors.std() / np.sqrt(n)
    assert 0 < floor < law.dimension * sigma**2


@laws
def test_smoothing_twice_is_smoothing_once(law):
    """p_c = p_b * N(0, c^2 - b^2), by Gauss-Hermite quadrature."""
    b, c = 0.5, 0.6
    node, weight = np.polynomial.hermite_e.hermegauss(16)
    weight = weight / weight.sum()
    grid = np.stack(np.meshgrid(*[node] * law.dimension), -1).reshape(-1, law.dimension)
    mass = np.prod(np.stack(np.meshgrid(*[weight] * law.dimension), -1), -1).ravel()
    for x in near(law, 5):
        p = np.exp(-law.energy(x + np.sqrt(c**2 - b**2) * grid, b)) @ mass
        # 0.33 against features of 0.5: 16 nodes in each coordinate give ten digits.
        assert -np.log(p) == pytest.approx(law.energy(x[None], c)[0], abs=1e-8)


@laws
def test_far_away_everything_is_finite_and_points_back(law):
    far = np.zeros((2, law.dimension))
    far[0, 0], far[1] = 3e4, -3e4
    for sigma in (0.0, 1e-2, 1.0, 1e2):
        energy, psi = law.energy(far, sigma), law.score(far, sigma)
        assert np.isfinite(energy).all() and np.isfinite(psi).all()
        assert (energy > 10).all() and ((psi * far).sum(1) < 0).all()


@laws
def test_a_huge_sigma_makes_a_gaussian(law):
    """Up to the law's own spread over sigma, and with it p_sigma's mass is one."""
    sigma = 1e4
    x = sigma * np.random.default_rng(0).normal(size=(20, law.dimension))
    wanted = stats.norm(0, sigma).logpdf(x).sum(1)
    np.testing.assert_allclose(law.energy(x, sigma), -wanted, rtol=2e-4)
    np.testing.assert_allclose(law.score(x, sigma), -x / sigma**2, rtol=0.02, atol=1e-7)


@laws
def test_samples_and_the_smoothed_law(law):
    np.testing.assert_array_equal(law.sample(10, 1), law.sample(10, 1))
    assert abs(law.sample(10, 1) - law.sample(10, 2)).max() > 0
    assert law.sample(10, 1).dtype == "float32"
    model, x = law.smoothed(0.2), law.sample(5, 0)
    np.testing.assert_array_equal(model.energy(x), law.energy(x, 0.2))
    np.testing.assert_array_equal(model.score(x), law.score(x, 0.2))
    np.testing.assert_allclose(model.denoise(x), x + 0.04 * model.score(x), atol=1e-12)
    assert model.sample(3, 0).shape == (3, law.dimension)


@laws
def test_smoothed_samples_satisfy_steins_identity(law):
    """E[psi . xi] = -d: noise that goes with the points, or of another width, breaks it."""
    sigma = 0.7
    xi = law.sample_smoothed(4000, sigma, 3, "float64")
    terms = np.sum(law.score(xi, sigma) * xi, axis=1)
    error = terms.std(ddof=1) / np.sqrt(len(terms))
    assert abs(terms.mean() + law.dimension) < 4.5 * error


# ------------------------------------------------------------------ one coordinate


class LaplaceLaw:
    """SciPy's, but for logpdf, which is the logarithm of an underflow."""

    cdf = staticmethod(stats.laplace(scale=0.5**0.5).cdf)

    @staticmethod
    def logpdf(t):
        return -np.abs(t) * 2**0.5 - 0.5 * np.log(2)


COORDINATES = {
    "laplace": (univariate.Laplace(), LaplaceLaw),
    "logistic": (univariate.Logistic(), stats.logistic(scale=3**0.5 / np.pi)),
    "t2": (univariate.Student(2.0), stats.t(2)),
    "t5": (univariate.Student(5.0), stats.t(5)),
}
coordinates = pytest.mark.parametrize("name", COORDINATES)


@coordinates
def test_clean_coordinates_are_scipys(name):
    ours, reference = COORDINATES[name]
    u = np.array([-1e6, -30, -1.3, 0.2, 4.0, 500.0])
    np.testing.assert_allclose(ours.evaluate(u, 0)[0], reference.logpdf(u), rtol=1e-12)
    draws = ours.draw(50_000, np.random.default_rng(0))
    assert stats.kstest(draws, reference.cdf).pvalue > 1e-3


@coordinates
@pytest.mark.parametrize("sigma", (1e-4, 0.1, 0.6, 3.0, 30.0))
def test_smoothed_coordinates_against_panels_of_gauss(name, sigma):
    ours, reference = COORDINATES[name]
    u = np.array([0.0, 0.3, -1.7, 6.0, -40.0, 200.0, -3e3])
    log_p, slope = ours.evaluate(u, sigma)
    for k, at in enumerate(u):
        wanted = by_quad(lambda t: reference.logpdf(t), at, sigma)
        np.testing.assert_allclose(log_p[k], wanted[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(slope[k], wanted[1], rtol=1e-6, atol=1e-7 / sigma)


@pytest.mark.parametrize("sigma", (1e-3, 0.05, 0.1, 0.5, 2.0, 30.0))
def test_smoothed_double_well_against_panels_of_gauss(sigma):
    well = univariate.DoubleWell()
    u = np.array([0.0, 0.03, -1.7, 2.9, -6.0, 60.0, -1e4])
    log_p, slope = well.evaluate(u, sigma)
    for k, at in enumerate(u):
        wanted = by_quad(lambda t: t / 2 + 6 * t**2 - t**4 - well.log_z, at, sigma)
        np.testing.assert_allclose(log_p[k], wanted[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(slope[k], wanted[1], rtol=1e-6, atol=1e-7 / sigma)


def by_quad(log_density, u, sigma):
    """log p_sigma and its slope: the posterior by a fine scan, and 40 Gauss panels over it."""

    def g(t):
        return log_density(t) - 0.5 * ((u - t) / sigma) ** 2

    t = np.unique(np.concatenate([np.linspace(-8, 8, 4001), np.linspace(0, u, 4001)]))
    for width in (1.0, 1e-2, 1e-4):  # ever finer about the mode
        mode = t[g(t).argmax()]
        t = np.unique(np.append(t, mode + width * np.linspace(-50, 50, 4001) * sigma))
        t = np.unique(np.append(t, mode + width * np.linspace(-50, 50, 4001)))
    values = g(t)
    top = values.max()
    inside = np.flatnonzero(values > top - 45)
    low, high = t[max(inside[0] - 1, 0)], t[min(inside[-1] + 1, len(t) - 1)]
    panels = np.unique(np.append(np.linspace(low, high, 40), 0.0))  # Laplace's kink
    panels = panels[(panels >= low) & (panels <= high)]

    def over(f):
        def integrand(t):
            return f(t) * np.exp(g(t) - top)

        pieces = itertools.pairwise(panels)
        return sum(integrate.fixed_quad(integrand, a, b, n=60)[0] for a, b in pieces)

    mass = over(lambda t: 1.0)
    pull = over(lambda t: (t - u) / sigma**2) / mass
    return top + np.log(mass) - np.log(sigma * np.sqrt(2 * np.pi)), pull


@pytest.mark.parametrize("sigma", (0.02, 0.3, 2.0))
@pytest.mark.parametrize("name", [*COORDINATES, "well"])
def test_floor_of_a_coordinate(name, sigma):
    """E Var(t | u), by simulation."""
    ours = univariate.DoubleWell() if name == "well" else COORDINATES[name][0]
    rng = np.random.default_rng(1)
    t = ours.draw(200_000, rng)
    u = t + sigma * rng.normal(size=t.shape)
    errors = (t - u - sigma**2 * ours.evaluate(u, sigma)[1]) ** 2
    wanted, error = errors.mean(), errors.std() / np.sqrt(len(t))
    assert abs(ours.bayes_loss(sigma) - wanted) < 4 * error
    assert error < 0.02 * wanted


def test_many_values_agree_with_single_quadratures():
    """The interpolation, between its nodes and where it ends."""
    rng = np.random.default_rng(2)
    for ours in (univariate.DoubleWell(), univariate.Student(2.0)):
        for sigma in (0.05, 0.4, 1.3):
            end = ours._table(sigma)[0]
            u = np.append(rng.uniform(-5, 5, 500), [end - 1e-9, end + 1e-9, -end])
            value, slope, _ = ours.quadrature(u, sigma)
            found = ours.evaluate(u, sigma)
            np.testing.assert_allclose(found[0], value, rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(found[1], slope, rtol=1e-8, atol=1e-9)


# ------------------------------------------------------------------ single laws


def test_many_wells():
    law = ManyWells(32)
    assert law.log_z == pytest.approx(164.6957, abs=5e-5)

    def written(x):
        x, y = x[:, ::2], x[:, 1::2]
        return np.sum(-x / 2 - 6 * x**2 + x**4 + y**2 / 2, axis=1)

    x = law.sample(50_000, 0, "float64")
    np.testing.assert_allclose(law.energy(x), written(x) + law.log_z, rtol=1e-10)
    right = integrate.quad(lambda t: np.exp(t / 2 + 6 * t**2 - t**4), 0, 5)[0]
    left = integrate.quad(lambda t: np.exp(t / 2 + 6 * t**2 - t**4), -5, 0)[0]
    assert law.mass_right == pytest.approx(right / (left + right), rel=1e-6)
    found = (x[:, ::2] > 0).mean()
    error = np.sqrt(law.mass_right * (1 - law.mass_right) / x[:, ::2].size)
    assert abs(found - law.mass_right) < 4 * error
    assert x[:, 1::2].std() == pytest.approx(1, abs=4 / np.sqrt(2 * x.size / 2))


def test_mixtures_are_sums_of_scipys_gaussians():
    rng = np.random.default_rng(3)
    means, x = rng.normal(size=(4, 3)), rng.normal(size=(20, 3))
    weights = [0.1, 0.2, 0.3, 0.4]
    for given, matrices in (
        (0.7, [0.49 * np.eye(3)] * 4),
        ([0.3, 0.5, 1.0, 2.0], [s * np.eye(3) for s in (0.09, 0.25, 1, 4)]),
        (COVARIANCE, [COVARIANCE] * 4),
    ):
        law = GaussianMixture(means, given, weights)
        np.testing.assert_allclose(law.covariances, matrices, atol=1e-15)
        p = sum(
            w * stats.multivariate_normal(m, C + 0.04 * np.eye(3)).pdf(x)
            for w, m, C in zip(weights, means, matrices, strict=True)
        )
        np.testing.assert_allclose(law.energy(x, 0.2), -np.log(p), rtol=1e-10)


def test_a_mixture_far_from_the_origin_and_a_point_far_from_the_mixture():
    means = np.array([[0.0, 0.0], [1.0, 0.5]])
    x = np.random.default_rng(4).normal(size=(9, 2))
    here, there = GaussianMixture(means, 0.5), GaussianMixture(means + 2**20, 0.5)
    np.testing.assert_allclose(there.energy(x + 2**20), here.energy(x), rtol=1e-9)
    # At distance R along a the posterior of equal Gaussians depends on a . (m_1 - m_0) alone.
    far = 2.0**30 * np.array(
        [[0.5, -1.0]]
    )  # at right angles to the line through the means
    share = 1 / (1 + np.exp(1.25 / 0.5))
    pull = far + 0.25 * here.score(far)
    np.testing.assert_allclose(pull, [share * means[1]], atol=1e-6)


def test_the_shares_of_two_scales_in_a_thousand_dimensions():
    law, sigma = GaussianMixture.two_scales(1000), 0.5
    rng = np.random.default_rng(5)
    radius = np.linspace(1, 150, 40)
    x = rng.normal(size=(40, 1000))
    x *= (radius / np.linalg.norm(x, axis=1))[:, None]
    parts = [
        -0.5 * radius**2 / s2 - 500 * np.log(2 * np.pi * s2) + np.log(0.5)
        for s2 in (1.25, 16.25)
    ]
    np.testing.assert_allclose(law.energy(x, sigma), -np.logaddexp(*parts), rtol=1e-12)
    # The shells do not overlap: the floor is the mean of those of two Gaussians.
    floor = 500 * (0.25 / 1.25 + 16 * 0.25 / 16.25)
    assert law.bayes_loss(sigma, n=2000) == pytest.approx(floor, rel=2e-3)


def test_student_mixture_is_one_of_products():
    law = StudentMixture([[0, 1], [3, -2]], 3.0, [1, 2])
    x = np.random.default_rng(6).normal(size=(20, 2)) * 4
    p = sum(
        w * stats.t(3).pdf(x - m).prod(1)
        for w, m in zip(law.weights, law.means, strict=True)
    )
    np.testing.assert_allclose(law.energy(x), -np.log(p), rtol=1e-12)
    # Tails are those of the clean law, however small or large sigma: psi -> -(nu + 1) / u.
    psi = law.score([[1e7, 0.0]], 2.0)
    assert psi[0, 0] == pytest.approx(-4 / 1e7, rel=1e-5)


@pytest.mark.parametrize("source", ("laplace", "logistic"))
def test_independent_components(source):
    law = IndependentComponents.random(8, source, seed=1)
    np.testing.assert_allclose(law.mixing @ law.mixing.T, np.eye(8), atol=1e-12)
    x = law.sample(100_000, 0, "float64")
    np.testing.assert_allclose(
        np.cov(x.T), np.eye(8), atol=0.05
    )  # 5 / sqrt(n), kurtosis
    skewed = IndependentComponents.random(8, source, orthogonal=False, seed=1)
    A = skewed.mixing
    x = skewed.sample(50, 0, "float64")
    scale = {"laplace": 0.5**0.5, "logistic": 3**0.5 / np.pi}[source]
    log_p = getattr(stats, source)(scale=scale).logpdf(np.linalg.solve(A, x.T)).sum(0)
    wanted = np.linalg.slogdet(A)[1] - log_p
    np.testing.assert_allclose(skewed.energy(x), wanted, rtol=1e-9)
    step = 1e-6 * np.eye(8)[3]
    slope = (skewed.energy(x + step) - skewed.energy(x - step)) / 2e-6
    np.testing.assert_allclose(skewed.score(x)[:, 3], -slope, rtol=1e-5, atol=1e-6)
    for answer in (lambda: skewed.energy(x, 0.1), lambda: skewed.bayes_loss(0.1)):
        with pytest.raises(ValueError, match="orthogonal mixing only"):
            answer()


def test_random_rotations_are_uniform():
    """Over all: a column of one in the plane has an angle uniform over the circle."""
    mixings = [IndependentComponents.random(2, seed=k).mixing for k in range(300)]
    for column in np.moveaxis(mixings, 2, 0):
        angle = np.arctan2(column[:, 1], column[:, 0])
        # LAPACK's own have a negative first entry: half of the circle.
        assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


@pytest.mark.parametrize("cls", (GaussianMixture, StudentMixture))
def test_scattered_modes_are_uniform_on_both_sides_of_the_origin(cls):
    places = cls.scattered(50, modes=40, reach=7.0).means.ravel()
    assert stats.kstest(places, stats.uniform(-7, 14).cdf).pvalue > 1e-3


def test_funnel():
    law = Funnel()
    x = law.sample(100_000, 0, "float64")
    assert x.shape == (100_000, 10)
    assert x[:, 0].std() == pytest.approx(3, rel=0.01)
    white = x[:, 1:] / np.exp(x[:, :1] / 2)
    assert stats.kstest(white.ravel()[:50_000], stats.norm.cdf).pvalue > 1e-3
    v = x[:20, :1]
    log_p = stats.norm(0, 3).logpdf(v[:, 0])
    log_p += stats.norm(0, np.exp(v / 2)).logpdf(x[:20, 1:]).sum(1)
    np.testing.assert_allclose(law.energy(x[:20]), -log_p, rtol=1e-10)


@pytest.mark.parametrize("sigma", (1e-3, 0.1, 1.0, 30.0))
@pytest.mark.parametrize("k", (1, 9, 60))
def test_smoothed_funnel_against_a_fine_grid(k, sigma):
    law = Funnel(k + 1)
    points = [
        (0.0, 1.0),
        (-8.0, 0.03),
        (5.0, 12.0),
        (-8.0, 50.0),
        (9.0, 1e-3),
        (20.0, 0),
    ]
    for at, r in points:
        x = np.zeros((1, k + 1))
        x[0, :2] = at, r
        # A fixed fine rule over all v where N(v; m, t^2) or the rest can have mass.
        m, t = at * 9 / (9 + sigma**2), np.sqrt(9 * sigma**2 / (9 + sigma**2))
        low = min(m, -25.0) - 12 * t if sigma > 0.05 else m - 12 * t - t**2 * k
        high = (
            max(m, 12.0) + 12 * t
            if sigma > 0.05
            else m + 12 * t + 3e3 * t**2 / sigma**2
        )
        v = np.linspace(low, min(high, 40 + m + 12 * t), 2_000_001)
        w = np.exp(v) + sigma**2
        g = -0.5 * (v**2 / 9 + (at - v) ** 2 / sigma**2 + k * np.log(w) + r**2 / w)
        p = np.exp(g - g.max())
        mass = p.sum() * (v[1] - v[0])
        wanted = (
            g.max() + np.log(mass) - np.log(3 * sigma) - (k + 2) / 2 * np.log(2 * np.pi)
        )
        np.testing.assert_allclose(-law.energy(x, sigma), wanted, rtol=1e-9, atol=1e-9)
        psi = law.score(x, sigma)[0]
        # (E[v] - x_0) / sigma^2 loses the digits of sigma in the oracle.
        mean = np.sum(p * (v - at)) / p.sum() / sigma**2
        np.testing.assert_allclose(psi[0], mean, rtol=1e-6, atol=1e-9 / sigma)
        np.testing.assert_allclose(psi[1], -r * np.sum(p / w) / p.sum(), rtol=1e-8)


def test_natural_images_have_a_power_that_falls_as_one_over_f_squared():
    law = Gaussian.natural(8, std=0.5)
    C = law.covariance.reshape(8, 8, 8, 8)
    assert C[3, 4, 3, 4] == pytest.approx(0.25)
    # Periodic and stationary, so that the power is the Fourier transform of a row of C.
    np.testing.assert_allclose(C, np.roll(C, (1, 5, 1, 5), (0, 1, 2, 3)), atol=1e-12)
    power = np.fft.fft2(C[0, 0]).real
    np.testing.assert_allclose(np.fft.fft2(C[0, 0]).imag, 0, atol=1e-12)
    f = np.fft.fftfreq(8) * 8
    squares = np.add.outer(f**2, f**2)
    squares[0, 0] = 1
    np.testing.assert_allclose(power * squares, power[0, 1], rtol=1e-9)
    x = law.sample(50_000, 0, "float64")
    np.testing.assert_allclose(x.T @ x / len(x), law.covariance, atol=0.25 * 5 / 220)


def test_gaussian_in_closed_form():
    C, m, sigma = COVARIANCE, np.array([1.0, 2.0, -1.0]), 0.6
    law, S = Gaussian(m, C), COVARIANCE + 0.36 * np.eye(3)
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(law.covariance, C, atol=1e-14)
    reference = stats.multivariate_normal(m, S)
    np.testing.assert_allclose(law.energy(x, sigma), -reference.logpdf(x), rtol=1e-12)
    psi = -np.linalg.solve(S, (x - m).T).T
    np.testing.assert_allclose(law.score(x, sigma), psi, rtol=1e-10)
    np.testing.assert_allclose(law.denoise(x, sigma), x + 0.36 * psi, rtol=1e-10)
    floor = np.trace(C - C @ np.linalg.solve(S, C))
    assert law.bayes_loss(sigma) == pytest.approx(floor, rel=1e-12)
    mixture = GaussianMixture([m], C)
    np.testing.assert_allclose(mixture.energy(x, sigma), law.energy(x, sigma), 1e-12)
    levels = np.linspace(0.1, 2, 20)
    each = [law.energy(x[i : i + 1], s)[0] for i, s in enumerate(levels)]
    np.testing.assert_allclose(law.energy(x, levels), each, rtol=1e-13)


def test_a_fitted_gaussian():
    x = np.random.default_rng(1).normal(size=(300, 4)) * [1, 2, 3, 1e-3] + 1e5
    fit = Gaussian.fit(x)
    np.testing.assert_allclose(fit.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(
        fit.covariance, np.cov(x.T, ddof=0), rtol=1e-8, atol=1e-11
    )
    flat = Gaussian.fit(x[:, :2] * [1, 0])
    assert flat.bayes_loss(0.1) == pytest.approx(1 / (1 / x[:, 0].var() + 100))
    with pytest.raises(
        ValueError, match="no density of its own: sigma must be positive"
    ):
        flat.energy(x[:, :2])


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: Gaussian([0, 0], np.eye(3)),
            ValueError,
            r"covariance must have shape",
        ),
        (lambda: Gaussian([0, 0], [[1, 0.5], [0, 1]]), ValueError, "symmetric"),
        (lambda: Gaussian([0, 0], [[1, 2], [2, 1]]), ValueError, "eigenvalue is -1"),
        (lambda: Gaussian.fit([[1.0, 2.0]]), ValueError, "two points or more, got 1"),
        (lambda: Gaussian.natural(1), ValueError, "side must be at least 2, got 1"),
        (
            lambda: Gaussian([0], [[1]]).denoise([[1]], 0),
            ValueError,
            "must be positive",
        ),
        (lambda: GaussianMixture([[0, 0]] * 3, [1, 2]), ValueError, r"got \(2,\)"),
        (
            lambda: GaussianMixture.scattered(0),
            ValueError,
            "dimension must be at least 1",
        ),
        (lambda: GaussianMixture.two_scales(3, (1, 0)), ValueError, "must be positive"),
        (lambda: StudentMixture([[0.0]], 0), ValueError, "freedom must be positive"),
        (lambda: StudentMixture([[0.0]]).box(), ValueError, "too heavy for a box"),
        (lambda: ManyWells(3), ValueError, "dimension must be even, got 3"),
        (lambda: ManyWells(2).energy([[0.0]]), ValueError, r"\(n, 2\), got \(1, 1\)"),
        (lambda: IndependentComponents([[1, 1], [1, 1]]), ValueError, "of rank 1"),
        (lambda: IndependentComponents([[1]], "cauchy"), ValueError, "got 'cauchy'"),
        (lambda: Funnel(1), ValueError, "dimension must be at least 2, got 1"),
        (lambda: Funnel(std=-1), ValueError, "std must be positive"),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
