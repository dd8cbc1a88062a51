"""Center and scale of data, from their definitions; and what is left out of them."""

import tracemalloc

import numpy as np
import pytest

from deen_tf.training import scaling
from deen_tf.training.scaling import center_and_scale, ordinary


def test_noisy_rows_have_variance_one():
    """m is the mean of each coordinate, s^2 the mean of Var(x_i) + sigma^2."""
    x = np.random.default_rng(0).normal(size=(500, 3)) * [1.0, 5.0, 0.1] + [7, -3, 1e3]
    m, s = center_and_scale(x, 0.8)
    np.testing.assert_allclose(m, x.mean(0), rtol=1e-14)
    variances = [np.mean((x[:, i] - x[:, i].mean()) ** 2) for i in range(3)]
    assert s == pytest.approx(np.sqrt(np.mean(variances) + 0.8**2), rel=1e-14)


def test_a_level_for_each_coordinate_is_the_unit_of_each():
    """s_i = sigma_i (mean_j Var(x_j) / sigma_j^2 + 1)^(1/2)."""
    sigma = np.array([2.0, 0.01])
    x = np.random.default_rng(0).normal(size=(500, 2)) * [3.0, 0.05]
    m, s = center_and_scale(x, sigma)
    mean = (np.var(x[:, 0]) / 4 + np.var(x[:, 1]) / 1e-4) / 2
    np.testing.assert_allclose(s, sigma * np.sqrt(mean + 1), rtol=1e-12)
    # In z the noise is round, and noisy data have variance 1 on average.
    np.testing.assert_allclose(sigma / s, (sigma / s)[0])
    assert np.mean(np.var((x - m) / s, axis=0) + (sigma / s) ** 2) == pytest.approx(1)


@pytest.mark.parametrize(
    "center, axes", [("coordinate", 0), ("channel", (0, 1, 2)), ("all", (0, 1, 2, 3))]
)
def test_what_a_mean_is_taken_of(center, axes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4, 5, 3)) + rng.normal(size=(4, 5, 3)) * 3
    m, s = center_and_scale(x, 0.5, center)
    np.testing.assert_allclose(m, x.mean(axes))
    assert s == pytest.approx(np.sqrt(np.mean((x - x.mean(axes)) ** 2) + 0.25))


def test_constant_data_have_the_scale_of_the_noise():
    m, s = center_and_scale(np.full((9, 2), 3.0), 0.25)
    np.testing.assert_array_equal(m, [3.0, 3.0])
    assert s == 0.25


def test_float32_data_far_from_zero_are_centred_in_float64():
    """The mean of a million equal numbers, as their sum in float32 would not have it."""
    x = np.full((100_000, 1), 16_777_217.0, "float32") + 2
    m, _ = center_and_scale(x, 1.0)
    assert m.item() == float(x[0, 0])


def test_of_many_points_every_so_many_are_taken(monkeypatch):
    monkeypatch.setattr(scaling, "SAMPLE", 100)
    x = np.random.default_rng(0).normal(size=(1050, 2))
    m, s = center_and_scale(x, 0.3)
    some = x[::11]  # at most 100
    np.testing.assert_allclose(m, some.mean(0))
    assert s == pytest.approx(np.sqrt(some.var(0).mean() + 0.09))


def test_sentinels_are_left_out_and_named():
    x = np.random.default_rng(0).normal(size=(2000, 4, 2))
    x[[17, 1999]] = -9999.0
    with pytest.warns(
        UserWarning, match=r"2 of 2000 rows lie.*rows 17, 1999.*left out"
    ):
        kept = ordinary(x)
    np.testing.assert_array_equal(kept, np.delete(x, [17, 1999], axis=0))


@pytest.mark.filterwarnings("error")
def test_ordinary_data_are_taken_as_they_are():
    x = np.random.default_rng(0).standard_t(
        4, size=(2000, 2)
    )  # heavy tails, no sentinel
    assert ordinary(x) is x


def test_units_of_large_data_take_one_array_of_float64_beside_them():
    x = np.random.default_rng(0).normal(3.0, 2.0, (4000, 1000)).astype("float32")
    tracemalloc.start()
    m, s = center_and_scale(x, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * 2 * x.nbytes
    np.testing.assert_allclose(m, x.astype("float64").mean(0), rtol=1e-12)
    np.testing.assert_allclose(s, np.sqrt(x.astype("float64").var(0).mean() + 0.25))
