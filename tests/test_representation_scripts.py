"""The scripts on what DEEN's hidden units are worth: experts and features."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

import deen_tf as deen
from deen_tf import metrics

ROOT = pathlib.Path(__file__).parents[1]


def script(name):
    sys.path.insert(0, str(ROOT / "reproduce"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


experts = script("experts")
features = script("features")


# ---- experts -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def points():
    law = deen.datasets.GaussianMixture.ring(modes=4)
    truth = law.smoothed(0.1)
    xi = truth.sample(500, seed=1)
    return known(law, xi)


def known(law, xi):
    truth = law.smoothed(0.1)
    return types.SimpleNamespace(
        xi=xi, score=truth.score(xi), energy=truth.energy, box=law.box(0.1), cells=200
    )


class Recorder:
    """A run that remembers its metrics."""

    settings = types.SimpleNamespace(enough=0.1)

    def __init__(self):
        self.recorded = {}

    def metric(self, name, value, of=None, note=""):
        self.recorded[name] = value


def network(seed=0):
    x = deen.datasets.GaussianMixture.ring(modes=4).sample(2000, seed=seed)
    model = deen.DEEN(hidden_units=(8, 6), sigma=0.1, seed=seed)
    model.adapt(x)
    weights = np.random.default_rng(seed).normal(size=(6, 1))
    model.last.kernel.assign(3 * weights)  # a score as large as the exact one
    return model


def score_error(model, points):
    return metrics.relative_score_error(model.score(points.xi), points.score)


def kl(model, points):
    return metrics.grid_kl(points.energy, model.energy, points.box, points.cells)


def test_coefficients_are_weights_of_the_last_layer(points):
    model = network()
    taken = experts.Experts(model.experts, experts.gradients(model), points)
    c = np.array([1, 1, 0, 1, 0.5, 1])
    error, divergence = taken.score_error(c), taken.kl(c)
    assert taken.score_error(np.ones(6)) != pytest.approx(error, rel=1e-2)
    model.last.kernel.assign(np.asarray(model.last.kernel) * c[:, None])
    # float32 scores, of experts that cancel in part
    assert error == pytest.approx(score_error(model, points), rel=1e-5)
    assert divergence == pytest.approx(kl(model, points), rel=1e-4)


def test_refitted_coefficients_are_the_least_squares(points):
    model = network()
    slopes = experts.gradients(model)(points.xi)  # (n, 6, 2)
    taken = experts.Experts(model.experts, lambda x: slopes, points)
    some = [4, 0, 3]
    design = -slopes[:, some].transpose(0, 2, 1).reshape(-1, 3).astype("float64")
    best = np.linalg.lstsq(design, points.score.ravel())[0]
    c = taken.keep(some, refit=True)
    # normal equations lose half of the digits of float64
    assert c[some] == pytest.approx(best, rel=1e-5)
    assert np.flatnonzero(c).tolist() == sorted(some)
    assert taken.keep(some).tolist() == [1, 0, 0, 1, 1, 0]
    rest = points.score.ravel() - design @ best
    wanted = np.sum(rest**2) / np.sum(points.score**2)
    assert taken.score_error(c) == pytest.approx(wanted, rel=1e-6)


def test_an_average_of_networks_is_a_product_of_experts(points):
    models = [network(0), network(1), network(2)]
    taken = experts.Experts(*experts.averaged(models), points)
    run = Recorder()
    recorded = run.recorded
    experts.against_members(run, "average", taken)
    mean = np.mean([m.score(points.xi) for m in models], axis=0)
    alone = [score_error(m, points) for m in models]
    assert recorded["average/relative_score_error"] == pytest.approx(
        metrics.relative_score_error(mean, points.score), rel=1e-5
    )
    assert recorded["average-members/relative_score_error_median"] == pytest.approx(
        np.median(alone), rel=1e-5
    )
    assert recorded["average-members/grid_kl_median"] == pytest.approx(
        np.median([kl(m, points) for m in models]), rel=1e-4
    )
    pairs = [
        metrics.relative_score_error(
            (models[a].score(points.xi) + models[b].score(points.xi)) / 2,
            points.score,
        )
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    assert recorded["average-less-one/relative_score_error_median"] == pytest.approx(
        np.median(pairs), rel=1e-5
    )


def test_how_many_experts_are_needed():
    # A Gaussian energy: nothing from one expert, x1^2 from the next, x2^2 from three.
    law = deen.datasets.GaussianMixture(np.zeros((1, 2)), 0.5)
    truth = law.smoothed(0.1)
    xi = truth.sample(500, seed=1)
    exact = known(law, xi)
    k = 1 / (0.5**2 + 0.1**2)
    zero, third = np.zeros(len(xi)), k * xi[:, 1] / 3
    slopes = np.stack(
        [[zero, zero], [2 * k * xi[:, 0], zero], *3 * [[zero, third]]]
    )  # (5, 2, n); the first coordinate's is twice what it should be
    weights = k * np.array([[0, 0], [1, 0], *3 * [[0, 1 / 6]]])
    taken = experts.Experts(
        lambda x: x**2 @ weights.T, lambda x: slopes.transpose(2, 0, 1), exact
    )
    run = Recorder()
    recorded = run.recorded
    experts.take_apart(run, "D", taken)
    # Precisions in x2 of a third, 2/3 and all of k: (r - 1 - log r) / 2 = 0.22, 0.04, 0.
    assert recorded["D/experts/needed"] == 3
    assert recorded["D/experts/needed_refitted"] == 2
    s1, s2 = 4 * k**2 * np.mean(xi[:, 0] ** 2), k**2 * np.mean(xi[:, 1] ** 2)
    ratio = (s1 + s2 / 3) ** 2 / (s1**2 + s2**2 / 27)
    assert recorded["D/experts/participation_ratio"] == pytest.approx(ratio)
    assert recorded["D/experts/agreement"] == pytest.approx((s1 + s2) / (s1 + s2 / 3))
    # A precision of 2 k instead of k in one dimension: KL = (2 - 1 - log 2) / 2.
    assert recorded["D/deen/grid_kl"] == pytest.approx((1 - np.log(2)) / 2, rel=1e-4)
    # Without the constant and refitted, the others are exact.
    assert recorded["D/removal_refitted/grid_kl_min"] == pytest.approx(0, abs=1e-6)
    assert recorded["D/removal/relative_score_error_min"] == pytest.approx(
        np.mean(xi[:, 0] ** 2) / np.mean(np.sum(xi**2, 1)), rel=1e-6
    )


# ---- features ------------------------------------------------------------------------


def labelled(n, rng):
    """Ten clusters in six dimensions, and a pixel that is always 0."""
    centres = np.random.default_rng(5).normal(size=(10, 6))
    y = rng.integers(10, size=n)
    z = centres[y] + 0.7 * rng.normal(size=(n, 6))
    return np.hstack([z, np.zeros((n, 1))]).astype("float32"), y


def task(y_test=None):
    rng = np.random.default_rng(3)
    x, y = labelled(600, rng)
    x_test, test = labelled(300, rng)
    digits = types.SimpleNamespace(
        x_train=x,
        y_train=y.astype("uint8"),
        x_test=x_test,
        y_test=(test if y_test is None else y_test(test)).astype("uint8"),
    )
    at = types.SimpleNamespace(**features.SETTINGS)
    vars(at).update(digits=600, validation=200, labels=(50, 400), draws=3)
    return features.FewLabels(digits, at, seed=0)


def test_the_penalty_is_on_the_weights_over_the_mean_of_the_points():
    """At the minimum of -E log p(y | z) + strength / 2 |W|^2 the slope in W is zero."""
    z, y = labelled(400, np.random.default_rng(0))
    fits, fit = [], features.LogisticRegression.fit

    class Spy(features.LogisticRegression):
        def fit(self, *arguments):
            fits.append((fit(self, *arguments).coef_.copy(), self.intercept_.copy()))
            return self

    few = task()
    few.at.strengths, few.at.tolerance = (1.0, 0.03), 1e-6
    features.LogisticRegression, before = Spy, features.LogisticRegression
    try:
        few.y, few.labelled = y, 300
        few.errors(z, few.x_test, slice(300))
    finally:
        features.LogisticRegression = before
    known, classes = z[:300].astype("float64"), np.eye(10)[y[:300]]
    for strength, (W, b) in zip(few.at.strengths, fits, strict=True):
        p = np.exp(known @ W.T + b)
        p /= p.sum(1, keepdims=True)
        slope = (p - classes).T @ known / 300 + strength * W
        assert np.abs(slope).max() < 1e-4 < 1e-2 * np.abs(strength * W).max()


def test_labels_are_drawn_class_by_class_from_what_is_not_for_validation():
    drawn = task().draws[50]
    assert len(drawn) == 3 and task().draws[400] == [slice(400)]
    for some in drawn:
        assert np.bincount(task().y[some]).tolist() == [5] * 10
        assert some.max() < 400 and len(set(some)) == 50
    assert set(drawn[0]) != set(drawn[1])
    assert all(np.array_equal(a, b) for a, b in zip(drawn, task().draws[50]))


def test_strength_is_chosen_on_validation_not_on_test_digits():
    right = task().solve(lambda x: x)
    wrong = task(lambda y: (y + 1) % 10).solve(lambda x: x)
    assert right["dimensions"] == 7
    for labels, draws in ((50, 3), (400, 1)):
        for name in ("common_scale", "strength", "validation_error"):
            assert right[f"{name}@{labels}"] == wrong[f"{name}@{labels}"]
        a, b = (answer[f"test_error@{labels}"] for answer in (right, wrong))
        assert len(a) == draws
        assert max(a) < 0.6 and min(b) > 0.8
    few, many = (np.mean(right[f"test_error@{k}"]) for k in (50, 400))
    assert many < few


def test_what_a_representation_is():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 12)) * np.linspace(1, 2, 12)).astype("float32")
    model = deen.DEEN(hidden_units=(7, 5), sigma=features.SIGMA, seed=3)
    model.build((None, 12))
    start = [np.asarray(w) for w in model.network.weights]
    f = {
        row: features.representation(row, 3, {("paper", 3): model}, x)
        for row in ("paper-deen", "paper-experts", "paper-layers", "paper-random")
    }
    h1 = np.tanh(x @ start[0] + start[1])
    h2 = np.tanh(h1 @ start[2] + start[3])
    assert f["paper-deen"](x) == pytest.approx(h2, abs=1e-5)
    assert f["paper-layers"](x) == pytest.approx(np.hstack([h1, h2]), abs=1e-5)
    assert f["paper-experts"](x).sum(1) == pytest.approx(model.energy(x), abs=1e-5)
    model.network.set_weights([2 * w for w in start])  # as if trained
    assert f["paper-random"](x) == pytest.approx(h2, abs=1e-5)


def test_principal_components_are_the_largest():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    spreads = np.linspace(3, 0.1, 300)
    x = (rng.normal(size=(4000, 300)) * spreads @ turn + 5).astype("float32")
    z = features.representation("pca", 0, {}, x)(x)
    assert z.shape == (4000, 256)
    covariance = np.cov(z.T)
    variances = np.diag(covariance)
    assert (np.diff(variances) < 1e-3).all() and variances[0] > 7
    assert np.abs(covariance - np.diag(variances)).max() < 1e-3
    assert np.abs(z.mean(0)).max() < 1e-3


# ---- the scripts as they are run -----------------------------------------------------


def run(name, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, ROOT / "reproduce" / name, "--quick", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stem = name.removesuffix(".py")
    record = json.loads((cwd / "out" / f"{stem}.json").read_text())
    return {p.name for p in (cwd / "out").iterdir()}, record["metrics"]


@pytest.mark.slow
def test_experts_quick_writes_the_contracts_files(tmp_path):
    names, found = run("experts.py", "--seeds", "2", cwd=tmp_path)
    pages = ("experts-mixture", "experts-spiral")
    figures = {f"{page}.{ending}" for page in pages for ending in ("png", "pdf")}
    assert names == figures | {"experts.json", "experts.h5"}
    assert len(found["spiral/removal/grid_kl_median"]["values"]) == 2
    assert len(found["mixture/average/grid_kl"]["values"]) == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("DEEN_DATA"), reason="needs MNIST in DEEN_DATA")
def test_features_quick_writes_the_contracts_files(tmp_path):
    names, found = run("features.py", cwd=tmp_path)
    assert names == {f"features.{ending}" for ending in ("json", "png", "pdf")}
    for row in features.ROWS:
        assert 0 < found[f"{row}/test_error@1000"]["median"] < 0.9
    assert found["pixels/test_error@1000"]["median"] < 0.2
