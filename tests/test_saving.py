"""Saved models answer as the model does, in programs that know nothing of this package."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen

MODELS = [
    model
    for model in vars(deen).values()
    if isinstance(model, type) and issubclass(model, keras.Model)
]
SIDE = 3  # points of 9 dimensions, or images of 3 x 3 pixels
MANY = 100_000
X = np.random.default_rng(0).normal(size=(MANY, SIDE**2))
# Of the largest value. The same operations in another program differ by rounding, in
# bfloat16 by what one of the last of 8 bits is worth.
ROUNDING = {"float32": 1e-6, "float64": 1e-14, "mixed_bfloat16": 2**-7}
EXPORTED = [(model, "float32") for model in MODELS] + [
    (model, dtype)
    for model in (deen.DEEN, deen.DSM)
    for dtype in ("float64", "mixed_bfloat16")
]


def drawn(model, **arguments):
    """Return a model whose weights are all random: the answers depend on every one."""
    if model is deen.FieldOfExperts:
        arguments |= {"size": 2, "stride": 1}
    model = model((6, 5), sigma=0.3, **arguments)
    model.build((None, SIDE**2))
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(scale=0.5, size=weight.shape))
    return model


def assert_same(answer, expected, tolerance):
    expected = np.asarray(expected, "float64")
    assert answer.shape == expected.shape
    np.testing.assert_allclose(answer, expected, 0, tolerance * abs(expected).max())


@pytest.fixture(scope="module")
def deen_model():
    return drawn(deen.DEEN)


@pytest.fixture(scope="module")
def saved_deen(deen_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "deen"
    deen_model.export(folder)
    return folder


@pytest.fixture(scope="module")
def answers_elsewhere(tmp_path_factory):
    """Export models of all kinds; have plain TensorFlow load and ask every one."""
    folder = tmp_path_factory.mktemp("exported")
    np.save(folder / "x.npy", X)
    for model, dtype in EXPORTED:
        drawn(model, dtype=dtype).export(folder / f"{model.__name__}-{dtype}")
    program = """
import sys
for name in ("keras", "deen_tf"):
    sys.modules[name] = None  # importing it raises
import pathlib
import numpy as np, tensorflow as tf
points = np.load("x.npy")
for folder in pathlib.Path().glob("*-*"):
    signatures = tf.saved_model.load(folder).signatures
    answers = {}
    for name in set(signatures) - {"serving_default"}:  # which is the first of them
        spec = signatures[name].structured_input_signature[1]["x"]
        assert spec.shape.as_list() == [None, points.shape[1]], spec
        for n in (1, 7, len(points)) if folder.name == "DEEN-float32" else (1, 7):
            answer = signatures[name](x=tf.constant(points[:n], spec.dtype))
            assert list(answer) == [name], list(answer)
            answers[f"{name}/{n}"] = answer[name].numpy()
    np.savez(f"{folder}.npz", **answers)
assert not [m for m in sys.modules if m.startswith(("keras.", "deen_tf."))]
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder)
    return folder


@pytest.mark.parametrize("model, dtype", EXPORTED)
def test_plain_tensorflow_gives_the_same_answers(model, dtype, answers_elsewhere):
    twin = drawn(model, dtype=dtype)
    with np.load(answers_elsewhere / f"{model.__name__}-{dtype}.npz") as answers:
        assert {key.split("/")[0] for key in answers} == set(twin.signatures)
        for key in answers:
            name, n = key.split("/")
            answer = answers[key]
            assert answer.dtype == ("float64" if dtype == "float64" else "float32")
            if dtype == "mixed_bfloat16":  # a graph keeps digits between its operations
                expected = getattr(twin, name)(X[: int(n)])
            else:  # eager, without a trace for each
                x = tf.constant(X[: int(n)], twin.variable_dtype)
                expected = getattr(model, name).tensor_function(twin, x, twin.level(x))
            assert_same(answer, expected, ROUNDING[dtype])


def test_models_with_an_energy_export_it():
    for model in MODELS:
        names = {"score", "denoise"}
        if issubclass(model, deen.EnergyModel):
            names |= {"energy", "experts"}
        assert set(model.signatures) == names


@pytest.mark.long
def test_saved_model_cli(deen_model, saved_deen, tmp_path):
    np.save(tmp_path / "x.npy", X[:50].astype("float32"))
    command = "run --tag_set serve --signature_def score --inputs x=x.npy --outdir ."
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tensorflow.python.tools.saved_model_cli",
            *command.split(),
            "--dir",
            saved_deen,
        ],
        check=True,
        cwd=tmp_path,
    )
    answer = np.load(tmp_path / "score.npy")
    assert_same(answer, deen_model.score(X[:50]), 1e-6)


def test_a_layer_of_a_keras_model(deen_model, saved_deen):
    """A network of the clean point 2 x_hat(xi / 2), with the step as a fixed layer."""
    step = keras.layers.TFSMLayer(saved_deen, call_endpoint="denoise")
    inputs = keras.Input((SIDE**2,))
    outputs = step(inputs / 2)["denoise"] * 2
    network = keras.Model(inputs, outputs)
    expected = 2 * deen_model.denoise(X / 2)
    for n in (1, 33, MANY):
        answer = network.predict(X[:n].astype("float32"), batch_size=MANY, verbose=0)
        assert_same(answer, expected[:n], 1e-6)


def test_gradient_passes_through_an_exported_energy(deen_model, saved_deen):
    loaded = tf.saved_model.load(saved_deen)  # holds the variables
    x = tf.constant(X[:7], "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loaded.signatures["energy"](x=x)["energy"]
    assert_same(-tape.gradient(value, x), deen_model.score(X[:7]), 1e-6)


def test_gradient_passes_through_an_exported_score_in_another_graph(tmp_path):
    """dpsi/dx, a second derivative of E, is what it is in Python, and by differences."""
    model = drawn(deen.DEEN, dtype="float64")
    model.export(tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model")

    @tf.function(input_signature=[tf.TensorSpec((None, SIDE**2), "float64")])
    def jacobian(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            psi = loaded.signatures["score"](x=x)["score"]
        return tape.batch_jacobian(psi, x)

    answer = jacobian(tf.constant(X[:5])).numpy()
    assert_same(answer, deen.fields.jacobian(model, X[:5]), 1e-13)
    # Central differences: step^2 and rounding / step, both near 1e-10.
    assert_same(answer, deen.fields.jacobian(model, X[:5], step=1e-5), 1e-8)


def interpreter(path):
    """Return LiteRT's interpreter: TensorFlow's own while it has one, or the package."""
    if hasattr(tf.lite, "Interpreter"):
        return tf.lite.Interpreter(str(path))
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    return litert.Interpreter(str(path))


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(
    "model",
    [deen.DEEN, deen.DSM]
    + [
        pytest.param(model, marks=pytest.mark.slow)
        for model in MODELS
        if model not in (deen.DEEN, deen.DSM, deen.FieldOfExperts)
    ],
)
def test_litert_gives_the_same_answers(model, tmp_path):
    twin = drawn(model)
    twin.export(tmp_path / "model.tflite", format="litert")
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    runtime = interpreter(tmp_path / "model.tflite")
    assert set(runtime.get_signature_list()) == set(twin.signatures)
    for name in twin.signatures:
        run = runtime.get_signature_runner(name)
        expected = getattr(twin, name)(X)
        for n in (7, 1, MANY, 2):  # the batch grows and shrinks
            answer = run(x=X[:n].astype("float32"))
            # Its tanh is another approximation, a few float32 roundings away.
            assert_same(answer[name], expected[:n], 1e-5)


@pytest.mark.parametrize(
    "model, dtype, reason",
    [
        (deen.FieldOfExperts, "float32", "LiteRT has no MirrorPadGrad"),
        (deen.DEEN, "float64", "LiteRT computes in float32, this model in float64"),
        (deen.DEEN, "mixed_bfloat16", "this model in mixed_bfloat16"),
    ],
)
def test_what_litert_cannot_hold_is_refused(model, dtype, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        drawn(model, dtype=dtype).export(tmp_path / "model", format="litert")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(deen_model, tmp_path):
    with pytest.raises(ValueError, match="format=pickle"):
        deen_model.export(tmp_path / "model", format="pickle")


def test_export_replaces_an_older_one_and_leaves_nothing_else(deen_model, tmp_path):
    deen_model.export(tmp_path / "model")
    deen_model.export(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_failed_export_leaves_the_older_one(deen_model, tmp_path, monkeypatch):
    deen_model.export(tmp_path / "model")
    before = sorted(p.name for p in (tmp_path / "model").iterdir())

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        deen_model.export(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == before


def test_a_file_of_another_format_is_refused(deen_model, tmp_path):
    with pytest.raises(ValueError, match="tflite.*litert"):
        deen_model.export(tmp_path / "model.tflite")


@pytest.mark.parametrize("format", ["tf_saved_model", "litert", "onnx"])
def test_export_of_a_model_without_weights_is_refused(format, tmp_path):
    with pytest.raises(ValueError, match="no weights yet"):
        deen.DEEN().export(tmp_path / "model", format=format)
    if format != "onnx":
        level = deen.DEEN(sigma=(0.1, 1.0)).smoothed(0.2)
        with pytest.raises(ValueError, match="no weights yet"):
            level.export(tmp_path / "model", format=format)


@pytest.mark.parametrize(
    "model, arguments",
    [(model, {}) for model in MODELS]
    + [(deen.NoiseContrastive, {"noise": noise}) for noise in ("uniform", "smoothed")]
    + [(deen.DEEN, {"dtype": dtype}) for dtype in ("float64", "mixed_bfloat16")],
)
def test_keras_file_gives_the_same_answers(model, arguments, tmp_path):
    saved = drawn(model, **arguments)
    saved.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is model
    # Keras' own part of a config, as JSON: it may have become lists for tuples.
    assert json.dumps(loaded.get_config()) == json.dumps(saved.get_config())
    assert not loaded.compiled
    x = tf.constant(X[:7], saved.variable_dtype)
    for name in model.signatures:
        function = getattr(model, name).tensor_function
        answer, expected = (function(m, x, m.level(x)) for m in (loaded, saved))
        # Products of matrices may differ in the order of sums: the last place.
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-7)


def test_keras_file_of_a_trained_model(tmp_path):
    saved = deen.DEEN((6, 5), sigma=0.3)
    saved.compile(jit_compile=False)
    saved.fit(X[:20], batch_size=4, epochs=3, verbose=0)
    saved.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.compiled and loaded.get_compile_config() == saved.get_compile_config()
    np.testing.assert_array_equal(loaded.score(X[:7]), saved.score(X[:7]))
    for a, b in zip(saved.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
