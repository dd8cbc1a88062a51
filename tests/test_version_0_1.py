"""Files that 0.1 wrote answer as they did there.

`version_0_1/` holds one .keras file of each layout, written by 0.1.0 with momentum in its
optimizer (packed more tightly since), and what its models answered at three points.
"""

import json
import pathlib

import keras
import numpy as np
import pytest

import deen_tf  # noqa: F401 (registers the classes)

FOLDER = pathlib.Path(__file__).with_name("version_0_1")
ANSWERS = json.loads((FOLDER / "answers.json").read_text())


@pytest.mark.parametrize("name", [n for n in ANSWERS if n != "MixtureOfDEENs"])
def test_a_file_answers_as_it_did(name, tmp_path, caplog):
    model = keras.saving.load_model(FOLDER / f"{name}.keras")
    assert "written by deen_tf 0.1" in caplog.text
    known = {k: np.array(v, "float32") for k, v in ANSWERS[name].items()}
    x = known.pop("x")
    assert known
    for method, answer in known.items():
        # The same float32 operations: a few roundings at most.
        np.testing.assert_allclose(getattr(model, method)(x), answer, 1e-5, 1e-6)

    model.compile()
    model.save(tmp_path / "now.keras")
    again = keras.saving.load_model(tmp_path / "now.keras")
    assert again.compiled
    np.testing.assert_array_equal(again.score(x), model.score(x))


def test_it_is_trained_on_in_its_units_by_a_new_optimizer():
    model = keras.saving.load_model(FOLDER / "DEEN.keras")
    x = np.tile(np.array(ANSWERS["DEEN"]["x"], "float32"), (50, 1))
    # The moments in the file are those of another objective.
    with pytest.raises(ValueError, match=r"call compile\(\)"):
        model.fit(x)
    model.compile(jit_compile=False)
    model.fit(x, batch_size=50, verbose=0)
    np.testing.assert_array_equal(model.center, 0)
    assert float(model.scale) == 1


def test_a_mixture_says_what_to_do():
    with pytest.raises(ValueError, match="written by deen_tf 0.1.*train it anew"):
        keras.saving.load_model(FOLDER / "MixtureOfDEENs.keras")
