"""The script on whole photographs: its protocol, its files, and what may be shown."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from deen_tf.datasets import photographs

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "reproduce"))
    try:
        return importlib.import_module("photographs")
    finally:
        sys.path.pop(0)


RUN = types.SimpleNamespace(settings=types.SimpleNamespace(noise_seed=3))


def test_noise_has_its_level_and_its_seed(script):
    image = np.full((200, 150), 0.3, "float32")
    xi = script.noisy(RUN, image, 0, 25)
    # 30,000 draws: their standard deviation to 0.4%, their mean to 0.0006.
    assert np.std(xi - image) == pytest.approx(25 / 255, rel=0.02)
    assert np.mean(xi - image) == pytest.approx(0, abs=0.003)
    assert xi.min() < 0  # not clipped
    np.testing.assert_array_equal(xi, script.noisy(RUN, image, 0, 25))
    unit = (xi - image) / 25
    for index, level in ((1, 25), (0, 7.65)):
        other = (script.noisy(RUN, image, index, level) - image) / level
        assert abs(np.corrcoef(unit.ravel(), other.ravel())[0, 1]) < 0.03


def test_quality_is_scikit_images_of_the_clipped_answer(script):
    rng = np.random.default_rng(0)
    image = rng.random((40, 30)).astype("float32")
    x_hat = image + 0.2 * rng.normal(size=image.shape)
    psnr, ssim = script.judge(image, x_hat)
    expected = peak_signal_noise_ratio(image, np.clip(x_hat, 0, 1), data_range=1.0)
    assert psnr == pytest.approx(expected, abs=1e-4)
    assert psnr > peak_signal_noise_ratio(image, x_hat, data_range=1.0) + 0.5
    assert 0 < ssim < 1 and script.judge(image, image)[1] == pytest.approx(1)


def test_parts_of_bsd68_keep_their_noise(script):
    bsd68 = [np.full((30, 40), k) for k in range(68)]
    run = types.SimpleNamespace(settings=types.SimpleNamespace(map={"centre": 20}))
    sets = {"bsd68": bsd68}
    seventeen = script.images_of(run, sets, "bsd17")
    assert len(seventeen) == 17 and seventeen[3][0] == seventeen[3][1][0, 0] == 12
    middles = script.images_of(run, sets, "bsd17-centre")
    assert [k for k, _ in middles] == [k for k, _ in seventeen]
    assert middles[1][1].shape == (20, 20) and middles[1][1][0, 0] == 4
    assert len(script.images_of(run, sets, "bsd68")) == 68
    ramp = np.arange(40.0)[None] + np.zeros((30, 1))
    assert script.centre(ramp, 20)[0, 0] == 10


def test_by_patches_is_told_the_level(script):
    """White images of variance 1: every patch, and so their average, is divided by 1 + s^2."""

    class White:
        def denoise(self, xi, sigma):
            return xi / (1 + sigma**2)

    xi = np.random.default_rng(1).normal(size=(40, 24))
    x_hat = script.by_patches(White(), 8, 8)(xi, 0.5)
    means = xi.reshape(5, 8, 3, 8).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    np.testing.assert_allclose(x_hat, means + (xi - means) / 1.25, atol=1e-5)


def test_published_numbers_are_ordered_as_noise_is(script):
    for _, psnr in script.PUBLISHED.values():
        values = [psnr[level] for level in sorted(psnr)]
        assert values == sorted(values, reverse=True)
    assert script.PUBLISHED["BM3D"][1][25] == 28.57


@pytest.mark.slow
def test_quick_run_without_the_data(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "DEEN_DATA"}
    done = subprocess.run(
        [sys.executable, ROOT / "reproduce" / "photographs.py", "--quick"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "stand in" in done.stdout
    out = tmp_path / "out"
    files = {"photographs.png", "photographs.pdf", "photographs.json", "photographs.h5"}
    assert {p.name for p in out.iterdir()} == files | {"models"}
    record = json.loads((out / "photographs.json").read_text())
    assert all(record["data"][s]["stand-in"] for s in ("train", "bsd68", "set12"))
    assert record["data"]["shown"]["source"] == photographs.STAND_IN
    values = record["metrics"]
    for name in ("noisy", "deen", "deen-25"):
        for metric in ("psnr", "ssim"):
            assert np.isfinite(values[f"bsd68/{metric}@25/{name}"]["median"])
    # 10 log10(255^2 / 25^2) = 20.2 before clipping
    assert 20 < values["bsd68/psnr@25/noisy"]["median"] < 21.5
    assert values["bsd68/psnr@25/deen-25"]["median"] > 22
    assert {"deen/weights", "deen/seconds_a_megapixel"} <= set(values)
    card = json.loads((out / "models" / "photographs.json").read_text())
    assert {"about", "points", "data", "licence", "settings", "numbers"} <= set(card)
    assert (out / "models" / "photographs.keras").exists()
