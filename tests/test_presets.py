"""Presets: each loads, is what its card says, and reaches one of its numbers."""

import os
import pathlib
import re
import sys

import keras
import numpy as np
import pytest

import deen_tf as deen
from deen_tf import presets

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "reproduce"))
try:
    import command
    import presets as script
    from truth import LAWS, SIGMA, Truth
finally:
    sys.path.pop(0)

NAMES = sorted(deen.DEEN.presets)
needs_data = pytest.mark.skipif(
    "DEEN_DATA" not in os.environ, reason="needs MNIST: set DEEN_DATA"
)


def test_what_there_is():
    assert {"fig1-mixture", "fig1-spiral"} <= set(NAMES)
    assert set(NAMES) <= {*script.NAMES, *script.GIVEN}
    files = {p.stem for p in presets.FOLDER.glob("*.keras")}
    assert files == set(presets.CARDS)
    size = sum(p.stat().st_size for p in presets.FOLDER.iterdir() if p.is_file())
    assert size <= 3e6
    for card in presets.CARDS.values():
        assert not card["quick"]
        assert card["licence"]
        assert card["data"]
        assert card["numbers"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_of_the_card(name):
    model, card = deen.DEEN.from_preset(name), deen.DEEN.presets[name]
    assert type(model).__name__ == card["class"]
    assert model.sigma == pytest.approx(np.min(card["sigma"]))
    weights = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert weights == card["weights"]
    # Other processors round sums otherwise.
    assert script.score_rms(model) == pytest.approx(card["score_rms"], rel=1e-4)


@pytest.mark.parametrize("law", ("mixture", "spiral"))
def test_the_plane_s_reach_their_numbers(law):
    model = deen.DEEN.from_preset(f"fig1-{law}")
    known = deen.DEEN.presets[f"fig1-{law}"]["numbers"]
    truth = Truth(LAWS[law], SIGMA, 20_000)
    error = truth.relative_score_error(model)
    assert error == pytest.approx(known["relative_score_error"], rel=1e-3)
    assert error < 0.02  # of the score's power


@needs_data
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("mnist")])
def test_digits_are_denoised_as_the_card_says(name):
    from deen_tf.datasets import mnist

    model = deen.DEEN.from_preset(name)
    ((metric, known),) = deen.DEEN.presets[name]["numbers"].items()
    x = mnist.load().x_test[:500]
    xi = x + model.sigma * np.random.default_rng(1).normal(size=x.shape)
    left = ((model.denoise(xi) - x) ** 2).sum() / ((xi - x) ** 2).sum()
    # 500 digits of 10,000: their mean scatters by about 2%.
    assert metric.startswith("noise_left")
    assert left == pytest.approx(known, rel=0.1)


def test_names_that_are_none():
    with pytest.raises(
        ValueError, match=r"no preset is called 'fig1-mixtur': .*did you"
    ):
        deen.DEEN.from_preset("fig1-mixtur")
    with pytest.raises(ValueError, match="a file is read by keras.saving.load_model"):
        deen.DEEN.from_preset("deen.keras")
    with pytest.raises(ValueError, match=r"no preset is called None"):
        deen.DEEN.from_preset(None)
    wrong = r"is a DEEN, not a DSM: deen_tf\.DEEN\.from_preset\('fig1-mixture'\)"
    with pytest.raises(ValueError, match=wrong):
        deen.DSM.from_preset("fig1-mixture")
    assert deen.DSM.presets == {}
    assert type(deen.EnergyModel.from_preset("fig1-mixture")) is deen.DEEN


def test_a_preset_is_trained_on_and_saved(tmp_path):
    model = deen.DEEN.from_preset("fig1-spiral")
    x = LAWS["spiral"].sample(2048, seed=7)
    assert not model.compiled  # it has no optimizer
    model.compile(jit_compile=False)
    model.fit(x, batch_size=1024, verbose=0)
    model.save(tmp_path / "mine.keras")
    again = keras.saving.load_model(tmp_path / "mine.keras")
    np.testing.assert_array_equal(again.score(x), model.score(x))


def test_the_script_makes_a_preset_of_any_class(tmp_path, monkeypatch):
    model = deen.DSM((4,), sigma=0.3, seed=2)
    model.build((None, 3))
    made = type("Made", (), {"quick": False, "origin": dict.fromkeys(script.MADE_BY)})
    card = dict.fromkeys(("about", "points", "data", "licence", "settings"), "x")
    script.keep(made, tmp_path, "digits", model, card | {"numbers": {"a": 0.123456}})
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    monkeypatch.setattr(presets, "CARDS", presets.read(tmp_path))
    assert set(deen.DSM.presets) == {"digits"}
    assert deen.DSM.presets["digits"]["numbers"] == {"a": 0.1235}
    again = deen.DSM.from_preset("digits")
    np.testing.assert_array_equal(again.score([[1, 2, 3]]), model.score([[1, 2, 3]]))
    with pytest.raises(ValueError, match=re.escape("is a DSM, not a DEEN")):
        deen.DEEN.from_preset("digits")


def test_large_weights_are_rounded_and_packed(tmp_path, monkeypatch):
    model, path = deen.DEEN((100, 100), sigma=0.3), tmp_path / "large.keras"
    model.build((None, 10))
    model.save(path)
    size, x = path.stat().st_size, np.random.default_rng(0).normal(size=(20, 10))
    assert not script.pack(path)
    assert path.stat().st_size == size
    monkeypatch.setattr(script, "LARGE", 10_000)
    assert script.pack(path)
    assert path.stat().st_size < 0.6 * size
    again = keras.saving.load_model(path)
    assert again.sigma == 0.3
    for a, b in zip(again.weights, model.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=2**-script.BITS)
    # Errors of 1e-3 of each weight, most of which cancel.
    np.testing.assert_allclose(again.score(x), model.score(x), atol=1e-3)


MORE = {"data": {}, "only": {"nargs": "+"}, "models": {}}


def test_where_the_script_puts_them(tmp_path, monkeypatch):
    def main(*words):
        script.main(command.options("", ["--only", *words], **MORE))

    with pytest.raises(FileNotFoundError, match="no digits.keras in"):
        main("digits", "--out", str(tmp_path))
    # The committed run writes the package's own; a quick one leaves them alone.
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(presets, "FOLDER", tmp_path / "package")
    kept = []
    monkeypatch.setattr(script, "keep", lambda run, into, *_: kept.append(into))
    monkeypatch.setattr(script, "plane", lambda *_: (None, {"numbers": {}}))
    for words in ((), ("--quick",)):
        main("fig1-mixture", "--out", str(tmp_path / "figures"), *words)
    assert kept == [tmp_path / "package", tmp_path / "figures" / "presets"]


@pytest.mark.slow
def test_the_script(tmp_path, capsys):
    words = ["--quick", "--only", "fig1-mixture", "--out", str(tmp_path)]
    script.main(command.options("", words, **MORE))
    made = {p.name for p in (tmp_path / "presets").iterdir()}
    assert made == {"fig1-mixture.keras", "cards.json"}
    assert presets.read(tmp_path / "presets")["fig1-mixture"]["quick"]
    assert "relative_score_error" in capsys.readouterr().out
