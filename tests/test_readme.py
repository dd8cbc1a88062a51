"""The README's Python does what the README says."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_its_code_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    model, x = names["model"], names["x"]
    assert names["history"].history["loss"][-1] < names["history"].history["loss"][0]
    assert abs(names["curl"]).max() < 1e-3
    np.testing.assert_allclose(names["psi"], model.score(x[:5]), rtol=1e-5, atol=1e-5)
    written = {"deen.keras", "saved_model", "deen.tflite"}
    assert {p.name for p in tmp_path.iterdir()} == written
