"""The stateless noise: known answers, moments, tails, independence."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from deen_tf.training import noise

N = 2**20  # draws: the standard error of a mean is 1e-3


@pytest.fixture(scope="module")
def draws():
    return noise.standard_normal((N,), noise.key(1, 2)).numpy().astype("float64")


def words(*values):
    return [tf.constant(v, tf.uint32) for v in values]


@pytest.mark.parametrize(
    "key_and_counter, rounds, cipher",
    [
        # Known answers that come with Random123 (Salmon et al. 2011).
        ((0, 0, 0, 0), 20, (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 4, 20, (0x1CB996FC, 0xBB002BE7)),
        (
            (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3),
            20,
            (0xC4923A9C, 0x483DF7A0),
        ),
        ((0, 0, 0, 0), 13, (0x9D1C5EC6, 0x8BD50731)),
        ((0xFFFFFFFF,) * 4, 13, (0xFD36D048, 0x2D17272C)),
        (
            (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3),
            13,
            (0xBA3E4725, 0xF27D669E),
        ),
    ],
)
def test_threefry_known_answers(key_and_counter, rounds, cipher):
    answer = noise._threefry(*words(*key_and_counter), rounds)
    assert tuple(int(v) for v in answer) == cipher


def test_normals_are_box_and_mullers(draws):
    counter = tf.cast(tf.range(1000), tf.uint32)
    b0, b1 = noise._threefry(
        *noise.key(1, 2), counter, tf.zeros_like(counter), noise.NOISE_ROUNDS
    )
    u = (b0.numpy().astype("float64") + 0.5) / 2**32
    signed = b1.numpy().view("int32").astype("float64")
    # The angle's half of the circle is told by the sign: cos(pi - a) = -cos(a).
    sign = np.where(signed < 0, -1, 1)
    wanted = sign * np.sqrt(-2 * np.log(u)) * np.cos(np.pi * signed / 2**32)
    # float32: u, log and the polynomial each lose a few units in the last place.
    np.testing.assert_allclose(draws[:1000], wanted, atol=5e-6)


def test_logarithm():
    """To a few 1e-7 of the larger of 1 and |log u|, and exactly 0 at u = 1."""
    x = np.concatenate([np.geomspace(0.5, 2**32, 10**5), 2**32 - 256 * np.arange(99)])
    x = x.astype("float32")
    wanted = np.log(x.astype("float64") / 2**32)
    found = noise._log(tf.constant(x), 32).numpy()
    np.testing.assert_allclose(found, wanted, rtol=3e-7, atol=3e-7)
    assert found.max() == 0 and noise._log(tf.constant(2.0**32), 32) == 0


def test_moments(draws):
    # Standard errors of the moments of N(0, 1): sqrt(1, 2, 15, 96, ...) / sqrt(N).
    for power, wanted, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = abs((draws**power).mean() - wanted)
        assert error < 4 * np.sqrt(variance / N), power


def test_distribution_and_tails(draws):
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    for threshold in (3, 4, 4.5):
        expected = 2 * N * stats.norm.sf(threshold)
        found = np.count_nonzero(abs(draws) > threshold)
        assert abs(found - expected) < 4 * np.sqrt(expected) + 1, threshold


def test_neighbours_and_dimensions_are_independent(draws):
    for lag in (1, 2, 3, 32, 784):
        assert abs((draws[lag:] * draws[:-lag]).mean()) < 4 / np.sqrt(N), lag
        squares = ((draws[lag:] ** 2 - 1) * (draws[:-lag] ** 2 - 1)).mean() / 2
        assert abs(squares) < 4 / np.sqrt(N), lag
    # No direction of a batch of 784-dimensional noise has more variance than another:
    # the eigenvalues fill Marchenko and Pastur's interval.
    n, d = 1300, 784
    values = np.linalg.eigvalsh(np.cov(draws[: n * d].reshape(n, d).T))
    edge = np.sqrt(d / n)
    assert values.min() > (1 - edge) ** 2 * 0.9
    assert values.max() < (1 + edge) ** 2 * 1.05


@pytest.mark.parametrize(
    "other",
    [
        {"step": 8},
        {"step": 7 + 2**32},
        {"seed": 4},
        {"seed": 3 + 2**32},
        {"stream": noise.EVALUATION},
        {"replica": 1},
    ],
)
def test_every_part_of_the_key_gives_independent_noise(other):
    base = {"seed": 3, "step": 7, "stream": noise.TRAINING, "replica": 0}
    first = noise.standard_normal((N // 4,), noise.key(**base)).numpy()
    second = noise.standard_normal((N // 4,), noise.key(**(base | other))).numpy()
    assert abs((first * second).mean()) < 4 / np.sqrt(N // 4)
    again = noise.standard_normal((N // 4,), noise.key(**base)).numpy()
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("shape", [(5,), (128, 3), (2, 3, 4)])
def test_the_same_with_and_without_xla(shape):
    def draw(step):
        return noise.standard_normal(shape, noise.key(1, step))

    plain = tf.function(draw)(tf.constant(5, tf.int64))
    compiled = tf.function(draw, jit_compile=True)(tf.constant(5, tf.int64))
    assert plain.shape == shape
    # The bits are equal; the logarithm may differ in the last place.
    np.testing.assert_allclose(plain, compiled, rtol=1e-5, atol=1e-6)


def test_permutation_holds_everything_once_and_is_uniform():
    order = noise.permutation(1000, seed=0, step=0)
    assert sorted(order) == list(range(1000))
    firsts = [noise.permutation(6, seed=0, step=s)[0] for s in range(600)]
    assert stats.chisquare(np.bincount(firsts, minlength=6)).pvalue > 1e-3
