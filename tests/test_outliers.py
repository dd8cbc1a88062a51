"""Gross outliers: found where there are some, and not where there are none."""

import warnings

import numpy as np
import pytest

from deen_tf.outliers import gross_outliers, warn_of_outliers


def normals(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("n", (10, 100, 20_000))
@pytest.mark.parametrize("d", (1, 3, 50))
def test_sentinels_are_found_and_nothing_else(n, d):
    x = normals(n, d)
    assert gross_outliers(x).tolist() == []
    x[n // 2] = -9999
    assert gross_outliers(x).tolist() == [n // 2]
    x = x.astype("float32")
    x[n // 2, 1:] = 0  # one coordinate is enough
    assert gross_outliers(x).tolist() == [n // 2]


def test_up_to_a_hundredth_of_the_rows():
    x = normals(20_000, 4)
    bad = np.arange(0, 20_000, 150)  # 0.7%: the sample of rows holds at most 1%
    x[bad, 2] = 1e14
    np.testing.assert_array_equal(gross_outliers(x), bad)


def test_the_rule():
    """20 times the 99% quantile of the distance, here |x_1| / u / sqrt(2), from the median."""
    x = np.zeros((101, 2))
    x[:100, 0] = np.arange(-49.5, 50)  # of |x - median| the 99% quantile is near 50
    for edge, found in ((0.95, []), (1.05, [100])):
        x[100] = 20 * 50 * edge, 0
        assert gross_outliers(x).tolist() == found


def test_units_of_the_coordinates_do_not_matter():
    x = normals(1000, 3)
    x[7, 0], x[9, 2] = 200, 3.0
    for scale in ([1e-9, 1, 1e9], [1e9, 1e-3, -1e-9]):
        assert gross_outliers(x * scale + [1e-9, 3, 1e4]).tolist() == [7]


def test_margins_that_are_nearly_constant_are_no_reason():
    x = normals(1000, 20)
    x[:, :10] = 0
    x[3, :10] = 5.0  # a digit that reaches into the margin
    assert gross_outliers(x).tolist() == []
    x[3, 0] = -9999
    assert gross_outliers(x).tolist() == [3]
    x[:, 10:] = 0  # nothing but margin
    assert gross_outliers(x).tolist() == []


def test_tails_like_an_exponentials_are_no_outliers():
    rng = np.random.default_rng(1)
    assert len(gross_outliers(rng.exponential(size=(20_000, 2)))) == 0
    assert len(gross_outliers(rng.lognormal(0, 1, size=(20_000, 2)))) == 0


@pytest.mark.parametrize("x", (np.zeros((50, 2)), np.ones((1, 1)), normals(5, 2)))
def test_nothing_to_compare_with(x):
    assert gross_outliers(x).tolist() == []


def test_one_warning_names_the_rows():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_outliers(np.empty(0, int), 10, "are left out")
    with pytest.warns(UserWarning, match=r"1 of 10 rows lies .*\(row 3\).* left out"):
        warn_of_outliers(np.array([3]), 10, "are left out")
    with pytest.warns(
        UserWarning, match=r"7 of 99 rows lie .*rows 0, 1, 2, 3, 4, \.\.\."
    ):
        warn_of_outliers(np.arange(7), 99, "are left out")
