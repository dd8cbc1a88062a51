"""Stein contrastive divergence: its direction by double loop and in closed form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from deen_tf.models.stein import (
    MEDIAN_POINTS,
    SteinContrastiveDivergence,
    median_bandwidth,
    svgd_direction,
)
from tests.in_units import objective
from tests.test_models import Quadratic

pytestmark = pytest.mark.usefixtures("plain_graphs")


def test_direction_is_the_double_sum():
    rng = np.random.default_rng(0)
    x, psi = rng.normal(size=(2, 9, 3))
    x, h, step = x + 5.0, 1.7, 1e-6

    def kernel(a, b):
        return np.exp(-((a - b) ** 2).sum() / h)

    wanted = np.zeros_like(x)
    for i in range(9):
        for j in range(9):
            wanted[i] += kernel(x[j], x[i]) * psi[j] / 9
            for e in np.eye(3):  # the kernel's slope in x_j, by central differences
                slope = kernel(x[j] + step * e, x[i]) - kernel(x[j] - step * e, x[i])
                wanted[i] += slope / (2 * step) * e / 9
    ours = svgd_direction(tf.constant(x), tf.constant(psi), h)
    np.testing.assert_allclose(ours, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("k", (0.5, 1 / 0.8**2, 4.0))
def test_direction_for_gaussians_in_closed_form(k):
    """x ~ N(0, s^2), psi = -k x: phi(y) = (1/s^2 - k) y s^2 / (s^2 + h/2) E kernel(x, y),

    E kernel = (1 + 2 s^2 / h)^(-1/2) exp(-y^2 / (h + 2 s^2)): towards the centre if the
    energy is steeper than the data, away if it is flatter, nought if it is right.
    """
    s, h, n = 0.8, 0.9, 4000
    y = stats.norm(0, s).ppf((np.arange(n) + 0.5) / n)
    mean_kernel = (1 + 2 * s**2 / h) ** -0.5 * np.exp(-(y**2) / (h + 2 * s**2))
    wanted = (1 / s**2 - k) * y * s**2 / (s**2 + h / 2) * mean_kernel
    x = tf.constant(y[:, None])
    # Quantiles instead of random points: the sum is off by about 1/n.
    np.testing.assert_allclose(svgd_direction(x, -k * x, h)[:, 0], wanted, atol=2e-3)


@pytest.mark.parametrize("n", (2, 3, 10, 200))
def test_bandwidth_is_the_median_heuristics(n):
    x = np.random.default_rng(n).normal(size=(n, 2)) + 100.0
    some = x[:MEDIAN_POINTS]
    i, j = np.triu_indices(len(some), 1)
    distances = np.sort(((some[i] - some[j]) ** 2).sum(1))
    wanted = distances[len(distances) // 2] / np.log(max(n, 3))
    assert median_bandwidth(tf.constant(x)).numpy() == pytest.approx(wanted, rel=1e-9)


def test_a_batch_of_one_or_of_copies_moves_by_the_score_alone():
    for n in (1, 4):
        x = tf.ones((n, 2))
        phi = svgd_direction(x, 3.0 * x, median_bandwidth(x))
        np.testing.assert_allclose(phi, 3.0 * x, rtol=1e-6)


def quadratic(**kwargs):
    return SteinContrastiveDivergence(
        network=Quadratic(dtype="float64"), dtype="float64", **kwargs
    )


def test_update_holds_the_negative_points_fixed():
    """dL/dk = mean |x|^2 / 2 - mean |x^-|^2 / 2, nothing through x^-."""
    model = quadratic(step=0.3, bandwidth=1.1, sigma=0.5)
    model.build((None, 1))
    model.network.k.assign(1.5)
    x, nu = np.random.default_rng(0).normal(size=(2, 50, 1))
    xi = x + 0.5 * nu
    negative = xi + 0.3 * svgd_direction(tf.constant(xi), -1.5 * xi, 1.1**2).numpy()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(objective(model, x, tf.constant(nu)))
    slope = tape.gradient(loss, model.network.k)
    wanted = (xi**2).mean() / 2 - (negative**2).mean() / 2
    assert slope.numpy() == pytest.approx(wanted, rel=1e-10)
    assert loss.numpy() == pytest.approx(1.5 * wanted, rel=1e-10)


@pytest.mark.parametrize("s", (0.5, 2.0))
def test_it_stands_still_at_the_datas_precision(s):
    """For N(0, s^2) the slope in k is below nought under 1 / s^2 and above it over."""
    model = quadratic(smooth=False, sigma=0.3)
    model.build((None, 1))
    n = 2000
    x = tf.constant(stats.norm(0, s).ppf((np.arange(n) + 0.5) / n)[:, None])

    def slope(k):
        model.network.k.assign(k)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(objective(model, x, None))
        return tape.gradient(loss, model.network.k).numpy()

    below, above = slope(0.95 / s**2), slope(1.05 / s**2)
    assert below < 0 < above  # 5% in k decide over the sign


def test_fit_learns_the_smoothed_precision_of_a_gaussian():
    x = np.random.default_rng(0).normal(scale=0.8, size=(4096, 1))
    model = quadratic(sigma=0.5)
    rate = keras.optimizers.schedules.CosineDecay(0.02, 1600)
    model.compile(keras.optimizers.Adam(rate), jit_compile=False)
    model.fit(x, batch_size=512, epochs=200, verbose=0)
    # 3% below: the kernel and the minibatch of 512. At a constant rate k wanders by a tenth.
    k = model.score([[-1.0]]) - model.score([[0.0]])
    assert k.item() == pytest.approx(1 / (x.var() + 0.25), rel=0.06)


def test_saved_exported_and_resumed_exactly(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    model = SteinContrastiveDivergence((4,), step=0.1, bandwidth=0.7, smooth=False)
    model.compile(jit_compile=False)
    model.fit(x, batch_size=10, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for one in (model, loaded):
        one.fit(x, batch_size=10, epochs=3, initial_epoch=2, verbose=0)
    np.testing.assert_array_equal(loaded.score(x), model.score(x))
    model.export(tmp_path / "model")
    energy = tf.saved_model.load(tmp_path / "model").signatures["energy"]
    np.testing.assert_allclose(energy(x=x)["energy"], model.energy(x), 1e-6, 1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="step must be positive.*-1"):
        SteinContrastiveDivergence(step=-1)
    with pytest.raises(ValueError, match="bandwidth must be positive.*0"):
        SteinContrastiveDivergence(bandwidth=0)
