"""R-hat, effective sample size and escape, against closed forms and slow references."""

import warnings

import numpy as np
import pytest
from scipy import stats

import deen_tf as deen
from deen_tf import diagnostics
from deen_tf.diagnostics import ChainsWarning, effective_sample_size, escaped, r_hat
from deen_tf.sampling import Chains


def autoregressive(rho, t, n, seed=0):
    """x' = rho x + sqrt(1 - rho^2) nu, stationary from the start: (t, n, 1)."""
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=n)]
    for _ in range(t - 1):
        x.append(rho * x[-1] + np.sqrt(1 - rho**2) * rng.normal(size=n))
    return np.stack(x)[:, :, None]


def slow_r_hat(draws):
    """Vehtari et al. (2021), Eqs. 1 to 4, 14 and Sec. 4: of one quantity (t, n)."""
    half = len(draws) // 2
    split = np.concatenate([draws[:half], draws[-half:]], axis=1)

    def plain(x):
        ranks = stats.rankdata(x).reshape(x.shape)
        z = stats.norm.ppf((ranks - 3 / 8) / (x.size + 1 / 4))
        between = len(z) * z.mean(0).var(ddof=1)
        within = z.var(0, ddof=1).mean()
        return np.sqrt(((len(z) - 1) / len(z) * within + between / len(z)) / within)

    return max(plain(split), plain(abs(split - np.median(split))))


class TestMixing:
    @pytest.mark.parametrize("rho", (0.0, 0.9))
    @pytest.mark.parametrize(
        "scale", (0.0, 2.0)
    )  # chains of one mean, but other widths
    def test_r_hat_is_that_of_the_paper(self, rho, scale):
        x = autoregressive(rho, 31, 7) * np.exp(scale * np.arange(7) / 7)[:, None]
        assert r_hat(x) == pytest.approx(slow_r_hat(x[:, :, 0]), rel=1e-10)

    def test_r_hat_of_independent_draws_is_one(self):
        assert r_hat(autoregressive(0, 100, 100)) == pytest.approx(1, abs=0.01)

    def test_r_hat_counts_the_draws_that_half_a_chain_is_worth(self):
        """R-hat^2 - 1 = 1/m - 1/t: the chains' means vary by 1/m, their draws say 1/t.

        With t rho-correlated draws, the variance of a mean is (1 + rho) / (1 - rho) / t,
        up to order 1 / t^2.
        """
        rho, t = 0.8, 200
        x = autoregressive(rho, 2 * t, 2000)
        wanted = 1 + ((1 + rho) / (1 - rho) - 1) / t
        assert r_hat(x) ** 2 == pytest.approx(wanted, abs=0.1 * (wanted - 1))

    def test_the_worst_quantity_counts(self):
        good, bad = autoregressive(0, 32, 50), autoregressive(0.97, 32, 50)
        both = np.concatenate([good, bad, good], axis=2)
        assert r_hat(both) == r_hat(bad) > 1.5
        assert r_hat(good) < 1.1
        assert effective_sample_size(both) == effective_sample_size(bad)

    @pytest.mark.parametrize("rho", (0.0, 0.5, 0.9))
    def test_effective_sample_size_of_an_autoregression(self, rho):
        """n t (1 - rho) / (1 + rho)."""
        x = autoregressive(rho, 1000, 50)
        wanted = x.size * (1 - rho) / (1 + rho)
        assert effective_sample_size(x) == pytest.approx(wanted, rel=0.1)

    def test_one_chain_is_taken_in_halves(self):
        assert r_hat(autoregressive(0, 400, 1)) == pytest.approx(1, abs=0.02)
        drifting = np.linspace(0, 3, 400)[:, None, None] + autoregressive(0, 400, 1)
        assert r_hat(drifting) > 1.2

    def test_too_few_draws_and_constants_say_nothing(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isnan(r_hat(autoregressive(0, 3, 10)))
            assert np.isnan(effective_sample_size(autoregressive(0, 3, 10)))
            assert np.isnan(r_hat(np.ones((10, 4, 2))))
            # A constant beside what varies is left out.
            x = autoregressive(0.5, 40, 10)
            with_constant = np.concatenate([x, np.ones_like(x)], axis=2)
            assert r_hat(with_constant) == r_hat(x)
            # Chains that are stuck, each somewhere else.
            assert r_hat(np.broadcast_to(np.arange(5.0)[:, None], (9, 5, 1))) > 100

    def test_which_coordinates_are_followed(self):
        np.testing.assert_array_equal(diagnostics.some_coordinates(10, 3, 32), range(3))
        many = diagnostics.some_coordinates(10, 784, 32)
        assert len(many) == 64
        assert many[0] == 0
        assert many[-1] == 783
        few = diagnostics.some_coordinates(10**4, 784, 32)
        assert len(few) * 10**4 * 32 <= 2**20
        assert len(diagnostics.some_coordinates(10**6, 784, 32)) == 1


def student(nu):
    return lambda x: ((nu + 1) / 2 * np.log1p(x**2 / nu)).sum(1)


def two_scales(x):
    r2, d = (x**2).sum(1), x.shape[1]
    return -np.logaddexp(-r2 / 2, -r2 / 32 - d * np.log(4))


def funnel(x):
    v, r2 = x[:, 0], (x[:, 1:] ** 2).sum(1)
    return v**2 / 18 + r2 * np.exp(-v) / 2 + (x.shape[1] - 1) / 2 * v


def draw(name, n, d, rng):
    """Return n exact draws of a law in d dimensions, and its energy."""
    if name == "normal":
        return rng.normal(size=(n, d)), lambda x: (x**2).sum(1) / 2
    if name == "Laplace":
        return rng.laplace(size=(n, d)), lambda x: abs(x).sum(1)
    if name == "Student":
        return rng.standard_t(2, size=(n, d)), student(2)
    if name == "Cauchy":
        return rng.standard_t(1, size=(n, d)), student(1)
    if name == "two scales":
        wide = np.where(rng.random((n, 1)) < 0.5, 1, 4)
        return wide * rng.normal(size=(n, d)), two_scales
    v = 3 * rng.normal(size=(n, 1))
    return np.concatenate([v, rng.normal(size=(n, d - 1)) * np.exp(v / 2)], 1), funnel


class TestEscape:
    @pytest.mark.parametrize("d", (1, 2, 10, 300))
    @pytest.mark.parametrize(
        "name", ("normal", "Laplace", "Student", "Cauchy", "two scales", "funnel")
    )
    def test_nobody_escapes_a_density(self, name, d):
        """Neither heavy tails nor parts of other width or height are an escape."""
        x, energy = draw(name, 2000, d, np.random.default_rng(0))
        with np.errstate(over="ignore"):
            found = escaped(energy, x, x).mean()
        # Along an axis of the plane a Cauchy's energy rises by d log s: that is the border.
        assert found <= (0.01 if name == "Cauchy" else 0)

    @pytest.mark.parametrize(
        "law",
        [
            deen.datasets.GaussianMixture.ring(modes=8, std=0.15),
            deen.datasets.Spiral(),
            deen.datasets.Rings(),
            deen.datasets.Moons(),
        ],
    )
    def test_nor_those_of_the_figures(self, law):
        x = law.sample_smoothed(500, 0.1, 0)
        assert not escaped(law.smoothed(0.1).energy, x, x).any()

    @pytest.mark.parametrize("d", (1, 2, 5))
    def test_the_border_is_where_the_integral_ends(self, d):
        """exp(-k log(1 + r)) has an integral in d dimensions if and only if k > d."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(500, d))
        x *= (10 ** rng.uniform(1, 2, size=(500, 1))) / np.sqrt((x**2).sum(1))[:, None]
        x = np.concatenate([x, -x])  # their median is 0

        def energy(k):
            return lambda x: k * np.log1p(np.sqrt((x**2).sum(1)))

        assert not escaped(energy(1.3 * d), x, x).any()
        assert escaped(energy(0.7 * d), x, x).all()

    @pytest.mark.parametrize("scale, shift", [(1, 0), (1e-6, 0), (1e6, 3e7)])
    def test_who_leaves_a_well(self, scale, shift):
        """E = 20 (1 - exp(-r^2 / 2)): a well that nothing holds outside of."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(400, 2))
        x[:100] *= 8 / np.sqrt((x[:100] ** 2).sum(1, keepdims=True))

        def energy(x):
            r2 = (((x - shift) / scale) ** 2).sum(1)
            return -20 * np.expm1(-r2 / 2)

        found = escaped(energy, scale * x + shift, scale * x + shift)
        r = np.sqrt((x**2).sum(1))
        assert found[r > 3.1].all()
        # r dE/dr = 20 r^2 exp(-r^2 / 2) is d = 2 at r = 3.0.
        assert not found[r < 2.8].any()

    def test_images_and_refusals(self):
        """Any shape; a density that answers NaN far out counts as a wall."""
        x = 5 + np.random.default_rng(0).normal(size=(50, 4, 3, 1))

        def flat(x):
            return np.zeros(len(x))

        assert escaped(flat, x, x).all()

        def refuses(x):
            far = (abs(x) > 100).reshape(len(x), -1).any(1)
            return np.where(far, np.nan, 0)

        assert not escaped(refuses, x, x).any()


@pytest.mark.parametrize("settings, message", [
    ({"escaped": np.array([True, False, True])}, "^2 of 3 chains have escaped"),
    ({"r_hat": 1.23}, "forget where they started, R-hat = 1.23 .forgotten: below 1.1"),
    ({"bias": 0.5, "step": 0.3}, "step of 0.3 is too large: .* by 50% .of its variance"),
    ({"bias": 0.5, "r_hat": 3.0}, "R-hat.*; a step of"),
])  # fmt: skip
def test_what_is_warned_of(settings, message):
    chains = Chains(np.zeros((1, 3, 2)), np.ones(3), **settings)
    with pytest.warns(ChainsWarning, match=message) as caught:
        diagnostics.warn(chains, stacklevel=1)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_what_is_not():
    fine = {"escaped": np.zeros(3, bool), "r_hat": 1.02, "bias": 0.05, "step": 0.3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnostics.warn(Chains(np.zeros((1, 3, 2)), np.ones(3), **fine), stacklevel=1)
        diagnostics.warn(Chains(np.zeros((1, 3, 2)), np.ones(3)), stacklevel=1)
