"""What is known exactly in the plane, and how far a model is from it.

A law of the plane, smoothed by N(0, sigma^2 I), has a known density and score: `Truth` holds
them, fresh pairs (x, xi) to measure a model at, and the metrics of metrics.md by name.
"""

import functools
import hashlib

import numpy as np

from deen_tf import fields, metrics
from deen_tf.laws.mixtures import GaussianMixture
from deen_tf.laws.plane import Checkerboard, Rings, Spiral

LAWS = {
    "mixture": GaussianMixture.ring(modes=8),
    "spiral": Spiral(),
    "rings": Rings(),  # five widths apart: scores hardly tell their relative mass
    "checkerboard": Checkerboard(),  # sharp edges
}
# Of one network of the paper's plane, 32-32-32, and of four with nearly as many parameters
# together (2432 against 2240).
HIDDEN_UNITS = (32, 32, 32)
SMALLER = {"hidden_units": (16, 16, 16), "networks": 4}
SIGMA = 0.1  # the paper's


class Truth:
    """A law smoothed by sigma, and fresh points of it.

    Parameters
    ----------
    law : Law
    sigma : float
        0 stands for the law itself.
    points : int
        So many pairs x ~ p, xi = x + sigma nu.
    cells : int
        Of the quadratures, along a side.
    """

    def __init__(self, law, sigma, points, cells=400):
        self.law, self.sigma, self.points, self.cells = law, sigma, points, cells
        self.density = law.smoothed(sigma)
        self.energy = remembered(self.density.energy)
        self.box = law.box(sigma)  # of the quadratures
        self.view = tuple(0.8 * edge for edge in self.box)  # of the panels
        self.draw(0)

    def draw(self, seed):
        """Draw the pairs anew. Seeds of training count up from 0: none is shared."""
        self.x = self.law.sample(self.points, seed=seed + 10**6).astype("float64")
        nu = np.random.default_rng([seed, 2018]).normal(size=self.x.shape)
        self.xi = self.x + self.sigma * nu
        self.score = self.density.score(self.xi)

    def measure(self, model, *names):
        """Return {name: value} of the metrics that the model has; NaN of one that diverged."""
        if not hasattr(model, "energy"):
            names = [n for n in names if n not in ("grid_kl", "smallest_mode_ratio")]
        if not np.isfinite(model.score(self.xi)).all():
            return dict.fromkeys(names, np.nan)
        return {name: getattr(self, name)(model) for name in names}

    def relative_score_error(self, model):
        return metrics.relative_score_error(model.score(self.xi), self.score)

    def relative_curl(self, model):
        return metrics.relative_curl(self.jacobian(model))

    def max_abs_curl(self, model):
        J = self.jacobian(model)
        return np.abs(J[:, 1, 0] - J[:, 0, 1]).max()

    def jacobian(self, model):
        step = None if hasattr(model, "compute_dtype") else 1e-3  # laws: by differences
        return fields.jacobian(model, self.xi, step=step)

    def excess_loss(self, model):
        best = self.xi + self.sigma**2 * self.score
        losses = [
            ((self.x - x_hat) ** 2).sum(1) for x_hat in (model.denoise(self.xi), best)
        ]
        return (losses[0] - losses[1]).mean() / self.floor

    @functools.cached_property
    def floor(self):
        """The least loss of Eq. 19, L*."""
        return self.law.bayes_loss(self.sigma)

    def grid_kl(self, model):
        return metrics.grid_kl(self.energy, model.energy, self.box, self.cells)

    def smallest_mode_ratio(self, model):
        modes = self.law.centers(8)
        return metrics.smallest_mode_ratio(
            self.energy, model.energy, modes, self.box, self.cells
        )


def remembered(function):
    """Keep the answers: every model is measured on the same grids."""
    answers = {}

    def answer(x):
        key = hashlib.sha256(x).digest()
        if key not in answers:
            answers[key] = function(x)
        return answers[key]

    return answer
