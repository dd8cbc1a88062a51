"""Objectives, gradients, evaluation: against closed forms and slow oracles."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import deen_tf as deen
from deen_tf.models.pointwise import points_at_once
from deen_tf.training import noise
from tests.in_units import objective

MODELS = (deen.DEEN, deen.DSM, deen.ContrastiveDivergence)


def built(cls, d=2, hidden=(5, 4), **kwargs):
    model = cls(hidden, **kwargs)
    model.build((None, d))
    # Weights away from zero, biases included, so that no term is invisible.
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(rng.normal(size=v.shape, scale=0.7))
    return model


class Quadratic(keras.layers.Layer):
    """E(z) = k |z|^2 / 2, the energy of a Gaussian: a network of one weight."""

    def build(self, input_shape):
        self.k = self.add_weight(shape=(), initializer="zeros", name="k")
        self.built = True

    def call(self, z):
        return 0.5 * self.k * tf.square(z)


@pytest.fixture
def float64():
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


def mlp(model, x):
    """Plain NumPy forward pass; returns (output, hidden activations)."""
    hidden = []
    for layer in model.hidden:
        x = np.tanh(x @ layer.kernel.numpy() + layer.bias.numpy())
        hidden.append(x)
    return x @ model.last.kernel.numpy(), hidden


def numpy_score(model, x):
    """-dE/dx by the chain rule, by hand."""
    _, hidden = mlp(model, x)
    g = np.repeat(model.last.kernel.numpy().T, len(x), axis=0)
    for layer, h in zip(reversed(model.hidden), reversed(hidden), strict=True):
        g = (g * (1 - h**2)) @ layer.kernel.numpy().T
    return -g


def numpy_objective_gradient(model, x, nu):
    """Gradient of mean_n |x - xi + sigma^2 dE/dxi|^2 in every parameter, by hand.

    Forward: h_l = tanh(h_{l-1} W_l + b_l). First backward: g_L = w, a_l = g_l (1 - h_l^2),
    g_{l-1} = a_l W_l^T, dE/dxi = g_0. The second backward pass differentiates both.
    """
    s2, n = model.sigma**2, len(x)
    xi = x + model.sigma * nu
    W = [layer.kernel.numpy() for layer in model.hidden]
    w = model.last.kernel.numpy()
    _, h = mlp(model, xi)
    inputs = [xi, *h[:-1]]
    L = len(W)
    g = [None] * (L + 1)
    a = [None] * L
    g[L] = np.repeat(w.T, n, axis=0)
    for k in reversed(range(L)):
        a[k] = g[k + 1] * (1 - h[k] ** 2)
        g[k] = a[k] @ W[k].T
    residual = -model.sigma * nu + s2 * g[0]
    # Back through the first backward pass (from g_0 up to g_L).
    dg = 2 * s2 * residual / n
    dW = [None] * L
    dh = [None] * L
    for k in range(L):
        dW[k] = dg.T @ a[k]
        da = dg @ W[k]
        dh[k] = da * g[k + 1] * (-2 * h[k])
        dg = da * (1 - h[k] ** 2)
    dw = dg.sum(0)[:, None]
    # Back through the forward pass.
    db = [None] * L
    for k in reversed(range(L)):
        du = dh[k] * (1 - h[k] ** 2)
        dW[k] = dW[k] + inputs[k].T @ du
        db[k] = du.sum(0)
        if k:
            dh[k - 1] = dh[k - 1] + du @ W[k].T
    return [v for pair in zip(dW, db, strict=True) for v in pair] + [dw]


class TestObjective:
    def test_deen_value_is_eq_19(self, float64):
        model = built(deen.DEEN, sigma=0.3)
        rng = np.random.default_rng(1)
        x, nu = rng.normal(size=(2, 7, 2))
        xi = x + 0.3 * nu
        dE = -numpy_score(model, xi)
        wanted = ((x - xi + 0.09 * dE) ** 2).sum(1)
        np.testing.assert_allclose(objective(model, x, tf.constant(nu)), wanted, 1e-12)

    def test_dsm_value_is_eq_17(self, float64):
        model = built(deen.DSM, sigma=0.3)
        rng = np.random.default_rng(1)
        x, nu = rng.normal(size=(2, 7, 2))
        xi = x + 0.3 * nu
        wanted = ((x - (xi + 0.09 * mlp(model, xi)[0])) ** 2).sum(1)
        np.testing.assert_allclose(objective(model, x, tf.constant(nu)), wanted, 1e-12)

    @pytest.mark.parametrize("d, hidden", [(1, (3,)), (2, (5, 4)), (3, (4, 6, 5))])
    def test_deen_gradient_is_the_double_backward_by_hand(self, float64, d, hidden):
        model = built(deen.DEEN, d, hidden, sigma=0.4)
        rng = np.random.default_rng(2)
        x, nu = rng.normal(size=(2, 6, d))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(objective(model, x, tf.constant(nu)))
        gradients = tape.gradient(loss, model.trainable_variables)
        by_hand = numpy_objective_gradient(model, x, nu)
        for ours, hand in zip(gradients, by_hand, strict=True):
            np.testing.assert_allclose(ours, hand, rtol=1e-9, atol=1e-13)

    @pytest.mark.parametrize("cls", (deen.DEEN, deen.DSM))
    def test_gradient_is_the_finite_difference(self, float64, cls):
        model = built(cls, sigma=0.4)
        rng = np.random.default_rng(3)
        x, nu = rng.normal(size=(2, 6, 2))

        def loss():
            return tf.reduce_mean(objective(model, x, tf.constant(nu)))

        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, model.trainable_variables)
        for v, gradient in zip(model.trainable_variables, gradients, strict=True):
            direction, at = rng.normal(size=v.shape), v.numpy()
            v.assign(at + 1e-5 * direction)
            forward = loss()
            v.assign(at - 1e-5 * direction)
            slope = (forward - loss()) / 2e-5
            v.assign(at)
            # Central differences: error O(step^2) and rounding 1e-16 / 1e-5.
            np.testing.assert_allclose(
                tf.reduce_sum(gradient * direction), slope, rtol=1e-7, atol=1e-10
            )

    def test_contrastive_divergence_step_is_eq_27(self, float64):
        model = built(deen.ContrastiveDivergence, sigma=0.3, seed=4)
        model.compile()
        x = 3 + 2 * np.random.default_rng(5).normal(size=(6, 2))
        nu = noise.standard_normal((6, 2), noise.key(4, 0), "float64").numpy()
        before = [v.numpy() for v in model.trainable_variables]
        model.fit(x, batch_size=6, shuffle=False, verbose=0)
        after = [v.numpy() for v in model.trainable_variables]
        for v, value in zip(model.trainable_variables, before, strict=True):
            v.assign(value)
        m, s = model.center.numpy(), model.scale.numpy()
        psi = numpy_score(model, (x - m) / s) / s
        negative = x + 0.09 * psi + np.sqrt(2) * 0.3 * nu

        def mean_gradient(points):
            with tf.GradientTape() as tape:
                value = tf.reduce_mean(model(tf.constant(points)))
            return tape.gradient(value, model.trainable_variables)

        pairs = zip(mean_gradient(negative), mean_gradient(x), strict=True)
        wanted = [
            b + 1e-3 * (up - down).numpy()
            for b, (up, down) in zip(before, pairs, strict=True)
        ]
        for found, value in zip(after, wanted, strict=True):
            # The noise is float32's, whose last place XLA may round otherwise; times 1e-3.
            np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("step", (0.2, 0.55, 0.6))
    def test_contrastive_divergence_stands_still_only_for_short_steps(self, step):
        """Data N(0, w^2): k = (1 - sqrt(1 - 2 s^2 / w^2)) / s^2, if s < w / sqrt(2)."""
        w = 0.8  # w / sqrt(2) = 0.566
        network = Quadratic(dtype="float64")
        model = deen.ContrastiveDivergence(
            network=network, sigma=0.1, step=step, dtype="float64"
        )
        model.build((None, 1))
        # Four points of variance w^2 and 1: the moments are exact.
        x = tf.constant([[w], [w], [-w], [-w]], tf.float64)
        nu = tf.constant([[1.0], [-1.0], [1.0], [-1.0]], tf.float64)

        def slope(k):
            network.k.assign(k)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(objective(model, x, nu, None))
            return tape.gradient(loss, network.k).numpy()

        if step < w / 2**0.5:
            k = (1 - (1 - 2 * step**2 / w**2) ** 0.5) / step**2
            assert slope(k) == pytest.approx(0, abs=1e-12)
            assert slope(0.95 * k) < 0 < slope(1.01 * k)
        else:
            assert all(slope(k) < 0 for k in np.linspace(0, 20, 101))

    def test_quadratic_energy_learns_scale_and_sign(self):
        """Data N(0, s^2): E = k x^2 / 2 has its minimum at k = 1 / (s^2 + sigma^2).

        With E quadratic the objective is E|-sigma nu + sigma^2 k xi|^2, whose derivative
        in k vanishes there; a wrong sign has it at -k, a stray factor elsewhere. k is
        read off the score, in the data's units.
        """
        s, sigma = 0.8, 0.5
        x = np.random.default_rng(0).normal(scale=s, size=(4096, 2))
        model = deen.DEEN(network=Quadratic(), sigma=sigma)
        model.compile(keras.optimizers.Adam(0.02), jit_compile=False)
        model.fit(x, batch_size=4096, epochs=400, verbose=0)
        k = model.score([[-1.0, -1.0]]) - model.score([[0.0, 0.0]])
        wanted = 1 / (x.var() + sigma**2)
        # Noise of the last minibatches moves k by about 1%.
        np.testing.assert_allclose(k, wanted, rtol=0.02)

    @pytest.mark.parametrize("cls", (deen.DEEN, deen.DSM))
    def test_learned_score_of_a_gaussian(self, cls):
        s, sigma = 0.4, 0.3
        x = np.random.default_rng(0).normal(scale=s, size=(16384, 2))
        model = cls((32, 32), sigma=sigma)
        model.compile(keras.optimizers.Adam(2e-3))
        model.fit(x, batch_size=2048, epochs=100, verbose=0)
        xi = np.random.default_rng(1).normal(scale=np.hypot(s, sigma), size=(4096, 2))
        psi = -xi / (s**2 + sigma**2)
        error = ((model.score(xi) - psi) ** 2).sum() / (psi**2).sum()
        assert error < 0.02

    def test_noise_samples_average_the_objective(self):
        x = np.random.default_rng(0).normal(size=(64, 2))
        losses = []
        for m in (1, 4):
            model = built(deen.DEEN, sigma=0.5, noise_samples=m)
            model.compile()
            losses.append(model.evaluate(np.repeat(x, 4 // m, 0), verbose=0))
        # The same expectation, from 256 noise vectors each: standard error about 5%.
        np.testing.assert_allclose(losses[0], losses[1], rtol=0.25)

    @pytest.mark.parametrize("cls", (deen.DEEN, deen.DSM))
    def test_noise_samples_are_so_many_noisy_observations_of_each_point(self, cls):
        """m of Eq. 23, from the very noise of the step."""
        model = built(cls, sigma=0.5, noise_samples=3, seed=4, dtype="float64")
        x = tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
        nu = noise.standard_normal((15, 2), noise.key(4, 7), "float64")
        wanted = objective(model, np.repeat(x, 3, axis=0), nu).numpy().mean()
        descended, reported = model.losses(x, 7, noise.TRAINING)
        assert reported.numpy() == pytest.approx(wanted, rel=1e-12)
        assert descended.numpy() == pytest.approx(wanted / 0.25, rel=1e-12)

    def test_contrastive_divergence_of_smoothed_points(self, float64):
        """The points have noise of level sigma, the chain a step of its own."""
        model = built(deen.ContrastiveDivergence, sigma=0.3, step=0.2, smooth=True)
        x, nu, nu_points = np.random.default_rng(1).normal(size=(3, 7, 2))
        xi = x + 0.3 * nu_points
        negative = xi + 0.04 * numpy_score(model, xi) + np.sqrt(2) * 0.2 * nu
        wanted = (mlp(model, xi)[0] - mlp(model, negative)[0])[:, 0]
        ours = objective(model, x, tf.constant(nu), tf.constant(nu_points))
        np.testing.assert_allclose(ours, wanted, rtol=1e-9)
        nu, nu_points = model.draw(
            tf.zeros((2**14, 2)), lambda i=0: noise.key(0, 0, source=i)
        )
        # The correlation of independent normals has the standard error 2^-7.5.
        assert abs(np.mean(nu * nu_points)) < 4 * 2**-7.5

    def test_autoencoder_is_eq_25(self, float64):
        """What it learns is r, its score (r - xi) / sigma^2; in units of its own, too."""
        model = built(deen.DenoisingAutoencoder, sigma=0.3)
        model.center.assign([1.0, -2.0])
        model.scale.assign(2.5)
        rng = np.random.default_rng(1)
        x, nu = rng.normal(size=(2, 7, 2))
        xi = x + 0.3 * nu
        z = (xi - [1.0, -2.0]) / 2.5
        r = [1.0, -2.0] + 2.5 * (mlp(model, z)[0] + model.last.bias.numpy())
        np.testing.assert_allclose(model(tf.constant(xi)), r, 1e-12)
        np.testing.assert_allclose(model.score(xi), (r - xi) / 0.09, 1e-10)
        np.testing.assert_allclose(model.denoise(xi), r, 1e-12)
        wanted = ((x - r) ** 2).sum(1)
        np.testing.assert_allclose(objective(model, x, tf.constant(nu)), wanted, 1e-10)

    def test_rank_bound(self):
        """No weights whatever bring the loss below sigma^2 (d - r)."""
        d, r, sigma = 12, 3, 0.7
        model = built(deen.DEEN, d, (r, 6), sigma=sigma)
        assert model.loss_bound() == pytest.approx(sigma**2 * (d - r))
        x, nu = np.random.default_rng(0).normal(size=(2, 500, d)).astype("float32")
        Q = np.linalg.qr(model.hidden[0].kernel.numpy())[0]  # basis of the row space
        rest = sigma**2 * ((nu - nu @ Q @ Q.T) ** 2).sum(1)
        for scale in (0.1, 1.0, 10.0):
            model.last.kernel.assign(model.last.kernel * scale)
            assert (objective(model, x, nu).numpy() >= rest * (1 - 1e-4)).all()
        assert rest.mean() == pytest.approx(model.loss_bound(), rel=0.05)
        assert deen.DEEN((20,)).build((None, 12)) is None

    def test_rank_bound_is_zero_for_a_wide_first_layer(self):
        assert built(deen.DEEN, 3, (8,)).loss_bound() == 0


class TestEvaluation:
    def test_energy_and_score_against_numpy(self, float64):
        model = built(deen.DEEN, 3, (6, 5, 4))
        x = np.random.default_rng(0).normal(size=(9, 3))
        np.testing.assert_allclose(model.energy(x), mlp(model, x)[0][:, 0], 1e-12)
        np.testing.assert_allclose(model.score(x), numpy_score(model, x), 1e-10)
        np.testing.assert_allclose(
            model.denoise(x), x + 0.1**2 * numpy_score(model, x), 1e-12
        )

    def test_score_is_minus_the_slope_of_the_energy(self, float64):
        model = built(deen.DEEN, 3)
        x, direction = np.random.default_rng(1).normal(size=(2, 9, 3))
        step = 1e-5
        slope = (
            model.energy(x + step * direction) - model.energy(x - step * direction)
        ) / (2 * step)
        np.testing.assert_allclose(
            (model.score(x) * direction).sum(1), -slope, rtol=1e-7, atol=1e-9
        )

    def test_experts_sum_to_the_energy(self):
        model = built(deen.DEEN, 3, (6, 5))
        x = np.random.default_rng(2).normal(size=(9, 3))
        experts = model.experts(x)
        assert experts.shape == (9, 5)
        np.testing.assert_allclose(experts.sum(1), model.energy(x), rtol=1e-5)

    @pytest.mark.parametrize("method", ("energy", "score", "denoise", "experts"))
    def test_batches_tensors_graphs_and_numpy_agree(self, method):
        model = built(deen.DEEN)
        n = 2 * points_at_once(model, model.point_shape) + 3
        x = np.random.default_rng(3).normal(size=(n, 2)).astype("float32")
        answer = getattr(model, method)(x)
        assert isinstance(answer, np.ndarray) and len(answer) == n
        part = getattr(model, method)(x[-5:])
        np.testing.assert_allclose(answer[-5:], part, rtol=1e-5, atol=1e-6)
        tensor = getattr(model, method)(tf.constant(x))
        assert tf.is_tensor(tensor)
        np.testing.assert_array_equal(tensor, answer)
        graph = tf.function(getattr(model, method))(tf.constant(x[-5:]))
        np.testing.assert_allclose(graph, part, rtol=1e-5, atol=1e-6)

    def test_hessian_through_an_outer_tape(self, float64):
        model = built(deen.DEEN)
        x = tf.constant(np.random.default_rng(4).normal(size=(5, 2)))
        with tf.GradientTape() as tape:
            tape.watch(x)
            psi = model.score(x)
        J = tape.batch_jacobian(psi, x)
        np.testing.assert_allclose(
            J, deen.fields.jacobian(model, x.numpy()), rtol=1e-9, atol=1e-12
        )

    @pytest.mark.parametrize(
        "x",
        [
            [[1, 2], [3, 4]],
            np.array([[1, 2], [3, 4]]),
            np.array([[1, 2], [3, 4]], "float64")[::-1],
            np.asfortranarray(np.ones((3, 2), "float16")),
            np.broadcast_to(np.float32(1), (4, 2)),
        ],
    )
    def test_any_real_array_is_accepted(self, x):
        assert built(deen.DEEN).energy(x).shape == (len(x),)

    @pytest.mark.parametrize("method", ("energy", "score", "denoise", "experts", "fit"))
    @pytest.mark.parametrize(
        "x, error, message",
        [
            ([1.0, 2.0], ValueError, r"shape \(n, 2\), got \(2,\)"),
            (np.ones((3, 5)), ValueError, r"shape \(n, 2\), got \(3, 5\)"),
            (np.ones((3, 2, 1)), ValueError, r"shape \(n, 2\), got \(3, 2, 1\)"),
            (np.ones((0, 2)), ValueError, "at least one point"),
            ([[1, np.nan]], ValueError, "finite.*nan at row 0, column 1"),
            ([[np.inf, 0]], ValueError, "finite.*inf at row 0, column 0"),
            ([[1e300, 0]], ValueError, "finite in float32"),
            ([["a", "b"]], TypeError, "real numbers, got dtype <U1"),
            ([[1j, 0]], TypeError, "real numbers, got dtype complex128"),
            ([[1, 2], [3]], ValueError, "rectangular"),
        ],
    )
    def test_bad_points_are_named(self, method, x, error, message):
        model = built(deen.DEEN)
        model.compile()
        with pytest.raises(error, match=message):
            getattr(model, method)(x)

    def test_tensors_of_another_width_are_named(self):
        with pytest.raises(ValueError, match=r"shape \(n, 2\), got \(4, 3\)"):
            built(deen.DEEN).score(tf.ones((4, 3)))


class TestConstruction:
    @pytest.mark.parametrize("cls", MODELS)
    @pytest.mark.parametrize(
        "kwargs, error, message",
        [
            ({"sigma": 0}, ValueError, "sigma must be positive and finite, got 0.0"),
            ({"sigma": -0.1}, ValueError, "sigma must be positive.*-0.1"),
            ({"sigma": np.nan}, ValueError, "sigma must be positive.*nan"),
            ({"sigma": "0.1"}, TypeError, "sigma must be a real number, got '0.1'"),
            ({"hidden_units": ()}, ValueError, "at least one hidden layer"),
            ({"hidden_units": 32}, TypeError, "sequence of widths, got 32"),
            ({"hidden_units": (8, 0)}, ValueError, "hidden_units.*at least 1, got 0"),
            ({"hidden_units": (8.5,)}, TypeError, "hidden_units must be a whole"),
            ({"seed": -1}, ValueError, "seed must be at least 0"),
            ({"noise_samples": 0}, ValueError, "noise_samples must be at least 1"),
        ],
    )
    def test_bad_arguments_are_named(self, cls, kwargs, error, message):
        with pytest.raises(error, match=message):
            cls(**kwargs)

    def test_seed_decides_the_weights(self):
        first, same, other = (built_raw(seed) for seed in (1, 1, 2))
        for a, b, c in zip(first, same, other, strict=True):
            np.testing.assert_array_equal(a, b)
            if a.ndim == 2:
                assert abs(a - c).max() > 1e-3
        assert abs(first[2] - first[4]).max() > 1e-3  # layers differ as well

    def test_the_last_layer_has_no_bias(self):
        assert built(deen.DEEN).last.bias is None

    def test_default_optimizers_are_the_papers(self):
        for cls, optimizer in (
            (deen.DEEN, keras.optimizers.Adam),
            (deen.DSM, keras.optimizers.Adam),
            (deen.ContrastiveDivergence, keras.optimizers.SGD),
        ):
            model = cls()
            model.compile()
            assert isinstance(model.optimizer, optimizer)
            assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)

    def test_a_loss_of_the_users_is_refused(self):
        with pytest.raises(ValueError, match="brings its own objective"):
            deen.DEEN().compile(loss="mse")


def built_raw(seed):
    model = deen.DEEN((6, 6, 6), seed=seed)
    model.build((None, 6))
    return [w.numpy() for w in model.trainable_variables]
