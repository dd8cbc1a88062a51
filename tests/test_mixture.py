"""The average of several networks is one energy, trained as DEEN is."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf import MixtureOfDEENs
from tests.in_units import objective

pytestmark = pytest.mark.usefixtures("plain_graphs")
X = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")


@functools.cache
def fitted(networks):
    model = MixtureOfDEENs((6, 5), sigma=0.3, seed=2, networks=networks)
    model.compile(jit_compile=False)
    model.fit(X, batch_size=20, epochs=3, verbose=0)
    return model


def test_energy_is_the_average_of_the_networks():
    model = fitted(3)
    wanted = 0.0
    z = model.to_network(X).numpy()
    for network in model.network.members:  # their outputs in plain NumPy
        h = z
        for layer in network.hidden:
            h = np.tanh(h @ layer.kernel.numpy() + layer.bias.numpy())
        wanted = wanted + h @ network.last.kernel.numpy()[:, 0] / 3
    np.testing.assert_allclose(model.energy(X), wanted, rtol=1e-5, atol=1e-6)
    scores = np.mean([score(model, network) for network in model.network.members], 0)
    np.testing.assert_allclose(model.score(X), scores, rtol=1e-5, atol=1e-6)


def score(model, network):
    """Minus the slope of one network's energy, by hand, through the model's units."""
    h, activations = model.to_network(X).numpy(), []
    for layer in network.hidden:
        h = np.tanh(h @ layer.kernel.numpy() + layer.bias.numpy())
        activations.append(h)
    slope = network.last.kernel.numpy().T
    for layer, h in zip(network.hidden[::-1], activations[::-1], strict=True):
        slope = (slope * (1 - h**2)) @ layer.kernel.numpy().T
    return -slope / model.scale.numpy()


def test_experts_are_the_networks_and_sum_to_the_energy():
    model = fitted(3)
    experts = model.experts(X)
    assert experts.shape == (60, 3)
    np.testing.assert_allclose(experts.sum(1), model.energy(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        3 * experts[:, 1],
        tf.reduce_sum(model.network.members[1](model.to_network(X)), axis=1),
        rtol=1e-5,
        atol=1e-6,
    )


def test_objective_is_eq_19():
    model = MixtureOfDEENs((5,), sigma=0.4, networks=3, dtype="float64")
    x, nu = np.random.default_rng(1).normal(size=(2, 7, 2))
    model.adapt(x)
    xi = x + 0.4 * nu
    step = 1e-5
    slope = [
        (model.energy(xi + step * e) - model.energy(xi - step * e)) / (2 * step)
        for e in np.eye(2)
    ]
    wanted = ((x - xi + 0.16 * np.transpose(slope)) ** 2).sum(1)
    ours = objective(model, x, tf.constant(nu))
    np.testing.assert_allclose(ours, wanted, rtol=1e-8)


def test_one_network_is_a_deen():
    mixture = fitted(1)
    single = deen.DEEN((6, 5), sigma=0.3, seed=2)
    single.compile(jit_compile=False)
    single.fit(X, batch_size=20, epochs=3, verbose=0)
    np.testing.assert_allclose(
        mixture.energy(X), single.energy(X), rtol=1e-4, atol=1e-6
    )


def test_networks_begin_and_stay_apart():
    model = fitted(3)
    kernels = [network.hidden[-1].kernel.numpy() for network in model.network.members]
    for m in range(1, 3):
        assert abs(kernels[m] - kernels[0]).max() > 0.05
    assert len(model.trainable_variables) == 3 * 5  # two layers, biases, and the last


def test_learned_score_of_a_gaussian():
    s, sigma = 0.4, 0.3
    x = np.random.default_rng(0).normal(scale=s, size=(4096, 2))
    model = MixtureOfDEENs((10, 10), sigma=sigma, networks=2)
    model.build((None, 2))  # Keras' usual weights: adapted ones begin at the answer
    model.compile(keras.optimizers.Adam(5e-3), jit_compile=False)
    model.fit(x, batch_size=1024, epochs=100, verbose=0)
    xi = np.random.default_rng(1).normal(scale=np.hypot(s, sigma), size=(4096, 2))
    psi = -xi / (s**2 + sigma**2)
    error = ((model.score(xi) - psi) ** 2).sum() / (psi**2).sum()
    assert error < 0.03


def test_rank_bound_counts_all_networks():
    model = MixtureOfDEENs((3,), sigma=0.5, networks=2)
    model.build((None, 10))
    assert model.loss_bound() == pytest.approx(0.25 * (10 - 6))
    kernels = np.concatenate(
        [m.hidden[0].kernel.numpy() for m in model.network.members], 1
    )
    x = np.random.default_rng(0).normal(size=(50, 10)).astype("float32")
    assert np.linalg.matrix_rank(np.concatenate([model.score(x).T, kernels], 1)) == 6


@pytest.mark.long
def test_saved_exported_and_resumed_exactly(tmp_path):
    model = fitted(2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded.score(X), model.score(X))
    for one in (model, loaded):
        one.fit(X, batch_size=20, epochs=4, initial_epoch=3, verbose=0)
    np.testing.assert_array_equal(loaded.score(X), model.score(X))
    model.export(tmp_path / "model")
    signatures = tf.saved_model.load(tmp_path / "model").signatures
    for name in ("energy", "score", "denoise", "experts"):
        answer = signatures[name](x=X)[name]
        np.testing.assert_allclose(answer, getattr(model, name)(X), 1e-5, 1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="networks must be at least 1, got 0"):
        MixtureOfDEENs(networks=0)
    with pytest.raises(ValueError, match="build the model first"):
        MixtureOfDEENs().loss_bound()
