"""The script on digits: what its samples are judged by, against closed forms and slow sums."""

import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from scipy import stats

from deen_tf.laws.gaussian import Gaussian
from deen_tf.laws.mixtures import GaussianMixture

REPRODUCE = pathlib.Path(__file__).parents[1] / "reproduce"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(REPRODUCE))
    try:
        import digits
        import generators
    finally:
        sys.path.pop(0)
    return types.SimpleNamespace(digits=digits, generators=generators)


def test_frechet_of_gaussians_is_the_closed_form(script):
    rng, n = np.random.default_rng(0), 200_000
    x, y = rng.normal(size=(2, n, 3))
    s, t = np.array([1.0, 2.0, 0.5]), np.array([1.5, 1.0, 0.5])
    m = np.array([0.0, 1.0, -2.0])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    wanted = np.sum(m**2) + np.sum((s - t) ** 2)  # covariances that commute
    found = script.generators.frechet((x * s) @ turn, (m + y * t) @ turn)
    assert found == pytest.approx(wanted, abs=0.05)
    # And where they do not commute, by the positive root of C^(1/2) C' C^(1/2).
    a, b = np.cov((x * s).T), np.cov(((y * t) @ turn).T)
    v, U = np.linalg.eigh(a)
    half = U * np.sqrt(v) @ U.T
    root = np.sqrt(np.linalg.eigvalsh(half @ b @ half)).sum()
    means = (x * s).mean(0) - ((y * t) @ turn).mean(0)
    wanted = means @ means + np.trace(a + b) - 2 * root
    found = script.generators.frechet(x * s, (y * t) @ turn)
    assert found == pytest.approx(wanted, rel=1e-6)
    assert script.generators.frechet(x, x) == pytest.approx(0, abs=1e-6)


def test_frechet_where_a_feature_is_dead(script):
    x = np.random.default_rng(0).normal(size=(500, 4)) * [1, 2, 0, 0]
    found = script.generators.frechet(x, x + [3, 0, 0, 4])
    assert found == pytest.approx(25, rel=1e-5)


def test_shares_and_confidence(script):
    p = np.full((10, 10), 0.02)
    p[np.arange(10), [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]] = 0.82
    p[9] = 0.1  # knows nothing: counts as class 0
    found = script.digits.of_classes(p)
    assert found["share_min"] == 0 and found["share_max"] == pytest.approx(0.4)
    assert found["confidence"] == pytest.approx((9 * 0.82 + 0.1) / 10)
    assert found["unsure"] == pytest.approx(0.1)


def test_chains_are_shown_at_the_ends_of_tenths_of_their_way(script):
    at = types.SimpleNamespace(sigma=(0.05, 5.0), annealed={"levels": 40})
    levels, shown = script.digits.noise_levels(at), script.digits.shown_levels(at)
    assert levels[0] == pytest.approx(5) and levels[-1] == pytest.approx(0.05)
    np.testing.assert_array_equal(shown, levels[3::4])


def test_bits_per_dimension(script):
    # A uniform density on [0, 1/4]^784 is 4^784: minus two bits a coordinate.
    assert script.digits.bits(784 * np.log(4)) == pytest.approx(-2)


@pytest.fixture(scope="module")
def mixture(script):
    """Two Gaussians in the first two of five principal coordinates."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    gaussian = Gaussian.from_axes(
        np.arange(5.0), np.array([0.01, 0.02, 0.3, 2.0, 4.0]), turn
    )
    covariances = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.4, 0.0], [0.0, 1.2]]])
    law = GaussianMixture([[-2.0, 0.5], [2.0, -0.5]], covariances, [0.3, 0.7])
    return script.generators.PrincipalMixture(gaussian, law)


def test_density_of_the_mixture_is_that_of_its_gaussians(mixture):
    g, law = mixture.gaussian, mixture.mixture
    axes = g.directions[:, ::-1]  # largest variance first
    x = mixture.sample(20, seed=0)
    for sigma in (0.0, 0.7):
        total = 0
        for m, C, w in zip(law.means, law.covariances, law.weights, strict=True):
            full = np.diag([0, 0, 0.3, 0.02, 0.01])
            full[:2, :2] = C
            mean = g.mean + axes[:, :2] @ m
            C = axes @ full @ axes.T + sigma**2 * np.eye(5)
            total = total + w * stats.multivariate_normal(mean, C).pdf(x)
        np.testing.assert_allclose(
            mixture.log_density(x, sigma), np.log(total), rtol=1e-8
        )


def test_samples_of_the_mixture_have_its_moments(mixture):
    n, law = 100_000, mixture.mixture
    x = mixture.sample(n, seed=3)
    u = (x - mixture.gaussian.mean) @ mixture.gaussian.directions[:, ::-1]
    mean = law.weights @ law.means
    spread = np.einsum("k,kij->ij", law.weights, law.covariances)
    spread += (law.means - mean).T * law.weights @ (law.means - mean)
    np.testing.assert_allclose(u[:, :2].mean(0), mean, atol=4 * 2 / np.sqrt(n))
    np.testing.assert_allclose(np.cov(u[:, :2].T), spread, atol=0.1)
    np.testing.assert_allclose(u[:, 2:].var(0), [0.3, 0.02, 0.01], rtol=0.03)


def test_fitted_mixture_has_the_likelihood_of_its_data(script):
    law = GaussianMixture.ring(modes=3, radius=3.0, std=0.4)
    x = law.sample(3000, seed=0)
    fit = script.generators.PrincipalMixture.fit(x, 2, 3, seed=0)
    fresh = law.sample(2000, seed=1)
    exact = -law.energy(fresh, 0.2).mean()
    assert fit.log_density(fresh, 0.2).mean() == pytest.approx(exact, abs=0.05)


def test_autoencoder_is_the_one_of_keras_examples(script):
    vae = script.generators.Autoencoder(seed=0)
    x = np.random.default_rng(0).uniform(size=(64, 784)).astype("float32")
    fit = vae.train(x, epochs=3)
    assert fit["losses"][-1] < fit["losses"][0]
    # Its objective: with both variances at one and means at zero KL is zero, and the
    # cross-entropy of a decoder that says one half is 784 log 2.
    for network in (vae.encoder, vae.decoder):
        for v in network.weights:
            v.assign(np.zeros(v.shape))
    loss = vae.evaluate(x, x, verbose=0)
    assert loss == pytest.approx(784 * np.log(2), rel=1e-4)
    vae.encoder.weights[-1].assign([3.0, 0.0, 0.0, 0.0])  # a mean of 3: KL is 9 / 2
    assert vae.evaluate(x, x, verbose=0) == pytest.approx(loss + 4.5, rel=1e-4)
    again = script.generators.Autoencoder(seed=1)
    again.build((None, 784))
    script.generators.set_weights(again, fit)
    assert again.sample(5, seed=0).shape == (5, 784)


def test_judge_keeps_what_it_learned(script):
    x = np.zeros((256, 784), "float32")
    y = np.arange(256) % 2
    x[y == 1, :392] = 1
    judge = script.generators.Judge(8, seed=0)
    before = judge(x)[1][np.arange(256), y].mean()
    fit = judge.fit(x, y, epochs=6)
    again = script.generators.Judge(8, seed=5)
    script.generators.set_weights(again.network, fit)
    h, p = again(2 * x)  # values beyond [0, 1] are cut
    assert h.shape == (256, 8)
    assert p[np.arange(256), y].mean() > before
    np.testing.assert_allclose(p, judge(x)[1], atol=1e-6)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(again.head(h), p, atol=1e-5)


def test_the_model_starts_as_the_gaussian_of_the_digits(script):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(2000, 784)).astype("float32")
    at = types.SimpleNamespace(**(script.digits.SETTINGS | script.digits.QUICK))
    model = script.digits.make(at, 0, len(x))
    model.adapt(x)
    exact = -Gaussian.fit(x).energy(x[:9], 0.3)
    np.testing.assert_allclose(model.log_density(x[:9], 0.3), exact, rtol=1e-4)
    assert keras.optimizers.schedules.serialize(model.optimizer._learning_rate)


@pytest.mark.slow
def test_quick_run(tmp_path):
    data = os.environ.get("DEEN_DATA")
    if not data:
        pytest.skip("DEEN_DATA names no folder with MNIST")
    command = [sys.executable, REPRODUCE / "digits.py", "--quick", "--no-export"]
    done = subprocess.run(
        [*command, "--data", data, "--out", tmp_path],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "digits.json").read_text())["metrics"]
    rows = (
        "annealed",
        "walk-jump",
        "one-level",
        "vae",
        "mixture",
        "parzen",
        "training",
    )
    for row in rows:
        assert metrics[f"{row}/frechet"]["median"] > 0
        assert 0 <= metrics[f"{row}/share_min"]["median"] <= 0.1
        assert 0.1 <= metrics[f"{row}/share_max"]["median"] <= 1
    for row in ("dual", "ais", "parzen", "mixture"):
        assert f"{row}/bits_per_dimension@0.30" in metrics
    nats = metrics["gaussian/log_likelihood@0.30"]["median"]
    bits = metrics["gaussian/bits_per_dimension@0.30"]["median"]
    assert nats < 0 < bits or bits < 0 < nats
    assert bits == pytest.approx(-nats / (784 * np.log(2)))
    # The floor is the floor even of a poor judge.
    others = [metrics[f"{row}/frechet"]["median"] for row in rows[:-1]]
    assert metrics["training/frechet"]["median"] < min(others)
    for ending in ("png", "pdf"):
        assert (tmp_path / f"digits.{ending}").stat().st_size > 10_000
