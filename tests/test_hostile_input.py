"""Hostile and broken input: a right, finite answer, or one clear error raised at the edge.

A mistake of the user's must end in a TypeError, ValueError or OSError of this package, that
says what was given or wanted: not in a traceback from inside TensorFlow.
"""

import functools
import os
import pathlib
import traceback
import warnings

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import deen_tf as deen
from deen_tf import baselines, fields, metrics, sampling
from deen_tf.datasets import mnist, van_hateren
from deen_tf.laws import plane as toy
from deen_tf.laws.parzen import Parzen, select_sigma

PACKAGE = str(pathlib.Path(deen.__file__).parent)
X = np.random.default_rng(0).normal(size=(12, 2)).astype("float32")
IMAGES = np.random.default_rng(1).normal(size=(3, 144)).astype("float32")


def raised_here(error):
    """Whether the error was raised in this package, not by a library below it."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE)


@pytest.fixture(scope="module")
def model():
    model = deen.DEEN((5, 4), sigma=0.3)
    model.build((None, 2))
    model.compile(run_eagerly=True)
    return model


class Field:
    """A score and an energy of the user's own, which may be anything."""

    def __init__(self, score, energy=None):
        self._score, self._energy = score, energy

    def score(self, x):
        return self._score(x)

    def energy(self, x):
        return self._energy(x)


# ---- the table: input, error, a fragment of its message --------------------------------

LAW = toy.Moons()
POINTS = [  # whatever takes points refuses these
    (lambda f: f(None), TypeError, "must be an array .*got None|hold real numbers"),
    (lambda f: f("abc"), TypeError, "must be an array .*got str|hold real numbers"),
    (lambda f: f(3.0), ValueError, r"must have shape \(n, .*, got \(\)"),
    (lambda f: f(X[0]), ValueError, r"must have shape \(n, .*, got \(2,\)"),
    (lambda f: f(X[:0]), ValueError, "at least one point"),
    (
        lambda f: f(X[:, :0]),
        ValueError,
        r"at least one point|shape \(n, .*got \(12, 0\)",
    ),
    (lambda f: f(np.where(X > 1, np.nan, X)), ValueError, "must be finite"),
    (lambda f: f(1e300 * X.astype("float64")), ValueError, "finite in|lie within"),
    (lambda f: f(np.ma.masked_less(X, 0)), ValueError, "must not hold masked values"),
    (lambda f: f([[1, None]]), TypeError, "must hold real numbers"),
    (lambda f: f([[1, 2], [3]]), ValueError, "rectangular"),
    (lambda f: f(X * 1j), TypeError, "real numbers, got dtype complex"),
    (lambda f: f(X.astype("datetime64[s]")), TypeError, "real numbers, got dtype date"),
    (lambda f: f(x for x in X), TypeError, "must hold real numbers, got <generator"),
]
PARZEN = Parzen(X, 0.3)
TAKE_POINTS = {
    "Parzen": lambda x: Parzen(x, 1.0),
    "Parzen.energy": PARZEN.energy,
    "Parzen.score": PARZEN.score,
    "Parzen.denoise": PARZEN.denoise,
    "select_sigma": select_sigma,
    "select_sigma validation": lambda x: select_sigma(
        X, np.array(x) if x is None else x
    ),
    "Law.energy": LAW.energy,
    "Law.score": LAW.score,
    "Law.denoise": lambda x: LAW.denoise(x, 0.1),
    "GaussianMixture": lambda x: toy.GaussianMixture(x, 1.0),
    "jacobian": lambda x: fields.jacobian(PARZEN, x, step=0.1),
    "curl": lambda x: fields.curl(PARZEN, x),
    "langevin": lambda x: sampling.langevin(LAW, x, step=0.1, steps=2),
    "hamiltonian": lambda x: sampling.hamiltonian(
        LAW, x, step=0.1, steps=2, leapfrogs=1
    ),
    "walk_jump": lambda x: sampling.walk_jump(PARZEN, x, step=0.1, steps=2),
    "fisher_divergence": lambda x: metrics.fisher_divergence(x, X),
    "relative_score_error": lambda x: metrics.relative_score_error(X, x),
    "err_per_pixel": lambda x: metrics.err_per_pixel(x, x),
    "psnr": lambda x: metrics.psnr(x, X, 1.0),
    "ssim": lambda x: metrics.ssim(x, X, (1, 2), 1.0),
    "removed_noise_fraction": lambda x: metrics.removed_noise_fraction(X, X + 1, x),
    "smallest_mode_ratio": lambda x: metrics.smallest_mode_ratio(
        LAW, LAW, x, (-3, 3), 10
    ),
    "median_gaussian": lambda x: baselines.median_gaussian(x, shape=(1, 2)),
    "non_local_means": lambda x: baselines.non_local_means(x, 0.1, (1, 2)),
    "Wiener": baselines.Wiener,
    "Wiener.denoise": lambda x: baselines.Wiener(X).denoise(x, 0.1),
    "remove_mean": van_hateren.remove_mean,
    "normalise_contrast": van_hateren.normalise_contrast,
    "overall_std": van_hateren.overall_std,
    "denoise_image": lambda x: deen.denoise_image(PARZEN, x, shape=(1, 2), stride=1),
}


@pytest.mark.parametrize("give, error, message", POINTS)
@pytest.mark.parametrize("name", TAKE_POINTS)
def test_points(name, give, error, message):
    with pytest.raises(error, match=message) as caught:
        give(TAKE_POINTS[name])
    assert raised_here(caught.value)


TENSORS = [
    (tf.constant([["a", "b"]]), TypeError, "real numbers, got dtype string"),
    (tf.constant([[1j, 2]]), TypeError, "real numbers, got dtype complex128"),
    (tf.constant([1.0, 2.0]), ValueError, r"shape \(n, 2\), got \(2,\)"),
    (tf.zeros((3, 0)), ValueError, r"shape \(n, 2\), got \(3, 0\)"),
    (tf.ragged.constant([[1.0, 2.0], [3.0]]), TypeError, "dense.*RaggedTensor"),
    (tf.sparse.from_dense(X), TypeError, "dense tensor, got SparseTensor"),
]


@pytest.mark.parametrize("method", ("energy", "score", "denoise", "experts"))
@pytest.mark.parametrize("x, error, message", TENSORS)
def test_tensors(model, method, x, error, message):
    with pytest.raises(error, match=message) as caught:
        getattr(model, method)(x)
    assert raised_here(caught.value)


def test_tensors_of_other_kinds_are_points_too(model):
    energy = model.energy(X)
    for x in (tf.Variable(X), keras.Variable(X), tf.constant(X, tf.float64)):
        np.testing.assert_allclose(model.energy(x), energy, rtol=1e-6)
    assert model.energy(tf.zeros((0, 2))).shape == (0,)
    # As in TensorFlow, what is not finite goes through; NumPy's points are checked.
    assert np.isnan(model.energy(tf.constant([[np.nan, 0.0]])).numpy()).all()


def test_a_model_without_weights_refuses_points_without_width():
    with pytest.raises(ValueError, match=r"got \(3, 0\)"):
        deen.DEEN((4,)).energy(tf.zeros((3, 0)))


def test_points_of_another_width_in_a_graph(model):
    with pytest.raises(ValueError, match=r"shape \(n, 2\), got \(3, 5\)"):
        tf.function(model.score, autograph=False)(tf.ones((3, 5)))


CALLS = [
    # Parzen, the choice of sigma
    (lambda: Parzen(X, "1"), TypeError, "sigma must be a real number, got '1'"),
    (lambda: Parzen(X, 1e-200), ValueError, "sigma must lie between .* got 1e-200"),
    (lambda: PARZEN.energy(np.ones((3, 5))), ValueError, r"\(n, 2\), got \(3, 5\)"),
    (lambda: select_sigma(X, folds="2"), TypeError, "folds must be a whole number"),
    (lambda: select_sigma(X, seed=-1), ValueError, "seed must be at least 0"),
    (
        lambda: select_sigma(X, sigmas=[0]),
        ValueError,
        "each of sigmas must be positive",
    ),
    (lambda: select_sigma(X, sigmas=1.0), TypeError, "sigmas must be a sequence"),
    (lambda: select_sigma([[1.0]]), ValueError, "folds must be at most"),
    # fields
    (lambda: fields.jacobian(object(), X), TypeError, "must have a method score"),
    (
        lambda: fields.jacobian(PARZEN, X),
        TypeError,
        "cannot differentiate.*give `step`",
    ),
    (lambda: fields.jacobian(PARZEN, X, step=0), ValueError, "step must be positive"),
    (lambda: fields.curl(PARZEN, X, step="a"), TypeError, "step must be a real number"),
    (lambda: fields.curl(PARZEN, X, step=1e-30), ValueError, "lost in the rounding"),
    (lambda: fields.jacobian(PARZEN, X, batch=0), ValueError, "batch must be at least"),
    # metrics
    (lambda: metrics.psnr(X, X, "a"), TypeError, "peak must be a real number"),
    (lambda: metrics.psnr(X, X, [1, 2]), ValueError, "one number or 12"),
    (lambda: metrics.ssim(IMAGES, IMAGES, 12, 1), TypeError, "pair .*, got 12"),
    (lambda: metrics.ssim(IMAGES, IMAGES, (12.0, 12), 1), TypeError, "whole number"),
    (lambda: metrics.ssim(IMAGES, IMAGES, (-12, -12), 1), ValueError, "at least 1"),
    (lambda: metrics.grid_kl(LAW, "a", (-3, 3), 100), TypeError, "a function or have"),
    (lambda: metrics.grid_kl(LAW, LAW, "ab"), ValueError, "box must be"),
    (lambda: metrics.grid_kl(LAW, LAW, ((1, 2), (3,))), ValueError, "box must be"),
    (lambda: metrics.grid_kl(LAW, LAW, (-np.inf, 1)), ValueError, "box must be"),
    (lambda: metrics.grid_kl(LAW, LAW, (-3, 3), "a"), TypeError, "points must be a"),
    (lambda: metrics.relative_curl("a"), ValueError, r"shape \(n, d, d\)"),
    (lambda: metrics.relative_curl([[1], [1, 2]]), ValueError, r"shape \(n, d, d\)"),
    (lambda: metrics.asymmetry(1j * np.ones((3, 2, 2))), TypeError, "real numbers"),
    (lambda: metrics.asymmetry(np.full((3, 2, 2), 1e200)), ValueError, "lie within"),
    (lambda: metrics.mean_and_standard_error([]), ValueError, "must be one"),
    (lambda: metrics.mean_and_standard_error(3.0), ValueError, "must be one"),
    (lambda: metrics.mean_and_standard_error([np.nan, 1]), ValueError, "finite"),
    (lambda: metrics.mean_and_standard_error(["a"]), TypeError, "real numbers"),
    # baselines
    (lambda: baselines.median_gaussian(IMAGES, "3"), TypeError, "median_size must be"),
    (lambda: baselines.median_gaussian(IMAGES, shape=12), TypeError, "pair"),
    (lambda: baselines.median_gaussian(IMAGES, shape="ab"), TypeError, "pair"),
    (
        lambda: baselines.median_gaussian(np.zeros((0, 4, 4))),
        ValueError,
        "at least one",
    ),
    (
        lambda: baselines.total_variation(IMAGES, None),
        TypeError,
        "sigma must be a real",
    ),
    (lambda: baselines.total_variation(IMAGES, [[1, 2, 3]]), ValueError, "number or 3"),
    (
        lambda: baselines.non_local_means(IMAGES, 0.1, patch_size=0),
        ValueError,
        "patch_size must be at least 1",
    ),
    (
        lambda: baselines.non_local_means(IMAGES, 0.1, patch_distance=-1),
        ValueError,
        "patch_distance must be at least 1",
    ),
    (
        lambda: baselines.wavelet(IMAGES, 0.1, wavelet="nope"),
        ValueError,
        "wavelet must be one of.*got 'nope'",
    ),
    (
        lambda: baselines.tune_median_gaussian(IMAGES, IMAGES, ()),
        ValueError,
        "must not be empty",
    ),
    (
        lambda: baselines.tune_strength(
            baselines.total_variation, IMAGES, IMAGES, 0.1, []
        ),
        ValueError,
        "strengths must not be empty",
    ),
    (
        lambda: baselines.Wiener(X).score(X, 1e-200),
        ValueError,
        "sigma must lie between",
    ),
    (lambda: baselines.Wiener(X).energy(X, ["a"] * 12), TypeError, "sigma must hold"),
    # sampling
    (
        lambda: sampling.langevin(None, X, step=0.1, steps=2),
        TypeError,
        "must have a method score, got None",
    ),
    (
        lambda: sampling.langevin(toy.Moons(std=0), X, step=0.1, steps=2),
        ValueError,
        "no smooth density of its own: sigma must be positive",
    ),
    (
        lambda: sampling.langevin(PARZEN, np.ones((3, 5)), step=0.1, steps=2),
        ValueError,
        r"\(n, 2\), got \(3, 5\)",
    ),
    (
        lambda: sampling.langevin(Field(lambda x: x[:, :1]), X, step=0.1, steps=2),
        ValueError,
        r"score of Field must have shape \(1, 2\) for one point, got \(1, 1\)",
    ),
    (
        lambda: sampling.langevin(Field(lambda x: "a"), X, step=0.1, steps=2),
        ValueError,
        "score of Field must have shape",
    ),
    (
        lambda: sampling.langevin(LAW, X, step=1e10, steps=60),
        ValueError,
        "12 of 12 chains ran off to infinity: take a step smaller than 1e.10",
    ),
    (
        lambda: sampling.langevin(LAW, X, step="a", steps=2),
        TypeError,
        "step must be a real number",
    ),
    (
        lambda: sampling.walk_jump(Field(lambda x: -x), X, step=0.1, steps=2),
        TypeError,
        "needs a density with denoise",
    ),
    # whole photographs
    (
        lambda: deen.denoise_image(None, IMAGES),
        TypeError,
        "must have sigma and denoise",
    ),
    (
        lambda: deen.denoise_image(PARZEN, IMAGES, shape=(3, 4)),
        ValueError,
        "the model's 2 pixels, got 3 x 4",
    ),
    (
        lambda: deen.denoise_image(PARZEN, IMAGES, 1e40, shape=(1, 2), stride=1),
        ValueError,
        "noise_level must lie between",
    ),
    (
        lambda: deen.denoise_image(PARZEN, "photograph.png", shape=(1, 2)),
        TypeError,
        "image must .*, got str",
    ),
    # laws
    (
        lambda: toy.GaussianMixture([[0, 0]], "a"),
        TypeError,
        "standard deviation. must be a real number",
    ),
    (
        lambda: toy.GaussianMixture([[0, 0]], [[np.nan, 0], [0, 1]]),
        ValueError,
        "covariances must be finite",
    ),
    (
        lambda: toy.GaussianMixture([[0, 0]], 1j * np.eye(2)),
        TypeError,
        "covariances must hold real numbers",
    ),
    (lambda: toy.GaussianMixture([[0, 0]], 1e200), ValueError, "must lie between"),
    (
        lambda: toy.GaussianMixture([[0, 0], [1, 1]], 1.0, [np.inf, 1]),
        ValueError,
        "weights must be finite",
    ),
    (
        lambda: toy.GaussianMixture.grid(spacing="a"),
        TypeError,
        "spacing must be a real",
    ),
    (lambda: toy.Rings(1.0), TypeError, "radii must be a sequence"),
    (lambda: LAW.sample(2.5, 0), TypeError, "n must be a whole number"),
    (lambda: LAW.centers(0), ValueError, "parts must be at least 1"),
    (lambda: LAW.bayes_loss("a"), TypeError, "sigma must be a real number"),
    # readers
    (lambda: van_hateren.patches(splits=0.5), TypeError, "splits must be three"),
    (lambda: van_hateren.image(None), TypeError, "name must be that of an image"),
    (lambda: mnist.load("a\0b"), FileNotFoundError, "no such file or folder"),
    (lambda: mnist.load(os.devnull), FileNotFoundError, "no MNIST in /dev/null"),
]


@pytest.mark.parametrize("call, error, message", CALLS)
def test_arguments(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert raised_here(caught.value)


STREAM = tf.data.Dataset.from_tensor_slices
FITS = [
    ({"x": None}, TypeError, "x must be an array of points.*got None"),
    ({"x": STREAM(np.ones((6, 5))).batch(3)}, ValueError, r"\(n, 2\), got \(.*, 5\)"),
    ({"x": STREAM(X)}, ValueError, r"batch of the stream must have shape.*got \(2,\)"),
    ({"x": STREAM([["a", "b"]]).batch(1)}, TypeError, "real numbers, got b'a'"),
    ({"x": STREAM((X, X)).batch(3)}, ValueError, "learns from points alone"),
    ({"x": X, "sample_weight": X[:, 0]}, ValueError, "takes no sample_weight"),
    ({"x": X, "class_weight": {0: 1}}, ValueError, "takes no class_weight"),
    ({"x": X, "epochs": 1.5}, TypeError, "epochs must be a whole number, got 1.5"),
    ({"x": X, "epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
    ({"x": X, "steps_per_epoch": 0}, ValueError, "steps_per_epoch must be at least 1"),
    ({"x": X, "validation_split": "a"}, TypeError, "validation_split must be a real"),
    (
        {"x": X, "validation_data": X * np.nan},
        ValueError,
        "validation_data must be fin",
    ),
    ({"x": 1e8 * X}, ValueError, "sigma = 0.3 is lost in the rounding of x"),
]


@pytest.mark.parametrize("arguments, error, message", FITS)
def test_fit(model, arguments, error, message):
    weights = model.get_weights()
    with pytest.raises(error, match=message):
        model.fit(verbose=0, shuffle=False, **arguments)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("method", ("evaluate", "predict"))
@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.ones((3, 5)), ValueError, r"shape \(n, 2\), got \(3, 5\)"),
        (X * np.nan, ValueError, "must be finite"),
        ([["a", "b"]], TypeError, "must hold real numbers"),
    ],
)
def test_evaluate_and_predict(model, method, x, error, message):
    with pytest.raises(error, match=message) as caught:
        getattr(model, method)(x, verbose=0)
    assert raised_here(caught.value)


@pytest.mark.parametrize("sigma", (1e-30, 1e30))
def test_a_sigma_whose_square_float32_cannot_hold(sigma):
    with pytest.raises(
        ValueError, match="sigma must lie between .* in float32, got 1e"
    ):
        deen.DEEN(sigma=sigma)
    assert deen.DEEN(sigma=sigma, dtype="float64").sigma == sigma


def test_mixed_precision_where_it_cannot_work():
    with pytest.raises(ValueError, match="one precision throughout.*mixed_bfloat16"):
        deen.NoiseContrastive(dtype="mixed_bfloat16")


@pytest.mark.parametrize(
    "x", (X[:1], np.repeat(X[:1], 9, 0), np.zeros((9, 2)), np.eye(2), [[1], [2], [2]])
)
def test_degenerate_data_can_be_learned_from(x):
    """One point, copies of one, constants, fewer points than dimensions, one dimension."""
    model = deen.DEEN((4,), sigma=0.5)
    model.compile(run_eagerly=True)
    model.fit(x, verbose=0)
    x_hat = model.denoise(x)
    assert np.isfinite(x_hat).all() and np.isfinite(model.energy(x)).all()
    # It starts at the posterior mean of a Gaussian as wide as the data.
    assert np.abs(x_hat - x).max() < 1.5


# ---- any array whatever ----------------------------------------------------------------

NUMBERS = st.one_of(
    st.floats(width=64),
    st.floats(-3, 3),
    st.sampled_from([0.0, 1e-300, 1e-45, 1e15, 1e16, -1e38, 1e145, 1e308]),
)
TYPES = (
    st.sampled_from(
        ["float16", "float32", "float64", ">f8", "int8", "uint64", "bool", "<U3", "O"]
    )
    | arrays.scalar_dtypes()
)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
POINT_SHAPES = st.tuples(st.integers(1, 5), st.just(2))


@st.composite
def anything(draw):
    """An array of any type and shape, more often than not one of numbers and (n, 2)."""
    if draw(st.booleans()):
        return draw(arrays.arrays("float64", POINT_SHAPES, elements=NUMBERS))
    dtype = np.dtype(draw(TYPES))
    shape = draw(st.one_of(POINT_SHAPES, SHAPES))
    if dtype.kind == "O":
        return np.full(shape, draw(st.sampled_from([None, 1, "a", 1j])), "O")
    x = draw(arrays.arrays(dtype, shape))
    layout = draw(st.sampled_from(["C", "F", "reversed", "read-only"]))
    if layout == "reversed" and x.ndim:
        return x[::-1]
    if layout == "read-only":
        x.flags.writeable = False
    return np.asfortranarray(x) if layout == "F" else x


def answers_or_refuses(call):
    """Return the answer, all finite and without a warning, or None after a clear error."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", RuntimeWarning)
            answer = call()
    except (TypeError, ValueError) as error:
        assert raised_here(error) and len(str(error)) > 10
        return None
    assert np.isfinite(answer).all()
    return answer


ANY = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


@ANY
@hypothesis.given(x=anything())
def test_any_array_given_to_a_model(model, x):
    for method in ("energy", "score", "denoise", "experts"):
        answer = answers_or_refuses(functools.partial(getattr(model, method), x))
        if answer is None:
            return
        assert len(answer) == len(x)
        point = np.array(x, "float32")[-1:]
        last = getattr(model, method)(point)
        scale = 1e-5 * (1 + np.abs(point).max() * (method == "denoise"))
        np.testing.assert_allclose(answer[-1:], last, rtol=1e-4, atol=scale)


@ANY
@hypothesis.given(x=anything(), centres=anything(), log_sigma=st.floats(-160, 160))
def test_any_array_given_to_a_parzen_density(x, centres, log_sigma):
    density = answers_or_refuses_object(lambda: Parzen(centres, 10.0**log_sigma))
    if density is None:
        return
    energy = answers_or_refuses(lambda: density.energy(x))
    answers_or_refuses(lambda: density.score(x))
    x_hat = answers_or_refuses(lambda: density.denoise(x))
    if energy is not None:
        x, centres = (np.array(v, "float64") for v in (x, centres))
        squares = ((x[:, None] - centres) ** 2).sum(2) / (2 * density.sigma**2)
        # log n + the nearest centre's exponent bound it from above, the same from below.
        n, d = centres.shape
        constant = 0.5 * d * np.log(2 * np.pi) + d * np.log(density.sigma)
        nearest = squares.min(1)
        slack = 1e-3 + 1e-4 * nearest
        assert (energy >= constant + nearest - slack).all()
        assert (energy <= constant + nearest + np.log(n) + slack).all()
    if x_hat is not None:  # a mean of centres
        reach = 1e-5 * (
            np.abs(centres.astype("f8")).max() + np.abs(x.astype("f8")).max()
        )
        assert (x_hat >= centres.min(0) - reach - 1e-300).all()
        assert (x_hat <= centres.max(0) + reach + 1e-300).all()


def answers_or_refuses_object(call):
    made = []
    answers_or_refuses(lambda: made.append(call()) or 0.0)
    return made[0] if made else None


@ANY
@hypothesis.given(x=anything(), y=anything())
def test_any_array_given_to_metrics_baselines_and_laws(x, y):
    for call in (
        lambda: metrics.fisher_divergence(x, y),
        lambda: metrics.err_per_pixel(x, y),
        lambda: LAW.energy(x, 0.1),
        lambda: LAW.score(x, 0.1),
        lambda: toy.GaussianMixture(x, 0.5).energy(y),
        lambda: toy.Rings().score(x),
        lambda: toy.Checkerboard().energy(x, 0.5),
        lambda: baselines.Wiener(x).denoise(y, 0.5),
        lambda: baselines.median_gaussian(x),
        lambda: van_hateren.remove_mean(x)[0],
        lambda: van_hateren.normalise_contrast(x)[0],
    ):
        answers_or_refuses(call)


@ANY
@hypothesis.given(x=anything())
def test_any_array_to_choose_sigma_from(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # points among the centres
        sigma = answers_or_refuses(lambda: select_sigma(x, folds=2))
    assert sigma is None or sigma > 0
