"""The fast way of `fit` for data in memory: many steps, and epochs, in one program.

    epoch e    the points in the order pi_e, a permutation that is a function of
               (seed, iterations at the start of the epoch) alone
    step i     descend on the points pi_e(i B), ..., pi_e((i + 1) B - 1): gathered from a
               tensor that stays on the device; the last step takes what is left

Order, noise and steps are computed on the device. A program is a loop of steps inside a loop
of epochs; how many trips the inner one makes is known when it is compiled, so that a GPU need
not ask the host at every step. It returns the loss of each step, so that nothing a run writes
depends on how its steps are cut into programs:

- epochs that nobody watches (History, the progress bar and the guard want their losses alone)
  share programs of about a quarter of a second, as measured on the device;
- a callback that looks at the model at the end of an epoch gets every epoch by itself, and
  one that looks after batches every batch (after `save_freq` of them, if it has that);
- an epoch longer than a program is cut.

XLA or the plain graph: for the package's own networks XLA, which was faster in every case
measured (by 1.1 to 3.6 on a CPU, 20 and more on a GPU). For any other network on a CPU the
gradient of one batch is timed both ways, and the faster is taken: a small convolutional net
needs 87 ms of processor time a step under XLA, 4.8 in the plain graph.

XLA keeps what it has compiled for as long as the process lives, 30 to 40 MB a program of a
small network: every new batch size, number of points or model costs that once. A sweep over
dozens of them is a matter for dozens of processes.

The same seed gives the same weights, bit for bit: in another process and after a resume. It
ends at other hardware, another number of cores (small dense networks were the same; a field of
experts left 0.0889 of the noise for 0.0896), other versions of TensorFlow, and between XLA
and the plain graph; and the plain graph itself (jit_compile=False) was seen to repeat to 2e-7
only, in one run of some dozens on a busy machine. There the words of the noise
(`deen_tf.training.noise`) and the order of the data are still equal; sums are rounded
otherwise, and training lets the difference grow.
"""

import logging
import math
import time

import keras
import numpy as np
import tensorflow as tf

from deen_tf.checks import whole
from deen_tf.training import guard, noise, replicas
from deen_tf.training.sources import in_memory

log = logging.getLogger("deen_tf")

PROGRAM = 0.25  # seconds of work between two looks of the host
MOST_STEPS = 4096  # of an epoch in one program
MOST_EPOCHS = 256  # in one program
FIRST_STEPS = 64  # of a long epoch, before its speed is known
TRIALS = 3


# ---- fit ---------------------------------------------------------------------------------


def fit(
    model,
    x,
    batch_size,
    shuffle,
    validation_data,
    *,
    epochs,
    verbose,
    callbacks,
    check_divergence,
    steps_per_epoch=None,
    initial_epoch=0,
    validation_freq=1,
    validation_batch_size=None,
    validation_steps=None,
):
    """Train a model on an array of points; see `ScoreModel.fit`."""
    replicas.prepare(model)
    steps = Steps(model, x, min(batch_size, len(x)), shuffle, steps_per_epoch)
    watch = guard.Guard(model, x, steps.replay) if check_divergence else None
    callbacks = _callback_list(model, callbacks, verbose, epochs, steps.count)
    model.stop_training, model.step_losses = False, np.empty(0)
    every, losses = [], {}
    callbacks.on_train_begin()
    epoch = model._initial_epoch or initial_epoch
    model._initial_epoch = None
    steps.first = int(model.optimizer.iterations.numpy())
    if watch:
        watch.begin()

    def see(new):
        every.append(new)
        if watch:
            watch.see(new)

    while epoch < epochs and not model.stop_training:
        until = epochs - epoch
        if validation_data is not None:
            due = _due(epoch, validation_freq)
            until = min(until, due - epoch)
        many = steps.affordable_epochs(until) if _unwatched(callbacks) else 1
        if many > 1:
            done = steps.epochs(many)  # (many, steps)
            see(done.ravel())
            for row in (done := list(done)):
                callbacks.on_epoch_begin(epoch)
                losses = {"loss": float(row.mean(dtype="float64"))}
                callbacks.on_train_batch_end(steps.count - 1, losses)
                epoch += 1
                if row is not done[-1]:
                    callbacks.on_epoch_end(epoch - 1, losses)
        else:
            callbacks.on_epoch_begin(epoch)
            total, done = 0.0, 0
            for part in steps.epoch(*_stride(callbacks, steps)):
                callbacks.on_train_batch_begin(done)
                part = part()
                see(part)
                total, done = total + part.sum(dtype="float64"), done + len(part)
                losses = {"loss": float(total / done)}
                callbacks.on_train_batch_end(done - 1, losses)
                if model.stop_training:
                    break
            epoch += 1
        if validation_data is not None and epoch == _due(epoch - 1, validation_freq):
            losses = losses | {
                "val_loss": _validate(
                    model,
                    validation_data,
                    validation_batch_size or batch_size,
                    validation_steps,
                )
            }
        callbacks.on_epoch_end(epoch - 1, losses)
    if watch:
        watch.end()
    callbacks.on_train_end(losses)
    model.step_losses = np.concatenate(every) if every else np.empty(0)
    return model.history


def _callback_list(model, callbacks, verbose, epochs, steps):
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    verbose = 1 if verbose == "auto" else verbose
    return keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
        model=model,
    )


def _due(epoch, freq):
    """Return after how many epochs the next validation is due."""
    if isinstance(freq, int):
        return (epoch // freq + 1) * freq
    return min((e for e in freq if e > epoch), default=math.inf)


def _validate(model, data, batch_size, steps):
    if in_memory(data):
        return evaluate(model, data, batch_size, verbose=0, steps=steps)
    return keras.Model.evaluate(model, data, verbose=0, steps=steps)


_PASSIVE = (
    keras.callbacks.History,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.CSVLogger,
    keras.callbacks.TerminateOnNaN,
)


def _unwatched(callbacks):
    """Whether no callback looks at the model at the end of an epoch."""
    return all(type(c) in _PASSIVE for c in callbacks.callbacks)


def _stride(callbacks, steps):
    """Return after how many steps some callback looks at the model, and how many are done.

    (None, 0) if none does; `save_freq` counts steps across the ends of epochs.
    """
    base, strides = keras.callbacks.Callback, []
    for c in callbacks.callbacks:
        hooks = ("on_train_batch_begin", "on_train_batch_end", "on_batch_end")
        if type(c) in _PASSIVE or not any(
            getattr(getattr(c, h), "__func__", None) is not getattr(base, h)
            for h in hooks
        ):
            continue
        freq = getattr(c, "save_freq", 1)
        if isinstance(freq, int):
            strides.append(freq)
    stride = math.gcd(*strides) if strides else None
    if stride == 1 and steps.model.asked["steps"] != "auto":
        return steps.model.asked["steps"], 0
    if stride is None:
        return None, 0
    done = int(steps.model.optimizer.iterations.numpy()) - steps.first
    return stride, done % stride


class Steps:
    """The steps of a fit on an array: programs, and how long they take.

    Parameters
    ----------
    model : ScoreModel
    x : ndarray, shape (n, ...)
    batch_size : int
    shuffle : bool
    count : int, optional
        Steps of an epoch; by default all points once.
    """

    def __init__(self, model, x, batch_size, shuffle, count=None):
        self.model, self.batch_size, self.shuffle = model, batch_size, shuffle
        self.x = replicas.on_devices(model, x)
        self.n = len(x)
        self.whole = self.n // batch_size if count is None else count
        self.rest = self.n % batch_size if count is None else 0
        self.count = self.whole + bool(self.rest)
        self.first = 0  # iterations at the start of this fit
        self.jit = with_xla(model, x[:batch_size])
        self.replicas = None
        if replicas.distributed(model):
            sizes = {batch_size, self.rest} - {0}
            self.replicas = model._programs.get(
                (*self._key(), "replicas"),
                lambda: replicas.Mirrored(model, self.jit, sizes),
                "steps",
            )
        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        self.known_trips = on_gpu and not model.run_eagerly
        self.order = None, None
        # Program -> seconds of a step, None before the second call: the first compiles.
        self.timed = model._programs.get((*self._key(), "seconds"), dict, "steps")

    def _key(self):
        return self.batch_size, self.n, self.whole, self.shuffle, self.jit

    # ---- how much at once ------------------------------------------------------------

    @property
    def seconds(self):
        """Seconds of a step as last measured, or None."""
        return next((s for s in reversed(self.timed.values()) if s), None)

    def _limit(self):
        """Return how many steps make a program."""
        asked = self.model.asked["steps"]
        if asked != "auto":
            return min(asked, MOST_STEPS)
        if self.seconds is None:
            return FIRST_STEPS
        steps = int(np.clip(PROGRAM / self.seconds, 1, MOST_STEPS))
        # Every known number of trips is compiled for: few of them.
        return 2 ** int(math.log2(steps)) if self.known_trips else steps

    def affordable_epochs(self, most):
        if self.model.run_eagerly or self.model.asked["steps"] != "auto":
            return 1
        if self.count > MOST_STEPS or self.seconds is None:
            return 1
        seconds = self.seconds * self.count
        return int(np.clip(PROGRAM / seconds, 1, min(most, MOST_EPOCHS)))

    def _timed(self, name, steps, call):
        start = time.perf_counter()
        losses = call()
        known = name in self.timed
        self.timed.pop(name, None)  # the latest is the last
        seconds = (time.perf_counter() - start) / steps
        self.timed[name] = seconds if known else None
        return losses

    # ---- epochs ----------------------------------------------------------------------

    def epochs(self, many):
        """Run whole epochs as one program and return the losses, (many, steps)."""
        first = int(self.model.optimizer.iterations.numpy())
        program = self._program("epochs", self._make_epochs)
        return self._timed(
            "epochs",
            many * self.count,
            lambda: program(
                self.x, tf.constant(first, tf.int64), tf.constant(many)
            ).numpy()[:many],
        )

    def epoch(self, stride=None, behind=0):
        """Give the parts of one epoch: functions that run some steps, and return losses.

        They end after every `stride` steps, of which `behind` were in the epoch before.
        """
        alone = stride is None and self.model.asked["steps"] == "auto"
        if alone and not self.model.run_eagerly and self.count <= self._whole_epoch():
            yield lambda: self.epochs(1)[0]
            return
        done = 0
        while done < self.count:
            steps = self._limit()
            if stride is not None:
                steps = min(stride - (behind + done) % stride, MOST_STEPS)
            end = min(done + steps, self.count)
            yield lambda start=done, end=end: self.part(start, end)
            done = end

    def _whole_epoch(self):
        # Of how many steps an epoch may be to be one program, before and after a measurement.
        return MOST_STEPS if self.seconds is None and self._small() else self._limit()

    def _small(self):
        weights = sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)
        rate = 1e12 if self.known_trips else 1e10  # products a second, for a guess
        return 12.0 * weights * self.n < 2 * rate

    def part(self, start, end):
        """Run the steps start, ..., end - 1 of the present epoch and return their losses."""
        iteration = int(self.model.optimizer.iterations.numpy())
        first = iteration - start
        if self.order[0] != first:
            self.order = first, self._order(first)
        losses = []
        whole = min(end, self.whole)
        if start < whole:
            count = whole - start
            known = self.known_trips and math.log2(count).is_integer()
            trips = count if known else tf.constant(count)
            name = f"part of {count}" if known else "part"
            program = self._program(name, self._make_part)
            losses.append(
                self._timed(
                    name,
                    count,
                    lambda: program(
                        self.x, self.order[1], tf.constant(start), trips
                    ).numpy()[:count],
                )
            )
        if end > self.whole:
            program = self._program("rest", self._make_rest)
            losses.append(program(self.x, self.order[1]).numpy()[None])
        return np.concatenate(losses)

    def replay(self, iteration):
        """Run up to an iteration of this fit again; the model is at an earlier one."""
        now = int(self.model.optimizer.iterations.numpy())
        while now < iteration:
            start = (now - self.first) % self.count
            end = min(self.count, start + iteration - now, start + MOST_STEPS)
            self.part(start, end)
            now += end - start

    # ---- programs --------------------------------------------------------------------

    def _program(self, name, make):
        if self.model.run_eagerly:
            return make()
        return self.model._programs.get(
            (*self._key(), name), lambda: self._compiled(make()), "steps"
        )

    def _order(self, first):
        program = self._program("order", lambda: self._places)
        return program(tf.constant(first, tf.int64))

    def _places(self, first):
        places = tf.range(self.n)
        if not self.shuffle:
            return places
        key = noise.key(self.model.seed, first, noise.SHUFFLE)
        return noise.permutation(places, self.n, key)

    def _descend_on(self, x, rows):
        """Descend on some rows of the points x; return the loss."""
        if self.replicas:
            return self.replicas.descend(x, rows)
        return self.model.descend(tf.gather(x, rows))

    def _compiled(self, program):
        jit = self.jit and not self.replicas  # they have theirs inside
        return tf.function(program, jit_compile=jit, autograph=False)

    def _descend(self, x, order, start, count, capacity):
        """Run `count` whole steps from step `start`; return their losses, (capacity,)."""
        losses = tf.TensorArray(self.model.variable_dtype, capacity, element_shape=())

        def step(i, losses):
            places = (start + i) * self.batch_size + tf.range(self.batch_size)
            # (tf.slice would make XLA compile anew for every start.)
            loss = self._descend_on(x, tf.gather(order, places))
            return i + 1, losses.write(i, loss)

        limits = (tf.constant(0), losses)
        return tf.while_loop(lambda i, _: i < count, step, limits)[1].stack()

    def _descend_rest(self, x, order):
        places = self.whole * self.batch_size + tf.range(self.rest)
        return self._descend_on(x, tf.gather(order, places))

    def _make_part(self):
        def part(x, order, start, count):
            return self._descend(x, order, start, count, MOST_STEPS)

        return part

    def _make_rest(self):
        return self._descend_rest

    def _make_epochs(self):
        def epochs(x, first, many):
            shape = (self.count,)
            losses = tf.TensorArray(
                self.model.variable_dtype, MOST_EPOCHS, element_shape=shape
            )

            def epoch(e, losses):
                order = self._places(first + tf.cast(e, tf.int64) * self.count)
                mine = self._descend(x, order, 0, self.whole, self.whole)
                if self.rest:
                    mine = tf.concat([mine, self._descend_rest(x, order)[None]], 0)
                return e + 1, losses.write(e, mine)

            limits = (tf.constant(0), losses)
            return tf.while_loop(lambda e, _: e < many, epoch, limits)[1].stack()

        return epochs


def with_xla(model, x):
    """Return whether the gradient of a batch x is faster with XLA on this device."""
    asked = model.asked["jit_compile"]
    if model.run_eagerly or replicas.several_workers(model):
        return False
    if asked != "auto":
        return bool(asked)
    if tf.config.list_logical_devices("GPU") or _is_ours(model.network):
        return True
    key = ("with_xla", len(x))
    return model._programs.get(key, lambda: _faster_with_xla(model, tf.constant(x)))


def _is_ours(network):
    parts = [*getattr(network, "members", []), getattr(network, "network", None)]
    ours = type(network).__module__.startswith("deen_tf.")
    convolves = hasattr(network, "convolutions")  # a library's are faster on a CPU
    return ours and not convolves and all(_is_ours(p) for p in parts if p is not None)


def _faster_with_xla(model, x):
    before = [v.numpy() for v in model.non_trainable_variables]

    def gradient():
        with tf.GradientTape() as tape:
            loss, _ = model.losses(x, 0, noise.TRAINING, training=True)
        gradients = tape.gradient(loss, model.trainable_variables)
        return tf.add_n([tf.reduce_sum(g) for g in gradients if g is not None])

    seconds = {}
    for jit in (False, True):
        program = tf.function(gradient, jit_compile=jit, autograph=False)
        try:
            program()
        except (tf.errors.OpError, ValueError):  # XLA does not know some operation
            seconds[jit] = math.inf
            continue
        times = []
        for _ in range(TRIALS):
            start = time.perf_counter()
            program().numpy()
            times.append(time.perf_counter() - start)
        seconds[jit] = min(times)
    for v, value in zip(model.non_trainable_variables, before, strict=True):
        v.assign(value)  # running means of layers
    log.info("seconds of a gradient without and with XLA: %s", seconds)
    return seconds[True] < seconds[False]


class Programs:
    """Compiled functions of a model, by name; a plain object, which Keras does not track.

    Of a `kind` that grows with the shapes of the data only the latest few are kept.
    """

    KEPT = 8

    def __init__(self):
        self._programs = {}

    def get(self, name, make, kind=None):
        if (kind, name) not in self._programs:
            alike = [k for k in self._programs if kind is not None and k[0] == kind]
            for old in alike[: max(0, len(alike) - self.KEPT + 1)]:
                del self._programs[old]
            self._programs[kind, name] = make()
        return self._programs[kind, name]


# ---- evaluate, and streams ---------------------------------------------------------------


def evaluate(
    model, x, batch_size, verbose="auto", steps=None, return_dict=False, callbacks=None
):
    """Return the mean objective over an array of points, batch by batch."""
    x = replicas.tensor_of(x)
    count = math.ceil(len(x) / batch_size)
    count = count if steps is None else min(count, whole(steps, "steps"))
    run = model._programs.get(
        "evaluate",
        lambda: tf.function(
            lambda batch, step: model.losses(batch, step, noise.EVALUATION)[1],
            autograph=False,
            reduce_retracing=True,
        ),
    )
    total = rows = 0
    for i in range(count):
        batch = x[i * batch_size : (i + 1) * batch_size]
        loss = float(run(batch, tf.constant(i, tf.int64)))
        total, rows = total + len(batch) * loss, rows + len(batch)
    loss = total / rows
    if verbose not in (0, "auto") and count:
        keras.utils.Progbar(count).update(count, [("loss", loss)], finalize=True)
    return {"loss": loss} if return_dict else loss


def guarded(how, data):
    """Return the callbacks of a fit by Keras' own loop, the guard before all others."""
    callbacks = keras.tree.flatten(how.get("callbacks") or [])
    return [guard.StreamGuard(data)] * how.pop("check_divergence") + callbacks


def fit_stream(model, keras_fit, x, data, validation_data, how):
    """Train on a stream, by Keras' own loop, a step at a time."""
    callbacks = guarded(how, data)
    how.pop("callbacks")
    if replicas.distributed(model):
        replicas.prepare(model)
    if isinstance(x, tf.data.Dataset):
        how.setdefault("shuffle", False)
    return keras_fit(x, validation_data=validation_data, callbacks=callbacks, **how)
