"""The field of experts against a plain loop over windows, and a density it must learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deen_tf import FieldOfExperts


def random_field(hidden_units=(5, 4), size=3, stride=2, shape=(6, 8), seed=0):
    """A field whose weights are all random, biases and last layer too."""
    model = FieldOfExperts(
        hidden_units, sigma=0.4, seed=seed, size=size, stride=stride, shape=shape
    )
    model.build((None, shape[0] * shape[1]))
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape) / 2)
    return model


def slow_energy(model, image):
    """Window after window, in float64."""
    layers = [[np.asarray(w, "float64") for w in h.get_weights()] for h in model.hidden]
    readout = np.asarray(model.last.kernel, "float64")[:, 0]
    margin = model.size // 2
    padded = np.pad(image.astype("float64"), margin, mode="symmetric")
    total = 0.0
    for top in range(0, padded.shape[0] - model.size + 1, model.stride):
        for left in range(0, padded.shape[1] - model.size + 1, model.stride):
            h = padded[top : top + model.size, left : left + model.size].ravel()
            for kernel, bias in layers:
                h = np.tanh(h @ kernel + bias)
            total += h @ readout
    return total


@pytest.mark.parametrize(
    "size, stride, shape",
    [(3, 2, (6, 8)), (4, 1, (5, 5)), (4, 3, (9, 7)), (1, 1, (2, 3))],
)
def test_energy_is_the_sum_over_windows(size, stride, shape):
    model = random_field(size=size, stride=stride, shape=shape)
    x = np.random.default_rng(1).normal(size=(3, shape[0] * shape[1]))
    expected = [slow_energy(model, row.reshape(shape)) for row in x]
    # float32 sums of at most a hundred terms near 1
    np.testing.assert_allclose(model.energy(x), expected, atol=2e-5)
    np.testing.assert_allclose(model.experts(x).sum(1), expected, atol=2e-5)  # Eq. 24
    np.testing.assert_array_equal(model.experts(x).shape, (3, 4))


def test_score_is_minus_the_slope_of_the_slow_energy():
    model = random_field()
    x = np.random.default_rng(2).normal(size=(1, 48))
    step = 1e-5  # in float64: error 1e-10 of the slope
    slope = [
        (
            slow_energy(model, (x[0] + step * e).reshape(6, 8))
            - slow_energy(model, (x[0] - step * e).reshape(6, 8))
        )
        / (2 * step)
        for e in np.eye(48)
    ]
    np.testing.assert_allclose(model.score(x)[0], -np.array(slope), atol=2e-5)


def test_a_shift_by_the_stride_changes_nothing():
    model = random_field(size=4, stride=2, shape=(16, 16))
    rng = np.random.default_rng(3)
    image = np.zeros((16, 16))
    image[6:10, 6:10] = rng.normal(size=(4, 4))  # far from the border
    shifted = np.roll(image, (2, -2), (0, 1))
    energies = model.energy(np.stack([image.ravel(), shifted.ravel()]))
    other = np.roll(image, (1, 0), (0, 1))
    np.testing.assert_allclose(energies[0], energies[1], atol=1e-4)
    assert abs(model.energy(other.reshape(1, -1))[0] - energies[0]) > 1e-3


@pytest.mark.long
def test_it_learns_the_score_of_white_data_with_sign_and_scale():
    """x ~ N(0, s^2 I) smoothed has the score -x / (s^2 + sigma^2)."""
    s, sigma = 1.0, 0.7
    x = np.random.default_rng(4).normal(0, s, size=(8192, 36)).astype("float32")
    model = FieldOfExperts((16,), sigma=sigma, seed=0, size=3, stride=1)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x, batch_size=128, epochs=4, verbose=0)
    points = np.random.default_rng(5).normal(
        0, np.sqrt(s**2 + sigma**2), size=(2000, 36)
    )
    true = -points / (s**2 + sigma**2)
    psi = model.score(points)
    error = np.mean((psi - true) ** 2) / np.mean(true**2)
    assert error < 0.05  # 0.02 measured; no score 1, wrong sign about 4


def test_the_start_suits_the_data_and_depends_on_the_seed_alone():
    x = np.random.default_rng(6).normal(5, 3, size=(500, 64))
    models = [FieldOfExperts((32,), sigma=1.0, seed=k, size=4) for k in (0, 0, 1)]
    for model in models:
        model.adapt(x)
    first, again, other = (np.asarray(m.hidden[0].kernel) for m in models)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    noisy = x + np.random.default_rng(7).normal(size=x.shape)
    noisy = models[0].to_network(noisy.astype("float32")).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(
        noisy.reshape(-1, 8, 8), (4, 4), (1, 2)
    ).reshape(-1, 16)
    spread = (windows @ first).std(0)
    # Both variances are those of samples of 20,000 windows, each to about 1%.
    np.testing.assert_allclose(spread, 1.3, rtol=0.05)
    np.testing.assert_allclose(first.sum(0), 0, atol=1e-4)  # blind to brightness
    # The biases are as large, and spread the units' bends over the windows' values: 32
    # draws know their standard deviation to 12%.
    bias = np.asarray(models[0].hidden[0].bias)
    assert bias.std() == pytest.approx(1.3, rel=0.4)
    assert not models[0].score(x).any()


def test_saved_and_loaded(tmp_path):
    model = random_field()
    model.compile()
    model.optimizer.build(model.trainable_variables)
    x = np.random.default_rng(8).normal(size=(4, 48)).astype("float32")
    path = str(tmp_path / "field.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.score(x), model.score(x))
    model.export(str(tmp_path / "field"))
    served = tf.saved_model.load(str(tmp_path / "field")).signatures["score"]
    np.testing.assert_allclose(
        served(x=tf.constant(x))["score"], model.score(x), atol=1e-6
    )


def test_rank_bound():
    model = random_field(hidden_units=(1,), size=4, stride=4, shape=(8, 8))
    # Windows begin at -2, 2 and 6: three places along each side.
    assert model.network.places == 9
    assert model.loss_bound() == pytest.approx(0.4**2 * (64 - 9))
    x = np.random.default_rng(9).normal(size=(300, 64))
    assert np.linalg.matrix_rank(model.score(x), tol=1e-4) == 9
    assert random_field().loss_bound() == 0


@pytest.mark.parametrize(
    "arguments, d, message",
    [
        ({"stride": 9}, 1024, "stride must be at most size = 8"),
        (
            {},
            1000,
            "be square or have the shape given: got points of shape \\(1000,\\)",
        ),
        ({}, 49, "at least 8 x 8 pixels"),
        ({"shape": (8, 9)}, 64, "shape \\(8, 9\\)"),
        ({"size": 0}, 64, "size must be at least 1"),
    ],
)
def test_mistakes(arguments, d, message):
    with pytest.raises(ValueError, match=message):
        FieldOfExperts(**arguments).adapt(np.ones((3, d)))
