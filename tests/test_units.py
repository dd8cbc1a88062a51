"""What is learned from a x + b at noise level a sigma is what is learned from x at sigma."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.metrics import relative_score_error
from deen_tf.training import noise

pytestmark = [
    pytest.mark.filterwarnings("ignore:training ends with a loss"),
    pytest.mark.usefixtures("plain_graphs"),
]
SIGMA = 0.4
# For each class: settings in units of the data, a function of the scale a.
MODELS = [
    (deen.DEEN, lambda a: {}),
    (deen.DSM, lambda a: {}),
    (deen.DenoisingAutoencoder, lambda a: {}),
    (deen.ScoreMatching, lambda a: {}),
    (deen.ScoreMatching, lambda a: {"smooth": False}),
    (deen.RegularizedScoreMatching, lambda a: {}),
    (deen.RegularizedScoreMatching, lambda a: {"regularization": 0.3 * a**2}),
    (deen.ContrastiveDivergence, lambda a: {}),
    (deen.ContrastiveDivergence, lambda a: {"step": 0.2 * a, "smooth": True}),
    (deen.SteinContrastiveDivergence, lambda a: {}),
    (
        deen.SteinContrastiveDivergence,
        lambda a: {"step": 0.1 * a**2, "bandwidth": 0.7 * a},
    ),
    (deen.NoiseContrastive, lambda a: {"noise": "gaussian"}),
    (deen.NoiseContrastive, lambda a: {"noise": "uniform"}),
    (deen.NoiseContrastive, lambda a: {"noise": "smoothed"}),
    (deen.MixtureOfDEENs, lambda a: {"networks": 2}),
]
IDS = [f"{cls.__name__} {sorted(settings(1))}" for cls, settings in MODELS]


def points(n=64, seed=0):
    """Correlated points, off centre, none of whose moments are those of another axis."""
    z = np.random.default_rng(seed).normal(size=(n, 2))
    return (z + 0.3 * z**2) @ [[1.0, 0.5], [0.0, 0.6]] + [0.7, -1.2]


def fitted(cls, x, sigma=SIGMA, dtype="float64", **settings):
    """Two steps on all points, without a program: tracing one would take longer."""
    model = cls((6, 5), sigma=sigma, seed=3, dtype=dtype, **settings)
    model.compile(keras.optimizers.Adam(1e-2))
    model.adapt(x)
    model.optimizer.build(model.trainable_variables)
    x = tf.convert_to_tensor(x, dtype)
    model.step_losses = np.array([float(model.descend(x)) for _ in range(2)])
    return model


@functools.cache
def in_units_of_one(index, dtype):
    cls, settings = MODELS[index]
    return fitted(cls, points().astype(dtype), dtype=dtype, **settings(1.0))


def network_weights(model):
    return [w.numpy() for w in model.network.weights]


def centred(energy):
    return energy - energy.mean()


@pytest.mark.parametrize("a", (2.0**-30, 2.0**30))
@pytest.mark.parametrize("index", range(len(MODELS)), ids=IDS)
def test_scales_that_are_powers_of_two_change_no_bit(index, a):
    """Nothing is rounded otherwise in float32, but where a logarithm is taken (of NCE)."""
    cls, settings = MODELS[index]
    x = points().astype("float32")
    one = in_units_of_one(index, "float32")
    other = fitted(cls, np.float32(a) * x, a * SIGMA, dtype="float32", **settings(a))
    exact = cls is not deen.NoiseContrastive
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-2, "atol": 1e-3}
    for v, w in zip(network_weights(one), network_weights(other), strict=True):
        np.testing.assert_allclose(v, w, **tolerance)
    np.testing.assert_array_equal(a * one.center.numpy(), other.center.numpy())
    assert a * float(one.scale.numpy()) == float(other.scale.numpy())
    np.testing.assert_allclose(
        other.step_losses / a**one.power, one.step_losses, rtol=1e-6 if exact else 1e-3
    )
    if exact:
        np.testing.assert_array_equal(one.score(x), a * other.score(np.float32(a) * x))


@pytest.mark.parametrize("a, b", [(1.0, 1e4), (1e-9, 1e-5)])
@pytest.mark.parametrize("index", range(len(MODELS)), ids=IDS)
def test_other_units_give_the_same_model(index, a, b):
    """In float64, whose digits leave 1e-12 of the differences at 1e4 deviations.

    Adam divides tiny gradients by their own size: its steps blow that up, to 1e-7.
    """
    cls, settings = MODELS[index]
    x, at = points(), points(20, seed=1)
    one = in_units_of_one(index, "float64")
    other = fitted(cls, a * x + b, a * SIGMA, **settings(a))
    moved = a * at + b
    score = one.score(at)
    scale = np.sqrt(np.mean(score**2))
    np.testing.assert_allclose(a * other.score(moved), score, atol=1e-5 * scale)
    np.testing.assert_allclose(
        (other.denoise(moved) - b) / a, one.denoise(at), atol=1e-5
    )
    if isinstance(one, deen.EnergyModel):
        energy = centred(one.energy(at))
        np.testing.assert_allclose(
            centred(other.energy(moved)), energy, atol=1e-5 * energy.std()
        )
    if cls is deen.NoiseContrastive:  # densities: per volume
        np.testing.assert_allclose(
            other.log_density(moved) + 2 * np.log(a), one.log_density(at), atol=1e-4
        )


def test_a_fit_takes_units_as_adapt_does():
    x, at = points(), points(20, seed=1)
    models = []
    for a, b in ((1.0, 0.0), (1e-9, 1e-5)):
        model = deen.DEEN((6, 5), sigma=a * SIGMA, seed=3, dtype="float64")
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        model.fit(a * x + b, batch_size=16, epochs=2, verbose=0)
        models.append((model, a * model.score(a * at + b)))
    np.testing.assert_allclose(models[0][1], models[1][1], rtol=1e-5, atol=1e-6)
    losses = [m.history.history["loss"] for m, _ in models]
    np.testing.assert_allclose(losses[0], np.array(losses[1]) * 1e18, rtol=1e-6)


@pytest.mark.parametrize("cls", (deen.DEEN, deen.DSM))
def test_float32_as_far_as_its_digits_go(cls):
    """At 1e4 deviations x is known to 5e-4: of the data, and so of the model, some 1e-3."""
    x, at = points(), points(20, seed=1)
    one = fitted(cls, x, dtype="float32")
    other = fitted(cls, x + 1e4, dtype="float32")
    assert relative_score_error(other.score(at + 1e4), one.score(at)) < 1e-3


@pytest.mark.parametrize(
    "dtype, a, b",
    [
        ("float64", [1e-9, 1e9], [3e-6, -2e12]),
        ("float64", [1e5, 1e-2], [0.0, 1.0]),
        ("float32", [1e-4, 1e3], [0.0, 0.0]),
    ],
)
@pytest.mark.parametrize(
    "cls",
    (
        deen.DEEN,
        deen.DSM,
        deen.DenoisingAutoencoder,
        deen.ScoreMatching,
        deen.ContrastiveDivergence,
        deen.SteinContrastiveDivergence,
        deen.NoiseContrastive,
    ),
)
def test_each_coordinate_has_units_of_its_own(cls, dtype, a, b):
    """With a noise level for each; and what one reports is in the mean of their squares."""
    x, at, a = points(), points(20, seed=1), np.array(a)
    index = [c for c, _ in MODELS].index(cls)  # its first settings are the default ones
    one = in_units_of_one(index, dtype)
    other = fitted(cls, a * x + b, a * SIGMA, dtype=dtype)
    np.testing.assert_allclose(other.sigma, a * SIGMA, rtol=1e-6)
    moved, score = a * at + b, one.score(at)
    bound = (1e-5 if dtype == "float64" else 5e-3) * np.sqrt(np.mean(score**2))
    np.testing.assert_allclose(a * other.score(moved), score, atol=bound)
    x_hat = moved + (a * SIGMA) ** 2 * other.score(moved)  # Eq. 11, each by its own
    np.testing.assert_allclose(
        (other.denoise(moved) - x_hat) / a, 0, atol=1e-9 if dtype == "float64" else 1e-3
    )
    reported = [m.step_losses[-1] for m in (one, other)]
    level = np.mean((a * SIGMA) ** 2) / SIGMA**2
    assert reported[1] / level ** (one.power / 2) == pytest.approx(
        reported[0], rel=1e-3
    )


def test_a_level_for_each_coordinate_all_equal_is_one_level():
    x, at = points(), points(20, seed=1)
    one = fitted(deen.DEEN, x)
    other = fitted(deen.DEEN, x, np.full(2, SIGMA))
    np.testing.assert_allclose(other.score(at), one.score(at), rtol=1e-9)


def test_an_anisotropic_gaussian_in_closed_form():
    """Data N(0, diag(v)), noise of variances sigma_i^2: the score is -x_i / (v_i + sigma_i^2)."""
    v, sigma = np.array([4.0, 0.25]), np.array([2.0, 0.5])
    x = np.random.default_rng(0).normal(size=(20_000, 2)) * np.sqrt(v)
    model = deen.DEEN((24, 24), sigma=sigma, seed=0)
    model.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
    model.fit(x, batch_size=1000, epochs=15, verbose=0)
    at = np.random.default_rng(1).normal(size=(4000, 2)) * np.sqrt(v + sigma**2)
    psi = -at / (v + sigma**2)
    # In units of the kernel, as it is learned; a few thousandths measured.
    assert relative_score_error(sigma * model.score(at), sigma * psi) < 0.02
    np.testing.assert_allclose(model.denoise(at), at + sigma**2 * model.score(at), 1e-4)


def test_images_are_centred_by_channel_and_keep_one_scale():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4, 5, 2)) * 3 + [10.0, -20.0]
    network = keras.Sequential([keras.layers.Conv2D(2, 3, dtype="float64")])
    model = deen.DEEN(network=network, sigma=0.5, dtype="float64")
    model.adapt(x)
    np.testing.assert_allclose(model.center, x.mean((0, 1, 2)), rtol=1e-12)
    variance = np.mean((x - x.mean((0, 1, 2))) ** 2)
    assert float(model.scale) == pytest.approx(np.sqrt(variance + 0.25), rel=1e-12)


def test_to_the_network_and_back():
    model = fitted(deen.DEEN, points(), np.array([0.2, 0.7]))
    x = tf.constant(points(9, seed=1))
    z = model.to_network(x)
    np.testing.assert_allclose(model.from_network(z), x, rtol=1e-12)
    # Noisy data have mean square 1 in there, and the noise one level.
    xi = points(50_000, seed=2) + [0.2, 0.7] * np.random.default_rng(3).normal(
        size=(50_000, 2)
    )
    z = model.to_network(tf.constant(xi)).numpy()
    assert np.mean(z**2) == pytest.approx(1, rel=0.3)  # known from 64 points


# ---- gross outliers -----------------------------------------------------------------------


def test_a_sentinel_is_named_and_harms_nothing():
    """Of 4,000 rows one: the score error is that without it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)) @ [[1.0, 0.5], [0.0, 0.6]]
    at = rng.normal(size=(2000, 2)) @ [[1.0, 0.5], [0.0, 0.6]]
    at += SIGMA * rng.normal(size=at.shape)
    covariance = np.cov(x.T) + SIGMA**2 * np.eye(2)
    true = -at @ np.linalg.inv(covariance)
    errors = []
    for sentinel in (None, -9999.0, 1e6):
        data = x.copy()
        if sentinel:
            data[1234] = sentinel
        model = deen.DEEN((16, 16), sigma=SIGMA, seed=0)
        model.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
        if sentinel:
            with pytest.warns(UserWarning, match=r"1 of 4000 rows lies.*row 1234"):
                model.adapt(data.astype("float64"))
        else:
            model.adapt(data)
        model.fit(data, batch_size=500, epochs=40, verbose=0)
        errors.append(relative_score_error(model.score(at), true))
    assert errors[0] < 0.02
    assert max(errors[1:]) < errors[0] + 0.01


# ---- sigma, and all that is fixed -----------------------------------------------------------


CHANGING = [
    (deen.DEEN, {}),
    (deen.DSM, {}),
    (deen.DenoisingAutoencoder, {}),
    (deen.ScoreMatching, {}),
    (deen.RegularizedScoreMatching, {}),
    (deen.ContrastiveDivergence, {}),
    (deen.SteinContrastiveDivergence, {}),
    (deen.NoiseContrastive, {}),
    (deen.MixtureOfDEENs, {}),
    (deen.FieldOfExperts, {"size": 1, "stride": 1, "shape": (1, 2)}),
]


@pytest.mark.parametrize(
    "cls, settings", CHANGING, ids=[cls.__name__ for cls, _ in CHANGING]
)
def test_a_changed_sigma_takes_effect_at_once(cls, settings, tmp_path):
    """In programs that exist already: as in a model that never had another.

    That one makes no programs of its own: its steps are eager.
    """
    x = points(32).astype("float32")
    model = cls((6, 5), sigma=SIGMA, seed=3, **settings)
    # A program of one step and epoch, used again.
    model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    model.fit(x, batch_size=32, verbose=0)
    model.evaluate(x, verbose=0), model.denoise(x)
    model.sigma = 0.9
    fresh = cls((6, 5), sigma=0.9, seed=3, **settings)
    fresh.see_shape(x.shape)
    for v, w in zip(fresh.weights, model.weights, strict=True):
        v.assign(w)
    fresh.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.optimizer.iterations.assign(model.optimizer.iterations)
    assert fresh.sigma == model.sigma == 0.9
    np.testing.assert_allclose(model.denoise(x), fresh.denoise(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        model.denoise(x), x + 0.81 * model.score(x), rtol=1e-4, atol=1e-5
    )
    old = model.evaluate(x, verbose=0)
    assert old == pytest.approx(fresh.evaluate(x, verbose=0), rel=1e-6)
    for m in (model, fresh):
        m.fit(x, batch_size=32, verbose=0)
    for v, w in zip(fresh.weights, model.weights, strict=True):
        np.testing.assert_allclose(v, w, rtol=1e-6, atol=1e-7)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").sigma == 0.9


@pytest.mark.parametrize(
    "cls, settings", CHANGING, ids=[cls.__name__ for cls, _ in CHANGING]
)
def test_every_other_setting_is_fixed(cls, settings):
    model = cls((6, 5), sigma=SIGMA, seed=3, **settings)
    for name in model.settings:
        before = getattr(model, name)
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(model, name, 7)
        assert getattr(model, name) is before
    model.build((None, 2))
    fixed = ["network"] + ["noise"] * (cls is deen.NoiseContrastive)
    for name in fixed:
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(model, name, getattr(model, name))


def test_sigma_of_each_coordinate_changes_in_proportion_alone():
    model = deen.DEEN((6,), sigma=[0.2, 0.4])
    model.build((None, 2))
    model.sigma = [0.3, 0.6]
    np.testing.assert_allclose(model.sigma, [0.3, 0.6], rtol=1e-6)
    for sigma in ([0.3, 0.5], 0.3):
        with pytest.raises(ValueError, match="in proportion"):
            model.sigma = sigma
    with pytest.raises(ValueError, match="in proportion"):
        other = deen.DEEN((6,), sigma=0.3)
        other.build((None, 2))
        other.sigma = [0.3, 0.6]
    with pytest.raises(
        ValueError, match=r"points of shape \(2,\), got points of shape \(3,\)"
    ):
        deen.DEEN((6,), sigma=[0.2, 0.4]).build((None, 3))


def test_sigma_may_be_any_real_number():
    for sigma in (np.array(0.1), np.float32(0.1), np.float64(0.1), 0.1):
        model = deen.DEEN(sigma=sigma)
        assert isinstance(model.sigma, float)
        assert model.sigma == pytest.approx(0.1, rel=1e-7)
    assert deen.DEEN(sigma=1).sigma == 1.0


@pytest.mark.parametrize(
    "sigma, error, message",
    [
        (10**400, ValueError, "sigma must be positive and finite, got inf"),
        (-(10**400), ValueError, "sigma must be positive and finite"),
        (1e-30, ValueError, "sigma must lie between .* got 1e-30"),
        (1e30, ValueError, "sigma must lie between .* got 1e.30"),
        ([0.1, 0.0], ValueError, "sigma must be positive and finite, got 0.0"),
        ([0.1, np.nan], ValueError, "sigma must be finite"),
        ([0.1, "a"], TypeError, "must hold real numbers"),
        (True, TypeError, "sigma must be a real number, got True"),
        (None, TypeError, "sigma must be a real number, got None"),
        (
            (0.4, 0.1),
            ValueError,
            r"sigma must be \(low, high\) with low < high, got \(0.4, 0.1\)",
        ),
    ],
)
def test_bad_levels_are_named(sigma, error, message):
    with pytest.raises(error, match=message):
        deen.DEEN(sigma=sigma)


def test_a_model_of_one_level_takes_none():
    model = deen.DEEN((4,))
    with pytest.raises(ValueError, match="one noise level, model.sigma"):
        model.score(points(5), sigma=0.2)


def test_the_level_of_a_step_is_in_no_key():
    """The same noise at every sigma: curves at several levels differ by sigma alone."""
    x = points(32)
    model = deen.DSM((6,), sigma=SIGMA, dtype="float64")
    model.adapt(x)
    for w in model.trainable_variables:
        w.assign(np.zeros(w.shape))
    for sigma in (SIGMA, 3 * SIGMA):
        model.sigma = sigma
        nu = noise.standard_normal((32, 2), noise.key(0, 4), "float64").numpy()
        reported = model.losses(x, 4, noise.TRAINING)[1]  # psi = 0: |sigma nu|^2
        assert float(reported) == pytest.approx(
            sigma**2 * np.square(nu).sum(1).mean(), rel=1e-9
        )
