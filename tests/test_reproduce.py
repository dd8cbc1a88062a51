"""The figure scripts, run as a user runs them, keep their contract."""

import json
import os
import pathlib
import subprocess
import sys

import h5py
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted(
    p.name for p in (ROOT / "reproduce").glob("*.py") if "__main__" in p.read_text()
)


def run(script, *arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / "reproduce" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def quick_fig1(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fig1")
    done = run("fig1.py", "--quick", "--out", folder / "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in folder.iterdir()] == ["out"]  # nothing beside --out
    return folder / "out", done


def test_fig1_writes_the_contracts_files(quick_fig1):
    out, done = quick_fig1
    names = {p.name for p in out.iterdir()}
    assert names == {
        "fig1.png",
        "fig1.pdf",
        "fig1-truth.png",
        "fig1-truth.pdf",
        "fig1.json",
        "fig1.h5",
        "models",
    }
    assert "mixture/deen/grid_kl" in done.stdout


def test_fig1_json_defines_every_metric(quick_fig1):
    record = json.loads((quick_fig1[0] / "fig1.json").read_text())
    assert {"settings", "versions", "data", "seconds", "metrics"} <= set(record)
    for D in ("mixture", "spiral"):
        for M in ("deen", "dsm", "cd"):
            for metric in ("relative_score_error", "relative_curl", "excess_loss"):
                entry = record["metrics"][f"{D}/{M}/{metric}"]
                assert entry["unit"] and entry["definition"]
                assert len(entry["values"]) == 1
                assert entry["min"] <= entry["median"] <= entry["max"]
            assert (f"{D}/{M}/grid_kl" in record["metrics"]) == (M != "dsm")


def test_fig1_h5_holds_every_panel(quick_fig1):
    with h5py.File(quick_fig1[0] / "fig1.h5") as file:
        for letter in "abcdefghij":
            values = file[letter]["values"]
            assert values.shape[:2] == (201, 201)
            assert {"unit", "equation", "axes", "box"} <= set(file[letter].attrs)


def test_fig1_models_load(quick_fig1):
    for folder in (quick_fig1[0] / "models").iterdir():
        model = tf.saved_model.load(folder)
        answer = model.signatures["score"](x=tf.zeros((3, 2)))["score"]
        assert answer.shape == (3, 2)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_tensorflow(script, tmp_path):
    program = (
        "import runpy, sys; sys.modules['tensorflow'] = None; sys.argv[1:] = ['--help'];"
        f"sys.path.insert(0, {str(ROOT / 'reproduce')!r});"
        f"runpy.run_path({str(ROOT / 'reproduce' / script)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--out", "/proc/nowhere"), "cannot write to the output folder /proc/nowhere"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--seed", "-1"), "--seed must be at least 0, got -1"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    done = run("fig1.py", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    done = run("fig1.py", "--out", "file", cwd=tmp_path)
    assert done.returncode != 0 and "cannot write" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("DEEN_DATA"), reason="needs MNIST in DEEN_DATA")
def test_fig2_quick_writes_the_contracts_files(tmp_path):
    done = run("fig2.py", "--quick", "--no-export", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stems = ("fig2", "fig2-wide", "fig2-field", "fig2-comparison")
    figures = {f"{stem}.{ending}" for stem in stems for ending in ("png", "pdf")}
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == figures | {"fig2.json", "fig2.h5"}
    metrics = json.loads((tmp_path / "out" / "fig2.json").read_text())["metrics"]
    assert metrics["deen/loss_bound"]["median"] == pytest.approx(0.14**2 * (784 - 128))
    assert metrics["deen/loss_end"]["median"] > metrics["deen/loss_bound"]["median"]
    assert metrics["deen/removed_noise_ceiling"]["median"] == pytest.approx(128 / 784)
    assert metrics["noisy/mse@0.30"]["median"] == pytest.approx(0.09, rel=0.02)
    with h5py.File(tmp_path / "out" / "fig2.h5") as file:
        assert {"a", "b", "c", "clean", "parzen"} <= set(file)
