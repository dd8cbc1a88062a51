"""Points in whatever form users have them: the same run, or a clear error."""

import os
import subprocess
import sys
import warnings

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.training.sources import PEEK, validation

X = (
    np.random.default_rng(0).normal(size=(40, 2)) @ [[1.0, 0.4], [0.0, 0.5]] + [20, -3]
).astype("float32")


def model_of(**compile_arguments):
    model = deen.DEEN((6, 5), sigma=0.3, seed=3)
    # Eager steps: no program is made for a fit of so few.
    model.compile(**({"run_eagerly": True} | compile_arguments))
    return model


def fitted(x, **arguments):
    model = model_of()
    model.fit(x, epochs=1, verbose=0, **arguments)
    return model


def weights(model):
    return [w.numpy() for w in model.weights]


class Frame:
    """What the package knows of a table: NumPy makes an array of it."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def __len__(self):
        return len(self.values)


def tables(kind, folder):
    if kind == "h5py":
        file = h5py.File(folder / "points.h5", "w")
        return file.create_dataset("x", data=X)
    if kind.startswith("pandas"):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(X, columns=["kelvin", "hectopascal"])
        return frame.astype("Float64") if kind == "pandas, nullable" else frame
    if kind == "polars":
        return pytest.importorskip("polars").DataFrame(X)
    return {
        "array": X,
        "list": X.tolist(),
        "tuple": tuple(map(tuple, X.tolist())),
        "float64": X.astype("float64"),
        "Fortran": np.asfortranarray(X),
        "read-only": np.frombuffer(X.tobytes(), "float32").reshape(X.shape),
        "tensor": tf.constant(X),
        "variable": tf.Variable(X),
        "frame": Frame(X),
        "nullable": Frame(X.astype(object)),
        "memory map": np.memmap(folder / "x", "float32", "w+", shape=X.shape),
    }[kind]


@pytest.fixture(scope="module")
def reference():
    return fitted(X, batch_size=20)


@pytest.mark.parametrize(
    "kind",
    (
        "array",
        "list",
        "tuple",
        "float64",
        "Fortran",
        "read-only",
        "tensor",
        "variable",
        "frame",
        "nullable",
        "memory map",
        "h5py",
        "pandas",
        "pandas, nullable",
        "polars",
    ),
)
def test_whatever_numpy_makes_an_array_of_trains_as_the_array(
    kind, reference, tmp_path
):
    x = tables(kind, tmp_path)
    if kind == "memory map":
        x[:] = X
    model = fitted(x, batch_size=20)
    for v, w in zip(weights(reference), weights(model), strict=True):
        np.testing.assert_array_equal(v, w)
    np.testing.assert_array_equal(reference.step_losses, model.step_losses)
    # Of the same weights, with the same programs for all kinds.
    for method in ("energy", "score", "denoise"):
        answer = np.asarray(getattr(reference, method)(x))
        np.testing.assert_allclose(answer, getattr(reference, method)(X), rtol=1e-6)
    value = reference.evaluate(X, verbose=0)
    assert reference.evaluate(x, verbose=0) == pytest.approx(value, rel=1e-6)
    assert len(reference.predict(x, verbose=0)) == 40


@pytest.mark.parametrize("dtype", ("int8", "uint16", "int64", "bool", "float16"))
def test_numbers_of_every_type(dtype):
    x = (np.random.default_rng(0).normal(size=(40, 2)) * 4 + 10).astype(dtype)
    if dtype == "bool":
        x = np.random.default_rng(0).random((40, 2)) < 0.5
    one, other = (fitted(v, batch_size=20) for v in (x, x.astype("float32")))
    for v, w in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(v, w)


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.nan, "x must be finite in float32, got nan at row 7, column 1"),
        (np.inf, "got inf at row 7, column 1"),
        (None, "x must hold real numbers, got None|finite"),
    ],
)
@pytest.mark.parametrize("frame", (False, True))
def test_what_is_missing_in_a_table_is_named(bad, message, frame):
    x = X.astype(object if bad is None else "float32")
    x[7, 1] = bad
    with pytest.raises((TypeError, ValueError), match=message):
        fitted(Frame(x) if frame else x)


# ---- streams ---------------------------------------------------------------------------------


def dataset(x, size=4):
    return tf.data.Dataset.from_tensor_slices(x).batch(size)


class Sequence(keras.utils.PyDataset):
    def __init__(self, x, size=4, **kwargs):
        super().__init__(**kwargs)
        self.parts = np.split(x, range(size, len(x), size))

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, i):
        return self.parts[i]


class Tuples(Sequence):
    def __getitem__(self, i):
        return (self.parts[i],)


def generator(x, size=4):
    yield from np.split(x, range(size, len(x), size))


STREAMS = {
    "dataset": dataset,
    "PyDataset": Sequence,
    "PyDataset of tuples": Tuples,
    "generator": generator,
    "iterator": lambda x: iter(np.split(x, range(4, len(x), 4))),
    "dataset of tuples": lambda x: tf.data.Dataset.from_tensor_slices((x,)).batch(4),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_shows_its_first_batches_and_loses_none(kind):
    """A model takes its units and first weights from them, and trains on all ten."""
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    model.fit(STREAMS[kind](X), verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == 10
    told = model_of()
    told.adapt(X[: 4 * PEEK])
    for v, w in zip(weights(told), weights(model), strict=True):
        np.testing.assert_allclose(v, w, rtol=1e-6)
    np.testing.assert_allclose(model.center, X[: 4 * PEEK].mean(0), rtol=1e-5)


def test_a_first_fit_adapts_and_a_second_does_not():
    model, told = (model_of(optimizer=keras.optimizers.SGD(0.0)) for _ in range(2))
    model.fit(X, verbose=0, validation_data=X[:8])
    told.adapt(X)
    for v, w in zip(weights(told), weights(model), strict=True):
        np.testing.assert_array_equal(v, w)
    model.fit(X[::2] + 1, verbose=0)
    for v, w in zip(weights(told), weights(model), strict=True):
        np.testing.assert_array_equal(v, w)


@pytest.fixture(scope="module")
def in_order():
    """Trained on the array in its order."""
    model = model_of(optimizer=keras.optimizers.SGD(1e-2))
    model.adapt(X)
    model.fit(X, batch_size=4, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_trains_as_the_array_in_its_order(kind, in_order):
    one, other = in_order, model_of(optimizer=keras.optimizers.SGD(1e-2))
    other.adapt(X)
    other.fit(STREAMS[kind](X), shuffle=False, verbose=0)
    for v, w in zip(weights(one), weights(other), strict=True):
        np.testing.assert_allclose(v, w, rtol=1e-4, atol=1e-6)
    assert one.history.history["loss"] == pytest.approx(
        other.history.history["loss"], rel=1e-5
    )


def test_a_stream_is_told_of_a_sentinel():
    x = X.repeat(10, axis=0)
    x[33] = -9999.0
    with pytest.warns(UserWarning, match="1 of 320 rows lies.*row 33"):
        model_of(optimizer=keras.optimizers.SGD(0.0)).fit(dataset(x, 40), verbose=0)


@pytest.mark.parametrize("kind", ("dataset", "PyDataset", "generator"))
@pytest.mark.parametrize("row", (5, 38))
def test_nan_in_a_stream_is_no_divergence(kind, row):
    """Among the first batches or later: it is what it is, and the model stays as it was."""
    x = X.copy()
    x[row, 1] = np.nan
    model = model_of(run_eagerly=False)
    with pytest.raises(Exception, match="stream must be finite|finite") as caught:
        model.fit(STREAMS[kind](x), verbose=0, shuffle=False)
    assert not isinstance(caught.value, deen.DivergenceError)
    assert "diverged" not in str(caught.value)
    if row == 5:
        assert "at row 5" in str(caught.value)
    assert all(np.isfinite(w).all() for w in weights(model))


@pytest.mark.parametrize("of", ("array", "dataset", "generator", "(x,)", "(x, None)"))
@pytest.mark.parametrize("kind", ("array", "dataset", "generator"))
def test_validation_data_of_every_kind(kind, of):
    """Its loss is that of `evaluate` on the array, batch by batch in the same order."""
    data = STREAMS.get(of, lambda x: x)(X[:8])
    data = {"(x,)": (X[:8],), "(x, None)": (X[:8], None)}.get(of, data)
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    x = STREAMS.get(kind, lambda x: x)(X)
    fit = model.fit(x, batch_size=4 if kind == "array" else None, verbose=0,
                    validation_data=data)  # fmt: skip
    size = 4 if of in STREAMS or kind == "array" else 32
    wanted = model.evaluate(X[:8], batch_size=size, verbose=0)
    assert fit.history["val_loss"] == pytest.approx([wanted], rel=1e-5)
    assert len(model.step_losses) == (10 if kind == "array" else 0)
    assert model.evaluate(generator(X[:8]), verbose=0) == pytest.approx(
        model.evaluate(X[:8], batch_size=4, verbose=0), rel=1e-5
    )


@pytest.mark.parametrize("x", (X, dataset(X)), ids=("array", "stream"))
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"validation_data": (X, X)}, "points alone.*a tuple of 2"),
        ({"validation_data": (X, None, X[:, 0])}, "points alone.*a tuple of 3"),
        ({"validation_data": X[:, :1]}, r"validation_data must have shape \(n, 2\)"),
    ],
)
def test_what_is_no_validation_data(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        model_of().fit(x, verbose=0, **arguments)


@pytest.mark.parametrize("kind", ("array", "dataset"))
def test_a_generator_for_validation_is_seen_after_every_epoch(kind):
    """It gives its batches once: two of its five are kept, and give the same value again."""
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    x = STREAMS.get(kind, lambda x: x)(X)
    arguments = {"validation_data": generator(X[:20]), "validation_steps": 2}
    fit = model.fit(x, epochs=3, verbose=0, **arguments)
    wanted = model.evaluate(X[:8], batch_size=4, verbose=0)
    assert fit.history["val_loss"] == pytest.approx([wanted] * 3, rel=1e-5)


@pytest.mark.parametrize("x", (X, dataset(X)), ids=("array", "stream"))
@pytest.mark.parametrize(
    "data, error, message",
    [
        (dataset(X[:, :1]), ValueError, r"validation_data must have shape \(n, 2\)"),
        (lambda: generator(X[:, :1]), ValueError, r"must have shape \(n, 2\)"),
        (dataset(X * np.nan), ValueError, "must be finite"),
        (dataset(X).take(0), ValueError, "the stream validation_data has no batch"),
        (dataset((X, X)), ValueError, "learns from points alone"),
        ("abc", TypeError, "validation_data must be an array of points.*got str"),
        ({"x": X}, TypeError, "validation_data must be an array of points.*got dict"),
        ((X.tolist(), X.tolist()), ValueError, "points alone.*a tuple of 2"),
        ((dataset(X), X), ValueError, "points alone.*a tuple of 2"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_validation_data_is_looked_at_before_any_step(x, data, error, message):
    model = model_of()
    data = data() if callable(data) else data  # a generator serves one test
    with pytest.raises(error, match=message):
        model.fit(x, verbose=0, validation_data=data)
    assert not model.optimizer.built or model.optimizer.iterations.numpy() == 0


@pytest.mark.parametrize(
    "data", (X[:8].tolist(), dataset(X[:8]), tuple(map(tuple, X[:8])))
)
def test_validation_data_beside_none(data):
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    data = data if isinstance(data, tuple) else (data, None)
    loss = model.fit(X, verbose=0, validation_data=data).history["val_loss"]
    sizes = {model.evaluate(X[:8], batch_size=k, verbose=0) for k in (4, 8)}
    assert any(loss == pytest.approx([v], rel=1e-5) for v in sizes)


@pytest.mark.parametrize("x", (X, dataset(X)), ids=("array", "stream"))
@pytest.mark.parametrize(
    "name, value, error",
    [
        ("validation_freq", 0, ValueError),
        ("validation_freq", "a", TypeError),
        ("validation_freq", [1, 0], ValueError),
        ("validation_batch_size", -1, ValueError),
        ("validation_batch_size", "a", TypeError),
        ("validation_steps", 0, ValueError),
        ("initial_epoch", "a", TypeError),
        ("initial_epoch", -1, ValueError),
    ],
)
def test_when_to_validate_is_checked_before_any_step(x, name, value, error):
    with pytest.raises(error, match=f"{name} must be"):
        model_of().fit(x, verbose=0, validation_data=X[:8], **{name: value})


def test_validation_freq_of_numpy():
    fit = model_of().fit(
        X, epochs=4, verbose=0, validation_data=X[:8], validation_freq=np.int64(2)
    )
    assert len(fit.history["val_loss"]) == 2


def test_what_is_not_finite_late_in_a_stream_is_named_in_evaluate_too():
    model, x = model_of(), X.copy()
    model.adapt(X)
    x[-1] = np.inf  # beyond the batches that are looked at
    assert len(x) > 4 * PEEK
    for data in (dataset(x), generator(x)):
        with pytest.raises(ValueError, match="must be finite"):
            model.evaluate(data, verbose=0)


def test_evaluate_of_a_stream_needs_compile():
    model = deen.DEEN((6,), sigma=0.3)
    model.adapt(X)
    assert np.isfinite(model.evaluate(X, verbose=0))
    for data in (dataset(X), generator(X)):
        with pytest.raises(ValueError, match=r"call compile\(\) before evaluate"):
            model.evaluate(data, verbose=0)
    with pytest.raises(ValueError, match="has no batch"):
        model_of().evaluate(iter(()), verbose=0)


def test_a_stream_cannot_be_split():
    with pytest.raises(ValueError, match="validation_split needs points in memory"):
        model_of().fit(dataset(X), validation_split=0.5, verbose=0)


def test_points_in_other_units_than_the_model_has():
    """Farther than ten standard deviations in the median; three are other data."""
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    model.fit(X, verbose=0)
    with pytest.warns(UserWarning, match="standard deviations.*takes new ones"):
        model.fit(100 * X, check_divergence=False, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X + 3 * X.std(0), verbose=0)


EMPTY = "the stream x has no batch"


@pytest.mark.parametrize(
    "x, error, message",
    [
        (None, TypeError, "array of points.*or a stream of them, got None"),
        ({"x": X}, TypeError, "array of points.*or a stream of them, got dict"),
        ("points.csv", TypeError, "a PyDataset or a generator, got str"),
        (3, TypeError, "a tf.data.Dataset, a PyDataset or a generator, got int"),
        (object(), TypeError, "a PyDataset or a generator, got object"),
        (keras.Input((2,)), TypeError, "symbolic KerasTensor|got KerasTensor"),
        ((i for i in []), ValueError, EMPTY),
        (dataset(X).take(0), ValueError, EMPTY),
        (Sequence(X[:0]), ValueError, EMPTY + "|at least one|shape"),
        (dataset({"x": X}), TypeError, "stream must be an array of points.*got dict"),
        (({"x": X} for _ in range(3)), TypeError, "stream must be an array.*got dict"),
        (dataset((X, X)), ValueError, "learns from points alone"),
        (dataset((X, X[:, 0], X[:, 0])), ValueError, "learns from points alone"),
        (tf.data.Dataset.from_tensor_slices(X), ValueError, r"shape.*got \(2,\)"),
        ([[1, 2], [3]], ValueError, "rectangular"),
        (np.ma.masked_less(X, 0), ValueError, "masked values"),
        (X.astype("datetime64[s]"), TypeError, "real numbers"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_is_no_data(x, error, message):
    model = model_of()
    with pytest.raises(error, match=message):
        model.fit(x, verbose=0)


def test_points_of_another_shape_in_a_later_batch():
    model = model_of()
    parts = [X[:4], X[4:8], X[8:12, :1]] + [X[:4]] * 3
    with pytest.raises(ValueError, match=r"shape \(n, 2\)|dimensions"):
        model.fit(iter(parts), verbose=0)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"batch_size": 1.5}, TypeError, "batch_size must be a whole number, got 1.5"),
        ({"batch_size": "2"}, TypeError, "batch_size must be a whole number, got '2'"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": True}, TypeError, "batch_size must be a whole number"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"y": X}, ValueError, "takes no y"),
    ],
)
def test_bad_arguments_of_evaluate(arguments, error, message):
    model = model_of()
    model.adapt(X)
    with pytest.raises(error, match=message):
        model.evaluate(X, verbose=0, **arguments)


def test_evaluate_of_nothing():
    model = model_of()
    model.adapt(X)
    for x in (None, {"x": X}):
        with pytest.raises(TypeError, match="array of points"):
            model.evaluate(x, verbose=0)


def test_validation_takes_the_last_points():
    x = np.arange(8)[:, None]
    for split, kept in ((0.25, 6), (0.75, 2), (0.3, 5)):  # rounded down, as in Keras
        train, held_out = validation(x, split, None)
        np.testing.assert_array_equal(train, x[:kept])
        np.testing.assert_array_equal(held_out, x[kept:])


def test_nothing_to_train():
    model = model_of()
    model.trainable = False
    model.compile()
    with pytest.raises(ValueError, match="no trainable weights"):
        model.fit(X, verbose=0)
    with pytest.raises(ValueError, match="no trainable weights"):
        model.fit(dataset(X), verbose=0)


def test_a_model_that_was_not_compiled():
    with pytest.raises(ValueError, match=r"call compile\(\) before fit\(\)"):
        deen.DEEN((4,)).fit(X)


def test_symbolic_points_have_no_score():
    model = model_of()
    model.adapt(X)
    with pytest.raises(TypeError, match="KerasTensor"):
        model.score(keras.Input((2,)))


@pytest.mark.parametrize("dtype", ("int32", "bool", "complex64"))
@pytest.mark.parametrize("cls", (deen.DEEN, deen.DSM, deen.NoiseContrastive))
def test_a_type_that_no_weight_can_have(cls, dtype):
    with pytest.raises(
        (TypeError, ValueError), match=f"floating.point.*{dtype}|{dtype}"
    ):
        cls(dtype=dtype)


@pytest.mark.parametrize("name", ("noext", "model.h5", "model.tf", "folder/"))
def test_save_writes_keras_files(name, tmp_path):
    model = model_of()
    model.adapt(X)
    with pytest.raises(
        ValueError, match=rf"writes .keras files, got .*{name}"
    ) as caught:
        model.save(f"{tmp_path}/{name}")
    assert "tmp" not in str(caught.value).replace(str(tmp_path), "")
    assert list(tmp_path.iterdir()) == []


# Keras stands in for itself: whether another backend is installed is not known here.
KERAS = """
import sys, types
if {installed}:
    keras = types.ModuleType("keras")
    keras.backend = types.SimpleNamespace(backend=lambda: "jax")
    sys.modules["keras"] = keras
else:
    sys.modules["jax"] = None  # as if it were not there
import deen_tf
"""


@pytest.mark.parametrize("installed", (True, False))
def test_another_backend_is_told_at_import(installed):
    result = subprocess.run(
        [sys.executable, "-c", KERAS.format(installed=installed)],
        env=os.environ | {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "jax" in last
    assert "set KERAS_BACKEND=tensorflow" in last, result.stderr
