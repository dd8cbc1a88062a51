"""Whole photographs: the average of shifted denoisings against a plain loop over pixels."""

import numpy as np
import pytest

import deen_tf as deen
from deen_tf.images import denoise_image


class Linear:
    """x_hat = A xi on patches, which is all a Gaussian density does."""

    def __init__(self, matrix, sigma=0.5):
        self.matrix, self.sigma, self.dimension = matrix, sigma, len(matrix)

    def denoise(self, xi):
        return xi @ self.matrix.T


def random_linear(d, seed=0):
    return Linear(np.random.default_rng(seed).normal(size=(d, d)) / d**0.5)


def slowly(model, image, noise_level, stride, shape):
    """Every pixel's average, one patch at a time."""
    height, width = shape
    tops, lefts = (
        [*range(0, side - patch, stride), side - patch]
        for side, patch in zip(image.shape, shape, strict=True)
    )
    answers = [[[] for _ in row] for row in image]
    factor = model.sigma / noise_level
    for top in tops:
        for left in lefts:
            patch = image[top : top + height, left : left + width]
            mean = patch.mean()
            z = (patch - mean).reshape(1, -1) * factor
            x_hat = model.denoise(z).reshape(shape) / factor + mean
            for i in range(height):
                for j in range(width):
                    answers[top + i][left + j].append(x_hat[i, j])
    return np.array([[np.mean(a) for a in row] for row in answers])


@pytest.mark.parametrize(
    "size, shape, stride",
    [
        ((9, 14), (4, 4), 3),
        ((8, 8), (4, 4), 4),
        ((5, 7), (5, 3), 1),
        ((4, 4), (4, 4), 2),
    ],
)
def test_average_over_all_patches_that_cover_a_pixel(size, shape, stride):
    image = np.random.default_rng(1).normal(3, 2, size=size)
    model = random_linear(shape[0] * shape[1])
    answer = denoise_image(model, image, 0.8, stride, shape)
    # float32 patches: relative rounding 6e-8 of values near 10
    np.testing.assert_allclose(
        answer, slowly(model, image, 0.8, stride, shape), atol=2e-5
    )


def test_a_model_that_changes_nothing_changes_nothing():
    image = np.random.default_rng(2).normal(size=(13, 11))
    answer = denoise_image(Linear(np.eye(16)), image, stride=3)
    np.testing.assert_allclose(answer, image, atol=1e-6)
    assert answer.dtype == np.float32 and answer.shape == image.shape


class Shrink(Linear):
    """Not linear: soft threshold at sigma."""

    def denoise(self, xi):
        return np.sign(xi) * np.maximum(np.abs(xi) - self.sigma, 0)


def test_units_of_the_image_do_not_matter():
    image = np.random.default_rng(3).normal(size=(10, 10))
    model = Shrink(np.eye(16))
    answer = denoise_image(model, image, 0.3, 2)
    assert np.abs(answer - image).max() > 0.1  # the threshold is felt
    np.testing.assert_allclose(
        denoise_image(model, 100 + 50 * image, 15.0, 2), 100 + 50 * answer, atol=1e-4
    )
    default = denoise_image(model, image, stride=2)
    np.testing.assert_array_equal(default, denoise_image(model, image, 0.5, 2))


def test_overlap_denoises_better():
    """A Wiener filter of patches on a field of known covariance, at three strides."""
    rng = np.random.default_rng(4)
    field = np.fft.ifft2(
        np.fft.fft2(rng.normal(size=(64, 64)))
        / (1e-2 + np.abs(np.fft.fftfreq(64)[:, None] ** 2 + np.fft.fftfreq(64) ** 2))
    ).real
    field /= field.std()
    patches = np.lib.stride_tricks.sliding_window_view(field, (8, 8)).reshape(-1, 64)
    z = patches - patches.mean(1, keepdims=True)
    variances, E = np.linalg.eigh(z.T @ z / len(z))
    s = 0.5
    model = Linear(E * (variances / (variances + s**2)) @ E.T, s)
    noisy = field + s * rng.normal(size=field.shape)
    errors = [
        np.mean((denoise_image(model, noisy, s, stride) - field) ** 2)
        for stride in (8, 4, 1)
    ]
    noise = np.mean((noisy - field) ** 2)
    assert errors[0] < 0.5 * noise
    assert errors[2] < errors[1] < errors[0]


def test_a_trained_model():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(256, 16)).astype("float32")
    model = deen.DEEN(hidden_units=(8,), sigma=0.5, seed=0)
    model.compile()
    model.fit(x, batch_size=64, verbose=0)
    image = rng.normal(size=(6, 6))
    answer = denoise_image(model, image, 0.7, 2)
    np.testing.assert_allclose(answer, slowly(model, image, 0.7, 2, (4, 4)), atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"image": np.zeros((3, 9))}, "at least one patch of 4 x 4, got"),
        ({"image": np.zeros((9, 9, 3))}, "image must have shape"),
        ({"image": np.full((9, 9), np.nan)}, "image must be finite"),
        ({"stride": 5}, "stride must be at most 4"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"noise_level": 0.0}, "noise_level must be positive"),
        ({"shape": (0, 4)}, "shape must be at least 1"),
        ({"model": Linear(np.eye(15))}, "15 dimensions, not a square patch"),
        ({"model": deen.DEEN()}, "unknown dimensions"),
    ],
)
def test_mistakes(arguments, message):
    given = {"model": Linear(np.eye(16)), "image": np.zeros((9, 9))} | arguments
    with pytest.raises(ValueError, match=message):
        denoise_image(**given)
