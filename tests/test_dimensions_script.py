"""The script on many dimensions: its truth, its modes, its points for an error."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "reproduce"))
    try:
        return importlib.import_module("dimensions")
    finally:
        sys.path.pop(0)


SMALL = {"chains": 16, "steps": 20, "leapfrogs": 1}


@pytest.mark.parametrize(
    "name", ["wells", "mixture", "scales", "ica", "funnel", "natural"]
)
def test_the_truth_has_no_error(script, name):
    truth = script.Truth(name, 4, 1000)
    values = truth.measure(truth.law.smoothed(truth.sigma), "exact", SMALL)
    for metric in ("relative_score_error", "excess_loss", "energy_error"):
        assert values[metric] == 0
    assert values.get("mode_mass_error", 0) < 1e-12
    assert abs(values["kl"]) == values["log_z_error"] < 1  # the annealing's own error


def test_a_gaussian_has_the_errors_of_closed_form(script):
    """Of N(0, C) with a model N(0, C) whose noise level is taken 20% too large."""
    truth = script.Truth("natural", 16, 100_000)
    v, power = truth.law.variances, truth.sigma**2

    class Wrong:
        def score(self, x):
            return truth.law.score(x, 1.2 * truth.sigma)

        def energy(self, x):
            return truth.law.energy(x, 1.2 * truth.sigma) + 5  # "gaussian": normalised

    values = truth.measure(Wrong(), "gaussian", SMALL)
    true, wrong = v + power, v + 1.44 * power
    fisher = np.sum((1 / wrong - 1 / true) ** 2 * true)
    # Means of chi squares over 100,000 points: 4 sqrt(2 / 100,000) = 1.8%.
    assert values["relative_score_error"] == pytest.approx(
        fisher / np.sum(1 / true), rel=0.02
    )
    floor = np.sum(v * power / true)
    assert values["excess_loss"] == pytest.approx(power**2 * fisher / floor, rel=0.02)
    kl = 0.5 * np.sum(true / wrong - 1 - np.log(true / wrong))
    assert values["kl"] - 5 == pytest.approx(kl, abs=0.02)
    assert "log_z_error" not in values


def test_modes(script):
    wells = script.Truth("wells", 6, 400)
    modes = wells.modes()
    assert len(modes) == 3
    np.testing.assert_array_equal(modes[1], wells.xi[:, 2] > 0)
    mixture = script.Truth("mixture", 3, 400)
    squares = ((mixture.xi[:, None] - mixture.law.means) ** 2).sum(2)
    np.testing.assert_array_equal(mixture.modes()[0], squares.argmin(1))
    scales = script.Truth("scales", 100, 400)
    # Shells of radius sqrt(200) and sqrt(1700): nothing lies between.
    np.testing.assert_array_equal(
        scales.modes()[0], np.linalg.norm(scales.xi, axis=1) > 25
    )
    assert script.Truth("ica", 2, 10).modes() == []


def test_mass_moved_from_one_scale_to_the_other_is_seen(script):
    truth = script.Truth("scales", 100, 2000)
    moved = truth.energy - np.where(truth.modes()[0] == 1, np.log(3), 0)

    class Model:
        def score(self, x):
            return truth.score

        def energy(self, x):
            return moved

    # Equal parts become 1 : 3, masses 1/4 and 3/4: both are half off.
    found = truth.measure(Model(), "gaussian", SMALL)["mode_mass_error"]
    assert found == pytest.approx(0.5, abs=0.05)


def test_points_for_an_error(script):
    numbers = (100, 1000, 10_000)
    assert script.points_for(0.1, numbers, (1.0, 0.01, 0.001)) == pytest.approx(
        100 * 10**0.5
    )
    assert script.points_for(0.1, numbers, (1.0, 0.4, 0.1)) == pytest.approx(10_000)
    assert script.points_for(0.1, numbers, (0.05, 0.01, 0.001)) == 100
    assert script.points_for(0.1, numbers, (3.0, 2.0, 0.2)) is None


@pytest.mark.long
def test_few_points_keep_what_is_best_on_those_held_out(script):
    """With a rate at which the loss comes to rise again, the end is not the answer."""
    x = script.law_of("wells", 2).sample(50, seed=0)
    model = script.model_of("deen", 1.0, 0, (16, 8), 200, 1e-2)
    script.fit(model, x, 200, 32, segments=4)
    kept = model.evaluate(x[:10], batch_size=10, verbose=0)
    losses = []
    model = script.model_of("deen", 1.0, 0, (16, 8), 200, 1e-2)
    for _ in range(4):
        model.fit(x[10:42], batch_size=32, epochs=50, verbose=0)
        losses.append(model.evaluate(x[:10], batch_size=10, verbose=0))
    assert kept == pytest.approx(min(losses), rel=1e-5)


def test_estimators_do_what_they_are_called(script):
    seen = {}
    for E in script.ESTIMATORS:
        if E not in script.UNTRAINED:
            model = script.model_of(E, 0.5, 3, (8,), 10, 1e-3)
            seen[E] = type(model).__name__
            assert (model.sigma, model.seed) == (0.5, 3)
    assert (
        seen["dae"] == "DenoisingAutoencoder" and seen["cd"] == "ContrastiveDivergence"
    )
    assert len(set(seen.values())) == len(seen) - 2  # three of them are a DEEN
