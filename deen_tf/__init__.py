"""Deep Energy Estimator Networks (Saremi, Mehrjou, Schoelkopf, Hyvaerinen 2018).

Sign convention, everywhere: low energy E is high density exp(-E); the score is
psi = -dE/dx; a noisy point is xi = x + sigma nu; its single-step estimate is
x_hat = xi + sigma^2 psi(xi).

Three things vary freely, each in a folder of its own: WHAT is learned (`models`), WITH WHAT
network (`networks`), FROM WHICH law the data come (`laws`, `datasets`). How it is trained is
in `training`.

The models are imported, and so known to `keras.saving.load_model`; what needs SciPy,
scikit-image or matplotlib is imported when it is first named.
"""

import importlib

BACKEND = (
    "deen_tf needs Keras' TensorFlow backend, and Keras has been set to another ({}): set "
    'KERAS_BACKEND=tensorflow, or "backend" in keras.json, before keras is imported'
)
try:
    import keras
except ModuleNotFoundError as error:
    if error.name == "keras":
        raise
    raise ImportError(BACKEND.format(error)) from error
if keras.backend.backend() != "tensorflow":
    raise ImportError(BACKEND.format(keras.backend.backend()))

from deen_tf import moved, networks, presets
from deen_tf.models.contrastive_divergence import ContrastiveDivergence
from deen_tf.models.deen import DEEN, FieldOfExperts, MixtureOfDEENs
from deen_tf.models.energy import EnergyModel
from deen_tf.models.noise_contrastive import NoiseContrastive
from deen_tf.models.score import DSM, DenoisingAutoencoder
from deen_tf.models.score_matching import RegularizedScoreMatching, ScoreMatching
from deen_tf.models.stein import SteinContrastiveDivergence
from deen_tf.training.guard import DivergenceError
from deen_tf.training.precision import allow_tf32

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
    "allow_tf32",
    "baselines",
    "datasets",
    "denoise_image",
    "fields",
    "images",
    "laws",
    "metrics",
    "networks",
    "parzen",
    "plotting",
    "presets",
    "sampling",
]


def __getattr__(name):
    if name == "denoise_image":
        return importlib.import_module("deen_tf.images").denoise_image
    if name in __all__ or name in moved.HOMES:
        return importlib.import_module(f"deen_tf.{name}")
    raise AttributeError(f"module 'deen_tf' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
