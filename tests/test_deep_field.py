"""The deep field of experts against plain loops, laws that it must learn, and tiles."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf import networks
from deen_tf.datasets import photographs
from deen_tf.images import denoise_image

LAYERS = ((4, 2, 3), (3, 1, 4))
CASES = [  # layers, residual, (height, width)
    (LAYERS, 6, (12, 14)),
    (LAYERS, 2, (9, 11)),
    (LAYERS, 0, (9, 11)),
    (((3, 1, 2), (3, 2, 3), (2, 1, 2)), 0, (9, 8)),
    (((3, 1, 2), (3, 1, 2)), 5, (9, 8)),
    (((2, 2, 3),), 2, (5, 4)),
]


def random_model(layers=LAYERS, residual=6, sigma=(0.1, 1.0), seed=0, symmetric=False):
    """A model whose weights are all random."""
    network = networks.DeepField(layers, residual, symmetric=symmetric, seed=seed)
    model = deen.DEEN(network=network, sigma=sigma, seed=seed)
    model.build((None, 16, 16, 1))
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape) / 2)
    network.spread.assign(0.7)
    return model


def slow_energy(model, image, sigma):
    """Filter after filter and place after place, in float64."""
    net = model.network
    size = [c[0] for c in net.convolutions]
    strides = [c[1] for c in net.convolutions]
    steps = np.cumprod(strides)
    reach = sum((k - 1) * s for k, s in zip(size, [1, *steps[:-1]], strict=True))
    last = steps[-1]
    overlap = net.residual - last if net.residual else 0
    left = (reach + 1 - last + overlap) // 2
    z = np.pad(image.astype("float64") / sigma, 3 * reach + 3, mode="symmetric")
    h = z[
        3 * reach + 3 - left :, 3 * reach + 3 - left :, None
    ]  # the first window's pixels
    v = np.log(float(net.spread) / sigma) ** np.arange(3)
    total, beyond = 0.0, reach
    for i, (k, stride) in enumerate(zip(size, strides, strict=True)):
        W = np.asarray(net.filters[i], "float64")[:, :, 0]
        if i == 0:
            W = W - W.mean((0, 1, 2))
        g, b, a = (
            v @ np.asarray(c[i], "float64")
            for c in (net.gains, net.biases, net.experts)
        )
        shape = [(side - k) // stride + 1 for side in h.shape[:2]]
        u = np.empty((*shape, W.shape[-1]))
        for p in range(shape[0]):
            for q in range(shape[1]):
                window = h[p * stride : p * stride + k, q * stride : q * stride + k]
                u[p, q] = np.tensordot(window, W, 3)
        beyond -= (k - 1) * (steps[i] // stride)
        # So many places of this layer to one of the last, those in the middle of its windows.
        many = last // steps[i]
        skip = ((overlap + beyond) // steps[i] + 1 - many) // 2
        rows, columns = (-(-side // last) * many for side in image.shape)
        inside = np.s_[skip : skip + rows, skip : skip + columns]
        if i == 0:
            c = v @ np.asarray(net.quadratic, "float64")
            total += (u[inside] ** 2 @ c).sum() / 2
        u = (1 + g) * u + b
        h = u / (1 + np.exp(-u))
        total += (h[inside] @ a).sum()
    if net.residual:  # every place adds its filters to the picture
        V = np.asarray(net.back, "float64")[:, :, 0, 0]
        h = h * (1 + v @ np.asarray(net.back_gains, "float64"))
        r = np.zeros([n * last + net.residual for n in h.shape[:2]])
        for p, q in np.ndindex(*h.shape[:2]):
            part = np.s_[p * last :, q * last :]
            r[part][: net.residual, : net.residual] += V @ h[p, q]
        inside = np.s_[
            overlap : overlap + image.shape[0], overlap : overlap + image.shape[1]
        ]
        total += (r[inside] ** 2).sum() / 2
    return total


@pytest.mark.parametrize("layers, residual, shape", CASES)
def test_energy_is_the_sum_over_places(layers, residual, shape):
    model = random_model(layers, residual)
    x = np.random.default_rng(1).normal(size=(2, *shape, 1))
    for sigma in (0.2, 0.8):
        expected = [slow_energy(model, image[..., 0], sigma) for image in x]
        # float32: relative rounding of a few hundred terms of both signs
        np.testing.assert_allclose(
            model.energy(x, sigma), expected, rtol=2e-4, atol=2e-3
        )
    experts = model.experts(x, 0.8)
    channels = layers[0][2] + sum(layer[2] for layer in layers) + bool(residual)
    assert experts.shape == (2, channels)  # Eq. 24
    np.testing.assert_allclose(experts.sum(1), expected, rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("shape", ((8, 10), (9, 11)))  # even and odd sides
def test_score_is_minus_the_slope_of_the_slow_energy(shape):
    model, sigma, step = random_model(), 0.5, 1e-5
    x = np.random.default_rng(2).normal(size=shape)
    slope = np.empty(shape)
    for place in np.ndindex(shape):
        e = np.zeros(shape)
        e[place] = step
        slope[place] = slow_energy(model, x + e, sigma) - slow_energy(
            model, x - e, sigma
        )
    slope /= 2 * step
    psi = model.score(x[None, ..., None], sigma)[0, ..., 0]
    np.testing.assert_allclose(psi, -slope, atol=1e-4 * np.abs(slope).max())
    x_hat = model.denoise(x[None, ..., None], sigma)[0, ..., 0]
    np.testing.assert_allclose(
        x_hat, x - sigma**2 * slope, atol=1e-4 * np.abs(slope).max()
    )


def test_brightness_and_shifts_cost_nothing():
    model = random_model()
    x = np.zeros((1, 24, 24, 1))
    x[:, 10:14, 10:14] = np.random.default_rng(3).normal(size=(1, 4, 4, 1))
    energy = model.energy(x, 0.5)
    np.testing.assert_allclose(model.energy(x + 3, 0.5), energy, rtol=1e-4)
    shifted = np.roll(x, (2, -4), (1, 2))
    np.testing.assert_allclose(model.energy(shifted, 0.5), energy, rtol=1e-5)
    other = model.energy(np.roll(x, 1, 1), 0.5)
    assert abs(other - energy) > 1e-3 * abs(energy)


def test_the_eight_symmetries_have_one_energy():
    layers = ((4, 2, 8), (3, 1, 16), (2, 2, 8))
    model = random_model(layers, residual=4, symmetric=True)
    x = np.random.default_rng(9).normal(size=(1, 16, 12))
    energy = model.energy(x[..., None], 0.5)
    for k in range(8):
        turned = photographs.symmetry(x, k)[..., None]
        np.testing.assert_allclose(model.energy(turned, 0.5), energy, rtol=1e-4)
    other = random_model(layers, residual=4)
    turned = photographs.symmetry(x, 1)[..., None]
    assert abs(other.energy(turned, 0.5) / other.energy(x[..., None], 0.5) - 1) > 1e-2
    # 8 + 1 and 2 channels of their own, of three layers, and what the level decides
    weights = 4 * 4 + 3 * 3 * 8 * 2 + 2 * 2 * 8 * 2 + 9 * (1 + 2 + 1) + 3
    weights += 4 * 4 + 3  # V
    count = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    assert count == weights
    own = np.asarray(model.network.filters[0])[:, :, 0, 0, 0]
    own = own - own.mean()
    filters = np.asarray(model.network.all_filters(0))[:, :, 0]
    for k in range(8):
        np.testing.assert_allclose(
            filters[..., k], photographs.symmetry(own[None], k)[0], atol=1e-6
        )


def test_the_objective_is_eq_19_at_every_level():
    model = random_model()
    rng = np.random.default_rng(4)
    x, nu = rng.normal(size=(2, 3, 8, 8, 1)).astype("float32")
    sigma = np.array([0.2, 0.5, 0.9], "float32")
    level = sigma.reshape(-1, 1, 1, 1)
    xi = x + level * nu
    expected = np.square(x - xi - level**2 * model.score(xi, sigma)).sum((1, 2, 3))
    # The model's own units are 1 before it has seen data.
    values = model.objective(*map(tf.constant, (x, nu, level)))
    np.testing.assert_allclose(values, expected / sigma**2, rtol=1e-4)


@pytest.mark.long
def test_it_learns_white_images_with_sign_and_scale_at_every_level():
    """x ~ N(0, s^2 I): psi = -x / (s^2 + sigma^2), of what is not brightness."""
    s, levels = 0.5, (0.3, 1.2)
    rng = np.random.default_rng(5)
    x = s * rng.normal(size=(512, 12, 12, 1)).astype("float32")
    model = deen.DEEN(
        network=networks.DeepField(((3, 1, 24),), 3, seed=0), sigma=levels, seed=0
    )
    model.compile(keras.optimizers.Adam(3e-2), jit_compile=False)
    model.fit(x, batch_size=64, epochs=20, verbose=0)
    for sigma in (0.35, 0.6, 1.0):
        xi = np.sqrt(s**2 + sigma**2) * rng.normal(size=(200, 12, 12, 1))
        xi -= xi.mean((1, 2), keepdims=True)
        true = -xi / (s**2 + sigma**2)
        error = np.mean((model.score(xi, sigma) - true) ** 2) / np.mean(true**2)
        # Filters of mean zero leave a ninth of the noise of their windows; no score 1.
        assert error < 0.15, sigma


@pytest.mark.parametrize("shape", ((40, 31), (33, 48, 3)))
def test_tiles_are_the_whole(shape):
    model = random_model()
    image = np.random.default_rng(6).normal(0.5, 0.3, size=shape).astype("float32")
    whole = denoise_image(model, image, 0.3)
    planes = np.moveaxis(np.atleast_3d(image), 2, 0)[..., None]
    expected = np.moveaxis(model.denoise(planes, 0.3)[..., 0], 0, 2).reshape(shape)
    size = np.abs(whole).max()
    np.testing.assert_allclose(whole, expected, atol=2e-5 * size)
    for tile in (1, 8, 13):
        tiled = denoise_image(model, image, 0.3, tile=tile)
        np.testing.assert_allclose(tiled, whole, atol=2e-5 * size)
    # With less overlap something is missing.
    near = types.SimpleNamespace(reach=model.network.reach - 4, stride=2, any_size=4)
    short = types.SimpleNamespace(network=near, sigma=0.3, point_shape=(None, None, 1))
    short.denoise = lambda xi: model.denoise(xi, 0.3)
    assert np.abs(denoise_image(short, image, tile=8) - whole).max() > 1e-3 * size


def test_tiles_of_a_reach_that_is_no_multiple_of_the_stride():
    model = random_model(residual=0)
    assert (model.network.reach, model.network.stride) == (7, 2)
    image = np.random.default_rng(8).normal(0.5, 0.3, size=(30, 26))
    whole = model.denoise(image[None, ..., None], 0.3)[0, ..., 0]
    tiled = denoise_image(model, image, 0.3, tile=8)
    np.testing.assert_allclose(tiled, whole, atol=2e-5 * np.abs(whole).max())


def test_another_noise_level_is_another_contrast():
    model = random_model(sigma=0.5)
    image = np.random.default_rng(7).normal(0.5, 0.3, size=(16, 12))
    answer = denoise_image(model, image, 0.1)
    expected = model.denoise(5 * image[None, ..., None])[0, ..., 0] / 5
    np.testing.assert_allclose(answer, expected, atol=1e-4)


def test_saved_exported_and_without_levels(tmp_path):
    model = random_model()
    model.compile()
    x = np.random.default_rng(8).normal(size=(2, 11, 9, 1)).astype("float32")
    model.save(tmp_path / "field.keras")
    loaded = keras.saving.load_model(tmp_path / "field.keras")
    np.testing.assert_array_equal(loaded.score(x, 0.3), model.score(x, 0.3))
    assert loaded.point_shape == (None, None, 1) and loaded.dimension is None
    model.export(str(tmp_path / "field"))
    served = tf.saved_model.load(str(tmp_path / "field")).signatures["score"]
    answer = served(x=tf.constant(x), sigma=tf.fill((2,), 0.3))["score"]
    np.testing.assert_allclose(answer, model.score(x, 0.3), rtol=1e-3, atol=1e-3)
    fixed = networks.DeepField(LAYERS, 2, levels=False, symmetric=False)
    fixed.build((None, 8, 8, 1))
    weights = 4 * 4 * 3 + 3 * 3 * 3 * 4 + 3 * (3 + 4) + 3 + 2 * 2 * 4 + 4
    assert sum(int(np.prod(w.shape)) for w in fixed.trainable_weights) == weights


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: networks.DeepField(((2, 3, 8),), 0, symmetric=False),
            "stride must be at most size = 2",
        ),
        (lambda: networks.DeepField(()), "at least one"),
        (lambda: networks.DeepField(residual=4), "1, 3, 5, ... times"),
        (lambda: networks.DeepField(LAYERS, 3), "even or odd as"),
        (lambda: networks.DeepField(((4, 2, 12),)), "multiples of 8"),
        (lambda: networks.DeepField(((3, 2, 16),)), "even or odd"),
        (lambda: random_model().energy(np.ones((1, 3, 9, 1)), 0.3), "at least"),
        (lambda: random_model().energy(np.ones((1, 9)), 0.3), "shape"),
        (lambda: random_model().energy(np.ones((1, 9, 9, 3)), 0.3), r"any, any, 1"),
        (lambda: random_model().log_density(np.ones((1, 9, 9, 1)), 0.3), "constant"),
        (lambda: denoise_image(random_model(), np.ones((3, 9)), 0.3), "at least"),
        (
            lambda: denoise_image(random_model(), np.ones((9, 9)), 0.3, shape=(8, 8)),
            "patches given as rows",
        ),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
