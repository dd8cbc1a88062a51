"""The scripts on estimators: table1, contrastive, cost and autoencoder."""

import concurrent.futures
import importlib
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from scipy.special import erf

ROOT = pathlib.Path(__file__).parents[1]


def script(name):
    sys.path.insert(0, str(ROOT / "reproduce"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def table1():
    return script("table1")


@pytest.mark.long
def test_a_cell_is_its_seeds_fit_and_nothing_else(table1):
    """Bit for bit again, another for another seed, and each end on the way to the last."""
    cell = ("deen", "mixture")
    first = table1.evaluate(*cell, 0, 32, (400, 600))
    shorter, other = (table1.evaluate(*cell, s, 32, (400,)) for s in (0, 1))
    error = "relative_score_error"
    # A score of zero has the error 1.
    assert first[f"{error}@600"] < first[f"{error}@400"] < 1
    assert first[f"{error}@400"] != other[f"{error}@400"]
    for name in shorter:
        assert "seconds" in name or first[name] == shorter[name]
    # Of three epochs of one length two and one were timed, to a factor of three here.
    assert 1 / 3 < first["seconds@600"] / (1.5 * first["seconds@400"]) < 3


def test_seconds_are_those_of_all_epochs_without_compiling(table1, monkeypatch):
    now, seen = [0.0], []

    class Model:
        """Two seconds an epoch, and a hundred to compile."""

        def fit(self, x, batch_size, verbose, initial_epoch=0, epochs=1):
            now[0] += 2.0 * (epochs - initial_epoch) + (100.0 if epochs == 1 else 0.0)
            seen.append((len(x) // batch_size, epochs - initial_epoch))

    def measure(model, *metrics):
        now[0] += 1000.0
        return {}

    told = types.SimpleNamespace(measure=measure)
    monkeypatch.setattr(table1, "truth_of", lambda D: told)
    monkeypatch.setattr(table1, "build", lambda row, seed: Model())
    clock = types.SimpleNamespace(process_time=lambda: now[0])
    monkeypatch.setattr(table1, "time", clock)
    values = table1.evaluate("deen", "mixture", 0, 4, (1000, 10_000))
    assert seen == [(200, 1), (200, 4), (200, 45)]  # 200 steps each: 10,000 in all
    assert values == pytest.approx({"seconds@1000": 10.0, "seconds@10000": 100.0})


def test_the_truth_has_no_error(table1):
    exact = table1.truth_of("rings")
    values = exact.measure(exact.density, *table1.MEASURED, "smallest_mode_ratio")
    assert values["relative_score_error"] == values["grid_kl"] == 0
    assert values["smallest_mode_ratio"] == 1
    # A gradient by central differences at 1e-3 in float64: O(step^2) of its third derivative.
    assert values["relative_curl"] < 1e-4
    assert exact.excess_loss(exact.density) == 0


def test_rows_are_what_they_are_called(table1, monkeypatch):
    sigma = table1.SIGMA
    models = {
        row: table1.build(row, 3) for row in table1.ROWS if row not in table1.UNTRAINED
    }
    for row, model in models.items():
        assert model.sigma == sigma and model.seed == 3, row
        assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(1e-3)
    assert models["sm"].smooth and models["rsm"].form == "squared"
    assert not models["cd"].smooth and models["cd"].step is None
    assert models["cd-short"].smooth and models["cd-short"].step == sigma / 2
    assert models["nce-smoothed"].noise.bandwidth == 2 * sigma
    assert models["nce-smoothed"].noise.count == 256
    assert models["nce-uniform"].noise.margin == 0.25
    # The Parzen density, of the seed's points and of width sigma: by hand.
    told = types.SimpleNamespace(density=None, measure=lambda model, *metrics: model)
    monkeypatch.setattr(table1, "truth_of", lambda D: told)
    monkeypatch.setitem(table1.SETTINGS, "parzen_points", 40)
    density = table1.evaluate("parzen", "spiral", 3, 32, (400,))
    x = table1.LAWS["spiral"].sample(40, seed=3)
    kernels = stats.norm(x, sigma).pdf(x[:5, None]).prod(2)  # (5, 40)
    np.testing.assert_allclose(
        density.energy(x[:5]), -np.log(kernels.mean(1)), atol=1e-3
    )


def test_a_wrong_model_has_its_error(table1):
    """p for a Gaussian of twice the width: closed forms of score error, divergence, loss."""
    truth = script("truth")
    gaussian = truth.GaussianMixture(np.zeros((1, 2)), 0.3)
    exact, wide = truth.Truth(gaussian, 0.1, 200_000), gaussian.smoothed(0.7)
    s2, t2 = 0.3**2 + 0.1**2, 0.3**2 + 0.7**2
    wrong = types.SimpleNamespace(score=wide.score, energy=wide.energy)
    wrong.denoise = lambda xi: xi + 0.1**2 * wide.score(xi)
    values = exact.measure(wrong, "relative_score_error", "grid_kl", "excess_loss")
    # psi / psi* = s2 / t2; means of chi squares, to 4 / sqrt(n).
    assert values["relative_score_error"] == pytest.approx((1 - s2 / t2) ** 2)
    kl = np.log(t2 / s2) + s2 / t2 - 1
    kl += 2 * np.log(erf(exact.box[1] / (2 * t2) ** 0.5))  # normalised on the box
    assert values["grid_kl"] == pytest.approx(kl, rel=1e-3)
    # L - L* = sigma^4 E|psi - psi*|^2 (Eqs. 13-17); L* = 2 sigma^2 (1 - sigma^2 / s2)
    excess = 0.1**4 * 2 * s2 * (1 / s2 - 1 / t2) ** 2 / (2 * 0.1**2 * (1 - 0.1**2 / s2))
    assert values["excess_loss"] == pytest.approx(excess, rel=0.03)
    vector = types.SimpleNamespace(score=wide.score, denoise=wrong.denoise)
    assert list(exact.measure(vector, *values)) == [
        "relative_score_error",
        "excess_loss",
    ]
    nothing = types.SimpleNamespace(score=lambda x: np.full(x.shape, np.nan))
    assert np.isnan(
        exact.measure(nothing, "relative_score_error")["relative_score_error"]
    )


def test_test_points_are_pairs_and_no_training_points(table1):
    truth = script("truth")
    law = truth.LAWS["spiral"]
    exact = truth.Truth(law, 0.1, 20_000)
    noise = exact.xi - exact.x
    assert noise.std() == pytest.approx(0.1, rel=0.02)  # 4 / sqrt(2 n d)
    np.testing.assert_allclose(exact.score, law.score(exact.xi, 0.1))
    first = exact.x.copy()
    assert not set(map(tuple, first)) & set(map(tuple, law.sample(20_000, seed=0)))
    exact.draw(1)
    assert not set(map(tuple, first)) & set(map(tuple, exact.x))
    exact.draw(0)
    np.testing.assert_array_equal(exact.x, first)


def test_a_run_of_some_rows_is_kept_for_the_run_of_all(table1, tmp_path, monkeypatch):
    computed = []

    class Here(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, jobs, context, initializer):
            super().__init__(1)

    def evaluate(row, D, seed, batch, ends):
        computed.append((row, D, seed))
        tags = [""] if row in table1.UNTRAINED else [f"@{end}" for end in ends]
        measured = table1.MEASURED if row in table1.UNTRAINED else table1.METRICS
        return {f"{m}{tag}": 0.5 / (1 + seed) for m in measured for tag in tags}

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(table1, "evaluate", evaluate)
    monkeypatch.setattr(table1, "draw", lambda run, rows, sets: None)

    def main(rows=tuple(table1.ROWS), sets=table1.SETS):
        args = script("command").options("", ["--seeds", "2", "--out", str(tmp_path)])
        vars(args).update(rows=rows, sets=sets, jobs=1, batch=256)
        table1.main(args)

    main(("deen", "exact"), ("rings", "mixture"))
    assert set(computed) == {
        (row, D, seed)
        for row, seed in (("deen", 0), ("deen", 1), ("exact", 0))
        for D in ("rings", "mixture")
    }
    main()
    # Two seeds of every row, one of the exact density.
    cells = (2 * len(table1.ROWS) - 1) * len(table1.SETS)
    assert len(computed) == len(set(computed)) == cells
    assert not (tmp_path / "cache").exists()
    metrics = json.loads((tmp_path / "table1.json").read_text())["metrics"]
    assert metrics["rings/deen/grid_kl@1000"]["median"] == 0.375
    text = (tmp_path / "table1.md").read_text()
    assert text.count("| 0.38 (0.25 – 0.5)<br>0.38 (0.25 – 0.5) |") >= len(table1.SETS)


@pytest.mark.parametrize("s", (0.02, 0.06, 0.1))
def test_the_divergence_at_the_fixed_point_of_contrastive_divergence(s):
    w, across = 0.15, 2
    divergence = script("contrastive").divergence

    def too_wide(k):  # variance of the negative sample less the data's
        return (1 - s**2 * k) ** 2 * w**2 + 2 * s**2 - w**2

    # The smaller root: the parabola's lowest point, at k = 1 / s^2, lies below zero.
    k = brentq(too_wide, 0.5 / w**2, 1 / s**2, xtol=1e-14)
    # KL(N(0, w^2) || N(0, 1 / k)) in each dimension
    kl = across * 0.5 * (k * w**2 - 1 - np.log(k * w**2))
    assert divergence(s, w, across) == pytest.approx(kl, rel=1e-6)
    assert np.isnan(divergence(w / 2**0.5 * 1.001, w, across))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, metric",
    (
        ("table1", "mixture/deen/relative_score_error@800"),
        ("cost", "sm/ratio_exponent"),
        ("contrastive", "spiral/gaussian/smallest_mode_ratio/s=0.05@100"),
        ("autoencoder", "mixture/dae/error_to_data_score/sigma=0.1@200"),
    ),
)
def test_quick_writes_its_files(name, metric, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "reproduce" / f"{name}.py", "--quick", "--out", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = {p.name for p in (tmp_path / "out").iterdir()}
    endings = ("json", "png", "pdf", *(("md",) if name == "table1" else ()))
    assert names == {f"{name}.{ending}" for ending in endings}
    record = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert record["settings"]["quick"]
    assert np.isfinite(record["metrics"][metric]["median"])
