"""Nothing that a run writes depends on how its steps are cut into programs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.training import loop, noise
from tests.in_units import objective

X = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
BATCH, STEPS = 8, 7  # of an epoch, the last of two points


def model_of(optimizer=None, jit_compile=False, network=None, **compile_arguments):
    hidden = None if network is not None else (8, 6)
    model = deen.DEEN(hidden, network=network, sigma=0.3, seed=3)
    model.compile(optimizer, jit_compile=jit_compile, **compile_arguments)
    return model


def fit(model, x=X, epochs=5, **arguments):
    return model.fit(x, batch_size=BATCH, epochs=epochs, verbose=0, **arguments)


def everything(model):
    return [v.numpy() for v in (*model.weights, *model.optimizer.variables)]


def assert_same_run(one, other):
    for a, b in zip(everything(one), everything(other), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.step_losses, other.step_losses)
    assert one.history.history == other.history.history


class Watch(keras.callbacks.Callback):
    """Writes down all that it is told, with the iteration at which it is told so."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _see(self, what, index, logs):
        iteration = int(self.model.optimizer.iterations)
        self.seen.append((what, index, iteration, (logs or {}).get("loss")))

    def on_train_batch_end(self, batch, logs=None):
        self._see("batch", batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._see("epoch", epoch, logs)


class WatchEpochs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        assert int(self.model.optimizer.iterations) == STEPS * (epoch + 1)


@pytest.fixture(scope="module")
def straight():
    model = model_of()
    fit(model)
    return model


@pytest.mark.parametrize("steps_per_execution", (1, 3, 7, 1000))
def test_programs_of_every_size(steps_per_execution, straight):
    other = model_of(steps_per_execution=steps_per_execution)
    fit(other)
    assert_same_run(straight, other)


@pytest.mark.parametrize("callback", (Watch, WatchEpochs))
def test_runs_that_are_watched(callback, straight):
    other = model_of()
    fit(other, callbacks=[callback()])
    assert_same_run(straight, other)


@pytest.mark.long
def test_with_xla_as_well():
    one, other = (
        model_of(jit_compile=True),
        model_of(jit_compile=True, steps_per_execution=3),
    )
    for model in (one, other):
        fit(model)
    assert_same_run(one, other)


def test_a_long_epoch_is_cut(monkeypatch, straight):
    """Into two steps before its speed is known, then into as many as its time asks for."""
    monkeypatch.setattr(loop, "MOST_STEPS", 4)
    monkeypatch.setattr(loop, "FIRST_STEPS", 2)
    other = model_of()
    parts = []
    part = loop.Steps.part
    monkeypatch.setattr(
        loop.Steps,
        "part",
        lambda self, start, end: (parts.append(end - start), part(self, start, end))[1],
    )
    fit(other)
    assert sum(parts) == 5 * STEPS and max(parts) <= 4
    assert_same_run(straight, other)


def test_the_losses_of_a_fit_are_those_of_its_steps(straight):
    assert straight.step_losses.shape == (5 * STEPS,)
    means = straight.step_losses.reshape(5, STEPS).astype("float64").mean(1)
    assert straight.history.history["loss"] == means.tolist()
    model = model_of(keras.optimizers.SGD(0.0))  # it stands still
    fit(model, epochs=2)
    for step in (0, 3, 6, 7, 13):
        first = step - step % STEPS
        order = noise.permutation(
            np.arange(50), 50, noise.key(3, first, noise.SHUFFLE)
        ).numpy()
        rows = order[(step - first) * BATCH :][:BATCH]
        nu = noise.standard_normal((len(rows), 2), noise.key(3, step))
        wanted = objective(model, X[rows], nu).numpy().mean()
        assert model.step_losses[step] == pytest.approx(wanted, rel=1e-5)


def test_a_callback_sees_every_batch_and_epoch(straight):
    watch = Watch()
    fit(model_of(), callbacks=[watch])
    wanted = []
    losses = straight.step_losses.astype("float64").reshape(5, STEPS)
    for epoch in range(5):
        for batch in range(STEPS):
            mean = losses[epoch, : batch + 1].mean()
            wanted.append(("batch", batch, STEPS * epoch + batch + 1, mean))
        wanted.append(("epoch", epoch, STEPS * (epoch + 1), mean))
    assert [w[:3] for w in watch.seen] == [w[:3] for w in wanted]
    np.testing.assert_allclose(
        [w[3] for w in watch.seen], [w[3] for w in wanted], rtol=1e-12
    )


def test_save_freq_of_a_model_checkpoint_is_honoured(tmp_path):
    """After 3, 6, 9, ... steps, across the ends of epochs, as in Keras' own loop."""
    saved = []

    class Save(keras.callbacks.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            saved.append(int(self.model.optimizer.iterations))
            super()._save_model(epoch, batch, logs)

    save = Save(tmp_path / "w.weights.h5", save_freq=3, save_weights_only=True)
    model = model_of()
    fit(model, epochs=3, callbacks=[save])
    assert saved == [3, 6, 9, 12, 15, 18, 21]
    other = model_of()
    other.adapt(X)
    other.load_weights(tmp_path / "w.weights.h5")
    for v, w in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(v, w)


# ---- arguments of fit, as Keras has them ----------------------------------------------------


def test_epochs_that_were_done_are_not_done_again(straight):
    model = model_of()
    fit(model, epochs=2)
    history = fit(model, epochs=5, initial_epoch=2)
    assert history.epoch == [2, 3, 4]
    for a, b in zip(everything(straight), everything(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert fit(model, epochs=5, initial_epoch=5).history == {}
    assert fit(model, epochs=0).history == {}
    assert len(model.step_losses) == 0


def test_steps_per_epoch_shortens_epochs():
    model = model_of()
    fit(model, epochs=3, steps_per_epoch=2)
    assert int(model.optimizer.iterations) == 6
    assert model.step_losses.shape == (6,)
    with pytest.raises(ValueError, match="7 steps an epoch of 8 points need 56 points"):
        fit(model, steps_per_epoch=7)


@pytest.mark.parametrize("freq, epochs", [(2, [1, 3]), ([1, 4], [0, 3])])
def test_validation_when_it_is_due(freq, epochs):
    """Fits that are validated go on as others do; the loss is that of `evaluate`."""
    seen = []

    class See(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if "val_loss" in logs:
                value = self.model.evaluate(X[:20], batch_size=5, verbose=0)
                seen.append((epoch, logs["val_loss"], value))

    model = model_of()
    arguments = {"validation_data": X[:20], "validation_freq": freq}
    fit(model, validation_batch_size=5, callbacks=[See()], **arguments)
    assert [epoch for epoch, _, _ in seen] == epochs
    assert all(found == value for _, found, value in seen)
    silent = model_of()
    fit(silent, validation_batch_size=5, **arguments)
    assert silent.history.history["val_loss"] == [found for _, found, _ in seen]
    assert silent.history.history["loss"] == model.history.history["loss"]


def test_validation_data_in_a_tuple_and_in_a_stream():
    values = []
    stream = tf.data.Dataset.from_tensor_slices(X[:20]).batch(BATCH)
    model = model_of(keras.optimizers.SGD(0.0))  # it stands still
    for data in (X[:20], (X[:20],), X[:20].tolist(), stream):
        values += fit(model, epochs=1, validation_data=data).history["val_loss"]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:training ends with a loss")
def test_keras_own_callbacks_work():
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: [1e-2, 0.0][epoch > 1])
    model = model_of()
    history = fit(model, callbacks=[rate])
    assert history.history["learning_rate"] == pytest.approx([1e-2, 1e-2, 0, 0, 0])
    twin = model_of(keras.optimizers.Adam(1e-2))
    fit(twin, epochs=2)
    for v, w in zip(model.weights, twin.weights, strict=True):
        np.testing.assert_allclose(v, w, rtol=1e-6, atol=1e-8)
    stop = keras.callbacks.EarlyStopping(
        "val_loss", patience=1, restore_best_weights=True
    )
    model = model_of(keras.optimizers.Adam(1.0))
    history = fit(model, epochs=30, validation_data=X[:20], callbacks=[stop])
    values = history.history["val_loss"]
    assert len(values) < 30
    best = model.evaluate(X[:20], batch_size=BATCH, verbose=0)
    assert best == pytest.approx(min(values), rel=1e-6)


def test_a_callback_list_and_a_single_callback():
    model = model_of()
    for make in (
        lambda w: w,
        lambda w: [w],
        lambda w: keras.callbacks.CallbackList([w], add_history=True),
    ):
        watch = Watch()
        callbacks = make(watch)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.set_model(model)
        fit(model, epochs=2, callbacks=callbacks)
        assert len(watch.seen) == 2 * (STEPS + 1)


def test_evaluate_is_the_mean_over_the_points():
    model = model_of()
    model.adapt(X)
    total = 0.0
    for step, first in enumerate(range(0, 50, 16)):
        batch = X[first : first + 16]
        nu = noise.standard_normal(batch.shape, noise.key(3, step, noise.EVALUATION))
        total += objective(model, batch, nu).numpy().sum()
    value = model.evaluate(X, batch_size=16, verbose=0)
    assert value == pytest.approx(total / 50, rel=1e-5)
    assert model.evaluate(X, batch_size=16, verbose=0, return_dict=True) == {
        "loss": value
    }
    some = model.evaluate(X, batch_size=16, steps=2, verbose=0)
    assert some == pytest.approx(model.evaluate(X[:32], batch_size=16, verbose=0))


# ---- XLA or the plain graph ----------------------------------------------------------------


def two_dense():
    return keras.Sequential([keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])


def test_the_packages_own_networks_are_compiled_with_xla():
    own = [
        deen.networks.MLP((4,)),
        deen.networks.Average([deen.networks.MLP((4,))]),
        deen.networks.WithGaussian(deen.networks.MLP((4,))),
    ]
    foreign = [
        two_dense(),
        deen.networks.Average([two_dense()]),
        deen.networks.WithGaussian(two_dense()),
    ]
    assert all(loop._is_ours(network) for network in own)
    assert not any(loop._is_ours(network) for network in foreign)
    model = model_of(jit_compile="auto")
    model.adapt(X)
    assert loop.with_xla(model, X[:8]) is True
    model.compile(jit_compile=False)
    assert loop.with_xla(model, X[:8]) is False
    model.compile(run_eagerly=True)
    assert loop.with_xla(model, X[:8]) is False


def count_seconds(patch, slower):
    """Let a call with XLA take two seconds if it is the slower, any other one.

    Returns the list of ways that are tried.
    """
    ways, now, function = [], [0.0], tf.function

    def timed(program, jit_compile, **arguments):
        compiled = function(program, jit_compile=jit_compile, **arguments)
        ways.append(jit_compile)

        def run():
            now[0] += 2.0 if jit_compile == slower else 1.0
            return compiled()

        return run

    patch.setattr(loop.tf, "function", timed)
    patch.setattr(loop.time, "perf_counter", lambda: now[0])
    return ways


def test_of_any_other_network_both_ways_are_timed_and_the_faster_is_taken(
    caplog, monkeypatch
):
    """By a clock of our own; and the trial leaves no trace in the layers' states."""
    network = keras.Sequential(
        [
            keras.layers.Dense(4, "tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2, seed=1),
            keras.layers.Dense(1),
        ]
    )
    model = model_of(jit_compile="auto", network=network)
    model.adapt(X)
    before = [v.numpy() for v in model.variables]
    for slower in (True, False):
        model._programs = loop.Programs()
        with monkeypatch.context() as patch, caplog.at_level("INFO", "deen_tf"):
            jit = count_seconds(patch, slower)
            assert loop.with_xla(model, X[:8]) is (not slower)
            assert loop.with_xla(model, X[:8]) is (not slower)  # known by now
        assert jit == [False, True]
    assert "without and with XLA" in caplog.text
    for v, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(v, value)


def test_programs_for_data_of_many_shapes_do_not_pile_up():
    programs = loop.Programs()
    for i in range(50):
        assert programs.get(("part", i), lambda i=i: i, "steps") == i
    kept = [name for kind, name in programs._programs if kind == "steps"]
    assert kept[-1] == ("part", 49) and len(kept) <= 12
    assert programs.get("answer", lambda: 42) == 42
    assert programs.get("answer", lambda: 43) == 42
