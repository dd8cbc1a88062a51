"""Whole photographs: the average of shifted denoisings against a plain loop over pixels."""

import sys
import tracemalloc

import keras
import numpy as np
import pytest

import deen_tf as deen
from deen_tf.images import denoise_image, windows


class Linear:
    """x_hat = A xi on patches, which is all a Gaussian density does."""

    def __init__(self, matrix, sigma=0.5):
        self.matrix, self.sigma, self.dimension = matrix, sigma, len(matrix)

    def denoise(self, xi):
        return xi @ self.matrix.T


def random_linear(d, seed=0):
    return Linear(np.random.default_rng(seed).normal(size=(d, d)) / d**0.5)


class OfImages(Linear):
    """The same, of patches that have a shape."""

    def __init__(self, point_shape, seed=0, sigma=0.5):
        self.point_shape = point_shape
        d = int(np.prod(point_shape))
        super().__init__(random_linear(d, seed).matrix, sigma)

    def denoise(self, z):
        assert z.shape[1:] == self.point_shape
        return super().denoise(z.reshape(len(z), -1)).reshape(z.shape)


def slowly(model, image, noise_level, stride, shape):
    """Every pixel's average, one patch at a time; image (rows, columns, channels)."""
    height, width = shape
    tops, lefts = (
        [*range(0, side - patch, stride), side - patch]
        for side, patch in zip(image.shape, shape, strict=False)
    )
    answers = [[[] for _ in row] for row in image]
    factor = model.sigma / noise_level
    point = getattr(model, "point_shape", (-1,))
    for top in tops:
        for left in lefts:
            patch = image[top : top + height, left : left + width]
            mean = patch.mean((0, 1))
            z = (patch - mean).reshape(1, *point) * factor
            x_hat = model.denoise(z).reshape(patch.shape) / factor + mean
            for i in range(height):
                for j in range(width):
                    answers[top + i][left + j].append(x_hat[i, j])
    return np.array([[np.mean(a, axis=0) for a in row] for row in answers])


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


def test_colours_are_denoised_one_by_one_by_a_model_of_grayscale():
    image = np.random.default_rng(6).normal((1, 5, 9), 2, size=(9, 14, 3))
    for model in (random_linear(16), OfImages((4, 4)), OfImages((4, 4, 1))):
        answer = denoise_image(model, image, 0.8, 3)
        assert answer.shape == image.shape and answer.dtype == np.float32
        for channel in range(3):
            wanted = slowly(model, image[..., channel], 0.8, 3, (4, 4))
            np.testing.assert_allclose(answer[..., channel], wanted, atol=4e-5)
    np.testing.assert_array_equal(
        denoise_image(model, image[..., :1], 0.8, 3),
        denoise_image(model, image[..., 0], 0.8, 3)[..., None],
    )


@pytest.mark.parametrize("channels", (2, 3, 5))
def test_channels_are_denoised_together_by_a_model_that_has_them(channels):
    image = np.random.default_rng(7).normal(3, 2, size=(9, 11, channels))
    model = OfImages((4, 3, channels))
    answer = denoise_image(model, image, 0.8, 2)
    wanted = slowly(model, image, 0.8, 2, (4, 3))
    np.testing.assert_allclose(answer, wanted, atol=4e-5)


def test_memory_holds_the_photograph_and_one_row_of_patches(monkeypatch):
    """Twelve megapixels need 48 MB for the answer, and no more than that beside it."""
    image = np.random.default_rng(8).normal(size=(1200, 1000)).astype("float32")

    def peak(image):
        tracemalloc.start()
        answer = denoise_image(Linear(np.eye(256)), image, 0.5, 16)
        most = tracemalloc.get_traced_memory()[1] - answer.nbytes
        tracemalloc.stop()
        return most

    # Whether each pixel is finite is one byte; the patches of a row 10 kB, in some copies;
    # the rows that patches still reach 16 of 1200, in float64.
    assert peak(image) < 0.5 * image.nbytes
    colours = np.repeat(image[:600, :, None], 3, 2)
    assert peak(colours) < 0.5 * colours.nbytes


def test_a_bar_where_somebody_watches(monkeypatch, capsys):
    image = np.random.default_rng(11).normal(size=(12, 10, 3))
    denoise_image(Linear(np.eye(16)), image, progress=True)
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    denoise_image(Linear(np.eye(16)), image)
    assert not capsys.readouterr().err
    denoise_image(Linear(np.eye(16)), image, progress=True)
    assert "rows of patches" in (shown := capsys.readouterr().err) and "/9 [" in shown


@pytest.mark.parametrize("shape", ((7, 9), (7, 9, 3)))
def test_windows(shape):
    image = np.random.default_rng(9).normal(size=shape)
    view = windows(image, (3, 4))
    assert view.shape == (5, 6, 3, 4, *shape[2:]) and np.shares_memory(view, image)
    for i in range(5):
        for j in range(6):
            np.testing.assert_array_equal(view[i, j], image[i : i + 3, j : j + 4])


def test_a_model_that_changes_nothing_changes_nothing():
    image = np.random.default_rng(2).normal(size=(13, 11))
    answer = denoise_image(Linear(np.eye(16)), image, stride=3)
    np.testing.assert_allclose(answer, image, atol=1e-6)
    assert answer.dtype == np.float32 and answer.shape == image.shape


class Level(Linear):
    """One of several noise levels, as models have them."""

    several_levels = True

    def smoothed(self, sigma):
        return Linear(sigma * self.matrix, sigma)


def test_a_model_of_several_noise_levels_is_used_at_that_of_the_image():
    model, image = Level(random_linear(16).matrix, 0.1), np.eye(9) + 3
    with pytest.raises(ValueError, match="noise_level must be given"):
        denoise_image(model, image)
    wanted = slowly(Linear(0.8 * model.matrix, 0.8), image, 0.8, 2, (4, 4))
    np.testing.assert_allclose(denoise_image(model, image, 0.8, 2), wanted, atol=2e-5)


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


@pytest.mark.parametrize("point_shape", ((6, 5), (6, 5, 1), (6, 5, 3)))
def test_a_model_of_images(point_shape):
    """A convolutional energy is given patches as it takes them."""
    network = keras.Sequential(
        [
            keras.layers.Reshape((*point_shape, 1)[:3]),
            keras.layers.Conv2D(4, 3, activation="softplus"),
            keras.layers.Conv2D(1, 3),
        ]
    )
    model = deen.DEEN(network=network, sigma=0.5, seed=0)
    model.build((None, *point_shape))
    image = np.random.default_rng(10).normal(size=(9, 11, 3))
    answer = denoise_image(model, image, 0.7, 3)
    if point_shape[-1] == 3:
        wanted = slowly(model, image, 0.7, 3, (6, 5))
    else:
        channels = image.transpose(2, 0, 1)
        wanted = [slowly(model, channel, 0.7, 3, (6, 5)) for channel in channels]
        wanted = np.stack(wanted, axis=2)
    np.testing.assert_allclose(answer, wanted, atol=1e-5)
    assert np.abs(answer - image).max() > 1e-3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"image": np.zeros((3, 9))}, "at least one patch of 4 x 4, got"),
        (
            {"image": np.zeros((9, 9, 4))},
            r"width\) or \(height, width, 3\), got \(9, 9, 4",
        ),
        ({"image": np.zeros((1, 9, 9, 3))}, r"image must have shape \(height, width"),
        (
            {"image": np.zeros((9, 9)), "model": OfImages((4, 4, 3))},
            r"image must have shape \(height, width, 3\), got \(9, 9\)",
        ),
        ({"model": OfImages((4, 4, 1)), "shape": (2, 8)}, r"model's \(4, 4\), got"),
        ({"model": OfImages((2, 2, 2, 2))}, "unknown dimensions"),
        (
            {"model": Linear(np.eye(16), np.arange(1, 17))},
            "one sigma for all pixels, got",
        ),
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


def digit():
    """A ring on black, 28 x 28, noisy."""
    i, j = np.mgrid[:28, :28] - 13.5
    x = np.exp(-((np.hypot(i, 0.7 * j) - 7) ** 2) / 4)
    return x, np.random.default_rng(12).normal(size=x.shape)


@pytest.mark.parametrize(
    "name, s", (("mnist-0.14", 0.14), ("mnist-0.3", 0.3), ("digits", 0.3))
)
def test_patches_learned_with_their_mean_keep_it(name, s):
    model, (x, nu) = deen.DEEN.from_preset(name), digit()
    xi = (x + s * nu).astype("float32")
    at = model.smoothed(s) if model.several_levels else model
    wanted = at.denoise(xi.reshape(1, -1)).reshape(28, 28)
    given = s if model.several_levels else None
    np.testing.assert_allclose(denoise_image(model, xi, given), wanted, atol=1e-6)
    np.testing.assert_allclose(denoise_image(at, xi), wanted, atol=1e-6)
    # (in other units, too)
    if not model.several_levels:
        np.testing.assert_allclose(
            denoise_image(model, 255 * xi, 255 * s), 255 * wanted, atol=1e-3
        )
    error, without = (
        np.mean((denoise_image(model, xi, given, remove_mean=m) - x) ** 2) / s**2
        for m in (None, True)
    )
    assert error == pytest.approx(np.mean((wanted - x) ** 2) / s**2, rel=1e-4)
    assert error < without


@pytest.mark.parametrize("mean", (0.0, 0.4))
def test_patches_of_a_law_that_has_a_mean_keep_it(mean):
    law = deen.laws.Gaussian(np.full(16, mean), 0.1 + 0.01 * np.eye(16)).smoothed(0.2)
    image = mean + np.random.default_rng(13).normal(size=(9, 10))
    given = [denoise_image(law, image, remove_mean=m) for m in (None, mean == 0)]
    np.testing.assert_array_equal(*given)
    xi = image[:4, :4].reshape(1, -1)
    wanted = xi.mean() + law.denoise(xi - xi.mean()) if mean == 0 else law.denoise(xi)
    one = denoise_image(law, image[:4, :4])
    np.testing.assert_allclose(one.ravel(), wanted[0], atol=1e-6)


@pytest.mark.parametrize("name", ("natural-patches", "photographs"))
def test_patches_without_their_mean_and_whole_photographs_lose_it(name):
    model = deen.DEEN.from_preset(name)
    image = 0.5 + 0.5 * np.random.default_rng(14).normal(size=(36, 34))
    given = [denoise_image(model, image, 0.1, 8, remove_mean=m) for m in (None, True)]
    np.testing.assert_array_equal(*given)
    if name == "photographs":  # where it makes no difference but rounding
        kept = denoise_image(model, image, 0.1, remove_mean=False)
        np.testing.assert_allclose(kept, given[0], atol=1e-5)


def test_channels_have_means_of_their_own():
    model = deen.DEEN((8,), sigma=0.2)
    x = np.random.default_rng(15).normal((0.3, -0.3), 0.5, size=(100, 4, 4, 2))
    model.adapt(x)
    image = x[0] + 0.2
    given = [denoise_image(model, image, remove_mean=m) for m in (None, False, True)]
    np.testing.assert_array_equal(given[0], given[1])
    assert np.abs(given[0] - given[2]).max() > 1e-3


def test_a_noise_level_larger_than_the_image_is_not_taken_for_granted():
    """natural-patches has sigma 0.5, of patches of unit contrast."""
    model = deen.DEEN.from_preset("natural-patches")
    image = np.random.default_rng(16).normal(0.4, 0.2, size=(40, 33))
    with pytest.raises(
        ValueError, match="noise_level must be given: .* = 0.5 would be"
    ):
        denoise_image(model, image)
    with pytest.raises(ValueError, match="not in 0 to 255"):
        denoise_image(model, 255 * image)
    assert denoise_image(model, image, 0.5).shape == image.shape
    noise = 0.5 * np.random.default_rng(17).normal(size=(40, 33))
    assert denoise_image(model, noise).std() < 0.2  # noise alone may be as much


def test_a_class_is_no_model():
    with pytest.raises(TypeError, match="must be an instance, got the class DEEN"):
        denoise_image(deen.DEEN, np.eye(9))


def test_a_noise_level_is_one_number():
    for model in (Linear(np.eye(16)), Level(np.eye(16), 0.1)):
        with pytest.raises(TypeError, match="noise_level must be a real number"):
            denoise_image(model, np.eye(9), np.array([0.1]))
    with pytest.raises(ValueError, match="sigma must be one number"):
        deen.DEEN.from_preset("photographs").smoothed(np.array([0.1]))


def test_an_image_too_small_for_a_model_of_any_size():
    model = deen.DEEN.from_preset("photographs")
    with pytest.raises(ValueError, match=r"image must be at least \d+ x \d+, got"):
        denoise_image(model, np.eye(2), 0.1)


def test_the_units_are_refused_beyond_twenty_spreads_and_twice_the_noise():
    """Where the data have 0.2 and the noise 1.5: at the root of 4^2 + 3^2."""
    model = Level(np.eye(16), 0.1)
    model.scale, model.center, model.profile = 0.2, 0.0, 1.0
    image = np.random.default_rng(11).normal(size=(9, 9))
    image /= image.std()
    assert denoise_image(model, 4.98 * image, 1.5).shape == (9, 9)
    with pytest.raises(ValueError, match="standard deviation 0.2, the image's is 5.02"):
        denoise_image(model, 5.02 * image, 1.5)


def test_an_image_in_other_units_than_the_data_of_several_levels_is_refused():
    model = deen.DEEN.from_preset("photographs")
    image = 255 * np.random.default_rng(0).random((40, 50))
    with pytest.raises(ValueError, match="standard deviation 0.228, the image's is 7"):
        deen.denoise_image(model, image, 0.1)
    assert deen.denoise_image(model, image / 255, 0.1).shape == (40, 50)


def test_the_mean_of_a_mixture_and_of_a_parzen_density_is_known():
    """The same law as a Gaussian, and as a mixture of it with itself."""
    rng = np.random.default_rng(0)
    covariance = np.full((16, 16), 0.1) + 0.02 * np.eye(16)
    image = 0.5 + 0.3 * rng.normal(size=(9, 11))
    for mean in (0.5, 0.0):
        law = deen.laws.Gaussian(np.full(16, mean), covariance)
        twice = deen.laws.GaussianMixture(np.full((2, 16), mean), covariance)
        given = [denoise_image(p.smoothed(0.1), image, stride=2) for p in (law, twice)]
        np.testing.assert_allclose(*given, atol=1e-5)
        density = deen.parzen.Parzen(law.sample(2000, seed=1), 0.1)
        given = [
            denoise_image(density, image, stride=2, remove_mean=m)
            for m in (None, mean == 0)
        ]
        np.testing.assert_array_equal(*given)


@pytest.mark.parametrize("given", ("no", 0, 1.0))
def test_remove_mean_is_true_false_or_none(given):
    law = deen.laws.Gaussian(np.zeros(4), np.eye(4)).smoothed(0.1)
    with pytest.raises(TypeError, match="remove_mean must be True, False or None"):
        denoise_image(law, np.ones((4, 4)), remove_mean=given)
