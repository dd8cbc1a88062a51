"""The Markov chains of `deen_tf.sampling`, many side by side: what moves them one step on.

Of one transition (leapfrog, then accepted with probability min(1, exp(H - H')) or always) and
of dual averaging the equations are there. The energy and score of the point a chain is at
travel with it: a step of MALA asks once, L leapfrogs L times.

Acceptance: exp(-a) > u for uniform u is a < e for e ~ Exp(1), and (z1^2 + z2^2) / 2 is such
an e for standard normals z1, z2: `deen_tf.training.noise` is all the randomness there is,
keyed by (seed, step).

What is compiled. A model's steps are one program, that stands in the model's own store of
programs beside its energy and score: it is forgotten with them, and dies with the model. Any
other density in TensorFlow is traced anew for each call, as only it knows what its score reads.
Densities in NumPy share one program, which calls back to ask the one whose turn it is.
"""

import contextlib
import functools
import itertools
import math
import weakref
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deen_tf.checks import LARGEST, LARGEST_SINGLE, as_points, whole
from deen_tf.fields import check, dtype_of, shape_of
from deen_tf.training import noise

MOVE, ACCEPT = 16, 17  # streams of keys; those below 16 are of `deen_tf.training`
ASKED = {}  # densities in NumPy, while chains run on them, by number
NUMBERS = itertools.count()
TARGET = {"langevin": 1 / 1.05, "mala": 0.574, "hamiltonian": 0.8}


class State(NamedTuple):
    """Where n chains are, in tensors."""

    x: tf.Tensor  # (n, ...)
    energy: tf.Tensor  # (n,); zeros where none is needed
    psi: tf.Tensor  # (n, ...)
    accepted: tf.Tensor  # (n,), of the steps since the step was settled
    squares: tf.Tensor  # (n,), |psi|^2 / d, summed over the same
    step: tf.Tensor  # e
    tuning: tf.Tensor  # (3,), of log e: its first guess, the rate's error H, its mean


class Walk:
    """Chains on their way, and the program that moves them on."""

    def __init__(self, density, x, method, seed, leapfrogs=1, sigma=0.0, smoothed=None):
        at = smoothed or (lambda sigma: density)
        here, name = at(sigma), type(density).__name__
        if isinstance(density, type) or not hasattr(here, "score"):
            raise TypeError(f"a density must have a method score, got {here!r}")
        self.has_energy = hasattr(here, "energy")
        self.method, self.adjusted = method, method != "langevin"
        if self.adjusted and not self.has_energy:
            raise TypeError(
                f"{method} needs an energy, and {name} has only a score: use unadjusted "
                "Langevin"
            )
        seed = whole(seed, "seed", least=0)
        if seed >= 2**64:
            raise ValueError(f"seed must be below 2^64, got {seed}")
        self.dtype = dtype_of(density, "float64")
        self.starts = x = as_points(x, shape_of(density), dtype=self.dtype)
        n, shape = len(x), x.shape[1:]
        check(here, "score", x[:1], x[:1].shape)
        if self.has_energy:
            check(here, "energy", x[:1], (1,))
        # Where it costs a second question, only those that need the energy take it along.
        self.carries = self.adjusted or hasattr(here, "energy_and_score")
        what = self.has_energy, shape, self.dtype, method, leapfrogs, self.carries
        self.number = tf.constant(next(NUMBERS), tf.int64)
        if hasattr(density, "compute_dtype"):
            levels = None if smoothed is None else functools.partial(_AtLevel, density)
            programs = _of_tensors(density, levels or at, levels is not None, what)
        else:
            programs = _of_arrays(what)
            ASKED[int(self.number)] = at
            weakref.finalize(self, ASKED.pop, int(self.number))
        self.evaluate, self.energy, self.run = programs
        # Steps are numbered from the seed's lower half * 2^32, the upper half stands where
        # training has the replica: all 64 bits count, and one program serves all seeds.
        low = np.uint64((seed & 0xFFFFFFFF) << 32).astype("int64")
        self.seed = tf.constant(low), tf.constant(seed >> 32, tf.int64)
        self.steps = 0
        self.level = tf.constant(sigma, self.dtype), self.number
        x, zeros, one = tf.constant(x), tf.zeros(n, self.dtype), tf.ones((), self.dtype)
        energy, psi = self.evaluate(x, self.level)
        good = np.isfinite(energy) & np.isfinite(np.reshape(psi, (n, -1))).all(1)
        if not good.all():
            raise ValueError(
                f"the energy or score of {name} is not finite at {n - good.sum()} of the "
                f"{n} starts, the first of them row {np.argmin(good)}"
            )
        tuning = tf.zeros(3, self.dtype)
        self.state = State(x, energy, psi, zeros, zeros, one, tuning)

    def settle(self, step, sigma=None):
        """Go on with this step, at this noise level; count from here."""
        self.step = step
        e = step if self.method == "hamiltonian" else (2 * step) ** 0.5
        e = tf.constant(e, self.dtype)
        if not 0 < e < np.inf:
            raise ValueError(
                f"step must be a normal number in {self.dtype}, got {step}"
            )
        zeros = tf.zeros_like(self.state.accepted)
        self.state = self.state._replace(accepted=zeros, squares=zeros, step=e)
        if sigma is not None:
            self.level = tf.constant(sigma, self.dtype), self.number
            energy, psi = self.evaluate(self.state.x, self.level)
            self.state = self.state._replace(energy=energy, psi=psi)

    def descend(self, sigma, below, rng):
        """Take the ancestral step from a noise level to the one below."""
        x, psi = self.state.x.numpy(), self.state.psi.numpy()
        nu = rng.standard_normal(x.shape)
        x = x + (sigma**2 - below**2) * psi
        x += below * (1 - (below / sigma) ** 2) ** 0.5 * nu
        self.state = self.state._replace(x=tf.constant(x, self.dtype))

    def find_step(self, warmup):
        """Go through a warm-up, and settle on the step that it finds."""
        square = np.mean(np.square(self.state.psi.numpy(), dtype="float64"))
        if not 0 < square < np.inf:
            raise ValueError(
                "no step can be guessed where the score is zero, at all the starts: give one"
            )
        widening = 1 if self.adjusted else 4 * (1 / TARGET[self.method] - 1)
        log_e = np.log(widening / square) / 2
        self.state = self.state._replace(
            step=tf.constant(np.exp(log_e), self.dtype),
            tuning=tf.constant([log_e, 0, log_e], self.dtype),
        )
        self.go(warmup, adapting=True)
        e = math.exp(self.state.tuning[2])
        self.settle(e if self.method == "hamiltonian" else e**2 / 2)

    def go(self, steps, adapting=False):
        """Run some steps of all chains."""
        ends = (tf.constant(i, tf.int64) for i in (self.steps, self.steps + int(steps)))
        self.state = self.run(
            self.state, self.level, self.seed, *ends, tf.constant(adapting)
        )
        self.steps += int(steps)
        x = np.abs(self.state.x.numpy()).reshape(len(self.starts), -1).max(1)
        lost = np.count_nonzero(~(x < LARGEST.get(self.dtype, LARGEST_SINGLE)))
        if lost:
            raise ValueError(
                f"{lost} of {len(x)} chains ran off to infinity: take a step smaller than "
                f"{self.step:g}"
            )

    def energies(self, x):
        return self.energy(tf.constant(x), self.level).numpy()

    def draw(self, coordinates):
        """Return some coordinates of all chains, and their energies: (n, k)."""
        x = self.state.x.numpy()
        draw = x.reshape(len(x), -1)[:, coordinates]
        if not self.has_energy:
            return draw
        energy = self.state.energy.numpy() if self.carries else self.energies(x)
        return np.concatenate([draw, energy[:, None]], axis=1)


def _of_tensors(density, at, levels, what):
    """Return the programs of the densities at(sigma) in TensorFlow."""
    # (In its own attributes: a view of a model at one noise level may answer for the model.)
    kept = getattr(density, "__dict__", {}).get("_programs")

    def compiled():
        functions = _in_tensorflow(at, *what[:3])
        # (XLA never forgets a program: not for those that are traced for one call.)
        return _programs(functions, kept is not None and _with_xla(density, at), *what)

    if kept is None:
        return compiled()
    return kept.get(("chains", levels, *what), compiled)


@functools.lru_cache(maxsize=32)
def _of_arrays(what):
    """Return the programs of all densities in NumPy."""
    return _programs(_in_numpy(*what[:3]), False, *what)


def _programs(functions, xla, has_energy, shape, dtype, method, leapfrogs, carries):
    """Return three programs: energy and score, the energy alone, and a run of some steps.

    `functions` are energy, score, and both at once, of (x, level). A level is (sigma, number),
    of which a density in TensorFlow reads the first alone.
    """
    energy_alone, score, both = functions
    d, adjusted, target = math.prod(shape), method != "langevin", TARGET[method]

    def score_alone(x, level):
        return tf.zeros(tf.shape(x)[:1], dtype), score(x, level)

    # The energy and score of the point a chain is at travel with it.
    forward = both if carries else score_alone

    def squares(p, d=d):
        return tf.reduce_sum(tf.reshape(tf.square(p), (-1, d)), axis=1)

    def trajectory(x, psi, p, e, level):
        """Return the end of a trajectory: x, momentum, energy, score."""
        p = p + e / 2 * psi
        if leapfrogs > 1:

            def leap(i, x, p):
                x = x + e * p
                return i + 1, x, p + e * score(x, level)

            _, x, p = tf.while_loop(lambda i, *_: i < leapfrogs - 1, leap, (0, x, p))
        x = x + e * p
        energy, psi = forward(x, level)
        return x, p + e / 2 * psi, energy, psi

    def run(state, level, seed, first, end, adapting):
        def step(i, s):
            key = functools.partial(noise.key, 0, seed[0] + i, replica=seed[1])
            p = noise.standard_normal(tf.shape(s.x), key(stream=MOVE), dtype)
            p, e = tf.ensure_shape(p, s.x.shape), s.step
            x, p_end, energy, psi = trajectory(s.x, s.psi, p, e, level)
            if adjusted:
                rise = energy - s.energy + (squares(p_end) - squares(p)) / 2
                z = tf.stack([tf.shape(x)[0], 2])
                z = noise.standard_normal(z, key(stream=ACCEPT), dtype)
                # A trajectory that has run off to NaN compares as false: rejected.
                accept = rise < squares(z, 2) / 2
                rate = tf.where(rise < np.inf, tf.exp(-tf.nn.relu(rise)), 0)
                wide = tf.reshape(accept, (-1, *(1,) * len(shape)))
                x, psi = tf.where(wide, x, s.x), tf.where(wide, psi, s.psi)
                energy = tf.where(accept, energy, s.energy)
                accepted, square = tf.cast(accept, dtype), s.squares
            else:
                square = squares(psi) / d
                rate = 1 / (1 + tf.square(e) / 4 * tf.reduce_mean(square))
                accepted, square = 1.0, s.squares + square
            # Hoffman and Gelman's Eq. 6: gamma = 0.05, t0 = 10, kappa = 0.75.
            guess, error, mean = tf.unstack(s.tuning)
            t = tf.cast(i + 1, dtype)
            error += (target - tf.reduce_mean(rate) - error) / (t + 10)
            log_e = guess - tf.sqrt(t) / 0.05 * error
            mean += t**-0.75 * (log_e - mean)
            tuning = tf.where(adapting, tf.stack([guess, error, mean]), s.tuning)
            e = tf.where(adapting, tf.exp(log_e), e)
            accepted = s.accepted + accepted
            return i + 1, State(x, energy, psi, accepted, square, e, tuning)

        return tf.while_loop(lambda i, s: i < end, step, (first, state))[1]

    x, n = tf.TensorSpec((None, *shape), dtype), tf.TensorSpec((None,), dtype)
    one, number = tf.TensorSpec((), dtype), tf.TensorSpec((), tf.int64)
    state, level = State(x, n, x, n, n, one, tf.TensorSpec((3,), dtype)), (one, number)
    seed, adapting = (number, number), tf.TensorSpec((), tf.bool)

    def program(function, *specs):
        how = {"autograph": False, "jit_compile": xla}
        return tf.function(function, input_signature=specs, **how)

    return (
        program(both, x, level),
        program(energy_alone, x, level),
        program(run, state, level, seed, number, number, adapting),
    )


class _AtLevel:
    """A model of several noise levels at one that may be a tensor."""

    def __init__(self, model, sigma):
        for name in ("energy", "score", "energy_and_score"):
            if hasattr(model, name):
                method = functools.partial(getattr(model, name), sigma=sigma)
                setattr(self, name, method)


def _with_xla(model, at):
    """Return what `compile` was told, or by default: unless a CPU has convolutions to do."""
    asked = getattr(model, "asked", {}).get("jit_compile", "auto")
    if asked != "auto":
        return bool(asked)
    x = tf.TensorSpec((None, *model.point_shape), dtype_of(model))
    score = tf.function(lambda x, sigma: at(sigma).score(x))
    graph = score.get_concrete_function(x, tf.TensorSpec((), x.dtype)).graph
    convolves = any("Conv" in operation.type for operation in graph.get_operations())
    return not convolves or bool(tf.config.list_logical_devices("GPU"))


def _in_tensorflow(at, has_energy, shape, dtype):
    """Return energy, score, and both at once, as functions of (x, level)."""

    def energy(x, level):
        return tf.ensure_shape(at(level[0]).energy(x), (None,))

    def score(x, level):
        return tf.ensure_shape(at(level[0]).score(x), (None, *shape))

    def both(x, level):
        density = at(level[0])
        if not has_energy:
            return tf.zeros(tf.shape(x)[:1], dtype), score(x, level)
        if not hasattr(density, "energy_and_score"):
            return energy(x, level), score(x, level)
        energies, psi = density.energy_and_score(x)
        return tf.ensure_shape(energies, (None,)), tf.ensure_shape(psi, (None, *shape))

    return energy, score, both


def _in_numpy(has_energy, shape, dtype):
    """Return the same of any density that answers with arrays."""

    def asking(methods, *shapes):
        def answers(density, points):
            if len(methods) == 2 and hasattr(density, "energy_and_score"):
                return density.energy_and_score(points)
            return [getattr(density, method)(points) for method in methods]

        def ask(points, sigma, number):
            density = ASKED[int(number)](float(sigma))
            # Points so far out that the density refuses them get NaN: such proposals are
            # rejected.
            values = [np.full((len(points), *s), np.nan, dtype) for s in shapes]

            def fill(rows):
                for value, answer in zip(values, answers(density, points[rows])):
                    value[rows] = answer

            finite = np.isfinite(points.reshape(len(points), -1)).all(1)
            try:
                fill(finite)
            except ValueError:
                for i in np.flatnonzero(finite):
                    with contextlib.suppress(ValueError):
                        fill([i])
            return values

        def function(x, level):
            values = tf.numpy_function(ask, [x, *level], [dtype] * len(shapes))
            return [
                tf.ensure_shape(value, (None, *s))
                for value, s in zip(values, shapes, strict=True)
            ]

        return function

    energy, score = asking(["energy"], ()), asking(["score"], shape)
    both = asking(["energy", "score"], (), shape)

    def zero_and_score(x, level):
        return tf.zeros(tf.shape(x)[:1], dtype), score(x, level)[0]

    return (
        lambda x, level: energy(x, level)[0],
        lambda x, level: score(x, level)[0],
        both if has_energy else zero_and_score,
    )
