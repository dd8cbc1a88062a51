"""Samples of a density known by its energy or score: Langevin, Hamiltonian, walk-jump.

Target exp(-E(x)) / Z, psi = -dE/dx; each row of x is a chain of its own.

Langevin, step h in squared units of x (Eq. 26 has h = sigma^2):

    x' = x + h psi(x) + sqrt(2 h) nu                       nu ~ N(0, I)

Unadjusted, its stationary density is off by O(h). Metropolis-adjusted (MALA) it is exact:
x' is accepted with probability min(1, exp(E(x) - E(x') + log g(x|x') - log g(x'|x))),

    log g(x'|x) = -|x' - x - h psi(x)|^2 / 4h.

Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): momentum p ~ N(0, I), L leapfrog
steps of size e in units of x,

    p <- p + e/2 psi(x);  (x <- x + e p;  p <- p + e psi(x)) L times, the last with e/2,

accepted with probability min(1, exp(H - H')), H = E + |p|^2 / 2.

Walk-jump (Saremi and Hyvaerinen 2019): walk by Langevin on the density smoothed by sigma,
which is easy to walk on and is what DEEN learns; at any time jump, x_hat = xi +
sigma^2 psi(xi) (Eq. 11). Walk and jump are apart: a jump's result is never walked from.

An MLP of tanh units has a bounded energy, so that exp(-E) has no integral over the whole
space: a chain that leaves the data far behind need not come back. Start at data, and see
where the chains have gone.

Acceptance: exp(-a) > u for uniform u is a < e for e ~ Exp(1), and (z1^2 + z2^2) / 2 is such
an e for standard normals z1, z2: `deen_tf.training.noise` is all the randomness there is, keyed by
(seed, step). With a model of this package all steps are one compiled program; a density in
NumPy is called from within it.

(TensorFlow Probability 0.25 has these kernels and they run under TensorFlow 2.21, but it
brings Keras 2 (tf-keras) in beside Keras 3. The two steps below are shorter than what would
fit its interface to a model.)
"""

import contextlib
import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deen_tf.checks import as_points, positive, whole
from deen_tf.training import noise

MOVE, ACCEPT = 5, 6  # streams of keys, beside those of `deen_tf.training.noise`


class Chains(NamedTuple):
    """Many chains side by side.

    Attributes
    ----------
    states : ndarray, shape (kept, n, d)
        Evenly spaced in time; the last is the final one.
    acceptance : ndarray, shape (n,)
        Fraction of each chain's proposals that were accepted; 1 without adjustment.
    """

    states: np.ndarray
    acceptance: np.ndarray


def langevin(density, x, *, step, steps, seed=0, adjusted=False, kept=1):
    """Run Langevin chains from the points x.

    Parameters
    ----------
    density : object with `.score`, and `.energy` if adjusted
        A model of this package, an exact law, a Parzen density.
    x : array_like, shape (n, d)
        Where the chains start.
    step : float
        h, in squared units of x.
    steps : int
    seed : int
        The same seed gives the same chains.
    adjusted : bool
        Accept or reject each step (MALA).
    kept : int
        How many states of each chain to return; divides `steps`.

    Returns
    -------
    Chains

    Raises
    ------
    TypeError, ValueError
        If the density has no score, or no energy to adjust with, an argument is out of
        range, or a chain runs off to infinity: the step is too large.
    """
    method = "mala" if adjusted else "langevin"
    return _run(density, x, method, step, steps, seed, kept)


def hamiltonian(density, x, *, step, leapfrogs, steps, seed=0, kept=1):
    """Run Hamiltonian Monte Carlo from the points x.

    Parameters
    ----------
    density : object with `.energy` and `.score`
    x, steps, seed, kept
        See `langevin`; `steps` counts trajectories.
    step : float
        e, of the leapfrog, in units of x.
    leapfrogs : int
        L, to a trajectory.

    Returns
    -------
    Chains
    """
    leapfrogs = whole(leapfrogs, "leapfrogs")
    return _run(density, x, "hamiltonian", step, steps, seed, kept, leapfrogs)


def walk_jump(density, xi, *, step, steps, seed=0, adjusted=False, kept=1):
    """Walk on the smoothed density from the points xi, and jump to clean ones (Eq. 11).

    Parameters
    ----------
    density : object with `.score` and `.denoise`
        At one noise level sigma: a trained DEEN, `law.smoothed(sigma)`, a Parzen density.
    xi : array_like, shape (n, d)
        Where the walks start: noisy points.
    step, steps, seed, adjusted, kept
        See `langevin`.

    Returns
    -------
    x_hat : ndarray, shape (kept, n, d)
        The jumps.
    walk : Chains
        The noisy points they were made from.
    """
    if not hasattr(density, "denoise"):
        raise TypeError(f"walk_jump needs a density with denoise, got {density!r}")
    xi = as_points(xi, getattr(density, "dimension", None), "xi", "float64")
    _check(density, "denoise", xi[:1], xi[:1].shape)
    walk = langevin(
        density, xi, step=step, steps=steps, seed=seed, adjusted=adjusted, kept=kept
    )
    jumps = [np.asarray(density.denoise(states)) for states in walk.states]
    return np.stack(jumps), walk


def _run(density, x, method, step, steps, seed, kept, leapfrogs=1):
    if not hasattr(density, "score"):
        raise TypeError(f"a density must have a method score, got {density!r}")
    if method != "langevin" and not hasattr(density, "energy"):
        raise TypeError(
            f"{method} needs an energy, and {type(density).__name__} has only a score: "
            "use unadjusted Langevin"
        )
    dtype = getattr(density, "compute_dtype", "float64")
    x = as_points(x, getattr(density, "dimension", None), dtype=dtype)
    steps, kept = whole(steps, "steps"), whole(kept, "kept")
    if steps % kept:
        raise ValueError(f"kept must divide steps = {steps}, got {kept}")
    step = np.array(positive(step, "step"), dtype)
    if not 0 < step < np.inf:
        raise ValueError(f"step must be a normal number in {dtype}, got {step}")
    _check(density, "score", x[:1], x[:1].shape)
    if method != "langevin":
        _check(density, "energy", x[:1], (1,))
    program = _program(density, method, leapfrogs, x.shape[1], dtype)
    x, accepted, step = tf.constant(x), tf.zeros(len(x), dtype), tf.constant(step)
    # Steps are numbered from seed * 2^32: the number alone keys the randomness, and one
    # program serves all seeds.
    first = (whole(seed, "seed", least=0) % 2**31) << 32
    every, states = steps // kept, []
    for start in range(first, first + steps, every):
        ends = tf.constant(start, tf.int64), tf.constant(start + every, tf.int64)
        x, accepted = program(x, accepted, step, *ends)
        states.append(x.numpy())
        lost = np.count_nonzero(~np.isfinite(states[-1]).all(1))
        if lost:
            raise ValueError(
                f"{lost} of {len(states[-1])} chains ran off to infinity: take a step "
                f"smaller than {float(step):g}"
            )
    return Chains(np.stack(states), accepted.numpy() / steps)


def _check(density, method, x, shape):
    """Let the density answer once outside the compiled program, and check the shape."""
    answer = np.shape(getattr(density, method)(x))
    if answer != shape:
        raise ValueError(
            f"the {method} of {type(density).__name__} must have shape {shape} for one "
            f"point, got {answer}"
        )


@functools.lru_cache(maxsize=32)
def _program(density, method, leapfrogs, dimension, dtype):
    """Return the program that runs the steps first, ..., end - 1 of all chains."""
    in_tensorflow = hasattr(density, "compute_dtype")
    if in_tensorflow:
        density(tf.zeros((1, dimension), dtype))  # has its weights before it is traced
        score, energy = density.score, getattr(density, "energy", None)
    else:
        score = _from_numpy(getattr(density, "score", None), dtype, (None, dimension))
        energy = _from_numpy(getattr(density, "energy", None), dtype, (None,))
    transition = {
        "langevin": lambda x, h, z: (x + h * score(x) + tf.sqrt(2 * h) * z, None),
        "mala": lambda x, h, z: _mala(energy, score, x, h, z),
        "hamiltonian": lambda x, e, p: _leapfrog(energy, score, x, e, p, leapfrogs),
    }[method]

    def run(x, accepted, step, first, end):
        def body(i, x, accepted):
            z = noise.standard_normal(tf.shape(x), noise.key(0, i, MOVE), dtype)
            x_new, rise = transition(x, step, z)
            if rise is None:
                return i + 1, x_new, accepted + 1
            z = noise.standard_normal(
                (tf.shape(x)[0], 2), noise.key(0, i, ACCEPT), dtype
            )
            # A trajectory that has run off to NaN compares as false: rejected.
            accept = rise < tf.reduce_sum(tf.square(z), axis=1) / 2
            x = tf.where(accept[:, None], x_new, x)
            return i + 1, x, accepted + tf.cast(accept, dtype)

        _, x, accepted = tf.while_loop(
            lambda i, *_: i < end, body, (first, x, accepted)
        )
        return x, accepted

    n = [tf.TensorSpec((None, dimension), dtype), tf.TensorSpec((None,), dtype)]
    scalars = [tf.TensorSpec((), dtype)] + 2 * [tf.TensorSpec((), tf.int64)]
    return tf.function(run, input_signature=n + scalars, jit_compile=in_tensorflow)


def _mala(energy, score, x, h, z):
    """Return the proposal, and minus the logarithm of its acceptance ratio, (n,)."""
    forward = tf.sqrt(2 * h) * z  # x' - x - h psi(x)
    psi = score(x)
    x_new = x + h * psi + forward
    backward = x - x_new - h * score(x_new)
    squares = tf.reduce_sum(tf.square(backward) - tf.square(forward), axis=1)
    return x_new, energy(x_new) - energy(x) + squares / (4 * h)


def _leapfrog(energy, score, x, e, p, leapfrogs):
    """Return the end of a trajectory, and H' - H, (n,)."""
    start = energy(x) + tf.reduce_sum(tf.square(p), axis=1) / 2
    p = p + e / 2 * score(x)

    def body(i, x, p):
        x = x + e * p
        return i + 1, x, p + e * score(x)

    _, x, p = tf.while_loop(lambda i, *_: i < leapfrogs - 1, body, (0, x, p))
    x = x + e * p
    p = p + e / 2 * score(x)
    return x, energy(x) + tf.reduce_sum(tf.square(p), axis=1) / 2 - start


def _from_numpy(function, dtype, shape):
    """Return a NumPy function of points as one of tensors."""
    if function is None:
        return None

    def call(x):
        def answer(points):
            # Points so far out that the density refuses them get NaN: such proposals are
            # rejected.
            values = np.full((len(points), *shape[1:]), np.nan, dtype)
            rows = np.flatnonzero(np.isfinite(points).all(1))
            try:
                values[rows] = function(points[rows])
            except ValueError:
                for i in rows:
                    with contextlib.suppress(ValueError):
                        values[i] = function(points[i : i + 1])[0]
            return values

        y = tf.numpy_function(answer, [x], dtype)
        return tf.ensure_shape(y, shape)

    return call
