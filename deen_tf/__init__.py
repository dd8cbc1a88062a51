"""Deep Energy Estimator Networks (Saremi, Mehrjou, Schoelkopf, Hyvaerinen 2018).

Sign convention, everywhere: low energy E is high density exp(-E); the score is
psi = -dE/dx; a noisy point is xi = x + sigma nu; its single-step estimate is
x_hat = xi + sigma^2 psi(xi).
"""

from deen_tf import datasets, fields
from deen_tf.contrastive import ContrastiveDivergence
from deen_tf.deen import DEEN
from deen_tf.dsm import DSM
from deen_tf.energy import EnergyModel

__all__ = [
    "DEEN",
    "DSM",
    "ContrastiveDivergence",
    "EnergyModel",
    "datasets",
    "fields",
]
