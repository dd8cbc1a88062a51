"""Every objective takes every network, for points of any shape."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import deen_tf as deen
from deen_tf import networks
from tests.in_units import objective

pytestmark = [
    pytest.mark.filterwarnings("ignore:training ends with a loss"),
    pytest.mark.usefixtures("plain_graphs"),
]
N = 24  # points, in batches of 8
ENERGIES = {
    deen.DEEN: {},
    deen.ScoreMatching: {},
    deen.RegularizedScoreMatching: {},
    deen.NoiseContrastive: {"noise": "uniform"},
    deen.ContrastiveDivergence: {},
    deen.SteinContrastiveDivergence: {},
}
VECTORS = (deen.DSM, deen.DenoisingAutoencoder)


@pytest.fixture(autouse=True, scope="module")
def float64():
    """Keras' own layers, too, in float64: finite differences are then exact to 1e-8."""
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    """A network made in `__init__`, which is told the noise level."""

    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = layers.Dense(units, activation="softplus")
        self.second = layers.Dense(4)

    def get_config(self):
        return super().get_config() | {"units": self.units}

    def call(self, x, sigma):
        level = tf.zeros_like(x[:, :1]) + tf.math.log(sigma)
        return self.second(self.first(tf.concat([x, level], 1)))


def convolutional(outputs):
    first = layers.Conv2D(3, 3, padding="same", activation="tanh")
    return keras.Sequential([first, layers.Conv2D(1, 3, padding="same")])


def attention(outputs):
    inputs = keras.Input((5, 2))
    h = layers.MultiHeadAttention(num_heads=2, key_dim=3)(inputs, inputs)
    h = layers.Dense(4, activation="tanh")(layers.Concatenate()([inputs, h]))
    return keras.Model(inputs, layers.Dense(2)(h))


def with_layer(layer):
    def network(outputs):
        return keras.Sequential(
            [
                layers.Dense(6, activation="tanh"),
                layer(),
                layers.Dense(5, activation="tanh"),
                layers.Dense(outputs or 3),
            ]
        )

    return network


def mlp(outputs=None, seed=0):
    return networks.MLP((6, 5), outputs=outputs, seed=seed)


# name -> shape of a point, network of (the coordinates of a vector, or None), experts
ROWS = (3,)
NETWORKS = {
    "mlp": (ROWS, mlp, (5,)),
    "mlp on images": ((4, 3, 2), mlp, (5,)),
    "average": (ROWS, lambda _: networks.Average([mlp(), mlp(seed=1)]), (2,)),
    "field": (
        (8, 8, 1),
        lambda _: networks.FieldOfExperts((5, 4), size=4, stride=4),
        (4,),
    ),
    "with Gaussian": (ROWS, lambda _: networks.WithGaussian(mlp()), (5 + 3,)),
    "convolutional": ((8, 8, 1), convolutional, (8, 8, 1)),
    "attention": ((5, 2), attention, (5, 2)),
    "subclassed": (ROWS, lambda _: Subclassed(), (4,)),
    "batch": (ROWS, with_layer(layers.BatchNormalization), (3,)),
    "layer": (ROWS, with_layer(layers.LayerNormalization), (3,)),
    "dropout": (ROWS, with_layer(functools.partial(layers.Dropout, 0.3, seed=1)), (3,)),
}
NO_VECTOR = ("average", "field", "with Gaussian")
# Fits in a program are tested of all others here; of these they cost a second each, and
# are no others than those of test_mixture, test_field_of_experts and the MLP's.
EAGER = ("mlp on images", "layer", *NO_VECTOR)


def points(name, n=N, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, *NETWORKS[name][0]))
    return 3 + 2 * x


def model_of(cls, name, **arguments):
    shape, make, _ = NETWORKS[name]
    network = make(int(np.prod(shape)) if cls in VECTORS else None)
    arguments = ENERGIES.get(cls, {}) | arguments
    model = cls(network=network, sigma=0.6, seed=2, **arguments)
    # Eager steps cost a hundredth of tracing the program of a class that is tested elsewhere.
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    return model


@functools.cache
def fitted(cls, name):
    model = model_of(cls, name)
    if cls is deen.DEEN and name not in EAGER:
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    history = model.fit(points(name), batch_size=8, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    return model


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cls", list(ENERGIES)[1:] + list(VECTORS))
def test_the_matrix(cls, name):
    """A fit changes every weight that an energy is not free of, and stays finite."""
    if cls in VECTORS and name in NO_VECTOR + ("subclassed",):
        with pytest.raises(ValueError, match=f"network of a {cls.__name__} must map"):
            model_of(cls, name).fit(points(name), verbose=0)
        return
    model = model_of(cls, name)
    x = points(name, 8)
    model.adapt(x)
    for weight in model.trainable_variables:
        if not weight.numpy().any() and "kernel" in weight.path:  # it starts at zero
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    before = [w.numpy() for w in model.trainable_variables]
    history = model.fit(x, batch_size=8, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    changed = [
        np.abs(w.numpy() - b).max() > 0
        for w, b in zip(model.trainable_variables, before, strict=True)
    ]
    still = [
        w.path for w, c in zip(model.trainable_variables, changed, strict=True) if not c
    ]
    # The last bias moves an energy by a constant; a key's bias moves no attention.
    free = {"bias"} if cls not in VECTORS else set()
    assert all("key/bias" in p or p.rsplit("/", 1)[-1] in free for p in still), still
    assert len(still) <= 2


@pytest.mark.parametrize("name", NETWORKS)
def test_energy_score_denoise_and_experts(name):
    model, x = fitted(deen.DEEN, name), points(name, 7, seed=1)
    assert model.point_shape == x.shape[1:] and model.dimension == x[0].size
    energy, score, experts = model.energy(x), model.score(x), model.experts(x)
    assert energy.shape == (7,) and score.shape == x.shape
    assert experts.shape == (7, *NETWORKS[name][2])
    np.testing.assert_allclose(experts.reshape(7, -1).sum(1), energy, rtol=1e-10)
    direction = np.random.default_rng(2).normal(size=x.shape)
    step = 1e-5
    rise = model.energy(x + step * direction) - model.energy(x - step * direction)
    along = (score * direction).reshape(7, -1).sum(1)
    assert np.abs(along).max() > 1e-3
    # Central differences: step^2 and rounding / step, of energies of order 100.
    np.testing.assert_allclose(along, -rise / (2 * step), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(model.denoise(x), x + 0.36 * score, rtol=1e-10)
    # What a point is worth does not depend on what it is asked together with.
    alone = np.concatenate([model.score(x[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(score, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cls", VECTORS)
@pytest.mark.parametrize("name", ("mlp on images", "convolutional", "attention"))
def test_vectors_have_the_shape_of_a_point(cls, name):
    model, x = fitted(cls, name), points(name, 7, seed=1)
    assert model.score(x).shape == model.denoise(x).shape == x.shape
    nu = tf.constant(np.random.default_rng(2).normal(size=x.shape))
    wanted = np.square(x - model.denoise(x + 0.6 * nu.numpy())).reshape(7, -1).sum(1)
    np.testing.assert_allclose(objective(model, x, nu), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    "cls, name",
    [(deen.DEEN, name) for name in NETWORKS]
    + [(cls, name) for cls in VECTORS for name in ("convolutional", "attention")],
)
def test_saved_made_again_and_exported(cls, name, tmp_path):
    model, x = fitted(cls, name), points(name, 7, seed=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    made = cls.from_config(model.get_config())
    clone = keras.models.clone_model(model)
    for other in (made, clone):
        assert type(other) is cls and type(other.network) is type(model.network)
        other.see_shape(x.shape)
        other.set_weights(model.get_weights())
    for other in (loaded, made, clone):
        assert other.network is not model.network
        # Eager, without a trace for each.
        score = cls.score.tensor_function(other, tf.constant(x), other.level(x))
        np.testing.assert_allclose(score, model.score(x), rtol=1e-12)
    model.export(tmp_path / "served")
    signatures = tf.saved_model.load(tmp_path / "served").signatures
    for signature in model.signatures:
        for n in (1, 7):
            answer = signatures[signature](x=tf.constant(x[:n]))[signature]
            wanted = getattr(model, signature)(x[:n])
            np.testing.assert_allclose(answer, wanted, rtol=1e-9, atol=1e-12)


# ---- layers that behave otherwise in training -------------------------------------------


def test_batch_normalization_is_told_and_used_as_such(caplog):
    """In training by the batch, in evaluation by the running means that fit has found."""
    model = model_of(deen.DEEN, "batch")
    with caplog.at_level("WARNING", logger="deen_tf"):
        model.build((None, 3))
    assert "what a point is worth in training depends on its batch" in caplog.text
    model = fitted(deen.DEEN, "batch")
    (normal,) = (
        layer
        for layer in model.network.layers
        if isinstance(layer, layers.BatchNormalization)
    )
    assert np.abs(normal.moving_mean.numpy()).max() > 1e-3
    x = tf.constant(points("batch"))
    together = model(x, training=True)[:4]
    assert np.abs(together - model(x[:4], training=True)).max() > 1e-3
    before = normal.moving_mean.numpy()
    np.testing.assert_array_equal(model(x)[:4], model(x[:4]))
    model.evaluate(x, verbose=0)
    np.testing.assert_array_equal(normal.moving_mean.numpy(), before)


def test_dropout_is_of_training_alone():
    model, x = fitted(deen.DEEN, "dropout"), points("dropout")
    np.testing.assert_array_equal(model.energy(x), model.energy(x))
    trained = [model(tf.constant(x), training=True).numpy() for _ in range(2)]
    assert np.abs(trained[0] - trained[1]).max() > 1e-3
    losses = [model.evaluate(x, verbose=0) for _ in range(2)]
    assert losses[0] == losses[1]


# ---- the package's own ------------------------------------------------------------------


def test_a_mixture_is_a_deen_with_an_average_of_networks():
    old = deen.MixtureOfDEENs((6, 5), sigma=0.6, seed=2, networks=2)
    members = [networks.MLP((6, 5), seed=s) for s in (2, 2 + 1_000_003)]
    new = deen.DEEN(network=networks.Average(members), sigma=0.6, seed=2)
    x = points("mlp", 50)
    for model in (old, new):
        model.adapt(x)
    np.testing.assert_array_equal(old.score(x), new.score(x))


def test_a_field_is_a_deen_with_a_field():
    old = deen.FieldOfExperts((5, 4), sigma=0.6, seed=2, size=4, stride=4)
    field = networks.FieldOfExperts((5, 4), size=4, stride=4, seed=2)
    new = deen.DEEN(network=field, sigma=0.6, seed=2)
    x = points("field", 50)
    old.adapt(x.reshape(50, 64))
    new.adapt(x)
    rng = np.random.default_rng(0)
    for v, w in zip(old.trainable_variables, new.trainable_variables, strict=True):
        if "last" in v.path:  # it starts at zero
            v.assign(rng.normal(size=v.shape))
            w.assign(v)
    score = new.score(x)
    np.testing.assert_allclose(old.score(x.reshape(50, 64)), score.reshape(50, 64))


def test_a_network_beside_a_gaussian_starts_at_the_wiener_filter():
    """Exactly, whatever the network; and the Gaussian part follows sigma."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3)) + 5
    model = deen.DEEN(network=networks.WithGaussian(mlp()), sigma=0.6)
    model.adapt(x)
    wiener = deen.baselines.Wiener(x)
    for sigma in (0.6, 0.1, 3.0):
        model.sigma = sigma
        np.testing.assert_allclose(
            model.score(x), wiener.score(x, sigma), rtol=1e-6, atol=1e-9
        )
        np.testing.assert_allclose(
            model.denoise(x), wiener.denoise(x, sigma), rtol=1e-6, atol=1e-9
        )


# ---- the rank bound: of networks whose first layer is a matrix ---------------------------


@pytest.mark.parametrize(
    "network, rank",
    [
        (networks.MLP((4, 9)), 4),
        (networks.Average([networks.MLP((2, 9)), networks.MLP((3, 9), seed=1)]), 5),
        (
            keras.Sequential(
                [
                    layers.Dense(4, "tanh", dtype="float64"),
                    layers.Dense(1, dtype="float64"),
                ]
            ),
            4,
        ),
        (
            keras.Sequential(
                [
                    keras.Input((10,)),
                    layers.Dense(4, "relu", dtype="float64"),
                    layers.LayerNormalization(dtype="float64"),
                    layers.Dense(20, "tanh", dtype="float64"),
                    layers.Dense(1, dtype="float64"),
                ]
            ),
            4,
        ),
        (networks.MLP((30,)), 10),
    ],
)
def test_scores_lie_in_the_row_space_and_the_loss_above_the_bound(network, rank):
    model = deen.DEEN(network=network, sigma=0.5)
    model.build((None, 10))
    assert model.loss_bound() == pytest.approx(0.25 * (10 - rank))
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(rng.normal(size=v.shape))
    x = rng.normal(size=(200, 10))
    # Singular values: float32 networks know theirs to 1e-6 of the largest.
    values = np.linalg.svd(model.score(x), compute_uv=False)
    assert (values > 1e-4 * values[0]).sum() == rank


@pytest.mark.parametrize("name", ("convolutional", "attention", "with Gaussian"))
def test_there_is_no_bound_where_there_is_none(name):
    with pytest.raises(ValueError, match="there is no rank bound"):
        fitted(deen.DEEN, name).loss_bound()


def test_a_dense_layer_shared_by_places_is_no_bound():
    shared = keras.Sequential([layers.Dense(1, "tanh"), layers.Dense(1)])
    model = deen.DEEN(network=shared, sigma=0.5)
    model.build((None, 5, 2))
    with pytest.raises(ValueError, match="there is no rank bound"):
        model.loss_bound()


# ---- mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"network": 3}, TypeError, "must be a Keras model or layer, got 3"),
        ({"network": lambda x: x}, TypeError, "must be a Keras model or layer"),
        ({"network": layers.Dense}, TypeError, "must be a Keras model or layer"),
        (
            {"network": networks.MLP((3,)), "hidden_units": (3,)},
            ValueError,
            "hidden_units or a network, not both",
        ),
    ],
)
def test_bad_networks_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        deen.DEEN(**arguments)


@keras.saving.register_keras_serializable(package="tests")
class OneForAll(layers.Layer):
    def call(self, x):
        return tf.reduce_sum(x)


def test_a_network_that_answers_once_for_all_points_is_refused():
    with pytest.raises(ValueError, match=r"experts for each point.*got shape \(\)"):
        deen.DEEN(network=OneForAll()).build((None, 3))


@keras.saving.register_keras_serializable(package="tests")
class Of(layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function, error, message",
    [
        (tf.round, ValueError, "no gradient with respect to the points"),
        (tf.stop_gradient, ValueError, "no gradient with respect to the points"),
        (lambda x: (x, x), TypeError, "one output, got 2"),
        (lambda x: {"a": x}, TypeError, "one output, got 1"),
        (
            lambda x: tf.reduce_mean(x, 0, keepdims=True),
            ValueError,
            r"experts for each point.*got shape \(1, 3\) for two points",
        ),
    ],
)
def test_networks_that_make_no_energy(function, error, message):
    model = deen.DEEN(network=Of(function), sigma=0.3)
    with pytest.raises(error, match=message):
        model.score(np.ones((4, 3)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: networks.Average([]), "at least one network"),
        (lambda: networks.MLP(()), "at least one hidden layer"),
        (lambda: networks.FieldOfExperts(stride=9), "stride must be at most size"),
    ],
)
def test_networks_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_network_that_mixes_the_batch_is_refused():
    """Less their mean over the batch: alone every point has the energy of 0."""

    class Centred(layers.Layer):
        def call(self, x):
            return x - keras.ops.mean(x, axis=0, keepdims=True)

    stack = [layers.Dense(4, activation="tanh"), Centred()]
    model = deen.DEEN(network=keras.Sequential(stack), sigma=0.3)
    with pytest.raises(ValueError, match="mixes the points of a batch"):
        model.adapt(np.random.default_rng(0).normal(size=(50, 2)))
