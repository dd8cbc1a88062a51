"""Jacobian, curl and divergence of fields whose derivatives are known."""

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
    energy, free = deen.DEEN((16, 16)), deen.DSM((16, 16))
    for model in (energy, free):
        model.adapt(x)
    scale = abs(fields.jacobian(energy, x)).max()
    assert abs(fields.curl(energy, x)).max() < 1e-5 * scale
    scale = abs(fields.jacobian(free, x)).max()
    assert abs(fields.curl(free, x)).max() > 0.05 * scale


def test_jacobian_of_a_model_is_the_finite_difference():
    model = deen.DSM((16, 16))
    model.adapt(X)
    J = fields.jacobian(model, X)
    # float32: rounding 1e-7 / step and truncation step^2 balance near 1e-2.
    np.testing.assert_allclose(J, fields.jacobian(model, X, step=1e-2), atol=1e-3)


def test_curl_needs_two_dimensions():
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\), got \(4, 3\)"):
        fields.curl(Linear(np.eye(3)), np.ones((4, 3)))
