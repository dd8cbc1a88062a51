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
        "order": noise.permutation(5000, 7, 50),
        "weights": trained(True),
    }


@pytest.fixture(scope="module")
def here():
    return numbers()


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
