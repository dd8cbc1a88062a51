"""The start of training is the Wiener filter, for every depth, width and unit of the data."""

import numpy as np
import pytest

import deen_tf as deen
from deen_tf import baselines
from deen_tf.metrics import relative_score_error
from deen_tf.training import start as initialization


def correlated(n, d, seed=0):
    """Gaussian points with variances over two decades, far from the origin."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * np.geomspace(0.1, 10, d) @ axes.T + 30


def wiener_error(model, x, sigma):
    """Relative error of the model's score against that of N(m, C + sigma^2 I)."""
    wiener = baselines.Wiener(x)
    xi = x + sigma * np.random.default_rng(9).normal(size=x.shape)
    return relative_score_error(model.score(xi), wiener.score(xi, sigma))


@pytest.mark.parametrize("r, d", [(4, 1), (7, 6), (12, 6), (13, 6), (40, 6)])
def test_frames_sum_to_zero_and_are_tight(r, d):
    a = initialization._frame(r, np.eye(d), np.random.default_rng(0))
    assert a.shape == (r, d)
    np.testing.assert_allclose(a.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(a.T @ a, np.eye(d), atol=1e-12)


@pytest.mark.parametrize("r, d", [(2, 6), (5, 6), (6, 6)])
def test_frames_of_few_units_fill_a_subspace(r, d):
    a = initialization._frame(r, np.eye(d), np.random.default_rng(0))
    np.testing.assert_allclose(a.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(a[:, r:], 0, atol=1e-12)  # of least variance
    values = np.linalg.eigvalsh(a.T @ a)
    np.testing.assert_allclose(values, [0] * (d - r + 1) + [1] * (r - 1), atol=1e-12)


@pytest.mark.parametrize("hidden", [(12,), (16,), (60, 40), (24, 200, 100)])
@pytest.mark.parametrize("scale", (1e-2, 1.0, 1e2))
def test_an_energy_starts_at_the_wiener_filter(hidden, scale):
    """Whatever the depth, the width, the units and the offset of the data.

    tanh beyond its quadratic range costs an error of order gain^2 = 4%; the Glorot
    mixtures of the upper layers, random, add to it: hence the spare units there.
    """
    d, sigma = 6, 0.5
    x = scale * correlated(5000, d)
    model = deen.DEEN(hidden, sigma=scale * sigma, first_layer_gain=0.2)
    model.adapt(x)
    assert wiener_error(model, x, scale * sigma) < (0.05 if len(hidden) == 1 else 0.2)


def test_the_energy_itself_is_the_gaussians():
    """Not the score alone: E - E_0 is a constant, small against the spread of E_0."""
    x = correlated(5000, 6)
    model = deen.DEEN((24,), sigma=0.5, first_layer_gain=0.2)
    model.adapt(x)
    exact = baselines.Wiener(x).energy(x, 0.5)
    assert (model.energy(x) - exact).std() < 0.1 * exact.std()


@pytest.mark.parametrize("cls", (deen.DSM, deen.DenoisingAutoencoder))
def test_first_units_of_models_with_d_outputs_bend_at_the_data(cls):
    x = correlated(5000, 6)
    model = cls((400, 8), sigma=0.5, first_layer_gain=2.0)
    model.adapt(x)
    layer = model.hidden[0]
    xi = x + 0.5 * np.random.default_rng(9).normal(size=x.shape)
    z = model.to_network(xi.astype("float32")).numpy()
    u = z @ layer.kernel.numpy() + layer.bias.numpy()
    # A unit's zero lies at a noisy data point: the mean of u^2 over points and units is
    # the variance of a difference of two, 2 gain^2.
    assert np.mean(u**2) == pytest.approx(2 * 2.0**2, rel=0.2)
    assert np.mean(abs(u).min(0) < 0.05) > 0.98  # the outermost points are far apart


def test_few_units_remove_what_their_number_allows():
    """With r < d units the start removes noise in r - 1 dimensions, and adds none."""
    d, r = 60, 21
    x = 1e-3 * np.random.default_rng(0).normal(size=(2000, d))  # nearly pure noise
    model = deen.DEEN((r,), sigma=1.0, first_layer_gain=0.2)
    model.adapt(x)
    xi = x + np.random.default_rng(1).normal(size=x.shape)
    left = ((x - model.denoise(xi)) ** 2).sum() / ((x - xi) ** 2).sum()
    assert left == pytest.approx(1 - (r - 1) / d, abs=0.02)
    assert left * d > model.loss_bound() / model.sigma**2


@pytest.mark.parametrize(
    "x",
    [
        np.ones((1, 3)),
        np.ones((50, 3)),
        np.random.default_rng(0).normal(size=(2, 3)),
        np.random.default_rng(0).normal(size=(50, 1)) * [1, 2, 3],
    ],
    ids=("one point", "constant", "two points", "on a line"),
)
@pytest.mark.parametrize("cls", (deen.DEEN, deen.DSM))
def test_degenerate_data_give_a_finite_start(cls, x):
    model = cls((8, 5), sigma=0.1)
    model.adapt(x)
    assert np.isfinite(model.score(x)).all()


def test_the_seed_decides_the_start():
    x = correlated(500, 2)
    scores = []
    for seed in (1, 1, 2):
        model = deen.DEEN((16, 8), sigma=0.5, seed=seed)
        model.adapt(x)
        scores.append(model.score(x))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert abs(scores[0] - scores[2]).max() > 1e-3
