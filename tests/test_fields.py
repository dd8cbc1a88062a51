"""Jacobian, curl and divergence of fields whose derivatives are known."""

import dataclasses
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf import fields


class Linear:
    """psi(x) = A x."""

    compute_dtype = "float64"

    def __init__(self, A):
        self.A = np.asarray(A, "float64")

    def score(self, x):
        return x @ self.A.T


class Swirl:
    """psi = (x1 x2^2, sin x1): J = [[x2^2, 2 x1 x2], [cos x1, 0]]."""

    compute_dtype = "float64"

    def score(self, x):
        x1, x2 = x[:, 0], x[:, 1]
        if tf.is_tensor(x):
            return tf.stack([x1 * x2**2, tf.sin(x1)], axis=1)
        return np.stack([x1 * x2**2, np.sin(x1)], axis=1)


X = np.random.default_rng(0).normal(size=(50, 2))


# Automatic differentiation is exact; central differences err by step^2 and 1e-16/step.
@pytest.mark.parametrize("step, tolerance", [(None, 1e-12), (1e-5, 1e-8)])
def test_swirl(step, tolerance):
    x1, x2 = X.T
    J = fields.jacobian(Swirl(), X, step=step)
    wanted = np.array([[x2**2, 2 * x1 * x2], [np.cos(x1), 0 * x1]]).transpose(2, 0, 1)
    np.testing.assert_allclose(J, wanted, atol=tolerance)
    np.testing.assert_allclose(
        fields.curl(Swirl(), X, step=step), np.cos(x1) - 2 * x1 * x2, atol=tolerance
    )
    np.testing.assert_allclose(
        fields.divergence(Swirl(), X, step=step), x2**2, atol=tolerance
    )


@pytest.mark.parametrize("d", (1, 3, 20))
def test_linear_field_in_any_dimension(d):
    A = np.random.default_rng(d).normal(size=(d, d))
    x = np.random.default_rng(1).normal(size=(11, d))
    for batch in (4, 100):
        J = fields.jacobian(Linear(A), x, batch=batch)
        np.testing.assert_allclose(J, np.broadcast_to(A, (11, d, d)), atol=1e-12)
    np.testing.assert_allclose(fields.divergence(Linear(A), x), np.trace(A))


def test_rotation_turns_to_the_left():
    """psi = (-x2, x1) runs counter-clockwise: its curl is +2."""
    np.testing.assert_allclose(fields.curl(Linear([[0, -1], [1, 0]]), X), 2.0)


def test_an_energy_has_no_curl_and_a_free_field_has():
    x = X.astype("float32")
    energy, free = deen.DEEN(hidden_units=(16, 16)), deen.DSM(hidden_units=(16, 16))
    for model in (energy, free):
        model.adapt(x)
    scale = abs(fields.jacobian(energy, x)).max()
    assert abs(fields.curl(energy, x)).max() < 1e-5 * scale
    scale = abs(fields.jacobian(free, x)).max()
    assert abs(fields.curl(free, x)).max() > 0.05 * scale


def test_jacobian_of_a_model_is_the_finite_difference():
    model = deen.DSM(hidden_units=(16, 16))
    model.adapt(X)
    J = fields.jacobian(model, X)
    # float32: rounding 1e-7 / step and truncation step^2 balance near 1e-2.
    np.testing.assert_allclose(J, fields.jacobian(model, X, step=1e-2), atol=1e-3)


def test_curl_needs_two_dimensions():
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\), got \(4, 3\)"):
        fields.curl(Linear(np.eye(3)), np.ones((4, 3)))


class Mixing:
    """psi of an image x: psi_i = sum_j A_ij x_j^2, i and j in the order of memory."""

    compute_dtype = "float64"

    def __init__(self, shape):
        d = int(np.prod(shape))
        self.A = np.random.default_rng(d).normal(size=(d, d))

    def score(self, x):
        flat = x**2 @ self.A.T if len(x.shape) == 2 else None
        if flat is not None:
            return flat
        if tf.is_tensor(x):
            return tf.reshape(
                tf.reshape(x, (-1, len(self.A))) ** 2 @ self.A.T, tf.shape(x)
            )
        return (x.reshape(len(x), -1) ** 2 @ self.A.T).reshape(x.shape)


# Automatic differentiation is exact; central differences of a square are but for rounding.
@pytest.mark.parametrize("step, tolerance", [(None, 1e-12), (1e-3, 1e-9)])
@pytest.mark.parametrize("shape", [(2, 2, 1), (3, 2, 2)])  # few outputs, and many
def test_points_of_any_shape_have_a_flat_jacobian(shape, step, tolerance):
    field = Mixing(shape)
    x = np.random.default_rng(0).normal(size=(5, *shape))
    J = fields.jacobian(field, x, step=step, batch=2)
    wanted = 2 * field.A * x.reshape(5, 1, -1)
    np.testing.assert_allclose(J, wanted, atol=tolerance)
    rows = fields.jacobian(field, x.reshape(5, -1), step=step)
    np.testing.assert_allclose(J, rows, atol=tolerance)
    np.testing.assert_allclose(
        fields.divergence(field, x, step=step),
        np.trace(wanted, axis1=1, axis2=2),
        atol=20 * tolerance,
    )


def test_a_convolutional_energy_has_a_symmetric_jacobian():
    network = keras.Sequential(
        [keras.layers.Conv2D(3, 3, activation="tanh"), keras.layers.Conv2D(2, 2)]
    )
    model = deen.DEEN(network=network, sigma=0.3)
    x = np.random.default_rng(0).normal(size=(4, 5, 5, 1)).astype("float32")
    J = fields.jacobian(model, x)
    assert J.shape == (4, 25, 25)
    np.testing.assert_allclose(J, J.transpose(0, 2, 1), atol=1e-5 * abs(J).max())
    finite = fields.jacobian(model, x, step=1e-2)
    np.testing.assert_allclose(J, finite, atol=2e-3 * abs(J).max())


@dataclasses.dataclass
class Stretch:
    """psi = a x; as a dataclass it has no hash."""

    a: float = 1.0

    def score(self, x):
        return self.a * x


def test_a_model_of_several_levels_is_asked_at_one():
    model, x = deen.DEEN((8,), sigma=(0.1, 1.0)), np.eye(2)
    model.adapt(x)
    for ask in (fields.jacobian, fields.curl, fields.divergence):
        with pytest.raises(ValueError, match=r"give model.smoothed\(sigma\)"):
            ask(model, x)
        assert np.isfinite(ask(model.smoothed(0.5), x)).all()


def test_a_changed_attribute_counts_at_once():
    field = Stretch(1.0)
    np.testing.assert_allclose(fields.divergence(field, X), 2.0, rtol=1e-6)
    field.a = 3.0
    np.testing.assert_allclose(fields.divergence(field, X), 6.0, rtol=1e-6)


def test_a_changed_sigma_and_changed_weights_count_at_once():
    """The score of an autoencoder is (r(x) - x) / sigma^2."""
    model = deen.DenoisingAutoencoder(hidden_units=(4,), sigma=0.5)
    J = fields.jacobian(model, X)
    model.sigma = 1.0
    np.testing.assert_allclose(fields.jacobian(model, X), J / 4, rtol=1e-4, atol=1e-6)
    for weights in model.trainable_variables:
        weights.assign(0 * weights)
    wanted = np.broadcast_to(-np.eye(2), (50, 2, 2))
    np.testing.assert_allclose(fields.jacobian(model, X), wanted, atol=1e-6)


@pytest.mark.parametrize("make", [Stretch, lambda: deen.DEEN(hidden_units=(4,))])
def test_a_field_is_let_go(make):
    field = make()
    fields.curl(field, X)
    alive = weakref.ref(field)
    del field
    gc.collect()
    assert alive() is None


def test_a_model_keeps_its_program(monkeypatch):
    model = deen.DEEN(hidden_units=(4,))
    fields.curl(model, X)
    model.score(X[:1].astype("float32"))
    monkeypatch.setattr(deen.DEEN, "energy_at", None)  # nothing is traced any more
    fields.curl(model, X[:7])


class Hidden:
    """A field that TensorFlow cannot see through, and does not say so."""

    def score(self, x):
        return tf.numpy_function(np.sin, [x], tf.as_dtype(x.dtype))


class Wide(Stretch):
    def score(self, x):
        return tf.concat([x, x], axis=1)


@pytest.mark.parametrize("field, x, settings, error, message", [
    (Hidden(), X, {}, TypeError, "TensorFlow cannot differentiate .*: give `step`"),
    (Stretch, X, {}, TypeError, "must have a method score, got <class"),
    (Wide(), X, {}, ValueError, r"shape \(1, 2\) for one point, got \(1, 4\)"),
    (Stretch(), X[0], {}, ValueError, r"x must have shape \(n, d\) or \(n, ...\)"),
    (Stretch(), X, {"step": 1e-30}, ValueError, "lost in the rounding"),
])  # fmt: skip
def test_bad_fields_and_points(field, x, settings, error, message):
    with pytest.raises(error, match=message):
        fields.jacobian(field, x, **settings)
