"""The same seed gives the same numbers; and where that ends, what is still the same."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import deen_tf as deen
from deen_tf.training import noise
from tests.test_interruption import assert_same_outputs

ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import sys
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(2)
tf.config.threading.set_inter_op_parallelism_threads(2)
import numpy as np
from tests import test_determinism

np.savez(sys.argv[1], **test_determinism.numbers())
"""


def trained(jit_compile):
    """Return the weights after 100 steps."""
    x = deen.datasets.GaussianMixture.ring(modes=8).sample(5000, seed=0)
    model = deen.DEEN((16, 16), sigma=0.1, seed=7)
    model.compile(jit_compile=jit_compile)
    model.fit(x, batch_size=100, epochs=2, verbose=0)
    return np.concatenate([w.numpy().ravel() for w in model.weights])


def numbers():
    return {
        "bits": np.array([word.numpy() for word in noise.key(7, 99)]),
        "order": noise.permutation(
            np.arange(5000), 5000, noise.key(7, 50, noise.SHUFFLE)
        ).numpy(),
        "weights": trained(True),
    }


@pytest.fixture(scope="module")
def here():
    return numbers()


@pytest.mark.long
def test_another_process_with_other_threads(here, tmp_path):
    path = tmp_path / "numbers.npz"
    subprocess.run([sys.executable, "-c", PROGRAM, path], cwd=ROOT, check=True)
    there = np.load(path)
    for name in here:
        np.testing.assert_array_equal(here[name], there[name], err_msg=name)


def test_without_xla_the_noise_is_the_same(here):
    """Sums are rounded otherwise, and 100 steps make 6e-8 of it."""
    assert relative_difference(here["weights"], trained(False)) < 1e-5


def relative_difference(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(a)


@pytest.mark.slow
def test_fig1_twice(tmp_path):
    for out in ("one", "other"):
        subprocess.run(
            [sys.executable, ROOT / "reproduce/fig1.py", "--quick", "--out", out],
            cwd=tmp_path,
            check=True,
        )
    assert_same_outputs(tmp_path / "one", tmp_path / "other", "fig1")


@pytest.mark.parametrize("cls", (deen.DEEN, deen.DSM, deen.ContrastiveDivergence))
def test_seeds_far_apart_are_other_seeds(cls):
    """2^31 or 2^32 further on: other weights, from the first on, and other noise."""
    weights, losses = [], []
    for seed in (7, 7 + 2**31, 7 + 2**32, 7 + 2**63):
        model = cls((6, 5), sigma=0.3, seed=seed)
        model.build((None, 2))
        weights.append(np.concatenate([w.numpy().ravel() for w in model.weights]))
        x = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
        weights_of_the_first = np.split(
            weights[0], np.cumsum([int(np.prod(w.shape)) for w in model.weights])[:-1]
        )
        for w, value in zip(model.weights, weights_of_the_first, strict=True):
            w.assign(value.reshape(w.shape))
        losses.append(float(model.losses(x, 0, noise.TRAINING)[1]))
    for i in range(4):
        for j in range(i):
            assert abs(weights[i] - weights[j]).max() > 0.01
            assert losses[i] != losses[j]  # the same weights: other noise
