"""The state of a training: all of it, whole or not at all, exactly taken up."""

import functools
import pathlib
import subprocess
import sys
import warnings

import h5py
import keras
import numpy as np
import pytest

import deen_tf as deen
from deen_tf.training import checkpoints
from deen_tf.training.checkpoints import (
    BackupAndRestore,
    load_state,
    restore,
    save_state,
    state,
)
from tests.test_atomic import disk  # noqa: F401, a fixture

ROOT = pathlib.Path(__file__).parents[1]
X = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")


def model_of(hidden=(6, 5), optimizer=None, network=None, eagerly=True, seed=3):
    model = deen.DEEN(
        None if network is not None else hidden, network=network, sigma=0.3, seed=seed
    )
    # Eager steps: no program is made for a fit of so few.
    model.compile(optimizer or keras.optimizers.Adam(1e-2), run_eagerly=eagerly)
    return model


def fit(model, epochs=2, **arguments):
    model.fit(X, batch_size=20, epochs=epochs, verbose=0, **arguments)
    return model


def with_states():
    """A network whose layers change in training by more than gradients."""
    glorot = keras.initializers.GlorotUniform
    return keras.Sequential(
        [
            keras.layers.Dense(5, "tanh", kernel_initializer=glorot(0)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(3, kernel_initializer=glorot(1)),
        ]
    )


def assert_equal(one, other):
    a, b = state(one), state(other)
    assert len(a) == len(b)
    for v, w in zip(a, b, strict=True):
        np.testing.assert_array_equal(v, w)


@pytest.fixture(scope="module")
def trained():
    return fit(model_of())


@pytest.fixture
def saved(trained, tmp_path):
    save_state(tmp_path / "state.h5", trained, epoch=2)
    return tmp_path / "state.h5"


def test_a_state_is_all_that_training_changes(saved, trained):
    """Weights, units, moments, iterations: what is loaded goes on bit for bit."""
    other = model_of(seed=3)
    other.adapt(2 * X + 1)
    assert load_state(saved, other) == 2
    assert_equal(trained, other)
    assert int(other.optimizer.iterations) == 4
    on = fit(model_of(), epochs=4)
    fit(other, epochs=4, initial_epoch=2)
    assert_equal(on, other)


def test_states_of_layers_and_of_their_random_numbers(tmp_path):
    """Running means, and the seeds of dropout, which a .keras file does not hold."""
    straight = fit(model_of(network=with_states()), epochs=4)
    first = fit(model_of(network=with_states()), epochs=2)
    save_state(tmp_path / "state.h5", first, 2)
    other = model_of(network=with_states())
    other.adapt(X)
    assert load_state(tmp_path / "state.h5", other) == 2
    assert_equal(first, other)
    fit(other, epochs=4, initial_epoch=2)
    assert_equal(straight, other)


def test_what_is_remembered_in_memory(trained):
    before = state(trained)
    other = fit(model_of(), epochs=3)
    restore(other, before)
    assert_equal(trained, other)
    fit(other, epochs=3, initial_epoch=2)
    for v, w in zip(before, state(trained), strict=True):
        np.testing.assert_array_equal(v, w)  # copies, not views


def test_sigma_is_a_setting_and_no_state(saved):
    """A checkpoint of another level does not bring that level along unasked."""
    other = deen.DEEN((6, 5), sigma=0.3, seed=3)
    other.compile()
    other.adapt(X)
    load_state(saved, other)
    assert other.sigma == 0.3


# ---- what is not used ------------------------------------------------------------------------


def assert_not_used(path, message, model=None):
    model = model_of() if model is None else model
    if not model.built:
        model.adapt(X)
        model.optimizer.build(model.trainable_variables)
    before = state(model)
    with pytest.warns(UserWarning, match=message):
        assert load_state(path, model) is None
    for v, w in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(v, w)


def test_one_flipped_bit_in_any_array(saved):
    with h5py.File(saved) as file:
        count = len(file)
    for name in (0, count // 2, count - 1):
        content = saved.read_bytes()
        with h5py.File(saved, "r+") as file:
            array = file[str(name)][()]
            flipped = bytearray(array.tobytes())
            flipped[0] ^= 1
            value = np.frombuffer(flipped, array.dtype).reshape(array.shape)
            file[str(name)][...] = value
        assert_not_used(saved, "state.h5 does not match its checksum")
        saved.write_bytes(content)
    with h5py.File(saved, "r+") as file:
        file.attrs["epoch"] = 3
    assert_not_used(saved, "does not match its checksum")


def test_one_flipped_bit_anywhere_in_the_file(saved):
    """In the arrays or in what HDF5 keeps of them: it is not used, or the same is read."""
    content = bytearray(saved.read_bytes())
    rng = np.random.default_rng(0)
    told = 0
    good = model_of()
    good.adapt(X)
    load_state(saved, good)
    for place in rng.integers(len(content), size=60):
        spoilt = content.copy()
        spoilt[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(spoilt)
        model = model_of()
        model.adapt(X)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            epoch = load_state(saved, model)
        assert epoch in (None, 2)
        if epoch is None:
            told += 1
            assert len(warned) == 1
        else:
            assert_equal(model, good)
    assert told > 10


@pytest.mark.parametrize("part", (0.0, 0.3, 0.99))
def test_a_truncated_file(part, saved):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(part * len(content))])
    assert_not_used(saved, "state.h5 is damaged and not used|checksum")


@pytest.mark.parametrize(
    "model",
    (
        lambda: model_of(hidden=(6, 7)),
        lambda: model_of(hidden=(6,)),
        lambda: model_of(optimizer=keras.optimizers.SGD(0.1)),
    ),
)
def test_a_state_of_another_model_or_optimizer(model, saved):
    assert_not_used(saved, "of another model or optimizer", model())


def test_none_is_no_mistake(tmp_path, trained):
    assert load_state(tmp_path / "nothing.h5", trained) is None


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "state.h5"
    path.write_text("epoch 2")
    assert_not_used(path, "damaged and not used")
    with h5py.File(path, "w") as file:
        file["0"] = np.zeros(3)
    assert_not_used(path, "damaged and not used")


# ---- a full disk -------------------------------------------------------------------------------

PROGRAM = """
import sys
import deen_tf as deen
from tests.test_checkpoints import X
from deen_tf.training.checkpoints import BackupAndRestore

model = deen.DEEN((64, 64), sigma=0.3, seed=3)
model.compile(run_eagerly=True)
try:
    model.fit(X, batch_size=20, epochs=2, verbose=0, callbacks=[BackupAndRestore(sys.argv[1])])
except OSError as error:
    print("OSError", error.strerror)
"""


@pytest.mark.long
def test_a_full_disk_is_an_oserror_and_no_end_of_the_process(disk, saved):  # noqa: F811
    """40 kB for a state of 60: HDF5 itself would end with a segmentation fault."""
    path = disk / "state.h5"
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, path],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "OSError No space left on device" in result.stdout
    assert not path.exists()


def test_what_cannot_be_written_leaves_the_older_one(saved, trained, monkeypatch):
    before = saved.read_bytes()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(saved, trained, 3)
    assert saved.read_bytes() == before


# ---- the callback ------------------------------------------------------------------------------


class StopIn(keras.callbacks.Callback):
    def __init__(self, epoch, batch=None):
        super().__init__()
        self.place = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.place == (epoch, None):
            raise InterruptedError

    def on_train_batch_end(self, batch, logs=None):
        if self.place == (self.epoch, batch):
            raise InterruptedError


@functools.cache
def five_epochs():
    return fit(model_of(), epochs=5)


@pytest.mark.parametrize("place", [(3,), (3, 0), (1,), (0, 1)])
def test_a_fit_goes_on_exactly_wherever_it_stopped(place, tmp_path):
    """Between epochs, and in the middle of one, whose steps are then made again."""
    path = tmp_path / "state.h5"
    straight = five_epochs()
    with pytest.raises(InterruptedError):
        fit(model_of(), epochs=5, callbacks=[BackupAndRestore(path), StopIn(*place)])
    assert path.exists() == (place[0] > 0)
    seen = []
    again = model_of()
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, _: seen.append(e))
    fit(again, epochs=5, callbacks=[BackupAndRestore(path), watch])
    assert_equal(straight, again)
    assert seen == list(range(place[0], 5))
    assert not path.exists()


def test_a_model_that_was_not_built_is_restored(tmp_path):
    """As in a process of its own: the model has no weights when the fit begins."""
    path = tmp_path / "state.h5"
    straight = fit(model_of(network=with_states()), epochs=4)
    with pytest.raises(InterruptedError):
        fit(
            model_of(network=with_states()),
            epochs=4,
            callbacks=[BackupAndRestore(path), StopIn(2)],
        )
    again = fit(model_of(network=with_states()), 4, callbacks=[BackupAndRestore(path)])
    assert_equal(straight, again)


def test_a_damaged_backup_begins_anew_and_says_so(tmp_path):
    path = tmp_path / "state.h5"
    straight = fit(model_of(), epochs=3)
    with pytest.raises(InterruptedError):
        fit(model_of(), epochs=3, callbacks=[BackupAndRestore(path), StopIn(2)])
    with h5py.File(path, "r+") as file:
        file["4"][...] = np.nan_to_num(file["4"][()]) + 1
    again = model_of()
    with pytest.warns(UserWarning, match="does not match its checksum"):
        fit(again, epochs=3, callbacks=[BackupAndRestore(path)])
    assert_equal(straight, again)


def test_backups_every_so_many_seconds(tmp_path, monkeypatch):
    written, now = [], [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        checkpoints, "save_state", lambda path, model, epoch: written.append(epoch)
    )

    def pass_time(epoch, logs):
        now[0] += 1.0

    clock = keras.callbacks.LambdaCallback(on_epoch_begin=pass_time)
    backup = BackupAndRestore(tmp_path / "state.h5", every=2.5)
    fit(model_of(), epochs=8, callbacks=[clock, backup], check_divergence=False)
    assert written == [3, 6]
