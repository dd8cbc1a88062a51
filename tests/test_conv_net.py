"""The convolutional network: its experts, against loops over places in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.networks import ConvNet, Levels
from deen_tf.networks.conv_net import LARGE
from deen_tf.training.loop import with_xla

pytestmark = pytest.mark.usefixtures("plain_graphs")


def silu(u):
    return u / (1 + np.exp(-u))


def convolved(h, kernel, stride):
    """A convolution of one image (height, width, c) with padding "same", place by place."""
    size, side = kernel.shape[0], -(-h.shape[0] // stride)
    margin = max((side - 1) * stride + size - h.shape[0], 0)
    h = np.pad(h, [(margin // 2, margin - margin // 2)] * 2 + [(0, 0)])
    places = stride * np.arange(side)
    return np.array(
        [
            [np.tensordot(h[i : i + size, j : j + size], kernel, 3) for j in places]
            for i in places
        ]
    )


def filled(network, seed=0):
    rng = np.random.default_rng(seed)
    for v in network.trainable_variables:
        v.assign(rng.normal(size=v.shape) * 0.3)


def test_experts_are_sums_over_places_weighed_by_the_level():
    network = ConvNet((3, 4), units=5, dtype="float64")
    network.build((None, 49))
    filled(network)
    rng = np.random.default_rng(1)
    x, t = rng.normal(size=49), rng.normal(size=3)
    dense, bias = (v.numpy() for v in network.level.weights)
    told = silu(t @ dense + bias)
    h, experts = x.reshape(7, 7, 1), []
    for k, layer in enumerate([*network.convolutions, network.dense]):
        kernel, bias = (v.numpy() for v in network.modulations[k].weights)
        a, b, w = np.split(told @ kernel + bias, 3)
        kernel = layer.kernel.numpy()
        conv = k < 2
        u = convolved(h, kernel, (2, 1)[k]) if conv else h.ravel() @ kernel
        h = silu((1 + a) * u + b)
        experts.append((1 + w) * (h.sum((0, 1)) if conv else LARGE * h))
    experts = np.concatenate(experts) * network.weights_of_experts.numpy()
    got = network(tf.constant(x[None]), tf.constant(t[None])).numpy()[0]
    np.testing.assert_allclose(got, experts, rtol=1e-9)
    images = ConvNet.from_config(network.get_config())
    images.build((None, 7, 7, 1))
    images.set_weights(network.get_weights())
    same = images(tf.constant(x.reshape(1, 7, 7, 1)), tf.constant(t[None]))
    np.testing.assert_allclose(same[0], experts, rtol=1e-9)


@pytest.mark.long
def test_it_serves_one_level_and_several(tmp_path):
    x = np.random.default_rng(0).uniform(size=(64, 64)).astype("float32")
    network = ConvNet((4, 6), units=8)
    one = deen.DEEN(network=deen.networks.WithGaussian(network), sigma=0.3)
    one.compile(jit_compile=False)
    one.fit(x, batch_size=32, epochs=2, verbose=0)
    assert np.isfinite(one.score(x[:4])).all()
    model = deen.DEEN(network=Levels(ConvNet((4, 6), units=8)), sigma=(0.1, 5.0))
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    model.fit(x, batch_size=32, epochs=3, verbose=0)
    assert np.ptp(model.energy(x[:4], 0.2) - model.energy(x[:4], 1.0)) > 0
    model.save(tmp_path / "conv.keras")
    again = keras.saving.load_model(tmp_path / "conv.keras")
    np.testing.assert_array_equal(again.score(x, 0.3), model.score(x, 0.3))


def test_the_same_seed_draws_the_same_weights():
    a, b, c = (ConvNet((4, 6), seed=s) for s in (1, 1, 2))
    for network in (a, b, c):
        network.build((None, 64))
    for u, v in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(u, v)
    assert not np.allclose(a.convolutions[1].kernel, c.convolutions[1].kernel)
    assert not np.any(a.weights_of_experts.numpy())


def test_convolutions_are_timed_both_ways_not_taken_for_xla(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "deen_tf.training.loop._faster_with_xla", lambda *a: asked.append(1) or False
    )
    x = np.random.default_rng(0).uniform(size=(8, 64)).astype("float32")
    model = deen.DEEN(network=Levels(ConvNet((4,))), sigma=(0.1, 1.0))
    model.compile()
    model.adapt(x)
    if not tf.config.list_logical_devices("GPU"):
        assert with_xla(model, x) is False and asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": ()}, "at least one layer"),
        ({"channels": (4, 0)}, "channels"),
        ({"strides": (2,)}, "as many as channels"),
        ({"units": 0}, "units"),
        ({"shape": (3, 3)}, "square or have the shape"),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises(ValueError, match=words):
        ConvNet(**arguments).build((None, 64))
