"""Exact score matching: values by a forward recursion, minima in closed form."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.models.score_matching import (
    FEW,
    RegularizedScoreMatching,
    ScoreMatching,
    score_and_slopes,
)
from tests.in_units import objective
from tests.test_models import Quadratic

pytestmark = pytest.mark.usefixtures("plain_graphs")


def built(cls, d, hidden=(5, 4), **kwargs):
    model = cls(hidden, dtype="float64", **kwargs)
    model.build((None, d))
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(rng.normal(size=v.shape, scale=0.7))
    return model


def numpy_derivatives(model, x):
    """dE/dx_i and d2E/dx_i^2 of the MLP, carried FORWARD through the layers, by hand."""
    n, d = x.shape
    h = x
    first = np.repeat(np.eye(d)[:, None], n, axis=1)  # (i, n, width)
    second = np.zeros_like(first)
    for layer in model.hidden:
        W = layer.kernel.numpy()
        h = np.tanh(h @ W + layer.bias.numpy())
        slope, bend = 1 - h**2, -2 * h * (1 - h**2)
        first, second = first @ W, second @ W
        first, second = slope * first, slope * second + bend * first**2
    w = model.last.kernel.numpy()[:, 0]
    return (first @ w).T, (second @ w).T


@pytest.mark.parametrize("d", (1, 3, FEW + 1))  # both ways of computing it
def test_slopes_are_the_hessians_diagonal(d):
    model = built(ScoreMatching, d)
    x = np.random.default_rng(1).normal(size=(6, d))
    psi, slopes = score_and_slopes(model, tf.constant(x), tf.constant(0.1, tf.float64))
    dE, d2E = numpy_derivatives(model, x)
    np.testing.assert_allclose(psi, -dE, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(slopes, -d2E, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("smooth", (True, False))
def test_value_is_eq_9(smooth):
    model = built(ScoreMatching, 2, sigma=0.3, smooth=smooth)
    x, nu = np.random.default_rng(1).normal(size=(2, 7, 2))
    dE, d2E = numpy_derivatives(model, x + 0.3 * nu if smooth else x)
    wanted = (dE**2 - 2 * d2E).sum(1)
    ours = objective(model, x, tf.constant(nu))
    np.testing.assert_allclose(ours, wanted, rtol=1e-11)


def test_value_is_eq_10_in_both_forms():
    x = np.random.default_rng(1).normal(size=(7, 2))
    for form, power in (("squared", 2), ("printed", 1)):
        model = built(RegularizedScoreMatching, 2, regularization=0.4, form=form)
        dE, d2E = numpy_derivatives(model, x)
        wanted = (dE**2 - 2 * d2E + 0.4 * d2E**power).sum(1)
        ours = objective(model, x, None)
        np.testing.assert_allclose(ours, wanted, rtol=1e-11)


@pytest.mark.parametrize("form, power", (("squared", 2), ("printed", 1)))
@pytest.mark.parametrize("regularization", (None, 0.4))
def test_value_is_eq_10_in_the_datas_units(form, power, regularization):
    """Of a model with units of its own: by differences of its score in those of the data."""
    settings = {"regularization": regularization, "form": form, "sigma": 0.9}
    model = RegularizedScoreMatching((5, 4), dtype="float64", **settings)
    x = [20, -7] + 3 * np.random.default_rng(1).normal(size=(50, 2))
    model.adapt(x)
    rng = np.random.default_rng(2)
    for v in model.trainable_variables:
        v.assign(rng.normal(size=v.shape, scale=0.7))
    x, step = x[:7], 1e-4
    up, down = (
        np.stack([model.score(x + e)[:, i] for i, e in enumerate(h * np.eye(2))], 1)
        for h in (step, -step)
    )
    d2E = (down - up) / (2 * step)
    weight = 0.9**2 if regularization is None else regularization
    wanted = (model.score(x) ** 2 - 2 * d2E + weight * d2E**power).sum(1)
    # Central differences: step^2 of the third derivative, 1e-8.
    np.testing.assert_allclose(objective(model, x, None), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cls", (ScoreMatching, RegularizedScoreMatching))
@pytest.mark.parametrize("d", (2, FEW + 1))
def test_gradient_is_the_finite_difference(cls, d):
    model = built(cls, d, sigma=0.4)
    rng = np.random.default_rng(3)
    x, nu = tf.constant(rng.normal(size=(2, 6, d)))

    def loss():
        return tf.reduce_mean(objective(model, x, nu))

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, model.trainable_variables)
    for v, gradient in zip(model.trainable_variables, gradients, strict=True):
        direction, at = rng.normal(size=v.shape), v.numpy()
        v.assign(at + 1e-5 * direction)
        forward = loss()
        v.assign(at - 1e-5 * direction)
        slope = (forward - loss()) / 2e-5
        v.assign(at)
        # Central differences: error O(step^2) and rounding 1e-15 / 1e-5.
        np.testing.assert_allclose(
            tf.reduce_sum(gradient * direction), slope, rtol=1e-6, atol=1e-8
        )


def best_k(cls, x, nu, **kwargs):
    """The k at which E = k |x|^2 / 2 has the least objective.

    The objective is a parabola in k, which three values determine.
    """

    network = Quadratic(dtype="float64")
    model = cls(network=network, dtype="float64", **kwargs)
    model.build((None, 2))
    values = []
    for k in (0.0, 1.0, 2.0):
        network.k.assign(k)
        losses = objective(model, x, tf.constant(nu))
        values.append(tf.reduce_mean(losses).numpy())
    a, b, _ = np.polyfit((0.0, 1.0, 2.0), values, 2)
    assert a > 0
    return -b / (2 * a)


class TestMinimumForAQuadraticEnergy:
    """Data of variance s^2 in each dimension. A wrong sign or factor moves the minimum."""

    x, nu = np.random.default_rng(0).normal(size=(2, 500, 2)) * [[[0.8]], [[1.0]]]
    s2 = (x**2).mean()

    def test_score_matching_learns_the_datas_precision(self):
        k = best_k(ScoreMatching, self.x, self.nu, smooth=False)
        assert k == pytest.approx(1 / self.s2, rel=1e-9)

    def test_smooth_score_matching_learns_the_smoothed_precision(self):
        k = best_k(ScoreMatching, self.x, self.nu, sigma=0.5)
        xi = self.x + 0.5 * self.nu
        assert k == pytest.approx(1 / (xi**2).mean(), rel=1e-9)

    @pytest.mark.parametrize("regularization", (0.0, 0.25, 3.0))
    def test_squared_term_adds_lambda_to_the_variance(self, regularization):
        k = best_k(
            RegularizedScoreMatching, self.x, self.nu, regularization=regularization
        )
        assert k == pytest.approx(1 / (self.s2 + regularization), rel=1e-9)

    @pytest.mark.parametrize("regularization", (0.0, 0.25, 2.0, 3.0))
    def test_printed_term_scales_the_energy_and_turns_it_over(self, regularization):
        k = best_k(
            RegularizedScoreMatching,
            self.x,
            self.nu,
            regularization=regularization,
            form="printed",
        )
        wanted = (1 - regularization / 2) / self.s2
        assert k == pytest.approx(wanted, rel=1e-9, abs=1e-9)

    def test_lambda_is_sigma_squared_by_default(self):
        for form in ("squared", "printed"):
            k = best_k(RegularizedScoreMatching, self.x, self.nu, sigma=0.3, form=form)
            wanted = {
                "squared": 1 / (self.s2 + 0.09),
                "printed": (1 - 0.09 / 2) / self.s2,
            }[form]
            assert k == pytest.approx(wanted, rel=1e-9)


def test_deen_is_smooth_score_matching_plus_a_constant():
    """L_DEEN / sigma^4 = L_0 + d / sigma^2, for any weights (Stein's identity).

    The expectation over nu by Gauss-Hermite quadrature; 40 nodes are exact to 1e-9 for an
    energy as smooth as this one.
    """
    sigma, d = 0.3, 2
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    nu = np.stack(np.meshgrid(node, node), axis=2).reshape(-1, d)
    weight = np.outer(weight, weight).ravel() / (2 * np.pi)
    sm, dn = (built(cls, d, sigma=sigma) for cls in (ScoreMatching, deen.DEEN))
    for x in ([[0.2, -0.5]], [[1.0, 2.0]]):
        points = tf.constant(np.repeat(x, len(nu), axis=0))
        L_0 = weight @ objective(sm, points, tf.constant(nu)).numpy()
        L_deen = weight @ objective(dn, points, tf.constant(nu)).numpy()
        assert L_deen / sigma**4 == pytest.approx(L_0 + d / sigma**2, rel=1e-8)


def test_squared_term_is_the_expansion_where_it_is_exact():
    """E_e l(x + e) = l + lambda sum_i (d2E/dx_i^2)^2 for a separable quadratic energy."""

    class Separable(keras.layers.Layer):
        def call(self, z):
            return 0.5 * tf.constant([0.5, 3.0], tf.float64) * z**2

    x = np.random.default_rng(0).normal(size=(4, 2))
    smooth, clean = (
        ScoreMatching(
            network=Separable(dtype="float64"),
            sigma=0.7,
            dtype="float64",
            smooth=smooth,
        )
        for smooth in (True, False)
    )
    # +e and -e in each dimension: exact for polynomials of third degree.
    clouds = np.sqrt(2) * np.concatenate([np.eye(2), -np.eye(2)])
    for model in (smooth, clean):
        model.build((None, 2))
    cloud = np.mean([objective(smooth, x, tf.constant([e])) for e in clouds], axis=0)
    at_x = objective(clean, x, None).numpy()
    np.testing.assert_allclose(cloud - at_x, 0.49 * (0.25 + 9.0), rtol=1e-10)


def test_fit_learns_the_score_of_a_gaussian():
    s, sigma = 0.6, 0.2
    x = np.random.default_rng(0).normal(scale=s, size=(8192, 2))
    model = ScoreMatching((16, 16), sigma=sigma)
    model.build((None, 2))  # Keras' usual weights: adapted ones begin at the answer
    model.compile(keras.optimizers.Adam(5e-3), jit_compile=False)
    model.fit(x, batch_size=512, epochs=25, verbose=0)
    xi = np.random.default_rng(1).normal(scale=np.hypot(s, sigma), size=(4096, 2))
    psi = -xi / (s**2 + sigma**2)
    error = ((model.score(xi) - psi) ** 2).sum() / (psi**2).sum()
    assert error < 0.02


@pytest.mark.parametrize(
    "model",
    (
        ScoreMatching((4,), sigma=0.3, smooth=False),
        RegularizedScoreMatching((4,), regularization=0.2, form="printed"),
    ),
)
def test_saved_exported_and_resumed_exactly(model, tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
    model.compile(jit_compile=False)  # short runs: compiling would take longest
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
    with pytest.raises(ValueError, match="form must be 'squared' or 'printed', got 'x"):
        RegularizedScoreMatching(form="x")
    with pytest.raises(ValueError, match="regularization must be.*-1"):
        RegularizedScoreMatching(regularization=-1)
