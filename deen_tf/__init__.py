"""Deep Energy Estimator Networks (Saremi, Mehrjou, Schoelkopf, Hyvaerinen 2018).

Sign convention, everywhere: low energy E is high density exp(-E); the score is
psi = -dE/dx; a noisy point is xi = x + sigma nu; its single-step estimate is
x_hat = xi + sigma^2 psi(xi).

The models are imported, and so known to `keras.saving.load_model`; what needs SciPy,
scikit-image or matplotlib is imported when it is first named.
"""

import importlib

from deen_tf.autoencoder import DenoisingAutoencoder
from deen_tf.contrastive import ContrastiveDivergence
from deen_tf.deen import DEEN
from deen_tf.divergence import DivergenceError
from deen_tf.dsm import DSM
from deen_tf.energy import EnergyModel
from deen_tf.field_of_experts import FieldOfExperts
from deen_tf.mixture import MixtureOfDEENs
from deen_tf.noise_contrastive import NoiseContrastive
from deen_tf.score_matching import RegularizedScoreMatching, ScoreMatching
from deen_tf.stein import SteinContrastiveDivergence

__all__ = [
    "DEEN",
    "DSM",
    "ContrastiveDivergence",
    "DenoisingAutoencoder",
    "DivergenceError",
    "EnergyModel",
    "FieldOfExperts",
    "MixtureOfDEENs",
    "NoiseContrastive",
    "RegularizedScoreMatching",
    "ScoreMatching",
    "SteinContrastiveDivergence",
    "baselines",
    "datasets",
    "denoise_image",
    "fields",
    "metrics",
    "parzen",
    "plotting",
    "sampling",
]


def __getattr__(name):
    if name == "denoise_image":
        return importlib.import_module("deen_tf.photographs").denoise_image
    if name in __all__:
        return importlib.import_module(f"deen_tf.{name}")
    raise AttributeError(f"module 'deen_tf' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
