"""The script on sampling: what it says of chains, in the plane and on images."""

import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from scipy import special
from scipy.spatial.distance import cdist

import deen_tf as deen
from deen_tf.sampling import langevin

REPRODUCE = pathlib.Path(__file__).parents[1] / "reproduce"
pytestmark = pytest.mark.filterwarnings("ignore::deen_tf.diagnostics.ChainsWarning")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(REPRODUCE))
    try:
        import sampling as plane
        import walks
    finally:
        sys.path.pop(0)
    return types.SimpleNamespace(plane=plane, walks=walks)


class Recorder:
    """A run that remembers its metrics."""

    first = 0

    def __init__(self):
        self.values = {}

    def record(self, prefix, values):
        self.values |= {f"{prefix}/{name}": value for name, value in values.items()}


@pytest.mark.parametrize("m", (0.0, 1.5))
def test_energy_distance_of_shifted_normals(script, m):
    """X - Y ~ N(m, 2), and E|N(m, 2)| = 2 / sqrt(pi) exp(-m^2 / 4) + m erf(m / 2)."""
    n = 1000

    def mean(m):
        return 2 / np.sqrt(np.pi) * np.exp(-(m**2) / 4) + m * special.erf(m / 2)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, n, 1))
    found = [
        script.plane.Sample(a).energy_distance(b + m) for a, b in zip(x, y, strict=True)
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
    fast, own = script.plane.exact_density(law, 0.1), law.smoothed(0.1)
    psi = own.score(x)
    error = np.sum((fast.score(x) - psi) ** 2) / np.sum(psi**2)
    assert error < 1e-7
    # 0.1% of the smoothed width at the curve's ends.
    np.testing.assert_allclose(fast.energy(x), own.energy(x), atol=0.01)


def test_excess_energy_is_the_steps_error_and_adjustment_takes_it_away(script):
    """N(0, s^2 I) settles at s^2 / (1 - h / 2 s^2): 1 / (1 - h / 2 s^2) - 1 nats."""
    law = deen.datasets.GaussianMixture.ring(modes=1, std=0.15)
    n, h, sigma = 2500, 0.01, 0.1
    exact = script.plane.Exact(
        law,
        types.SimpleNamespace(
            sigma=sigma, exact_points=1000, chains=n, null_samples=20
        ),
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
    x = script.plane.drawn_on_grid(law, (-2, 2), n, seed=0, cells=40)
    # Five standard errors. A cell of 0.1 adds 0.1^2 / 12 = 0.0008, within those of 0.003.
    assert x.mean(0) == pytest.approx([0.3, -0.2], abs=5 * 0.3 / np.sqrt(n))
    wanted = np.array([[0.04, 0.02], [0.02, 0.09]])
    assert np.cov(x.T) == pytest.approx(wanted, abs=5 * 0.09 * np.sqrt(2 / n))


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
