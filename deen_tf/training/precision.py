"""Precision is a promise: float32 is float32 on every device, unless the user asks for less.

A GPU multiplies float32 matrices in TF32 by TensorFlow's default: 10 bits of the 23. It is
faster in large batches, the score of a trained energy is as near to the truth as before,
but a gradient is no longer one to rounding: the relative curl of a DEEN becomes 1e-4 instead
of 1e-7. Importing this package turns TF32 off, for the whole process; `allow_tf32(True)`
turns it on again, for models compiled after that.
"""

import tensorflow as tf


def allow_tf32(allow=True):
    """Let float32 products on a GPU be computed in TF32, or not.

    Parameters
    ----------
    allow : bool
        False is this package's default. It decides what is compiled after it: call it
        before a model is compiled. On a CPU it has no effect.
    """
    tf.config.experimental.enable_tensor_float_32_execution(bool(allow))


allow_tf32(False)
