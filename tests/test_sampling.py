"""Samplers: each step by hand, stationary laws in closed form, seeds, what they report."""

import dataclasses
import functools
import gc
import types
import warnings
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.diagnostics import ChainsWarning
from deen_tf.sampling import annealed_langevin, hamiltonian, langevin, walk_jump
from deen_tf.training import noise
from deen_tf.transitions import ACCEPT, MOVE

MIXTURE = deen.datasets.GaussianMixture(
    [[-1.0, 0.0], [1.0, 0.5]],
    [[[0.5, 0.2], [0.2, 0.3]], [[0.2, 0.0], [0.0, 0.6]]],
    [1, 3],
)
S2 = 0.49
# Most chains here are as short as their test needs; what samplers say of chains is tested
# below, and in test_diagnostics.
pytestmark = pytest.mark.filterwarnings("ignore::deen_tf.diagnostics.ChainsWarning")


class Squares(keras.layers.Layer):
    """Experts x_i^2 / 2 s^2."""

    def call(self, x):
        return tf.square(x) / (2 * S2)


def gaussian(**kwargs):
    """A model of the package with a known law, N(0, s^2 I)."""
    return deen.DEEN(network=Squares(), **kwargs)


@dataclasses.dataclass
class Normal:
    """N(0, diag(v)) in NumPy, of points of any shape; as a dataclass it has no hash."""

    v: np.ndarray | float = 1.0

    def energy(self, x):
        return (x**2 / (2 * self.v)).reshape(len(x), -1).sum(1)

    def score(self, x):
        return -x / self.v


class TensorMixture:
    """Means -m and m with weights 1 - w and w, unit scale, at all noise levels."""

    compute_dtype = "float64"
    m, w = np.array([4.0, 0.0]), 0.2

    def smoothed(self, sigma):
        energy, score = (
            functools.partial(f, sigma=sigma) for f in (self.energy, self.score)
        )
        return types.SimpleNamespace(energy=energy, score=score)

    def energy(self, x, sigma):
        v = 1 + sigma**2
        a = [np.log(w) - tf.reduce_sum((x - m) ** 2, 1) / (2 * v)
             for w, m in ((1 - self.w, -self.m), (self.w, self.m))]  # fmt: skip
        return -tf.reduce_logsumexp(tf.stack(a), axis=0)

    def score(self, x, sigma):
        if not tf.is_tensor(x):
            return self.score(tf.constant(x), sigma).numpy()
        with tf.GradientTape() as tape:
            tape.watch(x)
            energy = self.energy(x, sigma)
        return -tape.gradient(energy, x)


def draws(seed, step, n, d):
    """The normals that a sampler uses, by the documented keys."""
    number = np.uint64((seed & 0xFFFFFFFF) << 32).astype("int64") + step
    keys = [noise.key(0, number, stream, seed >> 32) for stream in (MOVE, ACCEPT)]
    move = noise.standard_normal((n, d), keys[0], "float64")
    accept = noise.standard_normal((n, 2), keys[1], "float64")
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
    """On E = |x|^2 / 2 the exact trajectory is a rotation: x cos t + p sin t."""
    n, t = 200, 1.0
    x = np.random.default_rng(0).normal(size=(n, 2))
    p, _ = draws(0, 0, n, 2)
    errors = []
    for leapfrogs in (10, 20):
        settings = {"step": t / leapfrogs, "leapfrogs": leapfrogs, "steps": 1}
        end = hamiltonian(Normal(), x, **settings).states[-1]
        moved = (end != x).any(1)
        assert moved.mean() > 0.9
        exact = x * np.cos(t) + p * np.sin(t)
        errors.append(np.abs(end - exact)[moved].mean())
    # Halving the step over the same time divides the error by 4.
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_mala_is_one_leapfrog_of_the_root_of_twice_the_step():
    x = MIXTURE.sample(300, seed=0)
    mala = langevin(MIXTURE, x, step=0.18, steps=9, seed=1, adjusted=True)
    one = hamiltonian(MIXTURE, x, step=0.6, leapfrogs=1, steps=9, seed=1)
    np.testing.assert_allclose(mala.states, one.states, rtol=1e-9)
    np.testing.assert_array_equal(mala.acceptance, one.acceptance)


@pytest.mark.parametrize("sampler, settings, each", [
    (langevin, {}, 1),
    (langevin, {"adjusted": True}, 1),
    (hamiltonian, {"leapfrogs": 5}, 5),
])  # fmt: skip
def test_nothing_is_asked_twice(sampler, settings, each):
    """Each point of a trajectory is asked for its score once; so are ends for an energy."""
    asked = {"score": [], "energy": []}

    class Counting(Normal):
        def energy(self, x):
            asked["energy"].append(x)
            return super().energy(x)

        def score(self, x):
            asked["score"].append(x)
            return super().score(x)

    counts = []
    for steps in (40, 140):  # what a run costs besides its steps is the same for both
        asked["score"].clear(), asked["energy"].clear()
        sampler(Counting(), np.ones((3, 2)), step=0.1, steps=steps, kept=1, **settings)
        counts.append((len(asked["score"]), len(asked["energy"])))
    scores, energies = np.subtract(counts[1], counts[0])
    assert scores == 100 * each
    adjusted = sampler is hamiltonian or settings
    assert energies == (100 if adjusted else 0)


class TestUnadjustedLangevinIsBiasedAsItSays:
    """N(0, v): x' = (1 - h/v) x + sqrt(2h) nu stays at v / (1 - h / 2v)."""

    @pytest.mark.parametrize("density, h", [(Normal(S2), 0.05), (gaussian(), 0.3)])
    def test_variance(self, density, h):
        n, variance = 40_000, S2 / (1 - h / (2 * S2))
        x = np.random.default_rng(0).normal(size=(n, 1))
        x *= np.sqrt(variance) / x.std()
        chains = langevin(density, x, step=h, steps=30, seed=1)
        end = chains.states[-1]
        # Five standard errors of a variance.
        assert end.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / n))
        # The test sees what adjustment mends at the larger step.
        if h == 0.3:
            assert abs(end.var() / S2 - 1) > 10 * np.sqrt(2 / n)
        # Of 30 steps: fewer than twice 30 (1 - rho^2) independent squares of each chain.
        assert chains.bias == pytest.approx(variance / S2 - 1, rel=5 * np.sqrt(2 / n))
        assert (chains.acceptance == 1).all()

    def test_bias_is_the_mean_over_the_axes(self):
        v, h, n = np.array([0.5, 1.0, 4.0]), 0.3, 20_000
        wanted = 1 / (1 - h / (2 * v)) - 1
        x = np.sqrt(v * (1 + wanted)) * np.random.default_rng(0).normal(size=(n, 3))
        chains = langevin(Normal(v), x, step=h, steps=20, seed=1)
        # The starts alone, were the steps all alike: |psi|^2 varies by sqrt(2) of its mean.
        error = 5 * np.sqrt(2 * np.mean(wanted**2) / (3 * n))
        assert chains.bias == pytest.approx(wanted.mean(), abs=error)

    def test_bias_is_the_error_in_stein_s_identity(self):
        """E[x . psi] = -d (1 + b) of a stationary chain, on a density that is no Gaussian."""
        n, h, d = 20_000, 0.25, 2
        chains = langevin(MIXTURE, MIXTURE.sample(n, 0), step=h, steps=40, warmup=30)
        x = chains.states[-1]
        virial = (x * MIXTURE.score(x)).sum(1) / d
        error = 5 * virial.std() / np.sqrt(n)
        assert error < 0.2 * chains.bias  # a test with force
        assert virial.mean() == pytest.approx(-1 - chains.bias, abs=error)


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
        y = sampler(gaussian(), x, steps=80, seed=2, **settings).states[-1]
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
        law = deen.datasets.GaussianMixture([[0.0, 0.0]], S2**0.5)
        ours, exact = (
            hamiltonian(density, self.x, step=0.2, leapfrogs=3, steps=5).states
            for density in (gaussian(), law)
        )
        # float32 against float64, over five steps.
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-5)

    def test_a_score_alone_walks_but_cannot_be_adjusted(self):
        model = deen.DSM(hidden_units=(4,))
        assert langevin(model, self.x, step=0.1, steps=2).states.shape == (1, 10, 2)
        with pytest.raises(TypeError, match="mala needs an energy, and DSM has only"):
            langevin(model, self.x, step=0.1, steps=2, adjusted=True)
        with pytest.raises(TypeError, match="hamiltonian needs an energy"):
            hamiltonian(model, self.x, step=0.1, steps=2, leapfrogs=1)

    def test_training_on_changes_the_chains(self):
        """The compiled program reads the weights as they are, not as they were."""
        model = deen.DEEN(hidden_units=(4,))
        model.compile()
        before = langevin(model, self.x, step=0.1, steps=3).states
        for weights in model.trainable_variables:
            weights.assign(3.0 * weights)
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
    chains = hamiltonian(gaussian(), x, step=1e20, leapfrogs=3, steps=2)
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


# ---- seeds ---------------------------------------------------------------------------


def test_every_bit_of_the_seed_counts():
    seeds = [0, 1, *(2**k for k in (16, 30, 31, 32, 33, 48, 62, 63)), 2**64 - 1]
    x = np.zeros((4, 2))
    ends = [langevin(Normal(), x, step=0.5, steps=1, seed=s).states[-1] for s in seeds]
    assert len(np.unique(np.round(ends, 6), axis=0)) == len(seeds)
    for seed, end in zip(seeds, ends, strict=True):
        np.testing.assert_allclose(end, draws(seed, 0, 4, 2)[0], rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"seed must be below 2\^64, got 18446744073709"
    ):
        langevin(Normal(), x, step=0.5, steps=1, seed=2**64)


# ---- a step found in a warm-up -------------------------------------------------------


class TestStepFound:
    x = np.random.default_rng(0).normal(size=(200, 10))

    def test_langevin_widens_by_five_per_cent(self):
        """1 / (1 - h / 2v) = 1.05."""
        chains = langevin(Normal(3.0), 3**0.5 * self.x, steps=200, seed=1)
        assert chains.step == pytest.approx(2 * 3.0 * (1 - 1 / 1.05), rel=0.05)
        assert chains.bias == pytest.approx(0.05, rel=0.1)
        # From a sample of the density the first guess is that already, h = 0.1 v.
        guess = langevin(Normal(3.0), 3**0.5 * self.x, steps=4, warmup=1).step
        assert guess == pytest.approx(0.3, rel=0.15)

    @pytest.mark.parametrize("start", (0.01, 1.0, 10.0))
    @pytest.mark.parametrize("sampler, settings, rate", [
        (langevin, {"adjusted": True}, 0.574), (hamiltonian, {"leapfrogs": 6}, 0.8),
    ])  # fmt: skip
    def test_exact_samplers_accept_as_they_should(self, sampler, settings, rate, start):
        chains = sampler(Normal(), start * self.x, steps=300, seed=1, **settings)
        assert chains.acceptance.mean() == pytest.approx(rate, abs=0.05)

    def test_one_chain_is_enough(self):
        chains = langevin(
            Normal(), self.x[:1], steps=2000, warmup=1000, adjusted=True, seed=3
        )
        assert chains.acceptance.mean() == pytest.approx(0.574, abs=0.08)

    @pytest.mark.parametrize("sampler, settings, power", [
        (langevin, {}, 2),
        (langevin, {"adjusted": True}, 2),
        (hamiltonian, {"leapfrogs": 3}, 1),
    ])  # fmt: skip
    def test_it_has_the_units_of_the_points(self, sampler, settings, power):
        """x -> a x makes h -> a^2 h, e -> a e, and chains that are the same."""
        runs = [
            sampler(Normal(a**2), a * self.x, steps=10, warmup=20, seed=1, **settings)
            for a in (1.0, 2.0**-20, 2.0**30)
        ]
        for run, a in zip(runs, (1.0, 2.0**-20, 2.0**30), strict=True):
            assert run.step == pytest.approx(a**power * runs[0].step, rel=1e-6)
            scale = np.abs(runs[0].states).max()
            np.testing.assert_allclose(
                run.states / a, runs[0].states, atol=1e-5 * scale
            )

    def test_the_warm_up_is_not_returned_and_not_counted(self):
        """Six steps after four are the last of ten; a warm-up of a given step burns in."""
        all_ten = langevin(MIXTURE, self.x[:, :2], step=0.1, steps=10, kept=5, seed=1)
        six = langevin(
            MIXTURE, self.x[:, :2], step=0.1, steps=6, warmup=4, kept=3, seed=1
        )
        np.testing.assert_allclose(six.states, all_ten.states[2:], rtol=1e-12)
        assert (six.acceptance == 1).all()
        assert six.step == 0.1

    def test_no_step_where_nothing_pulls(self):
        with pytest.raises(ValueError, match="no step can be guessed"):
            langevin(Normal(), np.zeros((3, 2)), steps=10)


# ---- what a program remembers --------------------------------------------------------


@dataclasses.dataclass
class TensorNormal:
    """N(0, v I) in TensorFlow."""

    v: float = 1.0
    compute_dtype: str = "float64"

    def score(self, x):
        return -x / self.v


@pytest.mark.parametrize("cls", (Normal, TensorNormal))
def test_a_changed_attribute_counts_at_once(cls):
    x = np.ones((5, 2))
    density = cls(1.0)
    first = langevin(density, x, step=0.1, steps=2).states
    density.v = 0.5
    changed = langevin(density, x, step=0.1, steps=2).states
    np.testing.assert_array_equal(
        changed, langevin(cls(0.5), x, step=0.1, steps=2).states
    )
    assert abs(changed - first).max() > 0.05


def test_a_changed_sigma_counts_at_once():
    """The score of an autoencoder is (r(x) - x) / sigma^2."""
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    model, other = (
        deen.DenoisingAutoencoder(hidden_units=(4,), sigma=s) for s in (0.5, 1.0)
    )
    first = langevin(model, x, step=0.1, steps=2).states
    other.denoise(x)
    other.set_weights(model.get_weights())
    model.sigma = other.sigma = 1.0
    changed = langevin(model, x, step=0.1, steps=2).states
    np.testing.assert_allclose(
        changed, langevin(other, x, step=0.1, steps=2).states, rtol=1e-5
    )
    assert abs(changed - first).max() > 0.05


def test_a_model_keeps_its_program_and_takes_it_along(monkeypatch):
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    model = deen.DEEN(hidden_units=(4,))
    langevin(model, x, step=0.1, steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(deen.DEEN, "energy_at", None)  # nothing is traced any more
        langevin(model, x[:3], step=0.2, steps=4, seed=1)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("cls", (Normal, TensorNormal))
def test_a_density_is_let_go(cls):
    density = cls()
    langevin(density, np.ones((5, 2)), step=0.1, steps=2)
    alive = weakref.ref(density)
    del density
    gc.collect()
    assert alive() is None


# ---- points of any shape -------------------------------------------------------------


@pytest.mark.parametrize("sampler, settings", [
    (langevin, {"step": 0.2}),
    (langevin, {"adjusted": True}),
    (hamiltonian, {"step": 0.5, "leapfrogs": 3}),
])  # fmt: skip
def test_images_walk_as_their_pixels_do(sampler, settings):
    v = np.random.default_rng(1).uniform(0.5, 2, size=(4, 3, 2))
    x = np.random.default_rng(0).normal(size=(7, 4, 3, 2))
    images = sampler(Normal(v), x, steps=12, kept=3, seed=5, **settings)
    rows = sampler(
        Normal(v.ravel()), x.reshape(7, -1), steps=12, kept=3, seed=5, **settings
    )
    assert images.states.shape == (3, 7, 4, 3, 2)
    np.testing.assert_allclose(images.states.reshape(3, 7, -1), rows.states, rtol=1e-9)
    np.testing.assert_allclose(images.acceptance, rows.acceptance)
    for name in ("step", "r_hat", "ess", "bias"):
        assert getattr(images, name) == pytest.approx(getattr(rows, name), nan_ok=True)
    np.testing.assert_array_equal(images.escaped, rows.escaped)


def test_a_convolutional_model_walks_and_jumps():
    network = keras.Sequential([
        keras.layers.Conv2D(3, 3, activation="tanh"), keras.layers.Conv2D(2, 3),
    ])  # fmt: skip
    model = deen.DEEN(network=network, sigma=0.3)
    xi = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype("float32")
    x_hat, walk = walk_jump(model, xi, step=0.01, steps=4, kept=2, seed=3)
    assert x_hat.shape == walk.states.shape == (2, 6, 8, 8, 1)
    # One step by hand.
    step = langevin(model, xi, step=0.01, steps=1, seed=3).states[-1]
    nu = draws(3, 0, 6, 64)[0].reshape(xi.shape)
    wanted = xi + 0.01 * model.score(xi) + np.sqrt(0.02) * nu
    np.testing.assert_allclose(step, wanted, atol=1e-5)
    with pytest.raises(ValueError, match=r"shape \(n, 8, 8, 1\), got \(6, 8, 8\)"):
        langevin(model, xi[..., 0], step=0.01, steps=1)


# ---- down the noise levels -----------------------------------------------------------


def test_an_ancestral_step_is_exact_where_the_clean_point_is_known():
    # Of data at one point the clean point is known from any level: one step from 3 to 0.5
    # leaves noise of 0.5 about it, where without the chains would still be at 3.
    law = deen.laws.Gaussian(np.full(4, 2.0), 1e-12 * np.eye(4))
    x = 2 + 3 * np.random.default_rng(0).normal(size=(5000, 4))
    settings = {"ratio": 1e-9, "denoise": False, "seed": 1}
    for ancestral, wanted in ((True, 0.5), (False, 3.0)):
        end = annealed_langevin(law, x, [3.0, 0.5], 1, ancestral=ancestral, **settings)
        z = (end.states[-1] - 2) / wanted
        # Means and standard deviations of 5000 are known to 0.014 and 0.01.
        assert np.abs(z.mean(0)).max() < 0.06
        assert np.abs(z.std(0) - 1).max() < 0.04
    # and of a Gaussian as wide as the noise, from the law of the level above: from 1.5 to 1
    law = deen.laws.Gaussian(np.zeros(1), np.eye(1))
    x = np.sqrt(1 + 1.5**2) * np.random.default_rng(2).normal(size=(20_000, 1))
    settings |= {"ancestral": True}
    end = annealed_langevin(law, x, [1.5, 1.0], 1, **settings).states[-1]
    # x' = x (1 - 1.25 / 3.25) + sqrt(1.25) / 1.5 nu
    wanted = 3.25 * (2 / 3.25) ** 2 + 1.25 / 1.5**2
    assert abs(end.var() / wanted - 1) < 0.04  # known to 0.01


class TestAnnealed:
    @pytest.mark.parametrize("cls", ("law", "tensors"))
    def test_white_noise_finds_the_mass_of_every_mode(self, cls):
        """Modes eight widths apart, 0.8 and 0.2: no chain of one level would change sides."""
        n, sigmas = 4000, np.geomspace(20, 0.2, 40)
        law = deen.datasets.GaussianMixture([[-4.0, 0], [4.0, 0]], 1.0, [4, 1])
        model = law if cls == "law" else TensorMixture()
        # Wide noise: the law smoothed by 20 is N((-2.4, 0), ...) to 3%.
        start = sigmas[0] * np.random.default_rng(0).normal(size=(n, 2))
        x = annealed_langevin(model, start, sigmas, 30, seed=1).states[-1]
        right = x[:, 0] > 0
        # A chain chooses its side at widths near 4, where 30 steps of a tenth of sigma^2 a
        # level, ten levels each halving: the choice is in balance. 4.5 standard errors.
        assert right.mean() == pytest.approx(0.2, abs=4.5 * np.sqrt(0.16 / n))
        for side, sign in ((right, 1), (~right, -1)):
            k = side.sum()
            assert x[side].mean(0) == pytest.approx([4 * sign, 0], abs=4.5 / np.sqrt(k))
            # p_0.2 has variance 1.04, of which x_hat keeps 1 / 1.04; the chain's last
            # step of 0.004 widens nothing, those before it forget by 30 (2 h) = 0.24 a
            # level: at most the width of the level four before, 0.32, is left in it.
            assert x[side].var(0) == pytest.approx(
                [1, 1], abs=0.06 + 4.5 * np.sqrt(2 / k)
            )

    def test_one_level_is_langevin_and_the_last_step_is_eq_11(self):
        x = MIXTURE.sample(50, 0)
        law = MIXTURE.smoothed(0.5)
        settings = {"ratio": 0.2, "seed": 2}
        noisy = annealed_langevin(MIXTURE, x, [0.5], 7, denoise=False, **settings)
        plain = langevin(law, x, step=0.2 * 0.25, steps=7, seed=2)
        np.testing.assert_allclose(noisy.states, plain.states, rtol=1e-12)
        assert noisy.step == pytest.approx(0.05)
        assert noisy.bias == pytest.approx(plain.bias)
        clean = annealed_langevin(MIXTURE, x, [0.5], 7, **settings)
        np.testing.assert_allclose(clean.states[-1], law.denoise(plain.states[-1]))

    @pytest.mark.parametrize("adjusted", (False, True))
    def test_levels_follow_one_another(self, adjusted):
        """Two levels are one, and then another from where that ended; MALA at each."""
        x, sigmas = MIXTURE.sample(50, 0), (1.0, 0.5)
        settings = {"ratio": 0.2, "seed": 2, "denoise": False, "adjusted": adjusted}
        both = annealed_langevin(MIXTURE, x, sigmas, 3, kept=2, **settings)
        first = annealed_langevin(MIXTURE, x, sigmas[:1], 3, **settings)
        np.testing.assert_allclose(both.states[0], first.states[-1], rtol=1e-12)
        # The second level's own steps are numbered on: 3, 4, 5.
        y, h, law = both.states[0], 0.2 * 0.25, MIXTURE.smoothed(0.5)
        if adjusted:
            assert 0.5 < both.acceptance.mean() < 1
            return
        for step in (3, 4, 5):
            nu, _ = draws(2, step, 50, 2)
            y = y + h * law.score(y) + np.sqrt(2 * h) * nu
        np.testing.assert_allclose(both.states[1], y, rtol=1e-9)

    def test_adjusted_steps_are_exact_at_each_level(self):
        n = 20_000
        x = 2.0 * np.random.default_rng(0).normal(size=(n, 1))
        model = types.SimpleNamespace(smoothed=lambda sigma: Normal(1 + sigma**2))
        chains = annealed_langevin(
            model, x, np.geomspace(2, 1, 10), 20, ratio=1.0, adjusted=True,
            denoise=False,
        )  # fmt: skip
        y = chains.states[-1]
        assert y.var() == pytest.approx(2, rel=4.5 * np.sqrt(2 / n))
        plain = annealed_langevin(
            model, x, np.geomspace(2, 1, 10), 20, ratio=1.0, denoise=False
        )
        assert plain.states[-1].var() > 2.4  # 2 / (1 - h / 2v) = 2.67

    def test_laws_and_models_agree_and_a_model_has_one_program(self):
        law = deen.datasets.GaussianMixture([[-4.0, 0], [4.0, 0]], 1.0, [4, 1])
        levels = []

        class Recording(TensorMixture):
            def score(self, x, sigma):
                levels.append(sigma)
                return super().score(x, sigma)

        x, sigmas = law.sample_smoothed(20, 3.0, 0), np.geomspace(3, 0.1, 25)
        ours = annealed_langevin(Recording(), x, sigmas, 2, seed=4)
        exact = annealed_langevin(law, x, sigmas, 2, seed=4)
        np.testing.assert_allclose(ours.states, exact.states, rtol=1e-9)
        assert (
            len(levels) < 10
        )  # once for each function that is traced, not for each level

    def test_a_model_of_several_levels_has_one_program(self, monkeypatch):
        model = deen.DEEN(hidden_units=(8,), sigma=(0.1, 3.0))
        x = np.random.default_rng(0).normal(size=(9, 2)).astype("float32")
        model.energy(x, 1.0)
        for weights in model.trainable_variables:  # it begins as a Gaussian
            weights.assign_add(0.1 * tf.ones_like(weights))
        settings = {"ratio": 0.2, "seed": 3, "denoise": False}
        two = annealed_langevin(model, x, [2.0, 1.0], 1, kept=2, **settings)
        with monkeypatch.context() as patch:
            patch.setattr(deen.DEEN, "energy_at", None)  # nothing is traced any more
            again = annealed_langevin(model, x, [2.0, 1.0], 1, kept=2, **settings)
        np.testing.assert_array_equal(two.states, again.states)
        for step, sigma, end in zip((0, 1), (2.0, 1.0), two.states, strict=True):
            h, nu = 0.2 * sigma**2, draws(3, step, 9, 2)[0]
            x = x + h * model.score(x, sigma) + np.sqrt(2 * h) * nu
            np.testing.assert_allclose(end, x, rtol=1e-4, atol=1e-5)
            x = end

    def test_every_level_must_lie_in_the_range_that_a_model_knows(self, monkeypatch):
        model = deen.DEEN(hidden_units=(8,), sigma=(0.05, 10.0))
        x = np.random.default_rng(0).normal(size=(9, 2))
        model.adapt(x)
        monkeypatch.setattr(deen.DEEN, "score", None)  # no work is done before
        with pytest.raises(
            ValueError, match=r"sigma must lie within \(0.05, 10.0\).*got \[0.0001\]"
        ):
            annealed_langevin(model, x, [0.5, 1e-4], 20)

    def test_a_model_of_several_levels_is_sampled_at_one(self):
        model = deen.DEEN(hidden_units=(8,), sigma=(0.1, 3.0))
        x = np.random.default_rng(0).normal(size=(9, 2))
        model.adapt(x)
        for run in (langevin, walk_jump, functools.partial(hamiltonian, leapfrogs=2)):
            with pytest.raises(ValueError, match=r"give model.smoothed\(sigma\)"):
                run(model, x, step=0.01, steps=1)
        langevin(model.smoothed(1.0), x, step=0.01, steps=1)

    @pytest.mark.parametrize("settings, error, message", [
        ({"model": Normal()}, TypeError, "needs a model with smoothed, got Normal"),
        ({"sigmas": (0.1, 0.2)}, ValueError, r"must fall from level to level, got \[0.1"),
        ({"sigmas": (0.1, 0.1)}, ValueError, "must fall"),
        ({"sigmas": ()}, ValueError, "must fall"),
        ({"sigmas": 1.0}, TypeError, "sigmas must be a sequence of noise levels, got 1"),
        ({"sigmas": (1.0, 0.0)}, ValueError, "each of sigmas must be positive"),
        ({"kept": 2}, ValueError, "kept must divide the 3 levels, got 2"),
        ({"steps_per_level": 0}, ValueError, "steps_per_level must be at least 1"),
        ({"ratio": -1.0}, ValueError, "ratio must be positive"),
    ])  # fmt: skip
    def test_bad_arguments_are_named(self, settings, error, message):
        arguments = {"model": MIXTURE, "x": MIXTURE.sample(3, 0), "sigmas": (3, 2, 1)}
        arguments |= {"steps_per_level": 2} | settings
        with pytest.raises(error, match=message):
            annealed_langevin(**arguments)


# ---- what samplers say of their chains -----------------------------------------------


class TestChainsAreReported:
    @pytest.mark.long
    def test_good_chains_are_not_warned_of(self):
        x = MIXTURE.sample(200, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runs = [
                langevin(MIXTURE, x, steps=1500, adjusted=True),
                langevin(MIXTURE, x, steps=1500),
                hamiltonian(MIXTURE, x, steps=300, leapfrogs=4),
            ]
        for run in runs:
            assert run.r_hat < 1.1
            assert run.ess > 200
            assert not run.escaped.any()

    def test_chains_that_stay_where_they_started(self):
        far = deen.datasets.GaussianMixture([[-5.0, 0.0], [5.0, 0.0]], 0.5)
        with pytest.warns(ChainsWarning, match="too short to forget .*R-hat = 1.[5-9]"):
            chains = langevin(far, far.sample(100, 0), step=0.02, steps=400)
        assert chains.r_hat > 1.5
        # Each half of a chain is worth one draw of the first coordinate: 200 of 3200.
        assert chains.ess == pytest.approx(200, rel=0.1)

    def test_a_step_that_is_too_large(self):
        """Ten times the spread: h / 2v = 0.99 makes 100 times the variance."""
        x = np.random.default_rng(0).normal(size=(500, 2))
        with pytest.warns(ChainsWarning, match="too large: it widens the density by"):
            chains = langevin(Normal(), x, step=1.98, steps=1000)
        assert chains.states[-1].std() == pytest.approx(10, rel=0.1)
        assert chains.bias == pytest.approx(99, rel=0.15)

    @pytest.mark.long
    def test_chains_that_leave_a_trained_energy(self):
        """A tanh network's energy is flat where there were no data: MALA from N(0, 9)."""
        law = deen.datasets.GaussianMixture.ring(modes=8, std=0.15)
        model = deen.DEEN(hidden_units=(32, 32, 32), sigma=0.1, seed=0)
        model.compile()
        model.fit(law.sample(20_000, 0), batch_size=1000, epochs=20, verbose=0)
        noise = 3 * np.random.default_rng(1).normal(size=(1000, 2))
        data = law.sample_smoothed(1000, 0.1, 1)
        lost = []
        for start in (noise, data):
            with pytest.warns(ChainsWarning, match="of 1000 chains have escaped"):
                chains = langevin(model, start, step=0.01, steps=1000, adjusted=True)
            r = np.linalg.norm(chains.states[-1], axis=1)
            assert chains.escaped[r > 3].mean() > 0.9
            # The data, with their noise, end at 2.2.
            assert chains.escaped[r < 2.2].mean() < 0.01
            lost.append(chains.escaped.mean())
        # From the data too some leak out of so shallow an energy.
        assert 0.2 < lost[0] < 0.5
        assert 0 < lost[1] < 0.1

    def test_a_score_alone_cannot_tell_who_escaped(self):
        chains = langevin(TensorNormal(), np.ones((5, 2)), step=0.1, steps=8)
        assert chains.escaped is None
        assert chains.r_hat > 0


@pytest.mark.parametrize("density, x, error, message", [
    (Normal, np.ones((3, 2)), TypeError, "must have a method score, got <class"),
    (Normal(), np.ones(3), ValueError, r"shape \(n, d\) or \(n, ...\), got \(3,\)"),
    (Normal(0.0), np.ones((3, 2)), ValueError, "not finite at 3 of the 3 starts"),
    (Normal(np.array([1, 0])), [[1, 1]], ValueError, "starts, the first of them row 0"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_densities_and_starts(density, x, error, message):
    with pytest.raises(error, match=message):
        langevin(density, x, step=0.1, steps=2)
