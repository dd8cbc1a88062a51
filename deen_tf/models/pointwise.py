"""Methods of a batch of points, made fit for any number of points of any kind."""

import functools

import numpy as np
import tensorflow as tf

from deen_tf.checks import as_points, check_shape

NUMBERS = 2**23  # held at once in the graph of an evaluation: 32 MB
FEWEST, MOST = 16, 2**16  # points at once
SIDE = 64  # of an image for which activations are counted, if it may have any size


def pointwise(function):
    """Give a tensor method (n, ...), sigma -> (n, ...) its public form.

    The method's body is the mathematics of one batch. Around it: NumPy-like input is
    checked, evaluated compiled and in batches, and answered as NumPy; tensors are
    answered as tensors, connected to any tape that watches them. Tensors are checked for
    type and shape only: what is not finite in them goes through, as in TensorFlow.

    `sigma`, the noise level, is asked for where a model has several: one, or one for each
    point.
    """

    @functools.wraps(function)
    def evaluate(self, x, sigma=None):
        if not tf.executing_eagerly():
            x = as_tensor(x, self.point_shape, self.variable_dtype)
            return function(self, x, self.level(x, sigma))
        tensors = tf.is_tensor(x)
        if tensors:
            x = as_tensor(x, self.point_shape, self.variable_dtype)
        else:
            x = as_points(x, self.point_shape or ..., dtype=self.variable_dtype)
        self.see_shape(x.shape)
        sigma = self.level(x, sigma)
        compiled = self._programs.get(function, lambda: _compile(self, function, sigma))
        size = points_at_once(self, x.shape[1:])
        parts = []
        for i in range(0, max(x.shape[0], 1), size):
            level = sigma[i : i + size] if sigma.shape.rank else sigma
            parts.append(compiled(tf.convert_to_tensor(x[i : i + size]), level))
        if tensors:
            return parts[0] if len(parts) == 1 else tf.concat(parts, 0)
        return np.concatenate([part.numpy() for part in parts])

    del evaluate.__wrapped__  # its signature is this one's, sigma=None
    evaluate.tensor_function = function
    return evaluate


def _compile(model, function, sigma):
    x = tf.TensorSpec((None, *model.point_shape), model.variable_dtype)
    level = tf.TensorSpec((None,) if sigma.shape.rank else (), sigma.dtype)
    return tf.function(
        functools.partial(function, model), input_signature=[x, level], autograph=False
    )


def points_at_once(model, shape):
    """Return for how many points of a shape all activations of the network fill 32 MB."""
    numbers = model._programs.get("activations", lambda: activations(model))
    fewest = FEWEST
    if None in model.point_shape:  # whole photographs
        numbers, fewest = numbers * shape[0] * shape[1] / SIDE**2, 1
    return int(np.clip(NUMBERS // max(numbers, 1), fewest, MOST))


def activations(model):
    """Return how many numbers the network computes for a point, of any size for SIDE x SIDE."""
    shape = (1, *(side or SIDE for side in model.point_shape))
    x = tf.TensorSpec(shape, model.variable_dtype)
    graph = tf.function(model.outputs_at).get_concrete_function(
        x, tf.convert_to_tensor(model.noise_level)
    )
    sizes = [
        output.shape.num_elements() or 1
        for operation in graph.graph.get_operations()
        for output in operation.outputs
        if output.dtype.is_floating and output.shape[:1] == (1,)
    ]
    return sum(sizes)


def as_tensor(x, shape, dtype):
    """Return points that are a tensor, or are used in a graph, as a tensor of `dtype`.

    Raises
    ------
    TypeError, ValueError
        If they are not dense real numbers of shape (n, *shape), as far as is known.
    """
    if isinstance(x, tf.SparseTensor | tf.RaggedTensor | tf.IndexedSlices):
        raise TypeError(f"x must be a dense tensor, got {type(x).__name__}")
    if isinstance(x, dict):
        raise TypeError("x must be points, shape (n, d), got a dict of them")
    x = tf.convert_to_tensor(x)
    if not (x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool):
        raise TypeError(f"x must hold real numbers, got dtype {x.dtype.name}")
    if x.shape.rank is not None:
        got = (-1, *x.shape[1:]) if x.shape.rank else ()
        if shape is None or None not in got:
            check_shape(tuple(x.shape), ... if shape is None else shape)
    return tf.cast(x, dtype)
