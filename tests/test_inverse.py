"""MAP estimates against the closed form of a Gaussian prior."""

import numpy as np
import pytest

import deen_tf as deen
from deen_tf.inverse import minimise
from deen_tf.laws.gaussian import Gaussian

D, S = 6, 0.4


@pytest.fixture(scope="module")
def gaussian():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(D, D))
    return Gaussian(rng.normal(size=D), mixing @ mixing.T / D + 0.1 * np.eye(D))


def exact(law, y, A, strength=1.0):
    """(A^T A / s^2 + strength C^-1) x = A^T y / s^2 + strength C^-1 m."""
    precision = strength * np.linalg.inv(law.covariance)
    wanted = A.T @ A / S**2 + precision
    return np.linalg.solve(wanted, A.T @ y / S**2 + precision @ law.mean)


@pytest.mark.parametrize("strength", (1.0, 3.0))
@pytest.mark.parametrize("rows", (D, 4))
def test_the_minimiser_of_a_gaussian(gaussian, rows, strength):
    rng = np.random.default_rng(1)
    A, y = rng.normal(size=(rows, D)), rng.normal(size=rows)
    operators = {"forward": lambda x: A @ x, "adjoint": lambda r: A.T @ r}
    x = minimise(gaussian, y, S, **operators, strength=strength, iterations=200)
    # L-BFGS stops where the value changes by 2e-9 of itself: x to about the root of that.
    np.testing.assert_allclose(x, exact(gaussian, y, A, strength), atol=1e-3)
    assert x.dtype == np.float32


def test_without_an_operator_it_is_denoising(gaussian):
    """The maximum of a Gaussian posterior is its mean: the one step of Eq. 11."""
    y = np.random.default_rng(2).normal(size=D)
    x = minimise(gaussian, y, S, start=np.zeros(D))
    np.testing.assert_allclose(x, exact(gaussian, y, np.eye(D)), atol=1e-3)
    one_step = gaussian.smoothed(S).denoise(y[None])[0]
    np.testing.assert_allclose(x, one_step, atol=1e-3)


class Levels:
    """N(0, (1 + sigma^2) I) on images (2, 3, 1) at every level sigma."""

    several_levels, point_shape = True, (None, None, 1)
    energy = score = None  # of one level alone: `smoothed`

    def __init__(self):
        self.asked = []

    def smoothed(self, sigma):
        self.asked.append(float(sigma))
        at = type("At", (), {"point_shape": self.point_shape})()
        at.energy = lambda x: np.sum(x**2, (1, 2, 3)) / (2 * (1 + sigma**2))
        at.score = lambda x: -x / (1 + sigma**2)
        return at


def test_a_schedule_ends_at_its_last_level():
    model, y = Levels(), np.random.default_rng(3).normal(size=(2, 3))
    x = minimise(model, y, S, sigmas=(2.0, 1.0, 0.5))
    assert model.asked == [2.0, 1.0, 0.5] and x.shape == (2, 3)
    np.testing.assert_allclose(x, y * 1.25 / (1.25 + S**2), atol=1e-3)


def test_a_model_is_a_prior():
    model = deen.DEEN((8,), sigma=0.5, seed=0)
    model.adapt(np.random.default_rng(4).normal(size=(1000, 3)))
    y = np.array([0.5, -1.0, 0.2])
    x = minimise(model, y, S)
    # At the minimum (x - y) / s^2 = psi(x); float32.
    np.testing.assert_allclose((x - y) / S**2, model.score(x[None])[0], atol=5e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"noise_level": -1}, "noise_level must be positive"),
        ({"strength": 0}, "positive"),
        ({"forward": lambda x: x}, "both, or none"),
        ({"forward": lambda x: 2 * x, "adjoint": lambda r: r}, "transpose of forward"),
        ({"forward": lambda x: x[:2], "adjoint": lambda r: r}, "forward must give"),
        ({"sigmas": (0.1,)}, "only to one"),
        ({"y": [np.nan] * D}, "y must be finite"),
    ],
)
def test_mistakes(gaussian, arguments, message):
    arguments = {"y": np.ones(D), "noise_level": S} | arguments
    with pytest.raises(ValueError, match=message):
        minimise(gaussian, **arguments)


def test_what_is_no_prior():
    with pytest.raises(TypeError, match="must have energy and score"):
        minimise(object(), np.ones(3), S)
    with pytest.raises(ValueError, match="sigmas must be given"):
        minimise(Levels(), np.ones((2, 3)), S)
    with pytest.raises(ValueError, match="at least one level"):
        minimise(Levels(), np.ones((2, 3)), S, sigmas=())
