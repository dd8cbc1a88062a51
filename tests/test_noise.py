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


@pytest.mark.parametrize(
    "b0, b1, wanted",
    [
        # u = (b0 + 1/2) / 2^32, an angle of 2 pi v: radius sqrt(-2 log u).
        (0, 0, np.sqrt(2 * 33 * np.log(2))),
        (1, 0, np.sqrt(-2 * np.log(1.5 / 2**32))),
        (2, 0xFFFFFFFF, -np.sqrt(-2 * np.log(2.5 / 2**32))),
        (1 << 31, 1 << 30, np.sqrt(2 * np.log(2)) * np.cos(np.pi / 4)),
        (0xFFFFFFFF, 0, 0.0),
    ],
)
def test_the_extremes_of_the_words(b0, b1, wanted, monkeypatch):
    """A lost half would be infinite at b0 = 0, and 0.05 off at 1: the tail alone tells."""
    monkeypatch.setattr(
        noise,
        "_threefry",
        lambda *args: tuple(w + tf.zeros_like(args[2]) for w in words(b0, b1)),
    )
    nu = noise.standard_normal((1,), words(0, 0)).numpy()
    np.testing.assert_allclose(nu, wanted, rtol=1e-6, atol=1e-6)


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
        {"source": 1},
        {"stream": noise.EVALUATION, "source": 1},
        {"stream": 8, "source": 1},
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


def test_streams_and_sources_never_share_a_key():
    keys = {
        tuple(int(w) for w in noise.key(3, 7, stream, replica, source))
        for stream in range(9)
        for replica in range(3)
        for source in range(9)
    }
    assert len(keys) == 9 * 3 * 9


def test_uniforms():
    u = noise.uniform((N,), noise.key(1, 2)).numpy()
    assert 0 < u.min() < 1e-5 and 1 - 1e-5 < u.max() < 1
    assert stats.kstest(u.astype("float64"), "uniform").pvalue > 1e-3
    nu = noise.standard_normal((N,), noise.key(1, 2)).numpy()
    # Of another block of words than the normals of the same key.
    for values in (nu, nu**2, abs(nu)):
        assert abs(np.corrcoef(u, values)[0, 1]) < 4 / np.sqrt(N)


# ---- the order of an epoch ---------------------------------------------------------------


def permutations(n, count, first=0):
    """Return permutations of 0, ..., n - 1 with keys of consecutive steps, (count, n)."""

    @tf.function(autograph=False, jit_compile=True)
    def run():
        return tf.map_fn(
            lambda step: noise.permutation(
                tf.range(n), n, noise.key(5, step, noise.SHUFFLE)
            ),
            tf.range(first, first + count, dtype=tf.int64),
            fn_output_signature=tf.int32,
        )

    return run().numpy()


def swap_or_not(place, n, key):
    """Hoang, Morris and Rogaway, CRYPTO 2012, Fig. 1, with the integers of Python.

        for i in 1..r:  X' = K_i - X mod n;  X^ = max(X, X');  if F_i(X^) = 1: X = X'

    K_i = floor(k_i n / 2^32) and F_i the high bit of MurmurHash3's end applied to X^ + f_i,
    with (k_i, f_i) = Threefry(key, (i, 0)).
    """
    word = 2**32 - 1
    for i in range(24):
        k, f = (int(w) for w in noise._threefry(*key, *words(i, 0)))
        partner = ((k * n >> 32) - place) % n
        h = max(place, partner) + f & word
        h = (h ^ h >> 16) * 0x85EBCA6B & word
        h = (h ^ h >> 13) * 0xC2B2AE35 & word
        if h >> 31:
            place = partner
    return place


@pytest.mark.parametrize("n", (1, 3, 100, 2**31 - 1))
def test_permutation_is_swap_or_not(n):
    key = noise.key(2**40 + 3, 9, noise.SHUFFLE)
    places = np.unique(np.linspace(0, n - 1, 20).astype("int32"))
    wanted = [swap_or_not(int(place), n, key) for place in places]
    for jit_compile in (False, True):
        ours = tf.function(noise.permutation, jit_compile=jit_compile, autograph=False)
        np.testing.assert_array_equal(ours(tf.constant(places), n, key), wanted)


@pytest.mark.parametrize("n", (1, 2, 7, 1000, 2**16 + 1))
def test_permutation_holds_everything_once(n):
    order = noise.permutation(np.arange(n), n, noise.key(0, 0, noise.SHUFFLE)).numpy()
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_all_permutations_of_five_are_equally_likely():
    orders = permutations(5, 12_000)
    ranks = orders @ 5 ** np.arange(5)
    _, counts = np.unique(ranks, return_counts=True)
    assert len(counts) == 120
    assert stats.chisquare(counts).pvalue > 1e-3


def test_pairs_of_places_are_independent():
    """(pi(a), pi(b)) is uniform over all pairs of different places, near and far ones."""
    n = 16
    orders = permutations(n, 24_000, first=10**6)
    for a, b in ((0, 1), (3, 4), (0, 15), (7, 8), (2, 11)):
        counts = np.bincount(orders[:, a] * n + orders[:, b], minlength=n * n)
        counts = counts.reshape(n, n)
        assert (np.diag(counts) == 0).all()
        apart = counts[~np.eye(n, dtype=bool)]
        assert stats.chisquare(apart).pvalue > 1e-3, (a, b)
    # An epoch tells nothing of the next: pi(a) of one and of the other.
    pairs = np.bincount(orders[:-1, 0] * n + orders[1:, 0], minlength=n * n)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_neighbours_in_the_data_are_no_neighbours_in_the_order():
    """Of n - 1 adjacent places 2 (n - 1) / n on average hold adjacent numbers: 2."""
    n = 1000
    steps = np.abs(np.diff(permutations(n, 400), axis=1)) == 1
    # Nearly Poisson with mean 2: the mean of 400 has the standard error 0.07.
    assert steps.sum(1).mean() == pytest.approx(2, abs=0.3)
