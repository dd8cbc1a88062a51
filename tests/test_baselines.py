"""Baselines against slow oracles, closed forms and symmetries."""

import sys

import numpy as np
import pytest
from scipy import stats

from deen_tf import baselines

SHAPE = (12, 16)


def normals(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.fixture(scope="module")
def patches():
    """Smooth patches (20, 192), their noise levels (20,) and noisy versions."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:12, :16]
    phases = random.uniform(0, 6, (20, 2, 1, 1))
    clean = np.sin(rows / 4 + phases[:, 0]) + np.cos(columns / 5 + phases[:, 1])
    clean = clean.reshape(20, -1).astype("float32")
    sigma = random.uniform(0.2, 0.6, 20)
    noisy = clean + sigma[:, None] * random.standard_normal(clean.shape)
    return clean, sigma, noisy.astype("float32")


def error(a, b):
    return np.mean((a - b) ** 2)


# ------------------------------------------------------------------ median and Gaussian


def slow_median(image, size):
    half = size // 2
    padded = np.pad(image, half, mode="symmetric")
    windows = [
        padded[i : i + size, j : j + size]
        for i in range(image.shape[0])
        for j in range(image.shape[1])
    ]
    return np.median(np.stack(windows).reshape(-1, size**2), axis=1).reshape(
        image.shape
    )


def slow_gaussian(image, sigma):
    half = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    padded = np.pad(image, half, mode="symmetric")
    return np.array(
        [
            [
                np.sum(weights * padded[i : i + 2 * half + 1, j : j + 2 * half + 1])
                for j in range(image.shape[1])
            ]
            for i in range(image.shape[0])
        ]
    )


@pytest.mark.parametrize("size, sigma", [(3, 1.0), (5, 0.6), (1, 0.8), (3, 0), (1, 0)])
def test_median_then_gaussian(patches, size, sigma):
    noisy = patches[2][:3]
    wanted = noisy.reshape(3, *SHAPE).astype("float64")
    if size > 1:
        wanted = np.stack([slow_median(image, size) for image in wanted])
    if sigma > 0:
        wanted = np.stack([slow_gaussian(image, sigma) for image in wanted])
    found = baselines.median_gaussian(noisy, size, sigma, SHAPE)
    assert found.shape == noisy.shape and found.dtype == "float32"
    np.testing.assert_allclose(found, wanted.reshape(3, -1), atol=2e-6)  # float32
    as_images = baselines.median_gaussian(noisy.reshape(3, *SHAPE), size, sigma)
    np.testing.assert_array_equal(as_images.reshape(3, -1), found)


def test_square_patches_need_no_shape():
    x = normals(4, 49)
    np.testing.assert_array_equal(
        baselines.median_gaussian(x), baselines.median_gaussian(x, 3, 1.0, (7, 7))
    )


def test_tuning_finds_the_best_pair(patches):
    clean, _, noisy = patches
    best, errors = baselines.tune_median_gaussian(
        clean,
        noisy,
        median_sizes=(1, 3, 5),
        gaussian_sigmas=(0, 0.5, 1.0, 2.0),
        shape=SHAPE,
    )
    assert len(errors) == 12
    for (m, s), found in errors.items():
        wanted = error(clean, baselines.median_gaussian(noisy, m, s, SHAPE))
        assert found == pytest.approx(wanted, rel=1e-5)
    assert errors[best["median_size"], best["gaussian_sigma"]] == min(errors.values())
    assert errors[1, 0] == pytest.approx(error(clean, noisy), rel=1e-5)
    assert 0 < min(errors.values()) < errors[1, 0]
    assert baselines.median_gaussian(noisy, **best, shape=SHAPE).shape == noisy.shape


def test_tuning_takes_the_median_for_salt_and_pepper(patches):
    clean = patches[0]
    hit = np.random.default_rng(0).random(clean.shape) < 0.1
    noisy = np.where(hit, 20, clean)
    best, _ = baselines.tune_median_gaussian(clean, noisy, (1, 3), (0, 0.5, 1.0), SHAPE)
    assert best["median_size"] == 3


# ------------------------------------------------------------------ Wiener


@pytest.fixture(scope="module")
def correlated():
    """Training data (5000, 6) with a mean and a covariance of their own."""
    random = np.random.default_rng(1)
    mixing = random.standard_normal((6, 6))
    return 3 + random.standard_normal((5000, 6)) @ mixing


@pytest.mark.parametrize("sigma", [0.3, np.linspace(0.1, 3, 7)])
def test_wiener_is_the_linear_posterior_mean(correlated, sigma):
    xi = 3 + 2 * normals(7, 6)
    m, C = correlated.mean(0), np.cov(correlated.T, bias=True)
    wiener = baselines.Wiener(correlated)
    for k, s in enumerate(np.broadcast_to(sigma, 7)):
        noisy = C + s**2 * np.eye(6)
        one = np.broadcast_to(sigma, 7)[k : k + 1]
        # float32 training data: 1e-7 of values near 10, some 1e-6 after solving.
        wanted = m + C @ np.linalg.solve(noisy, xi[k] - m)
        np.testing.assert_allclose(wiener.denoise(xi, sigma)[k], wanted, rtol=1e-5)
        np.testing.assert_allclose(
            wiener.denoise(xi[k : k + 1], one)[0], wanted, rtol=1e-5
        )
        wanted = -np.linalg.solve(noisy, xi[k] - m)
        np.testing.assert_allclose(
            wiener.score(xi, sigma)[k], wanted, rtol=1e-4, atol=1e-6
        )
        wanted = -stats.multivariate_normal(m, noisy).logpdf(xi[k])
        np.testing.assert_allclose(wiener.energy(xi, sigma)[k], wanted, rtol=1e-5)


def test_wiener_obeys_the_single_step_formula(correlated):
    xi = 3 + 2 * normals(9, 6)
    sigma = np.linspace(0.1, 3, 9)
    wiener = baselines.Wiener(correlated)
    step = xi + sigma[:, None] ** 2 * wiener.score(xi, sigma)  # Eq. 11
    np.testing.assert_allclose(wiener.denoise(xi, sigma), step, rtol=1e-10)


def test_wiener_has_the_least_error_of_a_linear_denoiser():
    random = np.random.default_rng(2)
    scales = np.array([3.0, 1.0, 0.1])
    x = scales * random.standard_normal((100_000, 3))
    xi = x + 0.7 * random.standard_normal(x.shape)
    found = np.sum((x - baselines.Wiener(x).denoise(xi, 0.7)) ** 2, axis=1).mean()
    wanted = np.sum(scales**2 * 0.49 / (scales**2 + 0.49))
    # Squares of normals over 100,000 points: about sqrt(2 / 100,000) = 0.5 %.
    assert found == pytest.approx(wanted, rel=0.015)
    # No other linear map fitted to these very pairs is better by more than its own overfit.
    best = np.linalg.lstsq(xi, x, rcond=None)[1].sum() / len(x)
    assert found == pytest.approx(best, rel=1e-3)


def test_wiener_with_fewer_examples_than_dimensions():
    train = normals(5, 30)
    wiener = baselines.Wiener(train)
    xi = normals(9, 30)[5:]
    x_hat = wiener.denoise(xi, 1e-3)
    assert np.isfinite(x_hat).all() and np.isfinite(wiener.score(xi, 1e-3)).all()
    # Nothing is left outside the span of the examples.
    span = np.linalg.qr((train - train.mean(0)).T)[0][:, :4]
    rest = (x_hat - train.mean(0)) @ (np.eye(30) - span @ span.T)
    np.testing.assert_allclose(rest, 0, atol=1e-5)


def test_wiener_over_many_blocks_is_the_same():
    train = np.random.default_rng(3).standard_normal((20_000, 3)) * [1, 2, 5] + [
        9,
        0,
        1,
    ]
    wiener = baselines.Wiener(train)
    C = np.cov(train.T, bias=True)
    found = wiener.directions * wiener.variances @ wiener.directions.T
    np.testing.assert_allclose(found, C, atol=1e-4)  # float32 data of size 20


def test_wiener_refuses():
    with pytest.raises(ValueError, match="two points"):
        baselines.Wiener([[1.0, 2.0]])
    wiener = baselines.Wiener([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"xi must have shape \(n, 2\)"):
        wiener.denoise([[1.0]], 0.1)
    with pytest.raises(ValueError, match="sigma must be positive"):
        wiener.denoise([[1.0, 2.0]], 0)
    with pytest.raises(ValueError, match="sigma must be positive, got -1"):
        wiener.score([[1.0, 2.0]] * 2, [1.0, -1.0])
    with pytest.raises(ValueError, match="one number or 2"):
        wiener.denoise([[1.0, 2.0]] * 2, [1.0, 1.0, 1.0])


# ------------------------------------------------------------------ of scikit-image


@pytest.fixture(params=["non_local_means", "wavelet", "total_variation"])
def denoiser(request):
    if request.param == "wavelet":
        pytest.importorskip("pywt", reason="PyWavelets is not installed")
    return getattr(baselines, request.param)


def test_denoisers_remove_noise(denoiser, patches):
    clean, sigma, noisy = patches
    found = denoiser(noisy, sigma, SHAPE)
    assert found.shape == noisy.shape and found.dtype == "float32"
    assert error(clean, found) < 0.5 * error(clean, noisy)
    as_images = denoiser(noisy.reshape(20, *SHAPE), sigma)
    np.testing.assert_array_equal(as_images.reshape(20, -1), found)


def test_every_patch_has_its_own_noise_level(denoiser, patches):
    _, sigma, noisy = patches
    found = denoiser(noisy, sigma, SHAPE)
    for k in (0, 7):
        np.testing.assert_allclose(
            denoiser(noisy[k : k + 1], sigma[k], SHAPE)[0], found[k]
        )
    assert not np.allclose(denoiser(noisy, 0.05, SHAPE), found)
    # With next to no noise, next to nothing is done.
    np.testing.assert_allclose(denoiser(noisy, 1e-4, SHAPE), noisy, atol=5e-3)


def test_denoisers_do_not_mind_units_or_level(denoiser, patches):
    """f(a xi + b, a sigma) = a f(xi, sigma) + b: the values need not lie in [0, 1]."""
    _, sigma, noisy = patches
    wanted = 8 * denoiser(noisy[:4], sigma[:4], SHAPE) + 32
    found = denoiser(8 * noisy[:4] + 32, 8 * sigma[:4], SHAPE)
    np.testing.assert_allclose(
        found, wanted, atol=0.01
    )  # float32 within, values up to 60


@pytest.mark.parametrize("name", ["non_local_means", "total_variation"])
def test_strengths_are_tuned(name, patches):
    clean, sigma, noisy = patches
    denoiser = getattr(baselines, name)
    strengths = (0.01, 0.6, 30.0)
    best, errors = baselines.tune_strength(
        denoiser, clean, noisy, sigma, strengths, SHAPE
    )
    assert best == 0.6 and list(errors) == list(strengths)
    wanted = error(clean, denoiser(noisy, sigma, SHAPE, strength=0.6))
    assert errors[0.6] == pytest.approx(wanted, rel=1e-5)


def test_shifts_help_wavelets(patches):
    pytest.importorskip("pywt", reason="PyWavelets is not installed")
    clean, sigma, noisy = patches
    fixed = baselines.wavelet(noisy, sigma, SHAPE, shifts=1)
    shifted = baselines.wavelet(noisy, sigma, SHAPE, shifts=4)
    assert error(clean, shifted) < 0.9 * error(clean, fixed)


def test_without_pywavelets(monkeypatch, patches):
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(ImportError, match="pip install PyWavelets"):
        baselines.wavelet(patches[2], 0.1, SHAPE)


def test_bad_patches(patches):
    _, sigma, noisy = patches
    with pytest.raises(ValueError, match="192 pixels do not have shape .*14, 14"):
        baselines.median_gaussian(noisy)
    with pytest.raises(ValueError, match="do not have shape"):
        baselines.total_variation(noisy, sigma, (10, 10))
    with pytest.raises(
        ValueError, match=r"shape is \(16, 12\) but the patches are \(12, 16\)"
    ):
        baselines.median_gaussian(noisy.reshape(20, *SHAPE), shape=(16, 12))
    with pytest.raises(ValueError, match="patches must be finite"):
        baselines.median_gaussian(noisy * np.nan, shape=SHAPE)
    with pytest.raises(ValueError, match="one number or 20"):
        baselines.total_variation(noisy, sigma[:3], SHAPE)
    with pytest.raises(TypeError, match="median_size must be a whole number"):
        baselines.median_gaussian(noisy, 2.5, shape=SHAPE)
    with pytest.raises(
        ValueError, match="gaussian_sigma must be finite and not negative"
    ):
        baselines.median_gaussian(noisy, 3, -1, SHAPE)
    with pytest.raises(ValueError, match="clean is .* but noisy is"):
        baselines.tune_median_gaussian(noisy[:3], noisy, shape=SHAPE)
    with pytest.raises(ValueError, match="strength must be positive"):
        baselines.non_local_means(noisy, sigma, SHAPE, strength=0)
