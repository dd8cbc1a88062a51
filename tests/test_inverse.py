"""MAP estimates against the closed form of a Gaussian prior."""

import warnings

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
    # A slope of 1e-5 is left at most, in units of the largest number there is.
    np.testing.assert_allclose(x, exact(gaussian, y, A, strength), atol=1e-5)
    assert x.dtype == np.float64


@pytest.mark.parametrize("unit", (1e-8, 1e-3, 1e6, 1e12))
def test_units_do_not_matter_for_a_law(gaussian, unit):
    rng = np.random.default_rng(1)
    A, y = rng.normal(size=(4, D)), rng.normal(size=4)
    law = Gaussian(unit * gaussian.mean, unit**2 * gaussian.covariance)
    x = minimise(law, unit * y, unit * S, lambda x: A @ x, lambda r: A.T @ r)
    np.testing.assert_allclose(x / unit, exact(gaussian, y, A), atol=1e-5)


def test_units_do_not_matter_for_a_model():
    """Coordinates in units of their own; E is that of a Gaussian at its start, plus a net's."""
    rng = np.random.default_rng(8)
    mixing = np.linalg.cholesky([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 0.5]])
    z, answers = rng.normal(size=(2000, 3)) @ mixing.T, []
    for units in (np.ones(3), np.array([3.0, 5000.0, 1e-4]), np.full(3, 1e7)):
        mlp = deen.networks.MLP((8,), seed=0)
        network = deen.networks.WithGaussian(mlp)
        model = deen.DEEN(network=network, sigma=0.1 * units, dtype="float64")
        model.adapt(units * z)
        y, A = np.array([1.0, -1.0, 0.3]), np.diag(1 / units)
        x = minimise(model, y, 0.5, lambda x, A=A: A @ x, lambda r, A=A: A.T @ r)
        np.testing.assert_allclose(  # at the minimum the slope is 0
            (A @ x - y) / 0.25, units * model.score(x[None])[0], atol=1e-4
        )
        answers.append(x / units)
    np.testing.assert_allclose(answers[1:], answers[:1] * 2, atol=1e-5)


@pytest.mark.parametrize("constant", (0.0, 1e6, -1e8))
def test_the_free_constant_of_an_energy_does_not_matter(constant):
    Q, y = np.diag([1.0, 3, 10, 30, 100, 300]), np.arange(1.0, 7)

    class Prior:
        def energy(self, x):
            return np.sum(x * (x @ Q), 1) / 2 + constant

        def score(self, x):
            return -x @ Q

    x = minimise(Prior(), y, 0.5)
    wanted = np.linalg.solve(np.eye(6) / 0.25 + Q, y / 0.25)
    # Where the value is told to 1e-8 nats x is told to the root of that.
    np.testing.assert_allclose(x, wanted, atol=1e-5 + np.sqrt(abs(constant) * 1e-16))


def test_a_score_that_does_not_belong_to_the_energy_is_warned_of():
    class Prior:
        def energy(self, x):
            return np.sum(x**2, 1) / 2

        def score(self, x):
            return 10 * x

    with pytest.warns(UserWarning, match="the score may not belong to the energy"):
        minimise(Prior(), [1.0, 2.0], 1.0)


def test_the_first_x_is_the_multiple_of_the_transpose_that_suits_y():
    """A^T y alone is far out where A has many rows; one row's multiple is exact."""
    model = deen.DEEN((8,), sigma=0.5, seed=0)
    model.adapt(np.random.default_rng(4).normal(size=(1000, 3)))
    A = np.random.default_rng(9).normal(size=(5000, 3))
    x = minimise(model, A @ [0.5, -1.0, 0.2], 1.0, lambda x: A @ x, lambda r: A.T @ r)
    np.testing.assert_allclose(x, [0.5, -1.0, 0.2], atol=1e-2)  # 5000 readings decide


def test_operators_may_return_lists(gaussian):
    y = np.random.default_rng(2).normal(size=D)
    x = minimise(gaussian, y, S, list, list)
    np.testing.assert_allclose(x, exact(gaussian, y, np.eye(D)), atol=1e-5)


def test_without_an_operator_it_is_denoising(gaussian):
    """The maximum of a Gaussian posterior is its mean: the one step of Eq. 11."""
    y = np.random.default_rng(2).normal(size=D)
    x = minimise(gaussian, y, S, start=np.zeros(D))
    np.testing.assert_allclose(x, exact(gaussian, y, np.eye(D)), atol=1e-5)
    one_step = gaussian.smoothed(S).denoise(y[None])[0]
    np.testing.assert_allclose(x, one_step, atol=1e-5)


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
    np.testing.assert_allclose(x, y * 1.25 / (1.25 + S**2), atol=1e-5)


def test_a_model_is_a_prior():
    model = deen.DEEN((8,), sigma=0.5, seed=0)
    model.adapt(np.random.default_rng(4).normal(size=(1000, 3)))
    y = np.array([0.5, -1.0, 0.2])
    x = minimise(model, y, S)
    # At the minimum (x - y) / s^2 = psi(x); float32.
    np.testing.assert_allclose((x - y) / S**2, model.score(x[None])[0], atol=5e-3)


@pytest.fixture(scope="module")
def photographs():
    x = np.tile(np.linspace(0.2, 0.8, 32), (32, 1))
    noise = np.random.default_rng(5).normal(size=x.shape)
    return deen.DEEN.from_preset("photographs"), x + 25 / 255 * noise


def test_a_search_that_leaves_the_images_is_stopped_and_named(photographs):
    """At its lowest level that energy falls without bound, away from images."""
    model, y = photographs
    far = 100 * np.random.default_rng(6).normal(size=(1, 32, 32, 1))
    assert model.energy(far, 5 / 255)[0] < -1e6
    lost = r"the energy at sigma=0.01961 has no minimum near here: end the schedule"
    with pytest.raises(ValueError, match=lost):
        minimise(model, y, 25 / 255, sigmas=[5 / 255])
    with pytest.raises(ValueError, match=lost):
        minimise(model.smoothed(5 / 255), y, 25 / 255)


@pytest.mark.parametrize("slope, curve", ((1e4, 0.0), (0.0, 1e3), (np.nan, 0.0)))
def test_an_energy_without_a_minimum_of_which_no_units_are_known(slope, curve):
    class Prior:
        sigma = 0.1

        def energy(self, x):
            return np.sum(slope * x - curve * x**2, axis=1)

        def score(self, x):
            return -slope + 2 * curve * x

    if curve or np.isnan(slope):
        with pytest.raises(ValueError, match="no minimum near here"):
            minimise(Prior(), np.ones(3), 1.0)
    else:  # as far as it is, there is one
        x = minimise(Prior(), np.ones(3), 1.0)
        np.testing.assert_allclose(x, -9999, rtol=1e-4)


def test_too_few_iterations_are_warned_of_at_the_last_level(gaussian):
    y = np.random.default_rng(2).normal(size=D)
    with pytest.warns(UserWarning, match="after 2 iterations: the answer is not a min"):
        minimise(gaussian, y, S, start=np.zeros(D), iterations=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minimise(gaussian, y, S, start=np.zeros(D))


def test_all_levels_are_checked_before_any_work(photographs, monkeypatch):
    model, y = photographs
    monkeypatch.setattr(deen.DEEN, "energy", None)
    with pytest.raises(ValueError, match=r"sigma must lie within .*got \[0.001\]"):
        minimise(model, y, 0.1, sigmas=[0.1, 0.001])


def test_a_measurement_in_other_units_is_refused(photographs):
    model, y = photographs
    for at in ({"sigmas": [0.1]}, {"sigmas": [0.1], "start": 255 * y}):
        with pytest.raises(
            ValueError, match="scales of the data that the model was trained"
        ):
            minimise(model, 255 * y, 25.0, **at)
    with pytest.raises(
        ValueError, match="scales of the data that the model was trained"
    ):
        minimise(model.smoothed(0.1), 255 * y, 25.0)


def test_units_are_those_of_each_coordinate():
    """Kelvin beside hectopascal: far from 0 and from one another, near the data."""
    rng = np.random.default_rng(7)
    x = [280.0, 1013.0, 0.5] + [20.0, 8.0, 0.3] * rng.normal(size=(1000, 3))
    model = deen.DEEN((8,), sigma=[2.0, 0.8, 0.03])
    model.adapt(x)
    assert np.isfinite(minimise(model, x[0], 1.0)).all()
    with pytest.raises(ValueError, match="the start lies"):
        minimise(model, 100 * x[0], 1.0)


def test_a_start_far_out_on_the_diagonal_is_refused():
    """Its coordinates are equal: what is far is their distance from the data."""
    model = deen.DEEN.from_preset("fig1-mixture")
    with pytest.raises(ValueError, match="the start lies 1.37e"):
        minimise(model, [1e4, 1e4], 0.1)
    with pytest.raises(ValueError, match="the start lies"):
        minimise(model, [0.1, 0.1], 0.1, start=[100.0, 100.0])


def test_what_has_the_wrong_shape_is_named(photographs):
    model = deen.DEEN.from_preset("fig1-mixture")
    for y in ([0.1, 0.2, 0.3], np.zeros((2, 2)), [0.1]):
        with pytest.raises(
            ValueError, match=r"y must be one point of shape \(2,\), got"
        ):
            minimise(model, y, 0.1)
    with pytest.raises(ValueError, match="start must be one point of shape"):
        minimise(model, [0.1, 0.2], 0.1, start=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="y must be an array, got the number 3"):
        minimise(model, 3.0, 0.1)
    with pytest.raises(ValueError, match="y must be one point of shape .None, None, 1"):
        minimise(photographs[0], np.zeros(9), 0.1, sigmas=[0.1])


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
    with pytest.raises(TypeError, match="must be an instance, got the class DEEN"):
        minimise(deen.DEEN, np.ones(3), S)
    with pytest.raises(ValueError, match="sigmas must be given"):
        minimise(Levels(), np.ones((2, 3)), S)
    with pytest.raises(ValueError, match="at least one level"):
        minimise(Levels(), np.ones((2, 3)), S, sigmas=())
