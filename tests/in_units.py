"""What a model says of points in the data's units, where its methods take the network's."""

import tensorflow as tf


def objective(model, x, *draws):
    """Return the objective of each of the points x (n, ...), as `fit` reports it.

    `draws` are what `model.draw` returns: standard normal noise has no units.
    """
    x = tf.convert_to_tensor(x, model.variable_dtype)
    sigma = tf.convert_to_tensor(model.noise_level)
    values = model.objective(model.to_network(x), *draws, sigma / model.scales()[0])
    return values * sigma**model.power
