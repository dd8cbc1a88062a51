"""log Z by annealed importance sampling, against normalisers that are known."""

import numpy as np
import pytest

import deen_tf as deen
from deen_tf.annealing import _log_mean, log_z
from deen_tf.laws import Gaussian, GaussianMixture, ManyWells


class Unnormalised:
    """A law's density times exp(c)."""

    def __init__(self, law, c):
        self.law, self.c = law, c

    def energy(self, x):
        return self.law.energy(x) - self.c

    def score(self, x):
        return self.law.score(x)


def both(law, c, n=128, **settings):
    x = law.sample(n, seed=5, dtype="float64")
    start = Gaussian.fit(law.sample(20_000, seed=6))
    return log_z(Unnormalised(law, c), start, x, **({"chains": n} | settings))


@pytest.mark.parametrize(
    "law",
    [
        Gaussian([1.0, 2, 3], np.diag([0.1, 1.0, 4.0])),
        GaussianMixture.ring(modes=4, radius=2.0, std=0.4),
        ManyWells(8),
    ],
    ids=("gaussian", "ring", "wells"),
)
@pytest.mark.parametrize("c", (-50.0, 41.17))
def test_known_normalisers(law, c):
    found = both(law, c, steps=200, leapfrogs=2)
    for estimate, error in (found[:2], found[2:]):
        assert 0 < error < 0.3
        # Four standard errors; where weights are uneven, the mean is off by half the variance.
        assert abs(estimate - c) < 4 * error + 64 * error**2


def test_errors_are_what_seeds_show():
    law = ManyWells(4)
    found = np.array(
        [both(law, 0.0, steps=60, leapfrogs=2, n=64, seed=s) for s in range(16)]
    )
    for estimates, errors in (found[:, :2].T, found[:, 2:].T):
        spread, error = estimates.std(ddof=1), errors.mean()
        # The spread of 16 is known to 18%. (The reverse chains all begin at the same points.)
        assert 0.5 < spread / error < 1.7
        assert abs(estimates.mean()) < 4 * error / np.sqrt(16) + 32 * error**2


def test_too_short_chains_bracket_the_truth():
    """With two temperatures neither is right, and the truth lies between."""
    law = Gaussian(np.zeros(12), 0.01 * np.eye(12))
    density = Unnormalised(law, 3.0)
    start = Gaussian(np.zeros(12), np.eye(12))
    x = law.sample(400, 0, "float64")
    found = log_z(density, start, x, chains=400, steps=2, leapfrogs=1)
    assert found.forward < 3 < found.reverse
    assert found.reverse - found.forward > 0.5


def test_one_temperature_is_importance_sampling():
    """log mean exp(E_0 - E) over the start, whatever moves follow."""
    law = Gaussian([0.3, 0.0], 0.5 * np.eye(2))
    start = Gaussian([0.0, 0.0], np.eye(2))
    found = log_z(Unnormalised(law, -2.0), start, chains=1000, steps=1, seed=4)
    x = start.sample(1000, 5, "float64")
    w = np.exp(start.energy(x) - law.energy(x) - 2)
    assert found.forward == pytest.approx(np.log(w.mean()), abs=1e-12)
    error = w.std(ddof=1) / w.mean() / np.sqrt(1000)
    assert found.forward_error == pytest.approx(error)
    assert np.isnan(found.reverse) and np.isnan(found.reverse_error)


def test_chains_that_run_off_are_rejected_back():
    class Steep:
        """exp(-x^8): a leapfrog step too large flies to 1e30 within a trajectory."""

        def energy(self, x):
            return np.sum(np.minimum(np.abs(x), 1e30) ** 8, axis=1)

        def score(self, x):
            assert np.abs(x).max() < 1e13
            return -8 * np.sign(x) * np.abs(x) ** 7

    found = log_z(Steep(), Gaussian([0.0], [[1.0]]), chains=300, steps=100)
    # integral exp(-x^8) = 2 Gamma(9 / 8)
    assert found.forward == pytest.approx(np.log(2 * 0.9417426998), abs=0.1)


def test_log_of_a_mean_of_huge_weights():
    log_w = np.array([1e4, 1e4 + np.log(3)])
    mean, error = _log_mean(log_w)
    assert mean == pytest.approx(1e4 + np.log(2))
    assert error == pytest.approx(np.sqrt(2) / np.sqrt(2) / 2)
    assert np.isnan(_log_mean(np.zeros(1))[1])


def test_a_model_of_several_levels_is_asked_at_one():
    model, start = deen.DEEN((8,), sigma=(0.1, 1.0)), Gaussian([0.0], [[2.0]])
    model.adapt(start.sample(100, 0))
    with pytest.raises(ValueError, match=r"give model.smoothed\(sigma\)"):
        log_z(model, start)
    found = log_z(model.smoothed(0.5), start, chains=4, steps=1, leapfrogs=1)
    assert np.isfinite(found.forward)


def test_bad_input_is_named():
    law, start = Gaussian([0.0], [[1.0]]), Gaussian([0.0], [[2.0]])
    with pytest.raises(ValueError, match="steps must be at least 1"):
        log_z(law, start, steps=0)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 1\)"):
        log_z(law, start, [[1.0, 2.0]])
    with pytest.raises(TypeError, match="chains must be a whole number"):
        log_z(law, start, chains=2.5)
