"""A training that has failed stops, with the last good weights; no other one does."""

import functools
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.training import guard
from deen_tf.training.guard import DivergenceError, Guard

pytestmark = pytest.mark.usefixtures("plain_graphs")


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(guard, "STEPS", 8)


def points(n=50, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype("float32")


def batches(x, size=10):
    return tf.data.Dataset.from_tensor_slices(x).batch(size)


def model_of(optimizer=None, cls=deen.DEEN, sigma=0.3, **compile_arguments):
    model = cls((8, 6), sigma=sigma, seed=3)
    model.compile(optimizer, jit_compile=False, **compile_arguments)
    return model


class Breaks(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is infinite from one step, counted from 0, on."""

    def __init__(self, step):
        self.step = tf.Variable(step, dtype=tf.int32)

    def __call__(self, step):
        return tf.where(tf.cast(step, tf.int32) < self.step, 1e-3, np.inf)


def breaks_at(step):
    return keras.optimizers.Adam(Breaks(step))


def everything(model):
    return [v.numpy() for v in (*model.weights, *model.optimizer.variables)]


def set_everything(model, values):
    for v, value in zip(
        (*model.weights, *model.optimizer.variables), values, strict=True
    ):
        v.assign(value)


def assert_equal(one, other):
    for a, b in zip(everything(one), everything(other), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- a loss that is not finite ---------------------------------------------------------


class StopAt(keras.callbacks.Callback):
    """Ends a fit at an iteration, within an epoch."""

    def __init__(self, iteration):
        super().__init__()
        self.iteration = iteration

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.iteration:
            self.model.stop_training = True


@pytest.mark.parametrize("streamed", (False, True))
def test_a_nan_stops_training_and_the_last_good_weights_remain(streamed):
    """Five steps an epoch; the update of step 34 is infinite, the loss NaN from 35 on.

    Of the steps before, whole eights are 32, and the model goes back to eight before
    those, at 24. A stream cannot be run again: there are copies at 0, 10, 20, 30.
    """
    x = points()
    arguments = {"x": x, "batch_size": 10}
    if streamed:
        arguments = {"x": batches(x), "shuffle": False}
    # Half of the noise goes: the loss is nowhere near that of no step at all.
    model = model_of(breaks_at(34), sigma=1.0)
    model.adapt(x)
    with pytest.raises(
        DivergenceError, match="the loss is nan, at iteration"
    ) as caught:
        model.fit(epochs=20, verbose=0, **arguments)
    error = caught.value
    good = 20 if streamed else 24
    assert error.good_iteration == good and error.iteration >= 36
    assert np.isnan(error.loss)
    for remedy in (
        "learning rate",
        "global_clipnorm",
        "float64",
        f"back at iteration {good}",
    ):
        assert remedy in str(error)
    straight = model_of(breaks_at(34), sigma=1.0)
    straight.adapt(x)
    straight.fit(epochs=5, verbose=0, callbacks=[StopAt(good)], **arguments)
    assert_equal(model, straight)


@pytest.fixture(scope="module")
def eight_steps():
    straight = model_of(breaks_at(17))
    straight.fit(points(400), batch_size=10, verbose=0, callbacks=[StopAt(8)])
    return straight


@pytest.mark.parametrize("steps_per_execution", (1, 3, "auto"))
def test_where_it_goes_back_to_does_not_depend_on_the_programs(
    steps_per_execution, eight_steps
):
    """Within a long epoch: the loss is NaN from step 18 on, two eights are whole."""
    x = points(400)
    model = model_of(breaks_at(17), steps_per_execution=steps_per_execution)
    with pytest.raises(DivergenceError) as caught:
        model.fit(x, batch_size=10, verbose=0)
    assert caught.value.good_iteration == 8
    assert int(model.optimizer.iterations) == 8
    if steps_per_execution != "auto":
        assert 19 <= caught.value.iteration < 19 + steps_per_execution
    assert_equal(model, eight_steps)


def test_copies_are_taken_now_and_then_and_the_steps_from_one_run_again(monkeypatch):
    """At every look, though a copy is older than the weights it goes back to."""
    monkeypatch.setattr(guard, "SECONDS", 0.0)
    x = points(400)
    model = model_of(breaks_at(83), steps_per_execution=5)
    copies = []
    restore = guard.restore
    monkeypatch.setattr(
        guard, "restore", lambda m, v: (copies.append(v[-1]), restore(m, v))
    )
    with pytest.raises(DivergenceError) as caught:
        model.fit(x, batch_size=10, epochs=4, verbose=0)
    assert caught.value.good_iteration == 72 and len(copies) == 1
    straight = model_of(breaks_at(83))
    straight.fit(x, batch_size=10, epochs=4, verbose=0, callbacks=[StopAt(72)])
    assert_equal(model, straight)


@pytest.fixture(scope="module")
def untrained():
    model = model_of(breaks_at(0))
    model.adapt(points())
    model.optimizer.build(model.trainable_variables)
    return model, everything(model)


@pytest.fixture
def breaking(untrained):
    """A function that gives a model anew, with its program, that breaks at a step."""
    model, start = untrained

    def at(step):
        set_everything(model, start)
        model.optimizer._learning_rate.step.assign(step)
        return model

    return at


def test_at_its_first_steps(breaking):
    x = points()
    model = breaking(2)
    with pytest.raises(DivergenceError) as caught:
        model.fit(x, batch_size=10, epochs=3, verbose=0)
    assert caught.value.good_iteration == 0
    assert np.isfinite(model.evaluate(x, verbose=0))


def test_the_last_update_of_all(breaking):
    """No loss was computed with its weights."""
    model = breaking(9)
    with pytest.raises(
        DivergenceError, match="weights are not finite, at iteration 10"
    ):
        model.fit(points(), batch_size=10, epochs=2, verbose=0)
    assert np.isfinite(model.score(points())).all()


def test_no_callback_sees_the_epoch_that_failed(breaking):
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(epoch)
    )
    model = breaking(7)
    for callbacks in (
        watch,
        [watch],
        keras.callbacks.CallbackList([watch], model=model),
    ):
        breaking(7)
        with pytest.raises(DivergenceError):
            model.fit(points(), batch_size=10, epochs=9, verbose=0, callbacks=callbacks)
        assert seen == [0]
        seen.clear()


def test_switched_off(breaking):
    model = breaking(2)
    history = model.fit(
        points(), batch_size=10, epochs=2, verbose=0, check_divergence=False
    )
    assert np.isnan(history.history["loss"]).all()


def test_training_goes_on_from_the_last_good_weights():
    model = model_of(breaks_at(14))
    with pytest.raises(DivergenceError):
        model.fit(points(), batch_size=10, epochs=9, verbose=0)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    assert np.isfinite(model.fit(points(), epochs=2, verbose=0).history["loss"]).all()


def test_the_error_crosses_processes():
    error = pickle.loads(pickle.dumps(DivergenceError("message", 7, np.inf, 5)))
    assert (str(error), error.iteration, error.loss) == ("message", 7, np.inf)
    assert error.good_iteration == 5


# ---- the dead state --------------------------------------------------------------------


def test_what_a_step_does_to_gaussian_data():
    """Of N(0, s^2 I) psi = -xi / (s^2 + sigma^2): the bound of Cramer and Rao is reached.

    With s = sigma half the noise is left. The energy's start is that of a Gaussian but for
    the terms of fourth order in its units, and 64 points of 20 dimensions know s to 2%.
    """
    model = deen.DEEN((160,), sigma=1.0, first_layer_gain=0.2)
    x = points(4000, 20)
    model.adapt(x)
    step = Guard(model, x).step()
    assert step.least == pytest.approx(2**-0.5, rel=0.03)
    assert step.u == pytest.approx(step.least, rel=0.1)
    assert step.ratio == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("cls", (deen.DEEN, deen.MixtureOfDEENs))
def test_steps_that_saturate_all_units(cls):
    x = deen.datasets.GaussianMixture.ring(modes=8).sample(2000, seed=0)
    model = model_of(keras.optimizers.Adam(1.0), cls, sigma=0.1)
    with pytest.raises(DivergenceError) as caught:
        model.fit(x, batch_size=250, epochs=60, verbose=0)
    error = caught.value
    assert error.loss == pytest.approx(0.1**2 * 2, rel=0.05)
    assert "sigma^2 d = 0.02" in str(error) and "the learning rate (1)" in str(error)
    assert error.good_iteration < error.iteration
    assert np.isfinite(everything(model)[0]).all()


class FlattenAt(keras.callbacks.Callback):
    """From an epoch on the energy is flat, whatever the steps do."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch >= self.epoch:
            self.model.last.kernel.assign(1e-4 * self.model.last.kernel)


@pytest.mark.parametrize("streamed", (False, True))
def test_a_model_that_has_lost_what_it_could_do(streamed):
    """No unit is saturated: the same flat energy, never left, is no reason to stop.

    Eight steps an epoch: a look at the end of each, the third flat one is the last.
    """
    x = points(400, 20)
    arguments = {"x": x, "batch_size": 50}
    if streamed:
        arguments = {"x": batches(x, 50), "shuffle": False}
    arguments |= {"epochs": 9, "verbose": 0}
    model = model_of(keras.optimizers.SGD(0.0), sigma=1.0)
    model.adapt(x)
    with pytest.raises(DivergenceError) as caught:
        model.fit(callbacks=[FlattenAt(2)], **arguments)
    assert caught.value.iteration == 8 * 5
    assert caught.value.good_iteration == 8  # at 16, the last look before, it was flat
    fresh = model_of(keras.optimizers.SGD(0.0), sigma=1.0)
    fresh.adapt(x)
    fresh.last.kernel.assign(1e-4 * fresh.last.kernel)
    fresh.fit(**arguments)


def glorot(model, x):
    model.build((None, x.shape[1]))


def all_saturated(model, x):
    model.build((None, x.shape[1]))
    model.hidden[0].bias.assign(np.full(8, 20.0))


def flat(model, x):
    model.adapt(x)
    model.last.kernel.assign(np.zeros(model.last.kernel.shape))


@functools.cache
def one_for_all(cls):
    """A model whose program is made once, for fits from several starts."""
    model = model_of(keras.optimizers.Adam(), cls)
    model.build((None, 64))
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize(
    "cls, sigma, rate, start",
    [
        (deen.DEEN, 0.3, 1e-6, glorot),  # slow
        (deen.DEEN, 0.3, 0.0, flat),  # stands still where everything is to be learned
        (deen.DEEN, 1e-4, 1e-3, deen.DEEN.adapt),  # the score is small, and right
        (deen.DEEN, 1e-4, 1e-3, glorot),
        (deen.DEEN, 300.0, 1e-3, deen.DEEN.adapt),
        (deen.DSM, 0.3, 1e-6, glorot),
        (deen.DSM, 1e-4, 1e-3, deen.DSM.adapt),
        (deen.FieldOfExperts, 0.3, 0.0, deen.FieldOfExperts.adapt),
        (deen.ContrastiveDivergence, 0.3, 1e-3, deen.ContrastiveDivergence.adapt),
        # Other objectives are not judged, even in this state.
        (deen.ContrastiveDivergence, 0.3, 1e-3, all_saturated),
        (deen.ScoreMatching, 0.3, 1e-3, all_saturated),
    ],
)
def test_no_false_alarm(cls, sigma, rate, start):
    x = points(400, 64)  # the loss is within 1% of its mean
    fresh = model_of(keras.optimizers.Adam(rate), cls, sigma)
    start(fresh, x)
    fresh.optimizer.build(fresh.trainable_variables)
    model = one_for_all(cls)
    set_everything(model, everything(fresh))
    model.sigma = sigma
    history = model.fit(x, batch_size=50, epochs=12, verbose=0)
    assert len(history.history["loss"]) == 12


@pytest.mark.parametrize("steps_per_execution", (2, 20, "auto"))
def test_the_same_with_all_units_saturated_is_an_alarm(steps_per_execution):
    """The counterpart of the case above; it goes back to before the loss was flat."""
    model = model_of(
        keras.optimizers.Adam(1e-3), steps_per_execution=steps_per_execution
    )
    all_saturated(model, points(400, 64))
    with pytest.raises(DivergenceError, match="the score 0") as caught:
        model.fit(points(400, 64), batch_size=50, epochs=12, verbose=0)
    assert caught.value.good_iteration == 0 and caught.value.iteration >= 24


def test_a_fit_of_fewer_steps_than_three_looks():
    """Judged once more when it ends; it had done better at the start."""
    x = points(400, 20)
    model = model_of(keras.optimizers.SGD(0.0), sigma=1.0)
    model.adapt(x)
    with pytest.raises(DivergenceError, match="no step at all.*at iteration 16"):
        model.fit(x, batch_size=50, epochs=2, verbose=0, callbacks=[FlattenAt(1)])


def test_a_loss_far_above_that_of_no_step_is_told_when_training_ends():
    x = points(400, 20)
    model = model_of(keras.optimizers.SGD(0.0), sigma=1.0)
    model.adapt(x)
    model.last.kernel.assign(10.0 * model.last.kernel)
    with pytest.warns(UserWarning, match=r"times that of a model that does nothing"):
        model.fit(x, batch_size=50, epochs=1, verbose=0)


# ---- whoever is not in trouble does not notice -----------------------------------------


def generator():
    for i in range(1000):
        yield (points(10, seed=i),)


@pytest.mark.parametrize(
    "source",
    (points, lambda: batches(points()), generator),
    ids=("memory", "tf.data", "generator"),
)
def test_the_numbers_are_the_same(source):
    runs = []
    for check in (True, False):
        model = model_of()
        model.adapt(points())
        arguments = {"steps_per_epoch": 5} if source is generator else {}
        model.fit(
            source(),
            epochs=5,
            verbose=0,
            shuffle=False,
            check_divergence=check,
            **arguments,
        )
        runs.append(model)
    assert_equal(*runs)
