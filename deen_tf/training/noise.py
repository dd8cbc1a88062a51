"""Randomness without state: a pure function of (seed, step, stream, replica, source).

A step of training draws nu ~ N(0, I) afresh (Sec. 3, "double-SGD"), and takes its minibatch
from the data in a random order. Because both depend on nothing but the model's seed and
`optimizer.iterations`, a resumed run sees the very noise and order that the straight run
would have seen.

Random bits: Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011; JAX has it too), a block cipher applied to 0, 1, 2, ..., with 20 rounds for the
keys and 13 for the noise: the larger and the smaller number of their library, Random123
(a changed bit has reached all the others after 8).
Normals, by Box and Muller, from the two words b0, b1 that each counter gives:

    nu = sqrt(-2 log u) cos(2 pi v),    u = (b0 + 1/2) / 2^32,    v = b1 / 2^32

It is written in plain tensor operations so that XLA melts it into one loop, logarithm and
cosine as polynomials. Measured under XLA on one core, nanoseconds for each normal: this 1.8,
with 20 rounds 2.2, with XLA's logarithm as well 2.9; `tf.random.stateless_normal` 8
(threefry) and 17 (Philox). And, unlike that function, it gives the same numbers, but for
rounding, with and without XLA.

The order of an epoch is a permutation pi of 0, ..., n - 1 that is computed where it is
needed, place by place, without a sort and without the host: the swap-or-not shuffle (Hoang,
Morris and Rogaway, CRYPTO 2012). Round r has a random number K_r < n and a random bit for
each pair {x, K_r - x mod n}: if it is set the two change places.
"""

import numpy as np
import tensorflow as tf

# Streams that never share a key; LEVELS is added to the first two.
TRAINING, EVALUATION, SHUFFLE, LEVELS = 0, 1, 2, 4

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
NOISE_ROUNDS = 13
SHUFFLE_ROUNDS = 24  # a pair's two places are independent but for 2^-24


def _polynomial(function, low, high, degree):
    z = np.linspace(low, high, 4001)
    return np.polynomial.Polynomial.fit(z, function(z), degree).convert().coef


# Least squares: cos(2 pi v) on |v| <= 1/4 in v^2, error 5e-10; log(1 + t) / t, error 7e-8.
_COSINE = _polynomial(lambda z: np.cos(2 * np.pi * np.sqrt(z)), 0, 1 / 16, 5)
_LOG = _polynomial(lambda t: np.log1p(t) / t, 0.5**0.5 - 1, 2**0.5 - 1, 8)


def key(seed, step, stream=TRAINING, replica=0, source=0):
    """Return the two words that name one draw.

    Parameters
    ----------
    seed : int
        Below 2^64.
    step : int or scalar integer tensor
        `optimizer.iterations` in training.
    stream : int
        TRAINING, EVALUATION, SHUFFLE, LEVELS; below 256.
    replica : int or scalar integer tensor
        Which replica of a `tf.distribute` strategy draws.
    source : int
        Which of several independent draws of one step.

    Returns
    -------
    pair of scalar tensors, uint32
    """
    outer = _threefry(
        tf.constant(seed & 0xFFFFFFFF, tf.uint32),
        tf.constant((seed >> 32) & 0xFFFFFFFF, tf.uint32),
        tf.cast(replica, tf.uint32),
        tf.constant(stream + 256 * source, tf.uint32),
    )
    step = tf.cast(step, tf.int64)
    return _threefry(
        *outer,
        tf.cast(step & 0xFFFFFFFF, tf.uint32),
        tf.cast(tf.bitwise.right_shift(step, 32), tf.uint32),
    )


def standard_normal(shape, key, dtype="float32"):
    """Draw nu ~ N(0, I).

    Parameters
    ----------
    shape : sequence of int or 1-D integer tensor
        At most 2^32 numbers.
    key : pair of scalar tensors
        From `key`. The same key gives the same numbers.
    dtype : str

    Returns
    -------
    tensor of the given shape
    """
    counter = tf.cast(tf.range(tf.reduce_prod(shape)), tf.uint32)
    b0, b1 = _threefry(*key, counter, tf.zeros_like(counter), NOISE_ROUNDS)
    # Converted to a float the smallest u is 2^-33, so the tail reaches 6.8; u may round
    # up to 1, where log u = 0.
    log_u = _log(tf.cast(b0, tf.float32) + 0.5, 32)
    # An angle in the right half plane, |v| <= 1/4, from the signed b1: the cosine does not
    # see the sign of v, which becomes that of nu.
    v = tf.cast(tf.bitcast(b1, tf.int32), tf.float32) * 2.0**-33
    nu = tf.sqrt(-2.0 * log_u) * _horner(tf.square(v), _COSINE)
    sign = b1 & tf.constant(1 << 31, tf.uint32)
    nu = tf.bitcast(tf.bitcast(nu, tf.uint32) | sign, tf.float32)
    return tf.cast(tf.reshape(nu, shape), dtype)


def uniform(shape, key, dtype="float32"):
    """Draw numbers uniform between 0 and 1, both left out; see `standard_normal`."""
    counter = tf.cast(tf.range(tf.reduce_prod(shape)), tf.uint32)
    b0, _ = _threefry(*key, counter, tf.ones_like(counter), NOISE_ROUNDS)
    u = tf.cast(tf.bitwise.right_shift(b0, tf.constant(9, tf.uint32)), tf.float32)
    return tf.cast(tf.reshape((u + 0.5) * 2.0**-23, shape), dtype)


def permutation(places, n, key):
    """Return what stands at some places of a random permutation of 0, ..., n - 1.

    Parameters
    ----------
    places : integer tensor
        Of 0, ..., n - 1; any shape.
    n : int
        Below 2^31.
    key : pair of scalar tensors
        From `key`, with the stream SHUFFLE. The same key gives the same permutation.

    Returns
    -------
    tensor of the same shape, int32
    """
    rounds = tf.range(SHUFFLE_ROUNDS, dtype=tf.int32)
    rounds = tf.cast(rounds, tf.uint32)
    k, keys = _threefry(*key, rounds, tf.zeros_like(rounds))
    # k n / 2^32 is a random number below n.
    k = tf.cast(k, tf.uint64) * tf.constant(n, tf.uint64)
    k = tf.cast(tf.bitwise.right_shift(k, tf.constant(32, tf.uint64)), tf.uint32)
    x, n = tf.cast(places, tf.uint32), tf.constant(n, tf.uint32)
    for r in range(SHUFFLE_ROUNDS):
        partner = k[r] - x
        partner = tf.where(x > k[r], partner + n, partner)
        bit = _hash(tf.maximum(x, partner) + keys[r])
        x = tf.where(bit > 0x7FFFFFFF, partner, x)
    return tf.cast(x, tf.int32)


def _hash(h):
    """Mix the bits of 32-bit words (the end of MurmurHash3; the high bit is the best)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = h ^ tf.bitwise.right_shift(h, tf.constant(shift, tf.uint32))
        h = h * tf.constant(factor, tf.uint32)
    return h


def _threefry(key0, key1, x0, x1, rounds=20):
    """Encrypt the words (x0, x1) with the key (key0, key1); all uint32, any shape."""
    keys = (key0, key1, key0 ^ key1 ^ tf.constant(_PARITY, tf.uint32))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(rounds):
        left = _ROTATIONS[(i // 4) % 2][i % 4]
        x0 = x0 + x1
        x1 = x0 ^ (
            tf.bitwise.left_shift(x1, tf.constant(left, tf.uint32))
            | tf.bitwise.right_shift(x1, tf.constant(32 - left, tf.uint32))
        )
        if i % 4 == 3:
            j = i // 4 + 1
            x0, x1 = (
                x0 + keys[j % 3],
                x1 + keys[(j + 1) % 3] + tf.constant(j, tf.uint32),
            )
    return x0, x1


def _log(x, e):
    """Return log(x / 2^e) of floats x in the normal range, at most 2^e: never positive."""
    bits = tf.bitcast(x, tf.int32)
    power = tf.bitwise.right_shift(bits - 0x3F3504F3, 23)
    m = tf.bitcast(bits - tf.bitwise.left_shift(power, 23), tf.float32)
    t = m - 1.0  # x = m 2^power, m between the roots of 1/2 and 2
    return t * _horner(t, _LOG) + np.float32(np.log(2)) * tf.cast(power - e, tf.float32)


def _horner(z, coefficients):
    value = tf.fill(tf.shape(z), np.float32(coefficients[-1]))
    for coefficient in coefficients[-2::-1]:
        value = value * z + np.float32(coefficient)
    return value
