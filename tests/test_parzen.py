"""The Parzen density and its bandwidth, against loops in float64 and closed forms."""

import re

import numpy as np
import pytest
from scipy import optimize, special
from scipy.integrate import trapezoid

from deen_tf.laws import kernel_sums
from deen_tf.laws.parzen import Parzen, select_sigma


def slow(x, points, sigma):
    """Log density and posterior mean, one point at a time, in float64."""
    x, points = np.asarray(x, "float64"), np.asarray(points, "float64")
    n, d = x.shape
    log_p, mean = [], []
    for point in points:
        exponent = -((point - x) ** 2).sum(1) / (2 * sigma**2)
        total = special.logsumexp(exponent)
        log_p.append(total - np.log(n) - 0.5 * d * np.log(2 * np.pi * sigma**2))
        mean.append(np.exp(exponent - total) @ x)
    return np.array(log_p), np.array(mean)


@pytest.mark.parametrize("offset", (0.0, 1e3))
@pytest.mark.parametrize("sigma", (1e-3, 0.03, 0.3, 3.0, 1e3))
@pytest.mark.parametrize("d", (1, 3, 100))
def test_against_the_definition(d, sigma, offset):
    rng = np.random.default_rng(d)
    # Rounded to float32 first: the input's rounding is not the method's.
    x = (rng.normal(size=(300, d)) + offset).astype("float32")
    points = (rng.normal(size=(40, d)) + offset).astype("float32")
    log_p, mean = slow(x, points, sigma)
    density = Parzen(x, sigma)
    # float32 data after centring: a relative 1e-6 of the exponent, and 1e-3 nats.
    np.testing.assert_allclose(density.log_density(points), log_p, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(density.denoise(points), mean, atol=4e-3 + 1e-6 * offset)
    np.testing.assert_array_equal(density.energy(points), -density.log_density(points))


def test_centres_nearer_to_one_another_than_float32_tells():
    """Centres within a few sigma of a point, all of whose products round to one number.

    Their products are near r^2 / 2 = 25 in units of the spread, and rounded to 2^-20 of that;
    what tells them apart is sigma^2 d, 1e-11. Those that rounding puts below must be asked.
    """
    rng = np.random.default_rng(12)
    d, sigma = 50, 1e-6
    x, near = rng.normal(size=(200, d)), rng.normal(size=(30, d))
    points = x[:20] + sigma * rng.normal(size=(20, d))
    x = np.concatenate([x, *(x[:20, None] + sigma * near)])
    log_p, mean = slow(x, points, sigma)
    density = Parzen(x, sigma)
    np.testing.assert_allclose(density.log_density(points), log_p, atol=2e-3)
    np.testing.assert_allclose(
        (density.denoise(points) - points) / sigma, (mean - points) / sigma, atol=1e-2
    )


def test_one_centre_is_a_gaussian():
    density = Parzen([[1.0, 2.0]], 0.5)
    points = np.array([[0.0, 0.0], [1.0, 2.5]])
    square = ((points - [1, 2]) ** 2).sum(1)
    np.testing.assert_allclose(
        density.energy(points), square / 0.5 + np.log(2 * np.pi * 0.25), rtol=1e-5
    )
    np.testing.assert_allclose(density.score(points), ([1, 2] - points) / 0.25, 1e-5)
    np.testing.assert_allclose(density.denoise(points), [[1, 2], [1, 2]], rtol=1e-6)


def test_score_is_minus_the_slope_of_the_energy():
    rng = np.random.default_rng(1)
    density = Parzen(rng.normal(size=(200, 2)), 0.4)
    points = rng.normal(size=(30, 2)).astype("float32")
    for i, e in enumerate(np.eye(2, dtype="float32") / 128):
        slope = (density.energy(points + e) - density.energy(points - e)) * 64
        np.testing.assert_allclose(density.score(points)[:, i], -slope, atol=5e-3)


def test_it_integrates_to_one():
    x = np.linspace(-8, 8, 4001)[:, None]
    p = np.exp(
        Parzen(np.random.default_rng(0).normal(size=(50, 1)), 0.3).log_density(x)
    )
    assert trapezoid(p, x[:, 0]) == pytest.approx(1, abs=1e-5)


def test_denoising_and_parzen_objectives_differ_by_a_constant():
    """Eqs. 13 and 14, on a finite set: L_denoising - L_parzen does not depend on psi."""
    rng = np.random.default_rng(2)
    x, sigma, m = rng.normal(size=(20, 2)), 0.5, 4000
    clean = np.repeat(x, m, axis=0)
    xi = clean + sigma * rng.normal(size=clean.shape)
    target = (clean - xi) / sigma**2  # d log S / d xi
    exact = Parzen(x, sigma).score(xi)
    gaps = []
    for psi in (0 * xi, -xi, np.sin(xi) * 2):
        gap = ((psi - target) ** 2).sum(1) - ((psi - exact) ** 2).sum(1)
        gaps.append(gap)
    for gap in gaps[1:]:
        difference = gap - gaps[0]
        error = difference.std() / np.sqrt(len(difference))
        assert abs(difference.mean()) < 4 * error


@pytest.mark.parametrize("d", (1, 2, 20))
def test_selected_sigma_is_the_maximum(d):
    rng = np.random.default_rng(3)
    train, held_out = rng.normal(size=(300, d)), rng.normal(size=(100, d))
    sigma, curve = select_sigma(train, held_out, return_curve=True)
    best = optimize.minimize_scalar(
        lambda s: -slow(train, held_out, s)[0].mean(),
        bounds=(0.01, 3),
        method="bounded",
    )
    # The likelihood is flat at its top: the golden section finds it to about 1e-4.
    assert sigma == pytest.approx(best.x, rel=2e-3)
    at = curve.sigmas[10]
    assert curve.log_likelihoods[10] == pytest.approx(
        slow(train, held_out, at)[0].mean(), abs=1e-3
    )
    assert (np.diff(curve.sigmas) > 0).all()


def test_bandwidth_of_a_single_far_centre_in_closed_form():
    """One centre at 0 and held-out points: sigma^2 = mean |x|^2 / d."""
    held_out = np.random.default_rng(4).normal(size=(50, 3))
    sigma = select_sigma(np.zeros((1, 3)), held_out)
    assert sigma == pytest.approx(np.sqrt((held_out**2).mean()), rel=1e-3)


def test_bandwidth_scales_with_the_data_and_falls_with_their_number():
    rng = np.random.default_rng(5)
    train, held_out = rng.normal(size=(4000, 2)), rng.normal(size=(500, 2))
    sigma = select_sigma(train, held_out)
    for scale in (1e-3, 1e3):
        scaled = select_sigma(scale * train, scale * held_out)
        assert scaled == pytest.approx(scale * sigma, rel=2e-3)
    assert sigma < 0.8 * select_sigma(train[:200], held_out)


def test_cross_validation():
    x = np.random.default_rng(6).normal(size=(200, 2))
    sigma = select_sigma(x, folds=4, seed=1)
    fold_of = np.random.default_rng(1).permutation(200) % 4

    def loss(s):
        return -sum(
            slow(x[fold_of != fold], x[fold_of == fold], s)[0].sum()
            for fold in range(4)
        )

    best = optimize.minimize_scalar(loss, bounds=(0.05, 2), method="bounded").x
    # As above, and the promise of a relative 1e-3.
    assert sigma == pytest.approx(best, rel=2e-3)


def test_blocks_do_not_change_the_answer(monkeypatch):
    rng = np.random.default_rng(7)
    x, points = rng.normal(size=(50, 3)), rng.normal(size=(150, 3))
    whole = Parzen(x, 0.3).log_density(points), Parzen(x, 0.3).denoise(points)
    monkeypatch.setattr(kernel_sums, "POINTS", 64)
    monkeypatch.setattr(kernel_sums, "CENTRES", 16)
    assert kernel_sums.blocks(50, 150, 3) == 3 * 4
    np.testing.assert_allclose(Parzen(x, 0.3).log_density(points), whole[0], rtol=1e-6)
    np.testing.assert_allclose(Parzen(x, 0.3).denoise(points), whole[1], atol=1e-6)


def test_against_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(8)
    x, points = rng.normal(size=(100, 5)), rng.normal(size=(20, 5))
    reference = neighbors.KernelDensity(bandwidth=0.7).fit(x)
    np.testing.assert_allclose(
        Parzen(x, 0.7).log_density(points), reference.score_samples(points), rtol=1e-5
    )


@pytest.mark.parametrize("held_out", ("validation", "folds"))
@pytest.mark.parametrize("sentinel", (-9999.0, 1e14))
def test_sentinels_do_not_decide_the_bandwidth(sentinel, held_out):
    x = np.random.default_rng(9).normal(size=(2000, 2))
    rest = {"validation": x[1500:]} if held_out == "validation" else {}
    clean = select_sigma(x[:1500], **rest)
    bad = x.copy()
    bad[7] = sentinel
    bad[1700, 1] = sentinel
    rest = {"validation": bad[1500:]} if rest else {}
    with pytest.warns(UserWarning) as warned:
        found = select_sigma(bad[:1500], **rest)
    # One row of 1500 less, and other folds.
    assert found == pytest.approx(clean, rel=0.03)
    wanted = [r"1 of 1500 rows .*\(row 7\).*sigma \(train\)"]
    wanted += [r"1 of 500 rows .*\(row 200\).*\(validation\)"] if rest else []
    for text, warning in zip(wanted, warned, strict=True):
        assert re.search(text, str(warning.message))
        assert warning.filename == __file__


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_too_few_rows_to_tell_an_outlier():
    x = np.random.default_rng(0).normal(size=(8, 2))
    x[3, 0] = 1e14
    with pytest.raises(ValueError, match="are there outliers among them"):
        select_sigma(x, folds=4)


def test_one_bandwidth_for_each_coordinate():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(900, 3)) @ [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]
    train, held_out = x[:600], x[600:]
    sigma, curve = select_sigma(train, held_out, per_coordinate=True, return_curve=True)
    assert sigma.shape == (3,)
    # Along std(train), and of those the likeliest: the oracle knows no scaled coordinates.
    ratio = sigma / train.std(0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)

    def loss(r):
        return -slow_anisotropic(train, held_out, r * train.std(0))[0].mean()

    best = optimize.minimize_scalar(loss, bounds=(0.05, 2), method="bounded").x
    assert ratio[0] == pytest.approx(best, rel=2e-3)
    assert curve.log_likelihoods[10] == pytest.approx(-loss(curve.sigmas[10]), abs=1e-3)
    # Kelvin beside hectopascal.
    scale, shift = np.array([1e-3, -40.0, 1e5]), np.array([273.0, 0, 1e6])
    scaled = select_sigma(
        train * scale + shift, held_out * scale + shift, per_coordinate=True
    )
    np.testing.assert_allclose(scaled, np.abs(scale) * sigma, rtol=1e-5)
    with pytest.raises(ValueError, match="coordinate 1 of train is constant"):
        select_sigma(train * [1, 0, 1], held_out * [1, 0, 1], per_coordinate=True)


def slow_anisotropic(x, points, sigma):
    exponent = -(((points[:, None] - x) / sigma) ** 2).sum(2) / 2
    log_p = special.logsumexp(exponent, axis=1)
    mean = np.exp(exponent - log_p[:, None]) @ x
    return log_p - np.log(len(x)) - np.log(2 * np.pi) * x.shape[1] / 2 - np.log(
        sigma
    ).sum(), mean


def test_a_density_with_a_bandwidth_for_each_coordinate():
    rng = np.random.default_rng(11)
    scale = np.array([1e-3, 1.0, 50.0])
    x, points = rng.normal(size=(300, 3)) * scale, rng.normal(size=(40, 3)) * scale
    sigma = 0.4 * scale * [1, 2, 0.5]
    log_p, mean = slow_anisotropic(x, points, sigma)
    density = Parzen(x, sigma)
    np.testing.assert_allclose(density.log_density(points), log_p, atol=2e-3)
    np.testing.assert_allclose(density.denoise(points) / scale, mean / scale, atol=1e-3)
    # Eq. 11, coordinate by coordinate.
    step = points + sigma**2 * density.score(points)
    np.testing.assert_allclose(
        density.denoise(points) / scale, step / scale, atol=1e-12
    )
    np.testing.assert_array_equal(density.sigma, sigma)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Parzen([[1.0, 2.0]], [1.0]), ValueError, r"sigma must have shape"),
        (lambda: Parzen([[1.0, 2.0]], [1.0, 0]), ValueError, "sigma must be positive"),
        (lambda: Parzen([[1.0]], 0), ValueError, "sigma must be positive"),
        (lambda: Parzen([1.0], 1), ValueError, r"x must have shape \(n, d\)"),
        (lambda: Parzen([[np.nan]], 1), ValueError, "x must be finite"),
        (lambda: Parzen([[1.0]], 1).energy([[1.0, 2.0]]), ValueError, r"\(n, 1\)"),
        (
            lambda: select_sigma([[1.0]], [[1.0, 2.0]]),
            ValueError,
            "validation must have",
        ),
        (
            lambda: select_sigma([[1.0], [2.0]], folds=5),
            ValueError,
            "folds must be at most.*2, got 5",
        ),
        (lambda: select_sigma([[1.0], [2.0]], folds=1), ValueError, "folds must be"),
        (
            lambda: select_sigma([[1.0], [2.0]], [[2.0], [1.0]]),
            ValueError,
            "held-out points of validation are all among the centres",
        ),
        (
            lambda: select_sigma(np.ones((9, 2))),
            ValueError,
            "held-out points of train are all among",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
