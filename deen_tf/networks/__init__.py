"""With what an energy is made: Keras layers that map points to experts.

    E(x) = sum_alpha eps_alpha(x)                                        (Eq. 24)

A network puts out the experts, in any shape after the batch; the energy is their sum. That
is all it has to obey: a Dense(1), the 32 experts of an MLP, a map of experts over the places
of an image are the same case. Any Keras model or layer serves; these are the package's own:

    MLP             tanh layers, the paper's (Eq. 18)
    Average         of several networks: mixtures of DEENs
    FieldOfExperts  one MLP on every window of an image
    ConvNet         a few convolutions of an image, told the noise level
    DeepField       a field of experts of several layers, for images of any size
    WithGaussian    any network, and the energy of a Gaussian with the data's moments
    Levels          the same at every noise level, sigma=(low, high): normalised

What a network may have besides its `call`, and is asked for if it has it:

    call(x, sigma)               the noise level, in the units of x, as a second argument
    call(x, level)               within `Levels`, three numbers that tell it, (n, 3)
    start(x, sigma, gain, rng)   draws first weights that suit the data x, (n, ...)
    rank(shape)                  how many directions its first layer sees of a point
    center                       "coordinate", "channel" or "all": what data are centred by
    any_size                     takes images of any size from this side on; `reach`, `stride`:
                                 see `DeepField`
    normalised                   False: energies of different levels are not compared

x and sigma are in the network's own units there (`deen_tf.training.scaling`).
"""

from deen_tf.networks.average import Average
from deen_tf.networks.conv_net import ConvNet
from deen_tf.networks.deep_field import DeepField
from deen_tf.networks.field_of_experts import FieldOfExperts
from deen_tf.networks.levels import Levels
from deen_tf.networks.mlp import MLP
from deen_tf.networks.with_gaussian import WithGaussian

__all__ = [
    "MLP",
    "Average",
    "ConvNet",
    "DeepField",
    "FieldOfExperts",
    "Levels",
    "WithGaussian",
]
