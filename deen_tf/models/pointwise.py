"""Methods of a batch of points, made fit for any number of points of any kind."""

import functools

import numpy as np
import tensorflow as tf

from deen_tf.checks import as_points


def pointwise(function):
    """Give a tensor method (n, d) -> (n, ...) its public form.

    The method's body is the mathematics of one batch. Around it: NumPy-like input is
    checked, evaluated compiled and in batches, and answered as NumPy; tensors are
    answered as tensors, connected to any tape that watches them. Tensors are checked for
    type and shape only: what is not finite in them goes through, as in TensorFlow.
    """

    @functools.wraps(function)
    def evaluate(self, x):
        if not tf.executing_eagerly():
            return function(self, as_tensor(x, self.dimension, self.compute_dtype))
        if tf.is_tensor(x):
            x = as_tensor(x, self.dimension, self.compute_dtype)
            self._check_width(x)
            compiled = self._compiled(function)
            batches = [
                compiled(x[i : i + self.evaluation_batch])
                for i in range(0, max(x.shape[0], 1), self.evaluation_batch)
            ]
            return batches[0] if len(batches) == 1 else tf.concat(batches, 0)
        x = as_points(x, self.dimension, dtype=self.compute_dtype)
        self._check_width(x)
        compiled = self._compiled(function)
        answer = None
        for i in range(0, len(x), self.evaluation_batch):
            part = compiled(tf.constant(x[i : i + self.evaluation_batch])).numpy()
            if answer is None:
                answer = np.empty((len(x), *part.shape[1:]), part.dtype)
            answer[i : i + len(part)] = part
        return answer

    evaluate.tensor_function = function
    return evaluate


def as_tensor(x, dimension, dtype):
    """Return points that are a tensor, or are used in a graph, as a tensor of `dtype`.

    Raises
    ------
    TypeError, ValueError
        If they are not dense real numbers of shape (n, dimension), as far as is known.
    """
    if isinstance(x, tf.SparseTensor | tf.RaggedTensor | tf.IndexedSlices):
        raise TypeError(f"x must be a dense tensor, got {type(x).__name__}")
    x = tf.convert_to_tensor(x)
    if not (x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool):
        raise TypeError(f"x must hold real numbers, got dtype {x.dtype.name}")
    if not x.shape.is_compatible_with((None, dimension)) or x.shape[1:] == (0,):
        wanted = f"(n, {'d' if dimension is None else dimension})"
        raise ValueError(f"x must have shape {wanted}, got {tuple(x.shape)}")
    return tf.cast(x, dtype)
