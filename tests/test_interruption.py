"""A run that is interrupted and started again ends as if nothing had been."""

import json
import os
import pathlib
import random
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
from tests.small_run import outputs
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
        written = [p.stat().st_mtime for p in out.glob("checkpoints/*/*.csv")]
        if max(written, default=0) > began:
            break
        time.sleep(0.01)


def finish(process):
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    small_run.main(["--out", str(out)])
    return out


def test_killed_interrupted_and_finished(straight, tmp_path):
    """SIGKILL, then Ctrl-C, then to the end: the straight run of another process."""
    script, out = ROOT / "tests" / "small_run.py", tmp_path / "out"
    process = start(script, "--out", out)
    wait_for_a_checkpoint(process, out)
    time.sleep(random.uniform(0.0, 0.7))  # some dozen epochs, each with its checkpoint
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "small.json").exists()

    process = start(script, "--out", out)
    wait_for_a_checkpoint(process, out)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "the same command goes on from there" in error.splitlines()[-1]

    finish(start(script, "--out", out))
    assert_same_outputs(straight, out, "small")
    assert not (out / "checkpoints").exists()


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


class Killed(BaseException):
    pass


def small_fit(out, fail=lambda: None, epochs=6):
    """Train with a checkpoint at every epoch; `fail` may raise at its end."""
    import keras

    class Fail(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                fail()

    args = outputs.options("").parse_args(["--out", str(out)])
    run = outputs.Run("test", args, {})
    model = deen.DEEN((8, 6), sigma=0.3, seed=3)
    model.compile(jit_compile=False)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    fit = model.fit
    model.fit = lambda *a, callbacks, **k: fit(*a, callbacks=[Fail(), *callbacks], **k)
    curve = run.train(model, x, name="fit", batch_size=16, epochs=epochs)[:2]
    return np.concatenate([w.numpy().ravel() for w in model.weights]), curve


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_fit(tmp_path_factory.mktemp("small"))


@pytest.fixture
def every_epoch(monkeypatch):
    monkeypatch.setattr(outputs, "KEEP_EVERY", 0.0)


def assert_goes_on(out, small, fail=lambda: None):
    weights, curve = small_fit(out, fail)
    np.testing.assert_array_equal(weights, small[0])
    assert curve == small[1]  # no gap, nothing twice
    assert curve[0] == [4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize("writes", range(5))
def test_a_kill_at_any_write_of_a_checkpoint(
    writes, small, every_epoch, tmp_path, monkeypatch
):
    """Two files an epoch: after `writes` of them the process is gone.

    An odd number is the moment between the two files of one checkpoint.
    """
    count, replace = iter(range(100)), os.replace

    def replace_or_die(*paths):
        if next(count) == writes:
            raise Killed
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with pytest.raises(Killed):
            small_fit(tmp_path)
    assert_goes_on(tmp_path, small)


def test_a_finished_fit_is_not_trained_again(small, tmp_path):
    small_fit(tmp_path)

    def never():
        raise AssertionError("trained again")

    assert_goes_on(tmp_path, small, never)


@pytest.mark.parametrize("part", (0.0, 0.5, 0.9))
@pytest.mark.parametrize("file", ("state.weights.h5", "losses.csv"))
def test_a_damaged_checkpoint_is_not_used(
    file, part, small, every_epoch, tmp_path, capsys
):
    """No writer leaves it so; a disk may. Then the fit begins anew."""

    def die():
        raise Killed

    with pytest.raises(Killed):
        small_fit(tmp_path, die)
    (path,) = tmp_path.glob(f"checkpoints/*/{file}")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_goes_on(tmp_path, small)
    assert "begins anew" in capsys.readouterr().out


def test_losses_are_those_of_keras(small):
    """One execution an epoch here: the curve is the history's loss."""
    _, (iterations, losses) = small
    model = deen.DEEN((8, 6), sigma=0.3, seed=3)
    model.compile(jit_compile=False)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    history = model.fit(x, batch_size=16, epochs=6, verbose=0)
    assert losses == pytest.approx(history.history["loss"], rel=1e-6)
    assert iterations[-1] == 24


# ---- outputs appear whole --------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    args = outputs.options("").parse_args(["--out", str(tmp_path)])
    return outputs.Run("test", args, {})


def test_no_reader_sees_half_a_json(run, tmp_path):
    def write(i):
        run.json(numbers=list(range(20_000)))

    def read():
        record = json.loads((tmp_path / "test.json").read_text())
        assert len(record["numbers"]) == 20_000

    while_writing(write, read, 20)


def test_no_reader_sees_half_an_hdf5(run, tmp_path):
    noise = np.random.default_rng(0).normal(size=(300, 300))

    def write(i):
        run.arrays({"a": ({"x": noise + i, "y": noise + i}, {"i": i})})

    def read():
        found = arrays(tmp_path / "test.h5")
        np.testing.assert_array_equal(found["a/x"], found["a/y"])

    while_writing(write, read, 20)


def test_no_reader_sees_half_a_png(run, tmp_path):
    from matplotlib.figure import Figure

    def write(i):
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([0, i])
        run.figure(figure, "test")

    def read():
        assert matplotlib.image.imread(tmp_path / "test.png").shape == (300, 450, 4)

    while_writing(write, read, 5)
