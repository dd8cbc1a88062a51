"""Figure 3's script: what its methods see, and the files of a quick run."""

import json
import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest

from deen_tf.datasets import van_hateren

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fig3():
    sys.path.insert(0, str(ROOT / "reproduce"))
    try:
        import fig3
    finally:
        sys.path.pop(0)
    return fig3


@pytest.fixture(scope="module")
def patches():
    return van_hateren.patches(van_hateren.PHOTOGRAPHS, per_image=200)


def test_each_patch_has_its_own_noise_and_methods_see_no_clean_mean(fig3, patches):
    noisy = fig3.Noisy(patches, "test", 0.5, 150, seed=0)
    std = patches.test.std(1)
    assert set(np.unique(noisy.image_of)) == set(np.unique(patches.image_of("test")))
    np.testing.assert_allclose(noisy.x.mean(1), 0, atol=1e-5)
    nu = (noisy.xi - noisy.x) / (0.5 * noisy.x.std(1, keepdims=True))
    # 300 x 1024 normals or more: the variance is 1 to 2 / sqrt(2 n) relative
    assert nu.var() == pytest.approx(1, abs=0.01)
    assert noisy.x.std(1).max() <= std.max() / 0.5 * (1 + 1e-5)
    seen = []

    def spy(xi, level):
        seen.append(xi)
        return xi

    np.testing.assert_allclose(noisy.denoise(spy), noisy.xi, atol=1e-5)
    np.testing.assert_allclose(noisy.denoise(spy, 0.5), noisy.xi, atol=1e-5)
    as_they_are, one_level = seen
    np.testing.assert_allclose(as_they_are.mean(1), 0, atol=1e-5)
    # One noise level: what is seen, less the clean patch of unit std, is 0.5 nu.
    centred = nu - nu.mean(1, keepdims=True)
    z = noisy.x / noisy.x.std(1, keepdims=True)
    np.testing.assert_allclose(one_level - z, 0.5 * centred, atol=1e-4)


def test_contrast_patches_weigh_errors_as_the_figure_does(fig3, patches):
    """E over the drawn patches of |z - f(z)|^2 is E std^2 |z - f(z)|^2 / E std^2."""
    x = patches.train
    drawn = fig3.contrast_patches(x, seed=0)
    np.testing.assert_allclose(drawn.std(1), 1, atol=1e-4)
    z, _, std = van_hateren.normalise_contrast(x)

    def error(z):  # of some estimate that depends on the patch
        return np.mean(np.square(np.diff(z, axis=1)), axis=1)

    expected = np.average(error(z), weights=std[:, 0] ** 2)
    drawn_error = error(drawn)
    tolerance = 4 * drawn_error.std() / len(drawn) ** 0.5
    assert abs(drawn_error.mean() - expected) < tolerance
    assert abs(error(z).mean() - expected) > tolerance  # and it does matter


@pytest.mark.slow
def test_quick_run_on_the_stand_ins(tmp_path, monkeypatch):
    monkeypatch.delenv("DEEN_DATA", raising=False)
    done = subprocess.run(
        [sys.executable, ROOT / "reproduce" / "fig3.py", "--quick", "--out", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "stand in" in done.stdout
    out = tmp_path / "out"
    stems = ("fig3", "fig3-wide", "fig3-photograph", "fig3-training")
    files = {f"{stem}.{ending}" for stem in stems for ending in ("png", "pdf")}
    assert {p.name for p in out.iterdir()} == files | {"fig3.json", "fig3.h5", "models"}
    record = json.loads((out / "fig3.json").read_text())
    assert record["data"]["patches"]["stand-in"] is True
    for method in (
        "noisy",
        "median+gaussian",
        "wiener",
        "wavelet",
        "deen",
        "deen-wide",
    ):
        for metric in ("err_per_pixel", "standard_error", "psnr", "ssim"):
            entry = record["metrics"][f"{method}/{metric}"]
            assert entry["unit"] and entry["definition"]
            assert np.isfinite(entry["median"])
    assert {"sigma", "deen/removed_noise_fraction", "deen/seconds"} <= set(
        record["metrics"]
    )
    ceiling = record["metrics"]["deen/removed_noise_ceiling"]["median"]
    assert ceiling == pytest.approx(0.25)
    with h5py.File(out / "fig3.h5") as file:
        assert {"a", "b", "c", "clean", "training", "parzen"} <= set(file)
