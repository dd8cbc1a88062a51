"""Several replicas and workers: the update of one process on the whole batch."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.training import noise
from tests import replicas
from tests.in_units import objective

ROOT = pathlib.Path(__file__).parents[1]


def start(program, workers, folder=None):
    """Start a Python program, once or once for each of several workers."""
    ports = free_ports(workers) if workers > 1 else ()
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for i in range(workers):
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        if ports:
            task = {"type": "worker", "index": i}
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, "-u", *map(str, program)],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def finish(processes):
    """Wait for all; return the exit codes, and what was written."""
    try:
        texts = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "\n".join(texts)


@pytest.fixture(
    scope="module",
    params=(
        pytest.param(1, id="mirrored"),
        pytest.param(2, id="two workers", marks=pytest.mark.long),
    ),
)
def folder(request, tmp_path_factory):
    """Where two replicas, in one process or in two, left what they did."""
    folder = tmp_path_factory.mktemp("replicas")
    processes = start(["-m", "tests.replicas", "steps", folder], request.param)
    codes, text = finish(processes)
    assert codes == [0] * request.param, text
    return folder


@pytest.fixture
def runs(folder):
    return [np.load(path) for path in sorted(folder.glob("*.npz"))]


# ---- by hand, in one process -------------------------------------------------------------


def equal_parts(n):
    return n // 2, n - n // 2


def first_come(n):
    """How TensorFlow splits batches of a stream: a short one leaves the last without."""
    return min(n, 9), max(n - 9, 0)


def alone(n):
    return (n,)


def draw(parts, step, stream):
    """Return the noise of the replicas, which hold so many points, one after another."""
    return tf.concat(
        [
            noise.standard_normal((rows, 2), noise.key(replicas.SEED, step, stream, r))
            for r, rows in enumerate(parts)
        ],
        axis=0,
    )


def batches(x):
    return [x[i : i + replicas.BATCH] for i in range(0, len(x), replicas.BATCH)]


def descend(model, x, split, first_step=0):
    """An epoch: gradients of the mean over each batch. Return the mean of the losses."""
    losses = []
    for step, batch in enumerate(batches(x), first_step):
        nu = draw(split(len(batch)), step, noise.TRAINING)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(objective(model, batch, nu))
            descended = loss / model.sigma**2
        gradients = tape.gradient(descended, model.trainable_variables)
        model.optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        losses.append(float(loss))
    return np.mean(losses)


def evaluate(model, x, split):
    """Return the mean over all points; the noise is keyed by the number of the batch."""
    total = 0.0
    for i, batch in enumerate(batches(x)):
        nu = draw(split(len(batch)), i, noise.EVALUATION)
        total += float(tf.reduce_sum(objective(model, batch, nu)))
    return total / len(x)


# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", tuple(replicas.OPTIMIZERS))
def test_a_fit_is_that_of_one_process_on_the_whole_batches(runs, optimizer):
    """Of 17, 17 and 1 points, so that the replicas' parts differ and one is empty."""
    x = replicas.points()
    model = replicas.model_of(replicas.OPTIMIZERS[optimizer]())
    model.adapt(x)
    losses, validation = [], []
    # One process measures alone, of its replicas one.
    split = alone if len(runs) == 1 else equal_parts
    for epoch in range(replicas.EPOCHS):
        key = noise.key(replicas.SEED, 3 * epoch, noise.SHUFFLE)
        order = noise.permutation(np.arange(len(x)), len(x), key)
        losses.append(descend(model, x[order], equal_parts, 3 * epoch))
        validation.append(evaluate(model, x[:20], split))
    weights = replicas.flat(model.trainable_variables)
    for run in runs:
        # Sums of 17 terms in another order: some 6e-8 a step.
        np.testing.assert_allclose(run[optimizer], weights, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run[f"{optimizer} loss"], losses, rtol=1e-5)
        np.testing.assert_allclose(run[f"{optimizer} val_loss"], validation, rtol=1e-5)
        np.testing.assert_array_equal(run[optimizer], runs[0][optimizer])
    assert abs(runs[0]["plain"] - runs[0]["clipped"]).max() > 1e-3


def test_a_second_fit_compiles_nothing(runs):
    assert [len(run["traced again"]) for run in runs] == [0] * len(runs)


def test_a_stream_is_split_and_weighted_rightly(runs):
    x = replicas.points()
    model = replicas.model_of(replicas.OPTIMIZERS["plain"]())
    model.adapt(x)
    loss = descend(model, x, first_come)
    weights = replicas.flat(model.trainable_variables)
    for run in runs:
        np.testing.assert_allclose(run["stream"], weights, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run["stream loss"], [loss], rtol=1e-5)
        measured = evaluate(model, x, first_come)
        np.testing.assert_allclose(run["evaluate stream"], measured, rtol=1e-5)


def test_a_model_of_replicas_is_saved_and_exported_as_any(runs, folder):
    x = replicas.points()
    model = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_array_equal(
        replicas.flat(model.trainable_variables), runs[0]["clipped"]
    )
    assert int(model.optimizer.iterations) == 3 * replicas.EPOCHS
    np.testing.assert_allclose(model.score(x), runs[0]["score"], rtol=1e-5, atol=1e-6)
    served = tf.saved_model.load(str(folder / "saved_model")).signatures["score"]
    np.testing.assert_allclose(
        served(x=tf.constant(x))["score"], runs[0]["score"], rtol=1e-5, atol=1e-6
    )
    measured = evaluate(model, x, alone)
    assert [float(run["evaluate"]) for run in runs] == pytest.approx(
        [measured] * len(runs), rel=1e-5
    )


def test_what_must_be_made_inside_the_scope(runs):
    for run in runs:
        for what in ("optimizer", "weights"):
            assert str(run[what]) == (
                f"ValueError: the {what} must be made inside strategy.scope(), where the "
                "model was"
            )
        assert "adapt(sample) or build((None, d))" in str(run["stream first"])
        assert tuple(run["program"]) == (1, 0)  # neither of the others works in there


@pytest.mark.long
@pytest.mark.parametrize("folder", (2,), ids=("two workers",), indirect=True)
def test_workers_with_other_data_order_or_sigma_are_told(runs):
    for run in runs:
        for what in ("data", "order", "sigma"):
            assert "must begin with the same data" in str(run[f"other {what}"])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    codes, text = finish(start(["-m", "tests.replicas", "backup", folder], 2))
    assert codes == [0, 0], text
    assert not (folder / "backup.h5").exists()
    return [np.load(folder / f"{worker}.npy") for worker in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", (0, 1))
def test_a_worker_killed_and_both_started_again(uninterrupted, tmp_path, victim):
    """Weights and optimizer end bit for bit as if nothing had happened, on both workers."""
    program = ["-m", "tests.replicas", "backup", tmp_path]
    processes = start(program, 2)
    for line in processes[victim].stdout:
        if line.startswith("epoch 7"):
            processes[victim].kill()
    codes, text = finish(processes)
    assert codes[victim] == -9, text
    assert codes[1 - victim] != 0, text  # it ends of itself, and not as if it were done
    codes, text = finish(start(program, 2))
    assert codes == [0, 0], text
    assert "epoch 0" not in text
    for worker in range(2):
        state = np.load(tmp_path / f"{worker}.npy")
        np.testing.assert_array_equal(state, uninterrupted[worker])
        np.testing.assert_array_equal(state, uninterrupted[0])


@pytest.mark.slow
def test_the_documented_program_learns_as_one_process_does(tmp_path):
    told = deen.training.replicas.__doc__
    (program,) = re.findall(r"(    import tensorflow.*?)\n\nHere", told, re.DOTALL)
    (tmp_path / "train.py").write_text(textwrap.dedent(program))
    codes, text = finish(start(["train.py"], 2, tmp_path))
    assert codes == [0, 0], text
    together = keras.saving.load_model(tmp_path / "moons.keras")
    alone = deen.DEEN(hidden_units=(32, 32, 32), sigma=0.1, seed=0)
    alone.compile()
    truth = deen.datasets.Moons()
    alone.fit(truth.sample(20_000, seed=0), batch_size=2048, epochs=20, verbose=0)
    x = truth.sample(10_000, seed=1)
    assert together.evaluate(x, verbose=0) == pytest.approx(
        alone.evaluate(x, verbose=0), rel=0.01
    )
