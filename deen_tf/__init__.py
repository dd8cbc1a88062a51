"""Deep Energy Estimator Networks (Saremi, Mehrjou, Schoelkopf, Hyvaerinen 2018).

Sign convention, everywhere: low energy E is high density exp(-E); the score is
psi = -dE/dx; a noisy point is xi = x + sigma nu; its single-step estimate is
x_hat = xi + sigma^2 psi(xi).

Three things vary freely, each in a folder of its own: WHAT is learned (`models`), WITH WHAT
network (`networks`), FROM WHICH law the data come (`laws`, `datasets`). How it is trained is
in `training`.

A model learns, is asked, is kept:

    model = deen.DEEN(hidden_units=(32, 32, 32), sigma=0.1)   # or network=any Keras layer
    model.compile(); model.fit(x, batch_size=4096, epochs=40)
    model.energy(x)  model.score(x)  model.denoise(xi)  model.experts(x)
    model.save("deen.keras")  model.export("saved_model")  deen.DEEN.from_preset("mnist-0.3")

Where to read on:

- `deen_tf.models.energy`, `deen_tf.models.deen`: the mathematics; `deen_tf.models.base`: a
  training step. The other objectives, each for every network: `DSM`, `DenoisingAutoencoder`,
  `ScoreMatching`, `RegularizedScoreMatching`, `NoiseContrastive`, `ContrastiveDivergence`,
  `SteinContrastiveDivergence`
- `deen_tf.networks`: what a network has to obey, and the package's own
- `deen_tf.presets`: trained models that come with the package
- `deen_tf.laws`: densities known exactly; `deen_tf.laws.bandwidth`: the choice of sigma
- `deen_tf.datasets`: MNIST, van Hateren's images, photographs, and where they are looked for
- `deen_tf.sampling`, `deen_tf.annealing`, `deen_tf.inverse`, `deen_tf.images`: what an energy
  is good for: samples, log Z, inverse problems, whole photographs
- `deen_tf.metrics`, `deen_tf.fields`: how far a model is from the truth, curl and Jacobian
- `deen_tf.training.loop`, `deen_tf.training.replicas`: how fast, and on how many machines

Units. Data are centred and scaled inside, robustly, and what is descended has no units:
`fit(a x + b)` at `a sigma` gives the model of `fit(x)` at `sigma`. Kelvin beside hectopascal: one
sigma for each coordinate. Rows out of all proportion (-9999) are named in a warning. Whatever
NumPy makes an array of goes the fast way, in compiled programs of many steps and epochs;
streams (`tf.data`, generators) go through Keras' loop, and a model adapts to their first batches.

Limits.

- The score of an MLP energy lies in the row space of its first layer: with r units there, a
  single step cannot remove more than the fraction r / d of white noise, and
  L >= sigma^2 (d - r), whatever the training (`deen_tf.models.energy`, `DEEN.loss_bound`). DSM has
  the same bound at its last hidden layer.
- One noise level does not see the relative height of modes that lie many sigma apart: several
  do, sigma=(low, high).
- BatchNormalization makes the energy of a point depend on its batch, and a fit warns of it;
  Dropout is in training alone, and its random numbers are Keras' own.
- Energies are known up to a constant, and only where there are noisy data.
- A tanh energy is bounded: exp(-E) has no integral over the whole plane. Divergences are
  computed on a box that holds all but 1e-6 of the exact mass.
- Results repeat bit for bit in another process and after an interruption, with the same
  versions on the same machine and as many of its cores; elsewhere the noise and the order of
  the data are the same, and sums are rounded otherwise.
- At high learning rates a deep tanh energy can fall into a dead state (loss = sigma^2 d,
  score 0). `fit` stops there, and at a loss that is not finite, with a `DivergenceError` and
  the last good weights (`deen_tf.training.guard`): lower the rate, or clip the gradient's norm.
- Points must lie within 1e15 of zero in float32 (1e145 in float64), and sigma must exceed the
  last place of the largest value: centre such data first, or use dtype="float64".
- A network that cannot depend on the points, a constant energy, ends with loss = sigma^2 d and
  no error: it has lost nothing.
  dtype="mixed_bfloat16" works for every model but `NoiseContrastive`.
- Float32 products on a GPU are computed in full float32; `deen.allow_tf32(True)` is faster and
  leaves a relative curl of 1e-4.
- LiteRT holds models of one noise level whose networks are dense or plain convolutions, in
  float32: it has no gradients of broadcasting and of mirrored windows, which models of several
  levels, a Gaussian beside a network and fields of experts need. ONNX (format="onnx") holds the energy alone: tf2onnx has no gradient of tanh.
- Several workers, and networks with BatchNormalization or Dropout under a strategy, train
  without XLA, one step to a program; replicas of one machine train as one process does.

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
    "inverse",
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
