"""The figure scripts, run as a user runs them, keep their contract."""

import json
import os
import pathlib
import subprocess
import sys
import types

import h5py
import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "reproduce"))
try:
    import all as everything
    import command
    import experiment
    import fig1
    import provenance
    import truth
finally:
    sys.path.pop(0)
SCRIPTS = sorted(
    p.name
    for p in (ROOT / "reproduce").glob("*.py")
    if '\nif __name__ == "__main__":\n' in p.read_text()
)
SLICE = pathlib.Path(__file__).with_name("fig1_slice.json")


def run(script, *arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / "reproduce" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


# What fig1.py does when it is run; at last, what the run has imported.
FIG1 = f"""
import sys

sys.path.insert(0, {str(ROOT / "reproduce")!r})
sys.argv = ["fig1.py", "--quick"]
import runpy

runpy.run_path({str(ROOT / "reproduce" / "fig1.py")!r}, run_name="__main__")
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print("FILES", *files, sep="\\n", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def quick_fig1(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fig1")
    done = subprocess.run(
        [sys.executable, "-c", FIG1],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in folder.iterdir()] == ["out"]  # nothing beside it
    return folder / "out", done


@pytest.mark.long
def test_fig1_writes_the_contracts_files(quick_fig1):
    out, done = quick_fig1
    stems = ("fig1", "fig1-truth")
    figures = {f"{stem}.{ending}" for stem in stems for ending in ("png", "pdf")}
    names = {p.name for p in out.iterdir()}
    assert names == figures | {"fig1.json", "fig1.h5", "models"}
    assert "mixture/deen/grid_kl" in done.stdout


@pytest.mark.long
def test_a_terminal_run_ends_in_a_short_table(quick_fig1):
    _, done = quick_fig1
    lines = done.stdout.strip().splitlines()
    assert 8 <= len(lines) <= 16
    # One seed: the value. And no bars, for standard error is no terminal.
    assert all(len(line.split()) <= 3 for line in lines[:-1])
    told = done.stderr.partition("FILES\n")[0]
    assert "%" not in told and "it/s" not in told


@pytest.mark.long
def test_fig1_json_defines_every_metric(quick_fig1):
    record = json.loads((quick_fig1[0] / "fig1.json").read_text())
    assert {"settings", "data", "seconds", "metrics"} <= set(record)
    for D in ("mixture", "spiral"):
        for M in ("deen", "dsm", "cd"):
            for metric in ("relative_score_error", "relative_curl", "excess_loss"):
                entry = record["metrics"][f"{D}/{M}/{metric}"]
                assert entry["unit"] and entry["definition"]
                assert len(entry["values"]) == 1
                assert entry["min"] <= entry["median"] <= entry["max"]
            assert (f"{D}/{M}/grid_kl" in record["metrics"]) == (M != "dsm")


@pytest.mark.long
def test_fig1_h5_holds_every_panel(quick_fig1):
    with h5py.File(quick_fig1[0] / "fig1.h5") as file:
        for letter in "abcdefghij":
            values = file[letter]["values"]
            assert values.shape[:2] == (201, 201)
            assert {"unit", "equation", "axes", "box"} <= set(file[letter].attrs)


@pytest.mark.long
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


def test_a_mistake_is_one_line(tmp_path):
    done = run("fig1.py", "--seed", "-1", cwd=tmp_path)
    assert done.returncode != 0
    assert "--seed must be at least 0, got -1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--out", "/proc/nowhere"), "cannot write to the output folder /proc/nowhere"),
        (("--out", "file"), "cannot write to the output folder .*/file"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    args = command.options("", arguments, study={"action": "store_true"})
    with pytest.raises(command.MISTAKES, match=message):
        fig1.main(args)
    assert (tmp_path / "file").read_text() == "mine"


# ---- where a result comes from -------------------------------------------------------


@pytest.mark.long
def test_a_result_says_where_it_comes_from(quick_fig1):
    record = json.loads((quick_fig1[0] / "fig1.json").read_text())
    assert record["script"] == "reproduce/fig1.py"
    assert record["command"] == "python reproduce/fig1.py --quick"
    known = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    expected = known.stdout.strip() if known.returncode == 0 else "unknown"
    assert record["commit"] == expected
    assert record["clean"] in ((True, False) if known.returncode == 0 else ("unknown",))
    assert {"tensorflow", "keras", "numpy"} <= set(record["versions"])
    assert record["device"]
    # Everything of the repository that the run imported, and no more than there is.
    files = {ROOT / file for file in record["code"]}
    assert all(file.is_file() for file in files)
    loaded = map(pathlib.Path, quick_fig1[1].stderr.partition("FILES\n")[2].split("\n"))
    ours = {p for p in loaded if p.suffix == ".py" and ROOT in p.parents}
    ours = {p for p in ours if p.parts[len(ROOT.parts)] in ("deen_tf", "reproduce")}
    assert len(ours) > 20 and ours <= files, sorted(ours - files)


def test_what_is_fresh(tmp_path, monkeypatch):
    (tmp_path / "reproduce").mkdir()
    for name, text in {
        "a.py": "import deep.b\n",
        "reproduce/script.py": "from helper import f\n",
        "reproduce/helper.py": "def f():\n    from a import x\n",
        "other.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "__init__.py").write_text("")
    (tmp_path / "deep" / "b.py").write_text("1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    code = provenance.hashes(tmp_path / "reproduce" / "script.py")
    assert sorted(code) == [
        "a.py",
        "deep/__init__.py",
        "deep/b.py",
        "reproduce/helper.py",
        "reproduce/script.py",
    ]
    command_ = "python reproduce/script.py --seeds 3"
    record = {"settings": {}, "code": code, "command": command_}
    assert provenance.why_stale(record, command_ + " --data DIR") == ""
    assert "--seeds 3" in provenance.why_stale(record, command_ + " --long 5")
    (tmp_path / "other.py").write_text("changed\n")
    (tmp_path / "deep" / "b.py").write_text('"""Words."""\n\n1  # more of them\n')
    assert provenance.why_stale(record, command_) == ""
    (tmp_path / "deep" / "b.py").write_text("2\n")
    assert provenance.why_stale(record, command_) == "deep/b.py has changed"
    record["same"] = {"code": provenance.hashes(tmp_path / "reproduce" / "script.py")}
    assert provenance.why_stale(record, command_) == ""
    (tmp_path / "deep" / "b.py").write_text("3\n")
    assert provenance.why_stale(record, command_) == "deep/b.py has changed"
    del record["code"]
    assert "does not say" in provenance.why_stale(record, command_)
    assert provenance.git("rev-parse", "HEAD") == "unknown"  # no repository there


SCRIPT = """
import json, sys
from deen_tf.b import A
values = {"a": {"values": [A, float("nan")]}, "a/seconds": {"values": [id(A)]}}
assert {"--quick", "--seeds", "1", "DATA"} <= set(sys.argv)
with open(sys.argv[sys.argv.index("--out") + 1] + "/cost.json", "w") as stream:
    json.dump({"metrics": values}, stream)
"""


def test_a_change_that_moves_no_number_is_written_down(tmp_path, monkeypatch):
    def commit():
        for words in (["add", "-A"], ["commit", "-qm", "x"]):
            subprocess.run([*git, *words], check=True)
        return provenance.git("rev-parse", "HEAD")

    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for module in (provenance, everything):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setitem(provenance.COMMANDS, "cost", "python reproduce/s.py --data DIR")
    for name, text in {
        "reproduce/s.py": SCRIPT,
        "deen_tf/__init__.py": "",
        "deen_tf/b.py": "A = 1\n",
        ".gitignore": "out\n__pycache__\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    commit()
    (out := tmp_path / "out").mkdir()
    script = tmp_path / "reproduce" / "s.py"
    record = {"script": "reproduce/s.py", "command": "python reproduce/s.py"}
    (out / "cost.json").write_text(json.dumps(record | provenance.origin(script)))
    args = types.SimpleNamespace(out=out, data="DATA")

    def fresh():
        with open(out / "cost.json") as stream:
            return not provenance.why_stale(json.load(stream), record["command"])

    assert fresh()
    (tmp_path / "deen_tf" / "b.py").write_text("A = 2 - 1\n")
    assert not fresh()
    assert "not committed" in everything.verified("cost", args)
    last = commit()
    assert (
        everything.verified("cost", args) == "fresh: the same 1 numbers by a quick run"
    )
    assert fresh()
    assert json.loads((out / "cost.json").read_text())["same"]["commit"] == last
    (tmp_path / "deen_tf" / "b.py").write_text("A = 1.0000000000000002\n")
    commit()
    assert everything.verified("cost", args) == "1 of 1 numbers of a quick run moved: a"
    assert not fresh()
    script.write_text(SCRIPT + "# drawn otherwise\nprint()\n")
    commit()
    assert "s.py has changed: to be run again" in everything.verified("cost", args)
    assert len(provenance.git("worktree", "list").splitlines()) == 1


@pytest.mark.long
def test_all_leaves_alone_what_is_fresh(quick_fig1, tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(everything, "run", lambda *words: ran.append(words) or 0)
    options = {"data": {}, "list": {"action": "store_true"}}
    options["verify"] = options["list"]

    def main(*words):
        options["only"] = {"nargs": "+", "default": list(provenance.COMMANDS)}
        args = command.options("", ["--out", str(quick_fig1[0]), *words], **options)
        args.only = [name for name in args.only if name in ("fig1", "cost")]
        ran.clear()
        everything.main(args)
        return [words[0] for words in ran], capsys.readouterr().out

    monkeypatch.setitem(provenance.COMMANDS, "fig1", "python reproduce/fig1.py")
    assert main("--list", "--quick")[0] == []
    scripts, told = main("--quick")
    assert scripts == ["cost.py", "compare.py"]
    assert "fig1         fresh" in told and "cost         missing" in told
    scripts, told = main()
    assert scripts == ["fig1.py", "cost.py", "compare.py"]
    assert "made by python reproduce/fig1.py --quick" in told


@pytest.mark.parametrize(
    "old, new, by, beyond",
    [
        ([1.0], [1.0], 0.0, False),
        ([1.0], [1.1], 0.1, True),
        ([1.0, 2.0, 3.0], [2.2, 2.6, 2.8], 0.3, False),  # within the old range
        ([1.0, 2.0, 3.0], [1.5, 3.5, 4.0], 0.75, False),  # the old within the new one
        ([1.0, 2.0, 3.0], [3.1, 3.2, 3.3], 0.6, True),
        ([-2.0], [-1.0], 0.5, True),
    ],
)
def test_what_moved_beyond_the_spread_of_seeds(old, new, by, beyond):
    found = everything.change(old, new)
    assert found[0] == pytest.approx(by)
    assert found[1] == beyond


def test_the_table_of_what_moved(tmp_path, monkeypatch):
    def record(value):
        metrics = {"a": [value, 1.1 * value], "b": [2.0, 2.1], "a/seconds": [value]}
        return {k: {"values": v} for k, v in metrics.items()}

    monkeypatch.setattr(
        everything, "committed", lambda name: record(1.0) | {"gone": {}}
    )
    text = json.dumps({"settings": {"quick": False}, "metrics": record(2.0)})
    (tmp_path / "fig1.json").write_text(text)
    first, *rows = everything.moved(["fig1", "fig2"], tmp_path)[2:]
    assert "2 numbers, 1 moved, 1 beyond the spread of seeds" in first
    assert "1 new or of the clock, 1 gone" in first
    assert rows == ["  fig1 a: 1.05 -> 2.1 (+100%)"]


# ---- the numbers ---------------------------------------------------------------------


def slice_of_fig1(out):
    """Figure 1's fits with seed 0, by its own functions, for 300 iterations."""
    args = command.options("", ["--out", str(out)])
    run = experiment.Run(fig1.__file__, args, fig1.SETTINGS, name="slice")
    found = {}
    for M in ("deen", "deen-glorot", "dsm", "cd"):
        law = truth.LAWS["mixture"]
        model = fig1.build(M, 0)
        x = law.sample(1024 * 25, seed=0)
        losses, _ = run.fit(model, x, batch_size=1024, epochs=12)
        exact = truth.Truth(law, fig1.SIGMA, 5000, cells=200)
        values = exact.measure(model, "relative_score_error", "excess_loss", "grid_kl")
        found |= {f"{M}/{name}": float(value) for name, value in values.items()}
        found[f"{M}/loss"] = float(losses[-25:].mean())
    run._lock.close()
    return found


@pytest.mark.long
def test_a_slice_of_figure_1_gives_the_committed_numbers(tmp_path):
    """Made by: python -m tests.test_reproduce.

    On one machine the same bits. Sums rounded otherwise (the plain graph instead of XLA) move
    these numbers by 2e-5 at most, noise of 1.01 sigma each of them by 1.5e-3 at least.
    """
    committed = json.loads(SLICE.read_text())
    found = slice_of_fig1(tmp_path)
    assert found.keys() == committed.keys()
    for name, value in committed.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name


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
    # 200 digits x 784 normals: the variance to 4 sqrt(2 / n) = 1.4%.
    assert metrics["noisy/mse@0.30"]["median"] == pytest.approx(0.09, rel=0.015)
    with h5py.File(tmp_path / "out" / "fig2.h5") as file:
        assert {"a", "b", "c", "clean", "parzen"} <= set(file)
        assert len(file["a/deen/loss"]) > 3 and np.isfinite(file["a/deen/loss"]).all()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        SLICE.write_text(json.dumps(slice_of_fig1(folder), indent=1) + "\n")
