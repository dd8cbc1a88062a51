"""The scripts on estimators: table1, contrastive, cost and autoencoder."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import brentq

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


def test_fits_of_a_row_share_a_program_and_nothing_else(table1):
    cell = {"row": "deen", "D": "mixture", "batch": 32, "ends": [200, 400]}
    first, other, again = (
        table1.evaluate(cell | {"seed": seed})["relative_score_error"]
        for seed in (0, 1, 0)
    )
    # Weights, Adam's moments, iterations and noise begin anew: the same bits.
    assert first == again
    assert first["200"] != other["200"]
    # A score of zero has the error 1.
    assert first["400"] < first["200"] < 1


def test_fits_of_a_row_have_noise_of_their_own(table1):
    x = np.zeros((64, 2), "float32")
    model = table1.build("deen", 0)
    losses = []
    for seed in (0, 1, 0):
        # Only the start depends on this x: the loss below is that of the same weights.
        table1.restart(model, "deen", seed, x + np.eye(2)[np.arange(64) % 2])
        model.last.kernel.assign(0 * model.last.kernel)
        losses.append(float(model._loss(x, 0, 0)))
    # With a score of zero the loss is sigma^2 |nu|^2 of the noise alone.
    assert losses[0] == losses[2] != losses[1]
    assert losses == pytest.approx([2 * table1.SIGMA**2] * 3, rel=0.5)  # 4 / sqrt(64)


def test_the_truth_has_no_error(table1):
    measure = table1.Measure(table1.law("rings"))
    values = measure(measure.truth)
    assert values["relative_score_error"] == values["grid_kl"] == 0
    # A gradient by central differences at 1e-3 in float64: O(step^2) of its third derivative.
    assert values["relative_curl"] < 1e-4


def test_a_run_of_some_rows_is_kept_for_the_run_of_all(table1, tmp_path, monkeypatch):
    computed = []

    def compute(cells, paths, jobs):
        for cell, path in zip(cells, paths, strict=True):
            if os.path.exists(path):
                continue
            computed.append((cell["row"], cell["D"], cell["seed"]))
            ends = ["0"] if cell["row"] in table1.UNTRAINED else ["1000", "10000"]
            value = 0.5 / (1 + cell["seed"])
            answer = {m: dict.fromkeys(ends, value) for m in table1.DEFINITIONS}
            pathlib.Path(path).write_text(json.dumps(answer))

    monkeypatch.setattr(table1, "compute", compute)
    monkeypatch.setattr(table1, "draw", lambda run, rows, sets: None)
    arguments = ["--seeds", "2", "--out", str(tmp_path)]
    table1.main([*arguments, "--rows", "deen", "exact", "--sets", "rings", "mixture"])
    assert set(computed) == {
        (row, D, seed)
        for row, seed in (("deen", 0), ("deen", 1), ("exact", 0))
        for D in ("rings", "mixture")
    }
    table1.main(arguments)
    # Two seeds of every row, one of the exact density.
    cells = (2 * len(table1.ROWS) - 1) * len(table1.SETS)
    assert len(computed) == len(set(computed)) == cells
    assert not (tmp_path / "checkpoints").exists()
    metrics = json.loads((tmp_path / "table1.json").read_text())["metrics"]
    assert metrics["rings/deen/grid_kl@1000"]["median"] == 0.375
    text = (tmp_path / "table1.md").read_text()
    assert text.count("| 0.38 (0.25 - 0.5)<br>0.38 (0.25 - 0.5) |") >= len(table1.SETS)


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
        ("table1", "mixture/deen/relative_score_error@400"),
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
