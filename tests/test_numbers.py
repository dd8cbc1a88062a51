"""Numbers that do not overflow: extreme distances, scales, dimensions and precisions.

The oracle is NumPy in float64, with the very weights of the model.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.checks import check_resolution
from deen_tf.laws.parzen import Parzen, select_sigma
from deen_tf.laws.plane import Checkerboard, GaussianMixture, Moons, Rings, Spiral
from deen_tf.training.replicas import tensor_of

ENERGIES = (
    deen.DEEN,
    deen.ContrastiveDivergence,
    deen.ScoreMatching,
    deen.RegularizedScoreMatching,
    deen.SteinContrastiveDivergence,
    deen.NoiseContrastive,
    deen.MixtureOfDEENs,
    deen.FieldOfExperts,
)
MODELS = (*ENERGIES, deen.DSM, deen.DenoisingAutoencoder)
# One unit in the last place, relative: 2^-8 for the 8 bits of bfloat16.
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "mixed_bfloat16": 2.0**-8}


def model_of(cls, dtype, d=16, sigma=0.3):
    more = {"size": 2} if cls is deen.FieldOfExperts else {}
    model = cls((6, 5), sigma=sigma, seed=1, dtype=dtype, **more)
    model.build((None, d))
    return model


def like(model, cls, dtype, d):
    """The same weights in another precision."""
    twin = model_of(cls, dtype, d, model.sigma)
    for a, b in zip(twin.weights, model.weights, strict=True):
        a.assign(tf.cast(b.value, a.dtype))
    return twin


def oracle(model, x):
    """Return E and psi in float64, by the chain rule."""
    x, hidden = np.asarray(x, "float64"), []
    for layer in model.hidden:
        w, b = (np.asarray(v, "float64") for v in (layer.kernel, layer.bias))
        x = np.tanh(x @ w + b)
        hidden.append(x)
    w = np.asarray(model.last.kernel, "float64")
    g = np.repeat(w.T, len(x), axis=0)
    for layer, h in zip(reversed(model.hidden), reversed(hidden), strict=True):
        g = (g * (1 - h**2)) @ np.asarray(layer.kernel, "float64").T
    return (x @ w)[:, 0], -g


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(size=(40, 16)).astype("float32")


class TestFarAway:
    @pytest.mark.parametrize("dtype", ROUNDING)
    @pytest.mark.parametrize("distance", (1e3, 1e9, 1e14))  # in sigma: 1e4, 1e10, 1e15
    def test_energy_and_score_far_from_the_data(self, dtype, distance, points):
        sigma = 0.1
        model = model_of(deen.DEEN, dtype, sigma=sigma)
        # The first unit looks at that distance; the others, with biases beyond it, are
        # saturated at all points.
        kernel, bias = model.hidden[0].kernel, model.hidden[0].bias
        kernel.assign(kernel * np.where(np.arange(6) == 0, 1 / distance, 1.0))
        bias.assign(np.where(np.arange(6) == 0, 0.1, 20 * distance))
        x = tf.cast(distance * points, model.compute_dtype)
        energy, score = oracle(model, tf.cast(x, tf.float64))
        # Sums of 16 terms of order 1, through two layers.
        tolerance = 16 * ROUNDING[dtype]
        ours = np.asarray(model.energy(x), "float64")
        np.testing.assert_allclose(ours, energy, atol=tolerance)
        # The score is of order 1 / distance, and what saturated units add exactly 0.
        ours, scale = np.asarray(model.score(x), "float64"), abs(score).max()
        assert np.isfinite(ours).all() and scale > 0
        np.testing.assert_allclose(ours, score, atol=tolerance * scale)

    @pytest.mark.parametrize("dtype", ("float32", "float64"))
    def test_beyond_what_squares_can_hold_is_refused(self, dtype):
        model = model_of(deen.DEEN, dtype, d=2)
        largest = {"float32": 1e15, "float64": 1e145}[dtype]
        message = re.escape(f"must lie within {largest:g} of 0")
        assert np.isfinite(model.energy([[largest * 0.99, 0]])).all()
        with pytest.raises(ValueError, match=message):
            model.energy([[0, -1.1 * largest]])

    @pytest.mark.parametrize("cls", MODELS)
    def test_every_model_is_finite_far_from_the_data(self, cls, points):
        model = model_of(cls, "float32")
        x = tf.constant(3e3 * points)
        for method in ("energy", "score", "denoise", "experts"):
            if hasattr(model, method):
                # Eager, without a trace for each.
                answer = (
                    getattr(cls, method)
                    .tensor_function(model, x, model.level(x))
                    .numpy()
                )
                assert np.isfinite(answer).all()


class TestScales:
    @pytest.mark.parametrize("sigma", (1e-3, 1.0, 1e3))
    @pytest.mark.parametrize("scale", (1e-3, 1.0, 1e3))
    def test_objective_is_eq_19_and_its_gradient_is_right(self, sigma, scale, points):
        model = model_of(deen.DEEN, "float32", sigma=sigma)
        kernel = model.hidden[0].kernel
        kernel.assign(kernel / np.hypot(sigma, scale))  # units that are not saturated
        x = np.float32(scale) * points
        nu = np.random.default_rng(1).normal(size=x.shape).astype("float32")

        def eq_19(model, x, nu):
            x, nu = tf.constant(x), tf.constant(nu)
            return sigma**2 * model.objective(x, nu, tf.constant(sigma, x.dtype))

        def gradients(model, x, nu):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(eq_19(model, x, nu))
            return tape.gradient(loss, model.trainable_variables)

        # xi = x + sigma nu is rounded to float32, an error of |x| 2^-24 in the noise.
        rounding = ROUNDING["float32"] * np.abs(x).max() / sigma
        wanted = sigma * nu.astype("float64")
        _, psi = oracle(model, x + wanted)
        wanted = ((wanted + sigma**2 * psi) ** 2).sum(1)
        tolerance = 1e-5 + 2 * rounding
        np.testing.assert_allclose(eq_19(model, x, nu), wanted, tolerance)
        twin = like(model, deen.DEEN, "float64", 16)
        exact = gradients(twin, *(tf.cast(v, tf.float64) for v in (x, nu)))
        ours = gradients(model, tf.constant(x), tf.constant(nu))
        for gradient, g in zip(ours, exact, strict=True):
            scale = np.abs(g).max()
            np.testing.assert_allclose(gradient, g, atol=10 * tolerance * scale)

    @pytest.mark.parametrize("sigma", (1e-3, 1e3))
    @pytest.mark.parametrize("scale", (1e-3, 1e3))
    def test_a_fit_of_data_of_another_scale_stays_finite(self, sigma, scale, points):
        x = scale * points[:, :2]
        model = deen.DEEN((8, 4), sigma=sigma)
        model.compile(run_eagerly=True)
        (loss,) = model.fit(x, batch_size=20, verbose=0).history["loss"]
        # It starts at the Wiener filter, which is no worse than doing nothing; the noise
        # of 40 points is known to sqrt(1 / 40).
        assert 0 <= loss < 2 * 2 * sigma**2
        x_hat = model.denoise(x)
        assert np.isfinite(x_hat).all() and np.isfinite(model.energy(x)).all()
        assert abs(x_hat - x).max() < 10 * max(sigma, scale)

    @pytest.mark.parametrize("d", (1, 2, 784, 3072))
    def test_dimensions(self, d):
        x = np.random.default_rng(2).normal(size=(6, d))
        model = deen.DEEN((8, 4), sigma=0.5)
        if d == 3072:  # whose covariance takes its time
            model.build((None, d))
        model.compile(run_eagerly=True)
        model.fit(x, batch_size=3, verbose=0)
        s = float(model.scale.numpy())
        energy, score = oracle(model, (x - model.center.numpy()) / s)
        score = score / s
        np.testing.assert_allclose(model.energy(x), energy, rtol=1e-4, atol=1e-4)
        scale = np.abs(score).max()
        np.testing.assert_allclose(model.score(x), score, atol=1e-4 * scale)
        np.testing.assert_allclose(
            model.denoise(x), x + 0.25 * score, rtol=1e-5, atol=1e-4 * scale
        )


def test_noise_lost_in_rounding_is_noticed():
    x = np.full((3, 2), 1000.0, "float32")  # its last place is 2^-14 = 6.1e-5
    check_resolution(x, 7e-5)
    with pytest.raises(
        ValueError, match="sigma = 5e-05 is lost in .*6.1e-05 in float32"
    ):
        check_resolution(x, 5e-5)
    check_resolution(x.astype("float64"), 5e-5)
    check_resolution(np.zeros((3, 2)), 1e-100)
    half = tf.cast(x / 1000, tf.bfloat16).numpy()  # 1, with 8 bits
    check_resolution(half, 2.0**-7)
    with pytest.raises(ValueError, match="0.0078 in bfloat16"):
        check_resolution(half, 2.0**-7.1)


class TestPrecisions:
    @pytest.mark.parametrize(
        "cls, dtype",
        [(cls, "mixed_bfloat16") for cls in MODELS if cls is not deen.NoiseContrastive]
        # which refuses it; in float64 the other tests of this package use all models.
        + [(deen.NoiseContrastive, "float64"), (deen.DEEN, "float64")],
    )
    def test_every_model_answers_and_learns(self, cls, dtype, points):
        model = model_of(cls, dtype)
        if cls is deen.NoiseContrastive:
            model.adapt(points)
        exact = like(model, cls, "float64", 16)
        x = tf.cast(points, model.variable_dtype)
        for method in ("energy", "score", "denoise", "experts"):
            if not hasattr(model, method):
                continue
            function = getattr(cls, method).tensor_function
            answer = function(model, x, model.level(x))
            assert answer.dtype == model.variable_dtype
            x64 = tf.cast(x, tf.float64)
            wanted = function(exact, x64, exact.level(x64)).numpy()
            # Sums over 16 numbers and three layers; the score of an autoencoder is a
            # difference of points over sigma^2.
            atol = 16 * ROUNDING[dtype] * np.abs(wanted).max()
            np.testing.assert_allclose(np.asarray(answer, "float64"), wanted, atol=atol)
        before = [v.numpy() for v in model.trainable_variables]
        model.compile(run_eagerly=True)
        history = model.fit(points, batch_size=20, verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        moved = [
            abs(v.numpy() - b).max()
            for v, b in zip(model.trainable_variables, before, strict=True)
        ]
        assert np.isfinite(moved).all() and sum(m > 0 for m in moved) >= 5

    @pytest.mark.parametrize("dtype", ("float64", "mixed_bfloat16"))
    def test_compiled_saved_and_exported(self, dtype, points, tmp_path):
        x = points[:, :3]
        model = deen.DEEN((5, 4), sigma=0.3, dtype=dtype)
        model.compile(jit_compile=False)
        model.fit(x, batch_size=16, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.dtype_policy.name == dtype
        assert {w.dtype for w in loaded.trainable_variables} == {model.variable_dtype}
        np.testing.assert_array_equal(loaded.score(x), model.score(x))
        model.export(tmp_path / "model")
        exported = tf.saved_model.load(tmp_path / "model")
        for name in model.signatures:
            signature = exported.signatures[name]
            (spec,) = signature.structured_input_signature[1].values()
            answer = signature(x=tf.cast(x, spec.dtype))[name]
            np.testing.assert_allclose(
                np.asarray(answer, "float64"),
                np.asarray(getattr(model, name)(x), "float64"),
                rtol=4 * ROUNDING[dtype],
                atol=4 * ROUNDING[dtype],
            )

    @pytest.mark.parametrize("policy", ("float64", "mixed_bfloat16"))
    def test_the_global_policy_counts_too(self, policy, points):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model, mixture = deen.DEEN((4,)), deen.MixtureOfDEENs((4,))
        finally:
            keras.config.set_dtype_policy(before)
        for m in (model, mixture):
            m.build((None, 2))
            assert m.dtype_policy.name == policy
            x = tf.cast(points[:, :2], m.variable_dtype)
            energy = type(m).energy.tensor_function(m, x, m.level(x))
            assert energy.dtype == m.variable_dtype
            assert m.network.compute_dtype == m.compute_dtype

    def test_floatx_alone_counts_too(self, points):
        before = keras.config.dtype_policy()
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            model = deen.DEEN((4,))
            model.compile(run_eagerly=True)
            model.fit(points, batch_size=20, verbose=0)
            assert {v.dtype for v in model.trainable_variables} == {"float64"}
            z = (points - model.center.numpy()) / model.scale.numpy()
            energy, _ = oracle(model, z)
            np.testing.assert_allclose(model.energy(points), energy, rtol=1e-12)
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy(before)

    def test_float64_sees_noise_that_float32_loses(self, points):
        """Points at 1e6, sigma = 1e-3: in float32 xi = x + sigma nu is x."""
        x, nu = 1e6 + points.astype("float64"), np.ones(points.shape)
        losses = [
            1e-6
            * float(
                tf.reduce_mean(
                    model.objective(*(tf.cast(v, dtype) for v in (x, nu, 1e-3)))
                )
            )
            for dtype in ("float32", "float64")
            for model in [model_of(deen.DEEN, dtype, sigma=1e-3)]
        ]
        assert losses[0] < 1e-9
        assert losses[1] == pytest.approx(16 * 1e-6, rel=0.01)


class TestTensorOf:
    @pytest.mark.parametrize("dtype", ("float16", "float32", "float64", "bfloat16"))
    @pytest.mark.parametrize("n", (1, 7))
    def test_a_copy_of_the_numbers(self, dtype, n):
        x = np.arange(3.0 * n).reshape(n, 3)
        x = tf.cast(x, dtype).numpy()
        tensor = tensor_of(x)
        assert tensor.dtype.name == dtype and tensor.shape == (n, 3)
        np.testing.assert_array_equal(tensor.numpy(), x)
        x[:] = 0
        assert tensor.numpy().max() == 3 * n - 1

    def test_of_any_layout(self):
        x = np.arange(24.0).reshape(4, 6)
        frozen = x.copy()
        frozen.flags.writeable = False
        for given in (x[::-2], x[:, 1::3], x.T, frozen, np.broadcast_to(x[0], (3, 6))):
            np.testing.assert_array_equal(tensor_of(given).numpy(), given)


class TestParzen:
    @pytest.mark.parametrize("sigma", (1e-100, 1e-3, 1.0, 1e3, 1e100))
    @pytest.mark.parametrize("distance", (0.0, 1e4, 1e30))
    def test_at_extreme_distances_and_bandwidths(self, sigma, distance):
        """A far point sees the nearest centre in that direction alone, or all as one."""
        x = np.random.default_rng(3).normal(size=(30, 2))
        point = np.array([[distance + 0.1, 0.2]])
        # -|point - x|^2 / 2 without the |point|^2 in which x would drown.
        a = x @ point[0] - (x**2).sum(1) / 2
        weights = np.exp((a - a.max()) / sigma**2)
        nearest = ((point**2).sum() / 2 - a.max()) / sigma**2
        constant = np.log(30) + np.log(2 * np.pi) + 2 * np.log(sigma)
        energy = nearest - np.log(weights.sum()) + constant
        mean = (weights[:, None] * (x - point)).sum(0) / weights.sum()
        density = Parzen(x, sigma)
        np.testing.assert_allclose(density.energy(point), energy, rtol=1e-5)
        np.testing.assert_allclose(
            density.score(point)[0], mean / sigma**2, rtol=1e-5, atol=1e-5 / sigma**2
        )

    def test_what_cannot_be_told_is_refused(self):
        x = np.random.default_rng(3).normal(size=(30, 2))
        with pytest.raises(ValueError, match="a point lies too far from the centres"):
            Parzen(x, 1.0).energy([[1e40, 0]])
        with pytest.raises(
            ValueError, match="score at sigma = 1e-15 overflows float32"
        ):
            Parzen(x, 1e-15).score(np.array([[1e14, 0]], "float32"))
        with pytest.raises(ValueError, match="log density .* overflows float64"):
            Parzen(x, 1e-150).energy([[1e10, 0]])
        with pytest.raises(
            ValueError, match="sigma must lie between 1.5e-154 and 1.3e"
        ):
            Parzen(x, 1e-160)
        with pytest.raises(
            ValueError, match="centres differ by too much, or too little"
        ):
            Parzen(1e60 * x, 1e60)

    @pytest.mark.parametrize("scale", (1e-30, 1e-3, 1e3, 1e30))
    def test_the_bandwidth_has_the_datas_units(self, scale):
        x = np.random.default_rng(4).normal(size=(200, 2))
        sigma = select_sigma(x[:150], x[150:])
        scaled, curve = select_sigma(
            scale * x[:150], scale * x[150:], sigmas=[1e-90, 1e90], return_curve=True
        )
        # The curve is sampled at powers of 2^(1/12), which fall elsewhere.
        assert scaled == pytest.approx(scale * sigma, rel=2e-3)
        assert np.isfinite(curve.log_likelihoods).all()


@pytest.mark.parametrize(
    "law, variance",
    [
        (Rings((0.5, 1.2), std=0.08), (0.25 + 1.44) / 2 + 2 * 0.08**2),
        (Checkerboard(4, side=2.4), 2 * 2.4**2 / 12),
        (GaussianMixture.ring(radius=1.0, std=0.15), 1 + 2 * 0.15**2),
    ],
)
def test_a_huge_sigma_leaves_the_prior(law, variance):
    """L* -> tr Cov(x) as sigma grows: the posterior is the law itself.

    At sigma = 1e3 it is the difference of numbers of 2e6, which leaves ten digits, less
    what rounds in the score (5e-8 of it for the checkerboard).
    """
    assert law.bayes_loss(1e3) == pytest.approx(variance, rel=0.02)
    assert law.bayes_loss(30.0) == pytest.approx(variance, rel=5e-3)


@pytest.mark.parametrize("law", (Moons(), Rings(), Spiral(), Checkerboard()))
@pytest.mark.parametrize("sigma", (1e-3, 0.1, 1e3))
def test_laws_far_away_pull_towards_the_data(law, sigma):
    """At |x| >> extent the score is (c - x) / (std^2 + sigma^2), c within the data."""
    x = 1e4 * sigma * np.array([[1.0, 0.0], [-0.6, 0.8]])
    psi = law.score(x, sigma)
    c = x + (law.std**2 + sigma**2) * psi
    # For a law with a sharp edge the tail begins there, corrected by sigma^2 / |x|.
    assert np.abs(c).max() < law.extent + 0.05
    energy = law.energy(x, sigma)
    wanted = ((x - c) ** 2).sum(1) / (2 * (law.std**2 + sigma**2))
    np.testing.assert_allclose(energy, wanted, rtol=2e-3)
