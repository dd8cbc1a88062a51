"""Saved models answer as the model does, in processes that know nothing of this package."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen

SIGNATURES = {
    deen.DEEN: ("energy", "score", "denoise", "experts"),
    deen.ContrastiveDivergence: ("energy", "score", "denoise", "experts"),
    deen.DSM: ("score", "denoise"),
}
X = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")


def trained(cls):
    model = cls((6, 5), sigma=0.3)
    model.compile(jit_compile=False)
    model.fit(X, batch_size=4, epochs=3, verbose=0)
    return model


@pytest.mark.parametrize("cls", SIGNATURES)
def test_export_answers_without_keras_and_without_this_package(cls, tmp_path):
    model = trained(cls)
    model.export(tmp_path / "model")
    np.save(tmp_path / "x.npy", X)
    program = f"""
import sys
sys.modules["keras"] = sys.modules["deen_tf"] = None  # importing them raises
import numpy as np, tensorflow as tf
model = tf.saved_model.load({str(tmp_path / "model")!r})
x = np.load({str(tmp_path / "x.npy")!r})
for name in {SIGNATURES[cls]!r}:
    for points in (x, x[:1], np.repeat(x, 1000, axis=0)):
        answer = model.signatures[name](x=tf.constant(points))
        assert list(answer) == [name], list(answer)
        assert len(answer[name]) == len(points)
    np.save({str(tmp_path)!r} + "/" + name, model.signatures[name](x=tf.constant(x))[name])
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    for name in SIGNATURES[cls]:
        answer = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_allclose(answer, getattr(model, name)(X), 1e-6, 1e-6)


def test_gradient_passes_through_an_exported_energy(tmp_path):
    model = trained(deen.DEEN)
    model.export(tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model")  # holds the variables
    energy = loaded.signatures["energy"]
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = energy(x=x)["energy"]
    np.testing.assert_allclose(-tape.gradient(value, x), model.score(X), 1e-5, 1e-6)


def test_export_replaces_an_older_one_and_leaves_nothing_else(tmp_path):
    model = trained(deen.DEEN)
    model.export(tmp_path / "model")
    model.export(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_failed_export_leaves_the_older_one(tmp_path, monkeypatch):
    model = trained(deen.DEEN)
    model.export(tmp_path / "model")
    before = sorted(p.name for p in (tmp_path / "model").iterdir())

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        model.export(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == before


def test_export_of_a_model_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no weights yet"):
        deen.DEEN().export(tmp_path / "model")


@pytest.mark.parametrize("cls", SIGNATURES)
def test_keras_file_gives_the_same_answers(cls, tmp_path):
    model = trained(cls)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is cls
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded.score(X), model.score(X))
    np.testing.assert_array_equal(loaded.denoise(X), model.denoise(X))


def test_a_model_that_was_never_compiled_is_saved_too(tmp_path):
    model = deen.DEEN((6, 5), sigma=0.3)
    model.adapt(X)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.score(X), model.score(X))
    assert not loaded.compiled
