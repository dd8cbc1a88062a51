"""Samplers: each step by hand, stationary laws in closed form, seeds."""

import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf import noise, sampling
from deen_tf.sampling import ACCEPT, MOVE, hamiltonian, langevin, walk_jump

MIXTURE = deen.datasets.GaussianMixture(
    [[-1.0, 0.0], [1.0, 0.5]],
    [[[0.5, 0.2], [0.2, 0.3]], [[0.2, 0.0], [0.0, 0.6]]],
    [1, 3],
)


class Gaussian(deen.DEEN):
    """E = |x|^2 / 2 s^2: a model of the package with a known law."""

    s = 0.7

    def build(self, input_shape):
        self.dimension = input_shape[-1]
        self.built = True

    def call(self, x):
        return tf.reduce_sum(x**2, axis=1) / (2 * self.s**2)


def draws(seed, step, n, d):
    """The normals that a sampler uses, by the documented keys."""
    number = (seed << 32) + step
    move = noise.standard_normal((n, d), noise.key(0, number, MOVE), "float64")
    accept = noise.standard_normal((n, 2), noise.key(0, number, ACCEPT), "float64")
    return move.numpy(), (accept.numpy() ** 2).sum(1) / 2


class TestOneStepByHand:
    x = MIXTURE.sample(500, seed=0).astype("float64")

    def test_langevin(self):
        nu, _ = draws(3, 0, 500, 2)
        chains = langevin(MIXTURE, self.x, step=0.2, steps=1, seed=3)
        wanted = self.x + 0.2 * MIXTURE.score(self.x) + np.sqrt(0.4) * nu
        np.testing.assert_allclose(chains.states[-1], wanted, rtol=1e-10)
        assert (chains.acceptance == 1).all()

    def test_mala_accepts_by_the_ratio_of_densities(self):
        nu, e = draws(3, 0, 500, 2)
        h = 0.4
        chains = langevin(MIXTURE, self.x, step=h, steps=1, seed=3, adjusted=True)
        x_new = self.x + h * MIXTURE.score(self.x) + np.sqrt(2 * h) * nu

        def joint(a, b):  # p(a) g(b|a)
            mean = a + h * MIXTURE.score(a)
            g = np.exp(-((b - mean) ** 2).sum(1) / (4 * h)) / (4 * np.pi * h)
            return np.exp(-MIXTURE.energy(a)) * g

        ratio = joint(x_new, self.x) / joint(self.x, x_new)
        accept = np.exp(-e) < ratio
        assert 0.3 < accept.mean() < 0.9  # both branches are seen
        wanted = np.where(accept[:, None], x_new, self.x)
        np.testing.assert_allclose(chains.states[-1], wanted, rtol=1e-9)
        np.testing.assert_array_equal(chains.acceptance, accept)

    def test_hamiltonian(self):
        p, e = draws(3, 0, 500, 2)
        chains = hamiltonian(MIXTURE, self.x, step=0.5, leapfrogs=4, steps=1, seed=3)
        x, q = self.x, p
        for _ in range(4):  # half, whole, half: the leapfrog step as it is defined
            q = q + 0.25 * MIXTURE.score(x)
            x = x + 0.5 * q
            q = q + 0.25 * MIXTURE.score(x)
        rise = MIXTURE.energy(x) + (q**2).sum(1) / 2
        rise -= MIXTURE.energy(self.x) + (p**2).sum(1) / 2
        accept = e > rise
        assert 0.3 < accept.mean() < 0.97
        wanted = np.where(accept[:, None], x, self.x)
        np.testing.assert_allclose(chains.states[-1], wanted, rtol=1e-9)


def test_acceptance_is_with_probability_min_1_exp():
    """e = (z1^2 + z2^2) / 2 has P(e > a) = exp(-a)."""
    _, e = draws(0, 0, 200_000, 1)
    for a in (0.1, 1.0, 3.0):
        p = np.exp(-a)
        assert abs((e > a).mean() - p) < 5 * np.sqrt(p * (1 - p) / len(e))


def test_leapfrog_is_of_second_order():
    x, p = np.random.default_rng(0).normal(size=(2, 200, 2))
    energy, score = MIXTURE.energy, MIXTURE.score
    rises = []
    for step, count in ((0.2, 5), (0.1, 10)):
        _, rise = sampling._leapfrog(
            lambda u: tf.constant(energy(u.numpy())),
            lambda u: tf.constant(score(u.numpy())),
            tf.constant(x),
            step,
            tf.constant(p),
            count,
        )
        rises.append(np.abs(rise).mean())
    # Halving the step over the same time divides the error in H by 4.
    assert rises[0] / rises[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("h", (0.05, 0.3))
def test_unadjusted_langevin_has_its_own_stationary_variance(h):
    """N(0, s^2): x' = (1 - h/s^2) x + sqrt(2h) nu stays at s^2 / (1 - h / 2 s^2)."""
    s2, n = 0.49, 40_000
    variance = s2 / (1 - h / (2 * s2))
    x = np.random.default_rng(0).normal(size=(n, 1))
    x *= np.sqrt(variance) / x.std()
    steps = 60
    end = langevin(Gaussian(), x, step=h, steps=steps, seed=1).states[-1]
    # Five standard errors of a variance.
    assert end.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / n))
    # The test sees what adjustment mends at the larger step.
    if h == 0.3:
        assert abs(end.var() / s2 - 1) > 10 * np.sqrt(2 / n)


@pytest.mark.parametrize(
    "sampler, settings",
    [
        (langevin, {"step": 0.3, "adjusted": True}),
        (hamiltonian, {"step": 0.45, "leapfrogs": 3}),
    ],
)
class TestExactSamplersLeaveTheLawInvariant:
    def test_mixture(self, sampler, settings):
        """Moments of 10,000 chains that start in the law, within 4.5 standard errors."""
        n = 10_000
        x = MIXTURE.sample(n, seed=0)
        chains = sampler(MIXTURE, x, steps=20, seed=2, **settings)
        y = chains.states[-1]
        # Many rejections, and yet the chains have moved: a test with force.
        assert 0.4 < chains.acceptance.mean() < 0.97
        assert np.corrcoef(x[:, 1], y[:, 1])[0, 1] < 0.3
        mean = MIXTURE.weights @ MIXTURE.means
        second = np.einsum(
            "k,kij->ij",
            MIXTURE.weights,
            MIXTURE.covariances + MIXTURE.means[:, :, None] * MIXTURE.means[:, None],
        )
        squares = np.einsum("ni,nj->nij", y, y)
        error = y.std(0) / np.sqrt(n)
        assert (abs(y.mean(0) - mean) < 4.5 * error).all()
        error = squares.std(0) / np.sqrt(n)
        assert (abs(squares.mean(0) - second) < 4.5 * error).all()
        energy = MIXTURE.energy(y)
        exact = MIXTURE.energy(MIXTURE.sample(200_000, seed=9))
        error = energy.std() * np.sqrt(1 / n + 1 / 200_000)
        assert abs(energy.mean() - exact.mean()) < 4.5 * error

    def test_compiled_model_from_a_wrong_start(self, sampler, settings):
        n, s2 = 20_000, 0.49
        x = np.random.default_rng(0).uniform(-3, 3, size=(n, 2))
        y = sampler(Gaussian(), x, steps=80, seed=2, **settings).states[-1]
        assert abs(y.mean(0)).max() < 4.5 * np.sqrt(s2 / n)
        assert y.var(0) == pytest.approx([s2, s2], rel=4.5 * np.sqrt(2 / n))


class TestUse:
    x = MIXTURE.sample(10, seed=0)

    def test_seeds_and_kept_states(self):
        runs = [
            langevin(MIXTURE, self.x, step=0.1, steps=6, seed=seed, kept=kept).states
            for seed, kept in ((1, 1), (1, 3), (2, 1))
        ]
        assert runs[1].shape == (3, 10, 2)
        np.testing.assert_array_equal(runs[0][-1], runs[1][-1])
        assert abs(runs[0][-1] - runs[2][-1]).max() > 0.1
        # A chain of two steps is the beginning of one of six.
        two = langevin(MIXTURE, self.x, step=0.1, steps=2, seed=1).states
        np.testing.assert_array_equal(two[-1], runs[1][0])

    def test_numpy_and_compiled_densities_agree(self):
        law = deen.datasets.GaussianMixture([[0.0, 0.0]], Gaussian.s)
        ours, exact = (
            hamiltonian(density, self.x, step=0.2, leapfrogs=3, steps=5).states
            for density in (Gaussian(), law)
        )
        # float32 against float64, over five steps.
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-5)

    def test_a_score_alone_walks_but_cannot_be_adjusted(self):
        model = deen.DSM((4,))
        assert langevin(model, self.x, step=0.1, steps=2).states.shape == (1, 10, 2)
        with pytest.raises(TypeError, match="mala needs an energy, and DSM has only"):
            langevin(model, self.x, step=0.1, steps=2, adjusted=True)
        with pytest.raises(TypeError, match="hamiltonian needs an energy"):
            hamiltonian(model, self.x, step=0.1, steps=2, leapfrogs=1)

    def test_training_on_changes_the_chains(self):
        """The compiled program reads the weights as they are, not as they were."""
        model = deen.DEEN((4,))
        model.compile()
        before = langevin(model, self.x, step=0.1, steps=3).states
        model.last.kernel.assign(3.0 * model.last.kernel)
        after = langevin(model, self.x, step=0.1, steps=3).states
        assert abs(before - after).max() > 1e-3

    @pytest.mark.parametrize(
        "settings, error, message",
        [
            ({"step": 0.0}, ValueError, "step must be positive"),
            ({"steps": 0}, ValueError, "steps must be at least 1"),
            ({"steps": 5, "kept": 2}, ValueError, "kept must divide steps = 5, got 2"),
            ({"seed": -1}, ValueError, "seed must be at least 0"),
            ({"x": [[1.0]]}, ValueError, r"shape \(n, 2\), got \(1, 1\)"),
        ],
    )
    def test_bad_arguments_are_named(self, settings, error, message):
        arguments = {"x": self.x, "step": 0.1, "steps": 4} | settings
        with pytest.raises(error, match=message):
            langevin(MIXTURE, arguments.pop("x"), **arguments)


def test_trajectories_that_overflow_are_rejected():
    x = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
    chains = hamiltonian(Gaussian(), x, step=1e20, leapfrogs=3, steps=2)
    assert (chains.acceptance == 0).all()
    np.testing.assert_array_equal(chains.states[-1], x)


def test_walk_jump_of_a_gaussian():
    """x ~ N(0, s^2): xi has variance s^2 + sigma^2, and x_hat = s^2 / (s^2 + sigma^2) xi."""
    s, sigma, n, h = 0.8, 0.6, 20_000, 0.02
    smoothed = deen.datasets.GaussianMixture([[0.0, 0.0]], s).smoothed(sigma)
    xi = smoothed.sample(n, seed=0)
    x_hat, walk = walk_jump(smoothed, xi, step=h, steps=20, seed=1, kept=2)
    assert x_hat.shape == walk.states.shape == (2, n, 2)
    shrink = s**2 / (s**2 + sigma**2)
    np.testing.assert_allclose(x_hat, shrink * walk.states, rtol=1e-9)
    # Langevin's step of 0.02 adds h / 2 (s^2 + sigma^2) = 1% at most to the variance.
    wanted = shrink * s**2
    assert x_hat[-1].var() == pytest.approx(wanted, rel=0.01 + 5 * np.sqrt(1 / n))
