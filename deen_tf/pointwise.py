"""Methods of a batch of points, made fit for any number of points of any kind."""

import functools

import numpy as np
import tensorflow as tf

from deen_tf.validation import as_points


def pointwise(function):
    """Give a tensor method (n, d) -> (n, ...) its public form.

    The method's body is the mathematics of one batch. Around it: NumPy-like input is
    checked, evaluated compiled and in batches, and answered as NumPy; tensors are
    answered as tensors, connected to any tape that watches them.
    """

    @functools.wraps(function)
    def evaluate(self, x):
        if not tf.executing_eagerly():
            return function(self, tf.cast(tf.convert_to_tensor(x), self.compute_dtype))
        if tf.is_tensor(x):
            x = tf.cast(x, self.compute_dtype)
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
