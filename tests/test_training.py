"""`fit`: the fast way is the ordinary way, step for step; and it resumes exactly."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

import deen_tf as deen
from deen_tf.training import noise
from tests.in_units import objective


def points(n=50, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype("float32")


def model_of(cls=deen.DEEN, seed=3, jit_compile=False, **compile_arguments):
    """Return a small model; compiling with XLA would take most of a test's time."""
    model = cls((8, 6), sigma=0.3, seed=seed)
    model.compile(jit_compile=jit_compile, **compile_arguments)
    return model


def order(n, seed, step):
    """Return the permutation of an epoch that begins at a step."""
    return noise.permutation(np.arange(n), n, noise.key(seed, step, noise.SHUFFLE))


def weights(model):
    return np.concatenate([w.numpy().ravel() for w in model.trainable_variables])


@pytest.mark.parametrize("jit_compile", (False, True))
def test_fit_is_train_step_over_a_shuffle_without_replacement(jit_compile):
    """The oracle: eager train_step on the batches that the permutations name."""
    x = points()
    fast = model_of(jit_compile=jit_compile)
    fast.fit(x, batch_size=16, epochs=3, verbose=0)
    slow = model_of()
    slow.adapt(x)
    slow.optimizer.build(slow.trainable_variables)
    for epoch in range(3):
        rows = order(50, 3, 4 * epoch)
        for first in range(0, 50, 16):
            slow.train_step(tf.constant(x[rows[first : first + 16]]))
    assert int(fast.optimizer.iterations) == int(slow.optimizer.iterations) == 12
    # Adam divides by the root of tiny second moments: rounding grows to about 1e-5.
    np.testing.assert_allclose(weights(fast), weights(slow), rtol=1e-3, atol=2e-5)


def test_history_is_the_mean_of_the_steps():
    x = points()
    # It stands still, so that the losses can be computed again.
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    history = model.fit(x, batch_size=25, epochs=2, shuffle=False, verbose=0)
    for epoch in range(2):
        losses = []
        for step in range(2):
            nu = noise.standard_normal((25, 2), noise.key(3, 2 * epoch + step))
            batch = x[25 * step : 25 * step + 25]
            losses.append(objective(model, batch, nu).numpy().mean())
        assert history.history["loss"][epoch] == pytest.approx(np.mean(losses), 1e-5)


@pytest.mark.parametrize(
    "cls, jit_compile",
    [
        (deen.DEEN, True),
        (deen.DSM, False),
        (deen.ContrastiveDivergence, False),
        (deen.NoiseContrastive, False),
    ],
)
def test_a_saved_model_goes_on_exactly(cls, jit_compile, tmp_path):
    """Under XLA, and step by step: a program of each class would take most of the time."""
    x = points()
    how = {"jit_compile": jit_compile, "run_eagerly": not jit_compile}
    straight = model_of(cls, **how)
    straight.fit(x, batch_size=30, epochs=4, verbose=0)
    first = model_of(cls, **how)
    first.fit(x, batch_size=30, epochs=2, verbose=0)
    first.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    resumed.run_eagerly = not jit_compile
    np.testing.assert_array_equal(resumed.score(x), first.score(x))
    resumed.fit(x, batch_size=30, epochs=4, initial_epoch=2, verbose=0)
    np.testing.assert_array_equal(weights(resumed), weights(straight))


def test_backup_and_restore_goes_on_exactly(tmp_path):
    x = points()

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise InterruptedError

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    straight, stopped, again = (model_of(run_eagerly=True) for _ in range(3))
    arguments = {"x": x, "batch_size": 25, "epochs": 5, "verbose": 0}
    straight.fit(**arguments)
    with pytest.raises(InterruptedError):
        stopped.fit(callbacks=[backup(), Stop()], **arguments)
    again.fit(callbacks=[backup()], **arguments)
    np.testing.assert_array_equal(weights(straight), weights(again))


def test_seeds_give_different_runs_and_the_same_seed_the_same():
    x = points()
    runs = []
    for seed in (3, 3, 4):
        model = model_of(seed=seed, run_eagerly=True)
        model.fit(x, batch_size=25, epochs=2, verbose=0)
        runs.append(weights(model))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert abs(runs[0] - runs[2]).max() > 1e-2


def batches(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(16)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return (points()[16 * i : 16 * i + 16],)


def generator():
    while True:
        yield (points()[:16],)


@pytest.mark.parametrize(
    "data, steps",
    [(batches(points()), 4), (Sequence(), 3), (generator(), 5)],
    ids=("tf.data", "PyDataset", "generator"),
)
def test_other_sources_of_data_train_too(data, steps):
    model = model_of()
    arguments = {"shuffle": False, "verbose": 0}
    if steps == 5:
        arguments["steps_per_epoch"] = 5
    history = model.fit(data, epochs=2, **arguments)
    assert len(history.history["loss"]) == 2
    assert int(model.optimizer.iterations) == 2 * steps


def test_tf_data_in_the_same_order_gives_the_same_steps():
    x = points()
    fast, stream = model_of(), model_of()
    fast.fit(x, batch_size=16, shuffle=False, epochs=2, verbose=0)
    stream.adapt(x)
    stream.fit(batches(x), shuffle=False, epochs=2, verbose=0)
    np.testing.assert_allclose(weights(fast), weights(stream), rtol=1e-3, atol=2e-5)


@pytest.mark.filterwarnings("error")  # Keras warns when it runs out of batches
def test_validation_is_the_objective_with_fixed_noise():
    x = points(300)
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    model.adapt(x[:150])
    before = model.evaluate(x[150:], batch_size=50, verbose=0)
    history = model.fit(x, batch_size=50, epochs=2, validation_split=0.5, verbose=0)
    values = history.history["val_loss"]
    after = model.evaluate(x[150:], batch_size=50, verbose=0)
    assert values == pytest.approx([before, after], rel=1e-6)
    wanted = []
    for step, first in enumerate(range(150, 300, 50)):
        nu = noise.standard_normal((50, 2), noise.key(3, step, noise.EVALUATION))
        wanted.append(objective(model, x[first : first + 50], nu).numpy().mean())
    assert values[0] == pytest.approx(np.mean(wanted), rel=1e-5)


def test_a_stream_is_measured_with_the_noise_of_an_array():
    x = points()
    model = model_of()
    model.adapt(x)
    wanted = model.evaluate(x, batch_size=16, verbose=0)
    history = model.fit(batches(x), validation_data=batches(x), epochs=2, verbose=0)
    after = model.evaluate(x, batch_size=16, verbose=0)
    for source in (batches(x), batches(x)):  # always the same noise
        found = model.evaluate(source, verbose=0)
        assert found == pytest.approx(after, rel=1e-5) != wanted
    assert history.history["val_loss"][-1] == pytest.approx(after, rel=1e-5)


def test_callbacks_see_every_execution_and_can_stop():
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, logs["loss"]))

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model = model_of(steps_per_execution=2)
    history = model.fit(
        points(), batch_size=8, epochs=9, verbose=0, callbacks=[Watch()]
    )
    assert [batch for batch, _ in seen] == [1, 3, 5, 6] * 2  # seven steps, from 0
    assert np.isfinite([loss for _, loss in seen]).all()
    assert len(history.history["loss"]) == 2


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"y": points()}, ValueError, "fit\\(\\) takes no y"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
        ({"validation_split": 1.0}, ValueError, "validation_split must lie in"),
        ({"validation_split": 0.999}, ValueError, "leaves nothing"),
        (
            {"validation_data": points(3, 5)},
            ValueError,
            r"validation_data must.*\(3, 5\)",
        ),
    ],
)
def test_bad_arguments_of_fit_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        model_of().fit(points(), verbose=0, **arguments)


def test_cost_of_a_batch_of_one_and_more_than_all():
    for batch_size in (1, 1000):
        model = model_of()
        model.fit(points(), batch_size=batch_size, verbose=0)
        assert int(model.optimizer.iterations) == -(-50 // batch_size)


def test_a_trained_model_is_freed_with_its_programs():
    # (Keras' optimizer would leave every program in TensorFlow's registry of gradients.)
    before = {id(graph) for graph in graphs()}
    model = model_of()
    model.fit(points(), batch_size=32, verbose=0)
    new = [weakref.ref(graph) for graph in graphs() if id(graph) not in before]
    assert len(new) > 1
    model = weakref.ref(model)
    gc.collect()
    assert model() is None
    assert [graph().name for graph in new if graph() is not None] == []


def graphs():
    gc.collect()
    return [o for o in gc.get_objects() if isinstance(o, FuncGraph)]
