"""The README's Python does what the README says; its page is one, its links lead somewhere."""

import os
import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def run(code, names):
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102


@pytest.mark.long
def test_its_code_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        run(block, names)
    model, x = names["model"], names["x"]
    assert names["history"].history["loss"][-1] < names["history"].history["loss"][0]
    np.testing.assert_allclose(names["psi"], model.score(x[:5]), rtol=1e-5, atol=1e-5)
    assert (
        "fig1-mixture; rows (n, 2); {'relative_score_error'" in capsys.readouterr().out
    )
    assert {p.name for p in tmp_path.iterdir()} == {"deen.keras", "saved_model"}


@pytest.mark.slow
@pytest.mark.skipif("DEEN_DATA" not in os.environ, reason="needs MNIST: set DEEN_DATA")
def test_its_network_of_ones_own_beats_the_wiener_filter():
    (block,), names = blocks("py"), {}
    run(block, names)
    from deen_tf.datasets import mnist

    x = mnist.load().x_test[:1000].reshape(-1, 28, 28, 1)
    xi = x + 0.14 * np.random.default_rng(0).normal(size=x.shape)
    left = ((names["model"].denoise(xi) - x) ** 2).sum() / ((xi - x) ** 2).sum()
    assert left < 0.266  # the Wiener filter's; 0.207 to 0.256 of three seeds


def test_it_is_one_page():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("file", ["README.md", "figures/REPORT.md", "CHANGELOG.md"])
def test_links_within_the_project_lead_somewhere(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / file).parent.joinpath(link).exists(), link
