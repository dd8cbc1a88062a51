"""A run that is interrupted and started again ends as if nothing had been."""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import h5py
import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from tests import small_run
from tests.small_run import command, experiment
from tests.test_atomic import while_writing

ROOT = pathlib.Path(__file__).parents[1]


def arrays(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


def metrics(path):
    return {
        name: entry["values"]
        for name, entry in json.loads(path.read_text())["metrics"].items()
        if not name.endswith("seconds")
    }


def assert_same_outputs(one, other, name):
    """Arrays, metrics and the answers of every SavedModel are bit for bit the same."""
    a, b = arrays(one / f"{name}.h5"), arrays(other / f"{name}.h5")
    assert set(a) == set(b) and a
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    assert metrics(one / f"{name}.json") == metrics(other / f"{name}.json")
    # (What a killed writer left is hidden; see `deen_tf.atomic`.)
    models = sorted(p.name for p in (one / "models").glob("[!.]*"))
    assert models and models == sorted(p.name for p in (other / "models").glob("[!.]*"))
    for model in models:
        v, w = answers(one / "models" / model), answers(other / "models" / model)
        assert set(v) == set(w) and v
        for key in v:
            np.testing.assert_array_equal(v[key], w[key], err_msg=str(key))


def answers(saved_model):
    """What each signature says of some points."""
    signatures = tf.saved_model.load(saved_model).signatures
    found = {}
    for name, signature in signatures.items():
        d = signature.structured_input_signature[1]["x"].shape[1]
        x = np.random.default_rng(0).normal(size=(20, d)).astype("float32")
        for key, value in signature(x=tf.constant(x)).items():
            found[name, key] = value.numpy()
    return found


def assert_whole(out):
    """Whatever there is under its final name can be read."""
    for path in out.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".h5":
            arrays(path)
        elif path.suffix == ".png":
            matplotlib.image.imread(path)
        elif path.suffix == ".pdf":
            assert path.read_bytes().rstrip().endswith(b"%%EOF")
    for model in out.glob("models/[!.]*"):
        assert tf.saved_model.load(model).signatures


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, script, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_a_checkpoint(process, out):
    """Until the process, started just now, has written one."""
    began = time.time()
    while process.poll() is None:
        written = [p.stat().st_mtime for p in out.glob("cache/*.npz")]
        if max(written, default=0) > began:
            break
        time.sleep(0.01)


def finish(process):
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error


def options(out):
    return command.options("", ["--out", str(out)])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    small_run.main(options(out))
    return out


@pytest.mark.parametrize("where", ["Python", "C++"])
def test_ctrl_c_is_one_line(where, capsys):
    error = KeyboardInterrupt()
    if where == "C++":
        error = SystemError("returned a result with an exception set")
        error.__cause__ = KeyboardInterrupt()
    command.one_line(type(error), error, None)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the same command goes on from there" in error


@pytest.mark.long
def test_killed_interrupted_and_finished(straight, tmp_path, monkeypatch):
    """SIGKILL, then Ctrl-C, then to the end, here: the straight run."""
    script, out = ROOT / "tests" / "small_run.py", tmp_path / "out"
    process = start(script, "--out", out)
    wait_for_a_checkpoint(process, out)
    time.sleep(random.uniform(0.0, 0.3))  # some epochs, each with its checkpoint
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "small.json").exists()

    process = start(script, "--out", out)
    wait_for_a_checkpoint(process, out)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode in (130, -signal.SIGINT), error  # 130 in a shell
    assert "Traceback" not in error
    assert "the same command goes on from there" in error.splitlines()[-1]

    began, fit = [], deen.DEEN.fit

    def watched(model, *arguments, **more):
        began.append(more["initial_epoch"])
        return fit(model, *arguments, **more)

    monkeypatch.setattr(deen.DEEN, "fit", watched)
    small_run.main(options(out))
    assert began[:1] != [0]  # it went on from there
    assert_same_outputs(straight, out, "small")
    assert not (out / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", ("tests/small_run.py", "reproduce/fig1.py"))
def test_killed_five_times_at_random(script, tmp_path):
    name = "small" if "small" in script else "fig1"
    script = ROOT / script
    reference, out = tmp_path / "straight", tmp_path / "out"
    began = time.monotonic()
    finish(start(script, "--quick", "--out", reference))
    length = time.monotonic() - began
    for _ in range(5):
        process = start(script, "--quick", "--out", out)
        time.sleep(random.uniform(0.1, 0.9) * length)
        process.kill()
        process.wait()
        if out.exists():
            assert_whole(out)
    finish(start(script, "--quick", "--out", out))
    assert_same_outputs(reference, out, name)
    assert_whole(out)


# ---- every window in which a checkpoint can be cut off --------------------------------


def test_what_a_killed_writer_left_goes_with_the_cache(tmp_path):
    run = experiment.Run(small_run.__file__, options(tmp_path), {})
    run.once("sum", lambda: {"value": 1.0})
    (kept,) = run.path("cache").iterdir()
    left = kept.with_name(f".{kept.name}.unfinished-abc")
    left.mkdir()
    (left / kept.name).write_bytes(b"half")
    run.finish([])
    assert not run.path("cache").exists()


class Killed(BaseException):
    pass


@pytest.fixture
def new_run(tmp_path):
    """A function that begins a run in one and the same folder; each ends the one before."""
    runs = []

    def begin(**settings):
        for run in runs:
            run._lock.close()
        runs.append(experiment.Run(small_run.__file__, options(tmp_path), settings))
        return runs[-1]

    yield begin
    runs[-1]._lock.close()


def small_fit(run, epochs=6, **changed):
    """Train for six epochs of four steps; return the weights and the losses."""
    model = deen.DEEN(**{"hidden_units": (8, 6), "sigma": 0.3, "seed": 3} | changed)
    model.compile(jit_compile=False)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    losses, _ = run.fit(model, x, batch_size=16, epochs=epochs)
    return np.concatenate([w.numpy().ravel() for w in model.weights]), losses


@pytest.fixture(scope="module")
def small():
    """The same by `fit` alone."""
    model = deen.DEEN(hidden_units=(8, 6), sigma=0.3, seed=3)
    model.compile(jit_compile=False)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    model.fit(x, batch_size=16, epochs=6, verbose=0)
    return np.concatenate([w.numpy().ravel() for w in model.weights]), model.step_losses


@pytest.fixture
def every_epoch(monkeypatch):
    monkeypatch.setattr(experiment, "KEEP_EVERY", 0.0)


def assert_same_fit(found, small):
    weights, losses = found
    assert len(losses) == 24  # no gap, nothing twice
    np.testing.assert_array_equal(weights, small[0])
    np.testing.assert_array_equal(losses, small[1])


@pytest.mark.parametrize("writes", range(4))
def test_a_kill_at_any_write_of_a_checkpoint(
    writes, small, every_epoch, new_run, monkeypatch
):
    """Two files an epoch: after `writes` of them the process is gone.

    An odd number is the moment between the two files of one checkpoint.
    """
    count, run = iter(range(100)), new_run()

    def or_die(write):
        def write_or_die(*arguments, **more):
            if next(count) == writes:
                raise Killed
            write(*arguments, **more)

        return write_or_die

    for name in ("write_result", "save_state"):
        monkeypatch.setattr(experiment, name, or_die(getattr(experiment, name)))
    with pytest.raises(Killed):
        small_fit(run)
    monkeypatch.undo()
    assert_same_fit(small_fit(new_run()), small)


def never(*arguments, **more):
    raise AssertionError("computed again")


def test_a_finished_fit_is_not_trained_again(small, new_run, monkeypatch):
    assert_same_fit(small_fit(new_run()), small)
    monkeypatch.setattr(deen.DEEN, "fit", never)
    assert_same_fit(small_fit(new_run()), small)


def test_a_fit_is_known_by_what_decides_it(new_run, monkeypatch):
    small_fit(new_run())
    monkeypatch.setattr(deen.DEEN, "fit", never)
    small_fit(new_run())
    for changed in (
        {"sigma": 0.4},
        {"seed": 4},
        {"hidden_units": (8, 5)},
        {"epochs": 5},
    ):
        with pytest.raises(AssertionError, match="computed again"):
            small_fit(new_run(), **changed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The cache of a run whose fit is finished."""
    folder = tmp_path_factory.mktemp("finished")
    run = experiment.Run(small_run.__file__, options(folder), {})
    small_fit(run)
    run._lock.close()
    return folder / "cache"


@pytest.mark.parametrize("damage", ("cut", "flipped"))
@pytest.mark.parametrize("ending", ("state", "npz"))
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_damaged_checkpoint_is_not_used(
    ending, damage, small, finished, new_run, tmp_path, capsys, recwarn
):
    """No writer leaves it so; a disk may. Then the fit begins anew."""
    shutil.copytree(finished, tmp_path / "cache")
    (path,) = tmp_path.glob(f"cache/fit-*.{ending}")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:  # one bit of a loss, or of a weight
        at = content.index(b"\x93NUMPY") + 200 if ending == "npz" else len(content) // 2
        content[at] ^= 1
    path.write_bytes(content)
    assert_same_fit(small_fit(new_run()), small)
    if ending == "npz":
        assert f"{path} is damaged and not used" in capsys.readouterr().out
    elif damage == "cut":
        assert any(str(path) in str(w.message) for w in recwarn)


def test_a_result_is_known_by_what_decides_it(new_run, tmp_path):
    counted = []

    def compute():
        counted.append(1)
        return {"states": np.full(3, len(counted)), "seconds": 0.5}

    def states(name="a", *decided_by, **settings):
        found = new_run(**settings).once(name, compute, *decided_by)
        assert found["seconds"] == 0.5
        return found["states"].tolist()

    assert states(step=1) == states(step=1) == [1, 1, 1]
    assert states(step=2) == [2, 2, 2]
    assert states("b", step=1) == [3, 3, 3]
    assert states("a", "other data", step=1) == [4, 4, 4]
    assert states(step=1) == [1, 1, 1] and states(step=2) == [2, 2, 2]
    (path,) = tmp_path.glob("cache/b-*.npz")
    path.write_bytes(path.read_bytes()[:-30])
    assert states("b", step=1) == [5, 5, 5]


def test_what_was_kept_goes_when_the_outputs_are_written(new_run, tmp_path):
    def compute():
        return {"a": 1.0}

    cache = tmp_path / "cache"
    part = new_run(step=1)
    part.once("of a part", compute)
    part.finish([], part=True)
    assert len(list(cache.iterdir())) == 1
    whole = new_run(step=1)
    whole.once("of the whole", compute)
    whole.once("of a part", never)
    whole.finish([])
    assert not cache.exists()


def test_two_runs_with_one_folder(new_run, tmp_path):
    new_run()
    with pytest.raises(BlockingIOError, match="another run"):
        experiment.Run(small_run.__file__, options(tmp_path), {})


# ---- outputs appear whole --------------------------------------------------------------


def test_no_reader_sees_half_a_json(new_run, tmp_path):
    run, numbers = new_run(), list(range(20_000))

    def write(i):
        run.finish([], numbers=numbers)

    def read():
        record = json.loads((tmp_path / "small_run.json").read_text())
        assert len(record["numbers"]) == 20_000

    while_writing(write, read, 20)


def test_no_reader_sees_half_an_hdf5(new_run, tmp_path):
    noise, run = np.random.default_rng(0).normal(size=(300, 300)), new_run()

    def write(i):
        run.arrays("a", {"x": noise + i, "y": noise + i}, i=i)
        run.finish([])

    def read():
        found = arrays(tmp_path / "small_run.h5")
        np.testing.assert_array_equal(found["a/x"], found["a/y"])

    while_writing(write, read, 20)


def test_no_reader_sees_half_a_png(new_run, tmp_path):
    from matplotlib.figure import Figure

    run = new_run()

    def write(i):
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([0, i])
        run.figure(figure, "test")

    def read():
        assert matplotlib.image.imread(tmp_path / "test.png").shape == (400, 600, 4)

    while_writing(write, read, 5)
