"""A training that has failed stops with an error, and the model keeps its last good weights.

There are two failures from which no further step leads out.

Non-finite loss. A NaN in the loss is a NaN in every weight after the next step.

Dead state. Where psi = 0 the objective of Eqs. 17 and 19 is E |xi - x|^2 = sigma^2 d: the
energy is flat, and a step of Eq. 11 does nothing. Large steps lead there: they saturate the
tanh units of a layer, 1 - h^2 = 0, which then pass no gradient, or they lose the alignment
of the layers. Small scores alone do not tell: at small sigma they are right. But the score
of a density whose variance is s^2 a coordinate has a least size. By Cramer and Rao,

    E |psi|^2 >= d / (s^2 + sigma^2),   so   u = sigma rms(psi) >= u_min,
    u_min = sigma / sqrt(s^2 + sigma^2).

A model is taken for dead if

  - the mean loss of 256 steps was within 5% of sigma^2 d three times running, or is so in the
    last steps of a fit;
  - u < u_min / 20 at noisy data points;
  - it has lost what it could do: its loss was below 0.95 sigma^2 d once, at the start or
    since; or some layer's units are all saturated, 1 - h^2 < 0.01, at all of the points.

A model that learns slowly, or has not begun to learn (a last layer of zeros, Glorot's
weights in high dimension), has neither lost anything nor saturated layers. Objectives other
than Eqs. 17 and 19 do not have the value sigma^2 d there, and are not judged. A fit that ends
with a loss above 2 sigma^2 d, worse than doing nothing, has not failed, and a warning says so.

Where a model goes back to: the iteration 256 or more before the failure, a multiple of 256
from the start of the fit. Copies of weights and optimizer are taken now and then, and the
steps from a copy to that iteration are run again: the same seed gives the same bits.
"""

import time
import warnings
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from deen_tf.training import noise
from deen_tf.training.checkpoints import restore, state

STEPS = 256  # over which losses are averaged
LOOKS = 3
SECONDS = 1.0  # between two copies, at least
POINTS = 64  # at which the score is looked at
NEAR = 0.05  # the loss to sigma^2 d, relative
FLAT = 1 / 20  # of u_min
BETTER = 0.95  # of sigma^2 d: what a model must have done to have lost it
SATURATED = 0.01  # 1 - h^2


class DivergenceError(FloatingPointError):
    """Training has diverged; the model is back at the last good weights.

    Attributes
    ----------
    iteration : int
        `optimizer.iterations` at which it was found.
    loss : float
        The mean loss since the look before.
    good_iteration : int
        Where the model and its optimizer are now.
    """

    def __init__(self, message, iteration=None, loss=None, good_iteration=None):
        super().__init__(message)
        self.iteration, self.loss = iteration, loss
        self.good_iteration = good_iteration


class Step(NamedTuple):
    """What a step of Eq. 11 does to noisy points."""

    u: float  # sigma rms(psi)
    least: float  # u_min
    ratio: float  # E |x - x_hat|^2 / E |x - xi|^2


class Guard:
    """Sees the loss of every step, and stops a training that has failed.

    Parameters
    ----------
    model : ScoreModel
    x : array, shape (n, ...), or None
        Data. Without, a dead state is not seen.
    replay : callable, optional
        `replay(iteration)` runs the steps up to an iteration again. Without, the model goes
        back to a copy.
    """

    def __init__(self, model, x, replay=None):
        self.model, self.replay = model, replay
        self.x = None if x is None else x[:: max(1, len(x) // POINTS)][:POINTS]

    def begin(self):
        """Keep the weights with which training begins."""
        self.start = self.iteration
        self.copies = [(self.start, state(self.model))]
        self.first = self.copies[0][1]
        self.copied = time.monotonic()
        self.losses, self.best = np.empty(0), None
        self.flat_from = None  # the step since which the loss is near sigma^2 d

    @property
    def iteration(self):
        return int(self.model.optimizer.iterations.numpy())

    def see(self, losses):
        """Judge the losses of the steps that have just been run."""
        bad = np.flatnonzero(~np.isfinite(losses))
        done = self.iteration - self.start
        if len(bad):
            failed = done - len(losses) + int(bad[0])  # steps before the bad one
            self.fail(f"the loss is {losses[bad[0]]}", losses[bad[0]], failed)
        recent = STEPS * (LOOKS + 1)
        self.losses = np.append(self.losses, losses)[-max(recent, len(losses)) :]
        end = done // STEPS * STEPS  # of the last whole window
        kept = done - len(self.losses)  # steps before those remembered
        if end - STEPS >= max(kept, done - len(losses) - STEPS + 1):
            windows = self.losses[(end - kept) % STEPS : end - kept]
            means = windows.reshape(-1, STEPS).mean(1) / self.flat_loss
            if self.judged:
                far = np.flatnonzero(np.abs(means - 1) > NEAR)
                if len(far) or self.flat_from is None:
                    flat = len(means) - 1 - far[-1] if len(far) else len(means)
                    self.flat_from = end - flat * STEPS
                self.best = min(self.best or np.inf, means.min())
                if end - self.flat_from >= LOOKS * STEPS and self.is_dead():
                    loss = means[-1] * self.flat_loss
                    self.fail(self.what_is_dead(loss), loss, self.flat_from)
                if self.flat_from < end:
                    return
        if done + self.start - self.copies[-1][
            0
        ] >= STEPS and time.monotonic() - self.copied >= (
            SECONDS if self.replay else 0
        ):
            self.copies.append((self.start + done, state(self.model)))
            self.copied = time.monotonic()
            old = [c for c in self.copies if c[0] <= self.start + done - 2 * STEPS]
            self.copies = self.copies[max(0, len(old) - 1) :]

    def end(self):
        """Look once more when training ends."""
        done = self.iteration - self.start
        if not all(
            np.isfinite(v.numpy()).all() for v in self.model.trainable_variables
        ):
            self.fail("weights are not finite", float("nan"), done)
        if not (self.judged and len(self.losses)):
            return
        loss = self.losses[-STEPS:].mean()
        ratio = loss / self.flat_loss
        if abs(ratio - 1) <= NEAR and self.is_dead():
            self.fail(self.what_is_dead(loss), loss, done - STEPS)
        if ratio > 2:
            warnings.warn(
                f"training ends with a loss of {loss:.4g}, {ratio:.3g} times that of a model "
                f"that does nothing (sigma^2 d = {self.flat_loss:.4g}): train longer, lower "
                "the learning rate, or clip the gradient (global_clipnorm=1.0)",
                stacklevel=3,
            )

    # ---- the dead state --------------------------------------------------------------

    @property
    def judged(self):
        model = self.model
        return self.x is not None and model.power == 2 and not model.several_levels

    @property
    def flat_loss(self):
        """sigma^2 d, the loss of a model that does nothing."""
        d = self.model.dimension
        if d is None:  # of points of any size
            d = 1 if self.x is None else int(np.prod(self.x.shape[1:]))
        return float(np.mean(np.square(self.model.sigma))) * d

    def is_dead(self):
        """Whether the score is too small for any density, and was not always so."""
        step = self.step()
        if step.u >= FLAT * step.least:
            return False
        if self.best is None or self.best >= BETTER:
            self.best = min(self.best or np.inf, self.ratio_at_start())
        return self.best < BETTER or self.saturated()

    def ratio_at_start(self):
        now = state(self.model)
        restore(self.model, self.first)
        ratio = self.step().ratio
        restore(self.model, now)
        return ratio

    def step(self):
        """Return what a step of Eq. 11 does to some noisy points."""
        model = self.model

        def step(x):
            z, sigma = model.to_network(x), model.noise_level / model.scales()[0]
            nu = noise.standard_normal(tf.shape(z), noise.key(0, 0), z.dtype)
            u = sigma * model.score_at(z + sigma * nu, sigma)
            spread = tf.reduce_mean(tf.math.reduce_variance(z, axis=0))
            least = sigma / tf.sqrt(spread + sigma**2)
            squares = [tf.reduce_mean(tf.square(v)) for v in (u, nu + u, nu)]
            return tf.stack([tf.sqrt(squares[0]), least, squares[1] / squares[2]])

        shape = tf.TensorSpec((None, *model.point_shape), model.variable_dtype)
        program = model._programs.get(
            "guard", lambda: tf.function(step, input_signature=[shape], autograph=False)
        )
        return Step(*program(tf.convert_to_tensor(self.x)).numpy().tolist())

    def saturated(self):
        """Whether some hidden layer's units all answer +-1 at some data points."""
        network = getattr(self.model.network, "network", self.model.network)
        z = self.model.to_network(tf.convert_to_tensor(self.x))
        if hasattr(network, "windows"):  # it sees parts of a point
            z = network.windows(z)
        members = getattr(network, "members", [network])
        return all(has_saturated_layer(getattr(m, "hidden", []), z) for m in members)

    # ---- the end ---------------------------------------------------------------------

    def what_is_dead(self, loss):
        step = self.step()
        return (
            f"the loss is {loss:.4g}, that of no step at all (sigma^2 d = "
            f"{self.flat_loss:.4g}), and the score 0 (rms of sigma psi "
            f"{step.u:.1e}; of no density of this spread less than {step.least:.1e})"
        )

    def fail(self, what, loss, failed):
        """Go back, and raise; `failed` steps of this fit were good, at most."""
        optimizer = self.model.optimizer
        iteration = self.iteration
        rate = float(np.asarray(optimizer.learning_rate))
        good = self.start + max(0, failed // STEPS * STEPS - STEPS)
        before = [c for c in self.copies if c[0] <= good] or self.copies[:1]
        restore(self.model, before[-1][1])
        if self.replay:
            self.replay(good)
        good = self.iteration
        raise DivergenceError(
            f"{what}, at iteration {iteration}: training has diverged. The model and its "
            f"optimizer are back at iteration {good}. Lower the learning rate "
            f"({rate:.3g}), clip the gradient (global_clipnorm=1.0), or compute in float64. "
            "fit(check_divergence=False) goes on regardless",
            iteration,
            float(loss),
            good,
        )


class StreamGuard(keras.callbacks.Callback):
    """A `Guard` for Keras' own loop, which tells it the mean loss of some steps.

    Parameters
    ----------
    x : array, shape (n, ...), or None
    """

    def __init__(self, x):
        super().__init__()
        self.x, self.guard, self.batch = x, None, 0

    # Not at on_train_begin: another callback may restore the weights there.
    def on_epoch_begin(self, epoch, logs=None):
        self.done, self.total = (
            0,
            0.0,
        )  # steps of this epoch seen, the sum of their losses
        model = self.model
        if self.guard is None and model.built:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
            x = None if self.x is None else self.x.astype(model.variable_dtype)
            self.guard = Guard(model, x)
            self.guard.begin()

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 - self.done >= STEPS:
            self.look(batch + 1, logs)
        self.batch = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        self.look(self.batch, logs)

    def on_train_end(self, logs=None):
        if self.guard:
            self.guard.end()

    def look(self, done, logs):
        mean = float(np.mean(logs["loss"]))
        steps = done - self.done
        if self.guard and steps:
            loss = (mean * done - self.total) / steps
            self.guard.see(np.full(steps, loss))
        self.done, self.total = done, mean * done


def has_saturated_layer(layers, h):
    h = np.asarray(h, "float32").reshape(len(h), -1)
    for layer in layers:  # in NumPy, which needs a tenth of the time
        h = np.tanh(h @ layer.kernel.numpy() + layer.bias.numpy())
        if 1 - np.abs(h).min() ** 2 < SATURATED:
            return True
    return False
