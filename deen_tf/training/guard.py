"""A training that has failed stops with an error, and the model keeps its last good weights.

There are two failures from which no further step leads out.

Non-finite loss. A NaN in the loss is a NaN in every weight after the next step.

Dead state. Where psi = 0 the objective of Eqs. 17 and 19 is E |xi - x|^2 = sigma^2 d: the
energy is flat, and a step of Eq. 11 does nothing. Large steps lead there: they saturate the
tanh units of a layer, 1 - h^2 = 0, which then pass no gradient, or they lose the alignment
of the layers. Small scores alone do not tell: at small sigma they are right. But the score
of a density whose variance is s^2 a dimension has a least size. By Cramer and Rao,

    E |psi|^2 >= d / (s^2 + sigma^2),   so   u = sigma rms(psi) >= u_min,
    u_min = sigma / sqrt(s^2 + sigma^2).

A model is taken for dead if, in three looks one after another, at least 256 steps apart,

  - the mean loss since the look before is within 5% of sigma^2 d;
  - u < u_min / 20 at noisy data points;
  - it has lost what it could do: its loss was below 0.95 sigma^2 d once, at the start or
    since; or some layer's units are all saturated, 1 - h^2 < 0.01, at all of the points.

A model that learns slowly, or has not begun to learn (a last layer of zeros, Glorot's
weights in high dimension), has neither lost anything nor saturated layers. Objectives other
than Eqs. 17 and 19 do not have the value sigma^2 d there, and are not judged.

Cost: a copy of the weights and of the optimizer's variables every 256 steps: 0.6 ms for
32-32-32 units in two dimensions, 10 ms for 2048-512 in 1024, some 3% and 0.2% of the
steps. The two latest copies are held.
"""

import types
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from deen_tf.training import noise
from deen_tf.training.loop import in_memory

STEPS = 256  # between two looks
LOOKS = 3
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


class DivergenceGuard(keras.callbacks.Callback):
    """Stop a training that has diverged; `ScoreModel.fit` adds it.

    The weights to which the model returns are those at the last look but one before the
    failure, or the start's: finite, with a finite loss at the step that followed. It looks
    at the end of the first epoch that is at least 256 steps after the look before, and
    every 256 steps within longer epochs. For a NaN it looks at the end of every epoch.

    Parameters
    ----------
    data : tuple, tf.data.Dataset, keras.utils.PyDataset or None
        A batch as `fit` takes it, or what has batches. Without, a dead state is not seen.

    Raises
    ------
    DivergenceError
        From `fit`.
    """

    def __init__(self, data):
        super().__init__()
        self.data = data
        self.copy = None

    # Not at on_train_begin: another callback may restore the weights there.
    def on_epoch_begin(self, epoch, logs=None):
        self.first = int(self.model.optimizer.iterations.numpy())
        self.done, self.mean = 0, 0.0  # steps of this epoch looked at, their mean loss
        if self.copy is None:
            self.begin()

    def begin(self):
        """Keep the weights with which training begins; Keras may not have made them yet."""
        model, x = self.model, None if self.model.built else self.points()
        if x is not None:
            model._check_width(x)
        if not model.built:
            return  # a source of unknown kind: from the next epoch on
        if not model.optimizer.built:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self.last, self.looks, self.best = self.first, 0, None
        self.good = self.copy = state(model)

    def on_train_batch_end(self, batch, logs=None):
        if self.copy and batch + 1 - self.done >= STEPS:
            self.look(logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.copy is None:
            return
        if int(self.model.optimizer.iterations.numpy()) - self.last >= STEPS:
            self.look(logs)
        elif not np.isfinite(scalar(logs["loss"])):
            self.fail(not_finite(scalar(logs["loss"])), scalar(logs["loss"]))

    def on_train_end(self, logs=None):
        if self.copy and not all(map(finite, self.model.trainable_variables)):
            self.fail("weights are not finite", scalar(logs["loss"]))

    def look(self, logs):
        """Judge the steps since the last look."""
        self.last = int(self.model.optimizer.iterations.numpy())
        done, mean = self.last - self.first, scalar(logs["loss"])
        loss = (mean * done - self.mean * self.done) / (done - self.done)
        self.done, self.mean = done, mean
        if not np.isfinite(loss):
            self.fail(not_finite(loss), loss)
        if self.seems_dead(loss):
            self.looks += 1
            if self.looks == LOOKS:
                self.fail(self.what_is_dead(loss), loss)
            return
        self.looks = 0
        self.good, self.copy = self.copy, state(self.model)
        if not all(map(finite, self.copy)):
            self.fail("weights are not finite", loss)

    def seems_dead(self, loss):
        ratio = loss / (self.model.sigma**2 * self.model.dimension)
        if self.best is None:
            self.best = ratio if ratio < BETTER else min(ratio, self.ratio_at_start())
        self.best = min(self.best, ratio)
        if abs(ratio - 1) > NEAR or not (self.best < BETTER or self.saturated()):
            return False
        step = self.step()
        return step is not None and step.u < FLAT * step.least

    def ratio_at_start(self):
        now = state(self.model)
        restore(self.model, self.copy)
        step = self.step()
        restore(self.model, now)
        return np.inf if step is None else step.ratio

    def step(self):
        """Return what a step of Eq. 11 does to some noisy points, or None.

        That is if there are no points to be had, or the objective is another one.
        """
        x = self.points()
        if x is None:
            return None
        model = self.model
        draws = model.draw(x, lambda source=0: noise.key(0, 0, 8 * source))
        nu = draws[0]
        score = type(model).score  # as one batch, eagerly: nothing is compiled for it
        psi = getattr(score, "tensor_function", score)(model, x + model.sigma * nu)
        u, nu = model.sigma * np.asarray(psi, "float64"), np.asarray(nu, "float64")
        loss = model.sigma**2 * ((nu + u) ** 2).sum(axis=1).mean()
        objective = np.asarray(model.objective(x, *draws), "float64").mean()
        if not np.isclose(loss, objective, rtol=0.01):
            return None
        spread = np.var(np.asarray(x, "float64"), axis=0).mean()
        return Step(
            u=np.sqrt((u**2).mean()),
            least=model.sigma / np.sqrt(spread + model.sigma**2),
            ratio=loss / (model.sigma**2 * (nu**2).sum(axis=1).mean()),
        )

    def saturated(self):
        """Whether some hidden layer's units all answer +-1 at some data points."""
        x = self.points()
        if x is None:
            return False
        if hasattr(self.model, "windows"):  # the network sees parts of a point
            x = self.model.windows(x)
        networks = getattr(self.model, "members", [self.model])
        return all(has_saturated_layer(network.hidden, x) for network in networks)

    def points(self):
        data = self.data
        if isinstance(data, tf.data.Dataset):
            data = next(iter(data.take(1)))
        elif isinstance(data, keras.utils.PyDataset):
            data = data[0]
        if data is None:
            return None
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
        x = x[:: max(1, len(x) // POINTS)][:POINTS]
        return tf.cast(x, self.model.compute_dtype)

    # ---- the end ---------------------------------------------------------------------

    def what_is_dead(self, loss):
        model, step = self.model, self.step()
        return (
            f"the loss is {loss:.4g}, that of no step at all (sigma^2 d = "
            f"{model.sigma**2 * model.dimension:.4g}), and the score 0 (rms of sigma psi "
            f"{step.u:.1e}; of no density of this spread less than {step.least:.1e})"
        )

    def fail(self, what, loss):
        optimizer = self.model.optimizer
        iteration, rate = (
            int(optimizer.iterations.numpy()),
            float(np.asarray(optimizer.learning_rate)),
        )
        restore(self.model, self.good)
        good = int(optimizer.iterations.numpy())
        raise DivergenceError(
            f"{what}, at iteration {iteration}: training has diverged. The model and its "
            f"optimizer are back at iteration {good}. Lower the learning rate "
            f"({rate:.3g}), clip the gradient (global_clipnorm=1.0), scale the data to "
            "unit variance, or compute in float64. fit(check_divergence=False) goes on "
            "regardless",
            iteration,
            loss,
            good,
        )


def watch(x, callbacks):
    """Return x to train on, and the callbacks with a `DivergenceGuard` before them.

    It comes first so that nobody saves the weights of a training that has failed. Of a
    generator, which cannot be read twice, the first batch is remembered.

    Parameters
    ----------
    x : array_like, tf.data.Dataset, keras.utils.PyDataset or generator
    callbacks : None, keras.callbacks.Callback, list of them or CallbackList
    """
    data = None
    if isinstance(x, types.GeneratorType):
        data = next(x)
        x = followed_by(data, x)
    elif in_memory(x):
        data = (x,)
    elif isinstance(x, tf.data.Dataset | keras.utils.PyDataset):
        data = x
    guard = DivergenceGuard(data)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.insert(0, guard)
        guard.set_model(callbacks.model)
        return x, callbacks
    return x, [guard, *keras.tree.flatten(callbacks or [])]


def followed_by(first, rest):
    yield first
    yield from rest


def has_saturated_layer(layers, h):
    h = np.asarray(h, "float32")
    for layer in layers:  # in NumPy, which needs a tenth of the time
        h = np.tanh(h @ layer.kernel.numpy() + layer.bias.numpy())
        if 1 - np.abs(h).min() ** 2 < SATURATED:
            return True
    return False


def variables(model):
    return [*model.weights, *model.optimizer.variables]


def state(model):
    """Return copies of all that training changes."""
    return [v.numpy() for v in variables(model)]


def restore(model, values):
    """Give the model and its optimizer the values of `state`."""
    for v, value in zip(variables(model), values, strict=True):
        v.assign(value)


def finite(value):
    value = np.asarray(value)
    return value.dtype.kind in "iub" or bool(np.isfinite(value).all())


def not_finite(loss):
    return f"the loss is {loss}"


def scalar(loss):
    return float(np.mean(loss))
