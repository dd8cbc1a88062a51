"""The script on all noise levels: its own density and network, and that it runs."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

REPRODUCE = pathlib.Path(__file__).parents[1] / "reproduce"


@pytest.fixture(scope="module")
def levels():
    sys.path.insert(0, str(REPRODUCE))
    try:
        import levels
    finally:
        sys.path.pop(0)
    return levels


def test_the_rings_have_the_density_that_they_are_drawn_from(levels):
    side = (np.arange(700) + 0.5) / 50 - 7
    nodes = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    p = np.exp(levels.log_rings(nodes)) / 50**2
    assert p.sum() == pytest.approx(1, abs=2e-3)  # a cusp at the origin
    radius = np.hypot(*nodes.T)
    drawn = np.hypot(*levels.rings(50_000, 0).astype("float64").T)
    for edges in ((0, 2), (2, 4), (4, 7), (2.9, 3.1)):
        inside = [(edges[0] < r) & (r < edges[1]) for r in (radius, drawn)]
        assert p[inside[0]].sum() == pytest.approx(inside[1].mean(), abs=0.01)


def test_experts_of_the_length_and_of_the_level_alone(levels):
    rng = np.random.default_rng(0)
    network = levels.Lengths((8, 8), seed=0)
    z, level = rng.normal(size=(2, 6, 50)).astype("float32")
    turned = z @ np.linalg.qr(rng.normal(size=(50, 50)))[0].astype("float32")
    level = level[:, :3]
    first, second = np.asarray(network(z, level=level)).T
    np.testing.assert_allclose(network(turned, level=level)[:, 0], first, rtol=1e-3)
    np.testing.assert_allclose(network(2 * z, level=level)[:, 1], second)
    assert np.ptp(np.asarray(network(2 * z, level=level))[:, 0] - first) > 1e-3
    network.silence()
    np.testing.assert_array_equal(network(z, level=level), 0)


@pytest.mark.slow
def test_a_smoke_run(tmp_path):
    command = [sys.executable, REPRODUCE / "levels.py", "--quick", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    found = json.loads((tmp_path / "levels.json").read_text())["metrics"]
    for name in (
        "mass/10-sigma/one-level",
        "mass/10-sigma/all-levels",
        "two-scales/energy_error",
        "mixture/relative_score_error/worst-level",
        "mixture/kl",
        "three-rings/all-levels/log_density",
    ):
        assert np.isfinite(found[name]["median"])
    assert (tmp_path / "levels.png").exists()
