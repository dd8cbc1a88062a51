"""Samplers: each step by hand, stationary laws in closed form, seeds; and their script."""

import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from scipy.spatial.distance import cdist

import deen_tf as deen
from deen_tf import sampling
from deen_tf.sampling import ACCEPT, MOVE, hamiltonian, langevin, walk_jump
from deen_tf.training import noise

REPRODUCE = pathlib.Path(__file__).parents[1] / "reproduce"
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


# ---- what reproduce/sampling.py says of chains ---------------------------------------


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(REPRODUCE))
    try:
        import chains
        import sampling as plane
        import walks
    finally:
        sys.path.pop(0)
    return types.SimpleNamespace(chains=chains, plane=plane, walks=walks)


class Recorder:
    """A run that remembers its metrics."""

    first = 0

    def __init__(self):
        self.values = {}

    def metric(self, name, value, unit, definition):
        assert unit and definition
        self.values[name] = value


@pytest.mark.parametrize("m", (0.0, 1.5))
def test_energy_distance_of_shifted_normals(script, m):
    """X - Y ~ N(m, 2), and E|N(m, 2)| = 2 / sqrt(pi) exp(-m^2 / 4) + m erf(m / 2)."""
    n = 1000

    def mean(m):
        return 2 / np.sqrt(np.pi) * np.exp(-(m**2) / 4) + m * special.erf(m / 2)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, n, 1))
    found = [
        script.chains.Sample(a).energy_distance(b + m)
        for a, b in zip(x, y, strict=True)
    ]
    # For equal laws too the mean is right: the pairs of a point with itself are left out.
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(2 * mean(m) - 2 * mean(0.0), abs=4 * error)
    assert error < 0.015


@pytest.mark.parametrize(
    "law",
    [
        deen.datasets.GaussianMixture.ring(modes=8, std=0.15),
        deen.datasets.Spiral(),
        deen.datasets.Rings(),
    ],
)
def test_the_fast_exact_density_is_the_laws_own(script, law):
    x = law.sample_smoothed(300, 0.1, seed=3)
    fast, own = script.chains.exact_density(law, 0.1), law.smoothed(0.1)
    psi = own.score(x)
    error = np.sum((fast.score(x) - psi) ** 2) / np.sum(psi**2)
    assert error < 1e-7
    # 0.1% of the smoothed width at the curve's ends.
    np.testing.assert_allclose(fast.energy(x), own.energy(x), atol=0.01)


def test_excess_energy_is_the_steps_error_and_adjustment_takes_it_away(script):
    """N(0, s^2 I) settles at s^2 / (1 - h / 2 s^2): 1 / (1 - h / 2 s^2) - 1 nats."""
    law = deen.datasets.GaussianMixture.ring(modes=1, std=0.15)
    n, h, sigma = 2500, 0.01, 0.1
    exact = script.chains.Exact(
        law,
        {
            "sigma": sigma,
            "exact points": 1000,
            "chains": n,
            "samples for the null ranges": 20,
        },
    )
    s2 = 0.15**2 + sigma**2
    wanted = 1 / (1 - h / (2 * s2)) - 1
    # The energy of a Gaussian in the plane has standard deviation 1, and 95% of |N(0, 1)|
    # are within 1.96; the 19th of 20 lies between 1.3 and 2.7.
    null = exact.metrics["excess_energy_null_95"]
    assert 1.3 < null * np.sqrt(n) < 2.7
    start = exact.noisy.points[np.arange(n) % 1000]
    common = {"step": h, "steps": 30, "seed": 1}
    plain = langevin(exact.density, start, **common).states[-1]
    adjusted = langevin(exact.density, start, adjusted=True, **common).states[-1]
    error = 4.5 / np.sqrt(n)
    assert exact.excess_energy(plain) == pytest.approx(wanted, abs=error * (1 + wanted))
    # The mean of p_sigma's energy is itself known to 1 / sqrt(40,000).
    assert abs(exact.excess_energy(adjusted)) < error + 0.02
    assert exact.excess_energy(plain) > 2 * null
    with_one_lost = np.concatenate([plain, [[50.0, 0.0]]])
    assert exact.excess_energy(with_one_lost) == exact.excess_energy(plain)
    assert exact.escaped(with_one_lost).sum() == 1


def test_drawing_on_a_grid_is_from_exp_minus_the_energy(script):
    n = 40_000
    law = deen.datasets.GaussianMixture([[0.3, -0.2]], [[0.04, 0.02], [0.02, 0.09]])
    x = script.chains.drawn_on_grid(law, (-2, 2), n, seed=0, cells=40)
    # Five standard errors. A cell of 0.1 adds 0.1^2 / 12 = 0.0008, within those of 0.003.
    assert x.mean(0) == pytest.approx([0.3, -0.2], abs=5 * 0.3 / np.sqrt(n))
    wanted = np.array([[0.04, 0.02], [0.02, 0.09]])
    assert np.cov(x.T) == pytest.approx(wanted, abs=5 * 0.09 * np.sqrt(2 / n))


def test_chains_are_taken_up_only_by_a_run_that_is_the_same(script, tmp_path):
    counted = []

    def compute():
        counted.append(1)
        return {"states": np.full(3, len(counted)), "seconds": 0.5}

    def run(**settings):
        return types.SimpleNamespace(
            name="sampling",
            settings={"plane": settings, "mnist": {}},
            data={"plane": None, "mnist": None},
            first=0,
            path=lambda *parts: os.path.join(tmp_path, *parts),
        )

    def states(part="plane", name="a", **settings):
        found = script.chains.resumed(run(**settings), part, name, compute)
        return found["states"].tolist()

    assert states(step=1) == states(step=1) == [1, 1, 1]
    assert states(step=2) == [2, 2, 2]
    assert states(step=1, name="b") == [3, 3, 3]
    assert states(step=1, part="mnist") == [4, 4, 4]
    script.chains.forget(run(step=1), "plane")
    assert states(step=2) == [2, 2, 2]
    assert states(step=3, part="mnist") == [4, 4, 4]  # of the other part's settings
    assert states(step=1) == [5, 5, 5]


@pytest.fixture(scope="module")
def images():
    """Ten classes of flat images, of brightness 0.1, 0.2, ..., each with its own texture."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 10
    x = (labels[:, None] + 1) / 10 + 0.02 * rng.normal(size=(600, 784))
    return x.astype("float32"), labels


class TestWalksOnImages:
    n, sigma = 20, 0.3

    def report(self, script, images, jumps):
        x, labels = images
        run = Recorder()
        nearest = script.walks.Nearest(x[:300], labels[:300])
        start, others = x[300 : 300 + self.n], x[320:600]
        report = script.walks.Report(run, nearest, start, others)
        # An energy whose mean over noisy points is known, and no denoising at all.
        model = types.SimpleNamespace(
            sigma=self.sigma, energy=lambda x: (x**2).sum(1), denoise=np.asarray
        )
        rng = np.random.default_rng(1)
        xi = {
            k: script.walks.noisy(start, self.sigma, rng) for k in ("digits", "noise")
        }
        ideal = script.walks.noisy(others, self.sigma, rng)
        walked = jumps(start, xi)
        chains = {
            "jumps": walked[None],
            "last": walked,
            "acceptance": np.repeat([0.25, 0.75], self.n),
            "seconds": 1.0,
        }
        shown = report("m", model, xi, chains, ideal)
        return run.values, shown

    def test_nearest(self, script, images):
        x, labels = images
        distance, label, which = script.walks.Nearest(x, labels)(x[:50] + 0.1)
        matrix = cdist(x[:50] + np.float32(0.1), x)
        np.testing.assert_array_equal(which, matrix.argmin(1))
        np.testing.assert_array_equal(label, labels[matrix.argmin(1)])
        np.testing.assert_allclose(distance, matrix.min(1), rtol=1e-5)

    def test_chains_that_stay(self, script, images):
        def stay(start, xi):
            return np.concatenate([xi["digits"], xi["noise"]])

        values, shown = self.report(script, images, stay)
        for start, acceptance in (("digits", 0.25), ("noise", 0.75)):
            assert values[f"mnist/m/{start}/travelled"] == 0
            assert values[f"mnist/m/{start}/acceptance"] == acceptance
            assert values[f"mnist/m/{start}/escaped"] == 0
            # Every class is there twice.
            assert values[f"mnist/m/{start}/commonest_class"] == pytest.approx(0.1)
            assert values[f"mnist/m/{start}/ink"] == pytest.approx(1, abs=0.1)
            gap, spread = values[f"mnist/m/{start}/energy_gap"], 240
            assert abs(gap) < 4.5 * spread / np.sqrt(self.n)
            # As much of every class as in the comparison: less than by chance, 0.
            assert -0.5 < values[f"mnist/m/{start}/energy_distance"] < 0
        assert values["mnist/m/digits/class_changed"] == 0
        assert values["mnist/m/jump/class_changed"] == 0
        # d sigma^2 and d 0.02^2 (1 + 1 / few): the noise, and the texture of both
        wanted = np.sqrt(784) * np.hypot(self.sigma, 0.03)
        found = values["mnist/m/jump/nearest_distance"]
        assert found == pytest.approx(wanted, rel=0.05)
        assert shown["digits"]["jumps"].shape == (2, self.n, 784)

    def test_chains_that_go_elsewhere(self, script, images):
        """Every second chain goes to the next class, or, from noise, far away."""

        def go(start, xi):
            digits, noise = xi["digits"].copy(), xi["noise"].copy()
            digits[::2] = np.roll(xi["digits"], -1, axis=0)[::2]
            noise[::2] += 5
            return np.concatenate([digits, noise])

        values, _ = self.report(script, images, go)
        assert values["mnist/m/digits/class_changed"] == pytest.approx(0.5)
        assert values["mnist/m/digits/escaped"] == 0
        assert values["mnist/m/noise/escaped"] == pytest.approx(0.5)
        # |xi + 5|^2 - |xi|^2 = 784 (25 + 10 x), x = 0.1, 0.3, ...: half the mean of it
        assert values["mnist/m/noise/energy_gap"] == pytest.approx(
            784 * (25 + 5) / 2, rel=0.15
        )
        assert values["mnist/m/noise/energy_distance"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("part", ("plane", "mnist"))
def test_quick_run_writes_the_contracts_files(part, tmp_path):
    if part == "mnist" and not os.environ.get("DEEN_DATA"):
        pytest.skip("needs MNIST in DEEN_DATA")
    arguments = ["--quick", "--parts", part, "--out", "out"]
    done = subprocess.run(
        [sys.executable, REPRODUCE / "sampling.py", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stem = "sampling" if part == "plane" else "sampling-mnist"
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {f"{stem}.png", f"{stem}.pdf", "sampling.json"}
    record = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert record["settings"]["quick"]
    name = "mixture/null_95" if part == "plane" else "mnist/wide-0.3/noise/energy_gap"
    assert np.isfinite(record["metrics"][name]["median"])
