"""The notebooks run from top to bottom, as scripts and as what Jupyter reads."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "reproduce" / "notebooks"


def run(name, folder):
    done = subprocess.run(
        [sys.executable, NOTEBOOKS / name],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "Agg", "TMPDIR": str(folder)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_the_paper_in_pictures(tmp_path):
    text = run("paper.py", tmp_path)
    assert re.search(r"bound of the paper's network: 0\.837\nOf \d+ claims", text)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_tour(tmp_path):
    text = run("tour.py", tmp_path)
    noisy, denoised = re.search(r"noisy (\S+), denoised (\S+)\n", text).groups()
    assert float(denoised) < float(noisy)
    # The kernel estimate has a sampling error of its own.
    assert float(re.search(r"energies differ by (\S+) nats", text)[1]) < 0.5
    assert float(re.search(r"R-hat (\S+),", text)[1]) < 1.1
    assert float(re.search(r"scores differ by (\S+)\n", text)[1]) < 1e-5


@pytest.mark.parametrize("name", ["tour.py", "paper.py"])
def test_jupyter_reads_them(name):
    jupytext = pytest.importorskip("jupytext", reason="pip install -e '.[docs]'")
    notebook = jupytext.read(NOTEBOOKS / name)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert kinds.count("code") >= 6
    assert notebook.metadata["kernelspec"]["name"] == "python3"
