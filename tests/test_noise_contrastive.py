"""Noise-contrastive estimation: laws against SciPy, the loss by hand, its minimum exact."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from scipy.special import logsumexp

import deen_tf as deen
from deen_tf.models.noise_contrastive import (
    GaussianNoise,
    NoiseContrastive,
    SmoothedNoise,
    UniformNoise,
)
from deen_tf.training import noise
from tests.in_units import objective
from tests.test_models import Quadratic

LAWS = (UniformNoise(0.1), GaussianNoise(), SmoothedNoise(0.4, centres=50))

pytestmark = pytest.mark.usefixtures("plain_graphs")


def data(n=400, seed=0):
    z = np.random.default_rng(seed).normal(size=(n, 2))
    return z @ [[1.0, 0.5], [0.0, 0.7]] + [3.0, -1.0]


def adapted(law, x):
    law = type(law).from_config(law.get_config() | {"dtype": "float64"})
    law.build(x.shape)
    law.adapt(x)
    return law


def exact_log_density(law, x, u):
    """The same densities by SciPy, from the definitions."""
    if isinstance(law, UniformNoise):
        extent = x.max(0) - x.min(0)
        return np.full(len(u), -np.log(np.prod(1.2 * extent)))
    if isinstance(law, GaussianNoise):
        return stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(u)
    kernels = [stats.norm(c, 0.4).logpdf(u).sum(1) for c in law.centres.numpy()]
    return logsumexp(kernels, axis=0) - np.log(50)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
class TestNoiseLaws:
    def test_energy_is_minus_the_log_density(self, law):
        x = data()
        law, u = adapted(law, x), data(30, seed=1)
        wanted = -exact_log_density(law, x, u)
        np.testing.assert_allclose(law.energy(tf.constant(u)), wanted, rtol=1e-9)

    def test_samples_follow_the_density(self, law):
        """Mean and covariance of 100,000 samples, in closed form for each law."""
        x = data()
        law, n = adapted(law, x), 100_000
        y = law.sample(n, noise.key(5, 0)).numpy()
        if isinstance(law, UniformNoise):
            mean = (x.max(0) + x.min(0)) / 2
            covariance = np.diag((1.2 * np.ptp(x, axis=0)) ** 2 / 12)
            assert (abs(y - mean) <= 0.6 * np.ptp(x, axis=0) + 1e-9).all()
        elif isinstance(law, GaussianNoise):
            mean, covariance = x.mean(0), np.cov(x.T, bias=True)
        else:
            centres = law.centres.numpy()
            assert {tuple(c) for c in centres} <= {tuple(c) for c in x}
            mean = centres.mean(0)
            covariance = np.cov(centres.T, bias=True) + 0.4**2 * np.eye(2)
        spread = np.sqrt(np.diag(covariance))
        # Five standard errors of a mean, and of a covariance (at most var sqrt(2 / n)).
        assert (abs(y.mean(0) - mean) < 5 * spread / np.sqrt(n)).all()
        bound = 5 * np.outer(spread, spread) * np.sqrt(2 / n)
        assert (abs(np.cov(y.T) - covariance) < bound).all()
        again = law.sample(n, noise.key(5, 0)).numpy()
        np.testing.assert_array_equal(y, again)
        assert abs(y - law.sample(n, noise.key(5, 1)).numpy()).max() > 0.1


def test_degenerate_data_are_refused():
    flat = np.ones((10, 2)) * [[1.0, 2.0]] + np.arange(10)[:, None] * [1.0, 0.0]
    with pytest.raises(ValueError, match="vary in every dimension"):
        adapted(UniformNoise(), flat)
    with pytest.raises(ValueError, match="covariance of the data is singular"):
        adapted(GaussianNoise(), flat)


def built(ratio=1, **kwargs):
    model = NoiseContrastive((5, 4), dtype="float64", ratio=ratio, **kwargs)
    model.adapt(data())
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(rng.normal(size=v.shape, scale=0.5))
    return model


@pytest.mark.parametrize("smooth", (True, False))
@pytest.mark.parametrize("ratio", (1, 3))
def test_loss_is_the_log_loss_of_a_classifier(ratio, smooth):
    """Against P(data | u) = p_m / (p_m + r p_n), from densities, not from log odds."""
    model = built(ratio, sigma=0.3, smooth=smooth, noise="gaussian")
    x, y = data(6, seed=1), data(6 * ratio, seed=2)
    nu = np.random.default_rng(3).normal(size=x.shape)
    u = x + 0.3 * nu if smooth else x
    c = float(model.c.numpy())

    def data_probability(points):
        p_m = np.exp(c - model.energy(points))
        p_n = np.exp(exact_log_density(GaussianNoise(), data(), points))
        return p_m / (p_m + ratio * p_n)

    wanted = -np.log(data_probability(u))
    wanted -= np.log(1 - data_probability(y)).reshape(6, ratio).sum(1)
    ours = objective(model, x, tf.constant(nu), model.to_network(tf.constant(y)))
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)


def test_gradient_is_the_finite_difference():
    model = built(ratio=2)
    rng = np.random.default_rng(3)
    x, nu, y = data(6, 1), rng.normal(size=(6, 2)), data(12, 2)
    nu, y = tf.constant(nu), model.to_network(tf.constant(y))

    def loss():
        return tf.reduce_mean(objective(model, x, nu, y))

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, model.trainable_variables)
    assert any(v is model.c for v in model.trainable_variables)
    for v, gradient in zip(model.trainable_variables, gradients, strict=True):
        direction, at = rng.normal(size=v.shape), v.numpy()
        v.assign(at + 1e-5 * direction)
        forward = loss()
        v.assign(at - 1e-5 * direction)
        slope = (forward - loss()) / 2e-5
        v.assign(at)
        np.testing.assert_allclose(
            tf.reduce_sum(gradient * direction), slope, rtol=1e-7, atol=1e-10
        )


@pytest.mark.parametrize("law", ("uniform", "gaussian", "smoothed"))
@pytest.mark.parametrize("ratio", (1, 3))
def test_the_expected_loss_is_least_at_the_normalised_density(law, ratio):
    """Data N(0, s^2), E = k u^2 / 2: k = 1 / s^2 and c = -log(2 pi s^2) / 2.

    The expectations are sums over a fine grid; loss(u, y) = A(u) + r B(y), so that each
    runs over its own. A stray sign, r or a noise density not normalised moves the minimum.
    """
    s, r = 0.8, ratio

    k = Quadratic(dtype="float64")
    model = NoiseContrastive(
        network=k, noise=law, ratio=r, smooth=False, dtype="float64"
    )
    model.build((None, 1))  # the data's own units: k is k
    sample = np.random.default_rng(0).normal(scale=s, size=(300, 1))
    model.noise.adapt(sample)
    # The exact data law is seen only inside the box of the uniform law; 5 s reach beyond
    # it, where p_m must still be told from "no noise": give the box all of the grid.
    u = 10 * s * ((np.arange(4000) + 0.5) / 4000 - 0.5)[:, None]  # midpoints
    if law == "uniform":
        model.noise.adapt(np.array([[-5.0], [5.0]]) * s / 1.5)
    p = stats.norm(0, s).pdf(u[:, 0])
    q = np.exp(-model.noise.energy(tf.constant(u)).numpy())
    p, q = p / p.sum(), q / q.sum()
    k.k.assign(1 / s**2)
    model.c.assign(-0.5 * np.log(2 * np.pi * s**2))

    def loss(x, y):
        return objective(model, x, None, tf.constant(np.repeat(y, r, 0)))

    zero = np.zeros_like(u)
    with tf.GradientTape() as tape:
        over_data = tf.reduce_sum(p * loss(u, zero))
        over_noise = tf.reduce_sum(q * loss(zero, u))
        total = over_data + over_noise - loss(zero[:1], zero[:1])[0]
    slopes = tape.gradient(total, [k.k, model.c])
    # p at the edge is 4e-6 of its peak, and q cut off there: both small.
    np.testing.assert_allclose(slopes, 0, atol=2e-5)
    # And it is a minimum, not flat: either neighbour is worse.
    for v in (k.k, model.c):
        for change in (-0.2, 0.2):
            v.assign_add(change)
            moved = tf.reduce_sum(p * loss(u, zero)) + tf.reduce_sum(q * loss(zero, u))
            moved -= loss(zero[:1], zero[:1])[0]
            assert moved > total + 1e-4
            v.assign_sub(change)


def test_fit_learns_the_normalised_density():
    law = deen.datasets.GaussianMixture([[-0.8, 0.0], [0.8, 0.0]], 0.4, [1, 2])
    sigma, x = 0.2, law.sample(8192, seed=0)
    model = NoiseContrastive((16, 16), sigma=sigma, noise="gaussian")
    model.compile(keras.optimizers.Adam(5e-3), jit_compile=False)
    xi = law.sample_smoothed(4096, sigma, seed=1)

    def error():  # of a log density that varies by 0.94 over these points
        return model.log_density(xi) + law.energy(xi, sigma)

    model.adapt(x)
    assert error().std() > 0.4  # the start, a Gaussian energy, is not the answer
    model.fit(x, batch_size=512, epochs=60, verbose=0)
    assert abs(error().mean()) < 0.08
    assert error().std() < 0.2


def test_saved_exported_and_resumed_exactly(tmp_path):
    x = data(40).astype("float32")
    model = NoiseContrastive((4,), noise=SmoothedNoise(0.3, centres=7), ratio=2)
    model.compile(jit_compile=False)
    model.fit(x, batch_size=10, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    ours, theirs = model.get_config(), loaded.get_config()
    assert ours.pop("noise")["config"] == theirs.pop("noise")["config"]
    assert ours == theirs
    np.testing.assert_array_equal(loaded.noise.centres, model.noise.centres)
    for one in (model, loaded):
        one.fit(x, batch_size=10, epochs=3, initial_epoch=2, verbose=0)
    np.testing.assert_array_equal(loaded.log_density(x), model.log_density(x))
    model.export(tmp_path / "model")
    energy = tf.saved_model.load(tmp_path / "model").signatures["energy"]
    np.testing.assert_allclose(energy(x=x)["energy"], model.energy(x), 1e-6, 1e-6)


@pytest.mark.parametrize("law", ("uniform", "gaussian", "smoothed"))
def test_c_starts_where_model_and_noise_agree_on_average(law):
    """mean (c - E) = mean log p_n over the data: with the other sign both are far apart."""
    x = data()
    model = NoiseContrastive((8,), noise=law, sigma=0.4, dtype="float64")
    model.adapt(x)
    log_n = -model.noise.energy(tf.constant(x)).numpy()
    assert model.log_density(x).mean() == pytest.approx(log_n.mean(), abs=1e-9)
    assert abs(log_n.mean()) > 1  # c with the wrong sign would be off by twice this
    if law == "smoothed":
        assert model.noise.bandwidth == 2 * 0.4
        again = NoiseContrastive((8,), noise=law, sigma=0.4, seed=1, dtype="float64")
        again.adapt(x)  # the points it stands on are the seed's
        assert np.abs(again.noise.centres - model.noise.centres).max() > 0.1


def test_the_noise_of_the_points_and_the_points_of_the_noise_are_independent():
    """Both from one key would share their words."""
    model = NoiseContrastive((8,), noise="gaussian", dtype="float64", seed=3)
    model.adapt(np.random.default_rng(0).normal(size=(400, 2)))
    n = 2**14
    nu, y = model.draw(
        tf.zeros((n, 2), "float64"), lambda source=0: noise.key(3, 9, source=source)
    )
    y = y.numpy() / y.numpy().std(0)
    # Correlations of independent normals, and of their squares, have errors 2^-7.
    for a, b in ((nu, y), (nu**2, y**2), (nu[:, ::-1], y)):
        for i in range(2):
            assert abs(np.corrcoef(a[:, i], b[:, i])[0, 1]) < 4 * 2**-7


def test_a_noise_law_without_data_takes_those_of_the_fit():
    """From a stream's first batches, and for a model that was only asked before."""
    x = data(40).astype("float32")
    stream = tf.data.Dataset.from_tensor_slices(x).batch(10)
    for source, arguments in ((stream, {"shuffle": False}), (x, {})):
        model = NoiseContrastive((4,))
        model.compile(run_eagerly=True)
        model.energy(x)
        assert np.isnan(model.noise.mean).all()
        history = model.fit(source, verbose=0, **arguments).history
        assert np.isfinite(history["loss"]).all()
        np.testing.assert_allclose(model.noise.mean, x.mean(0), rtol=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="noise must be one of.*got 'poisson'"):
        NoiseContrastive(noise="poisson")
    with pytest.raises(TypeError, match="a name or a NoiseLaw, got 3"):
        NoiseContrastive(noise=3)
    with pytest.raises(ValueError, match="ratio must be at least 1"):
        NoiseContrastive(ratio=0)
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        SmoothedNoise(0)
