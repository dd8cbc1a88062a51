"""Derivatives of a vector field psi: Jacobian, curl, divergence.

    J_ij = d psi_i / d x_j                          (n, d, d)
    curl = d1 psi_2 - d2 psi_1 = J_21 - J_12        two dimensions (Sec. 4)
    div  = tr J

The field is anything with a `.score` that TensorFlow can differentiate (the models of
this package, a loaded SavedModel's signature in a wrapper); for others, such as an exact
density in NumPy, central differences take its place.
"""

import functools

import numpy as np
import tensorflow as tf

from deen_tf.checks import as_points, positive, whole

FEW = 8  # outputs: up to here one backward pass each, beyond them a vectorised loop


def jacobian(field, x, step=None, batch=None):
    """Return the Jacobian of the score at every point.

    Parameters
    ----------
    field : object with `.score`
        (n, d) -> (n, d), each point for itself.
    x : array_like, shape (n, d)
    step : float, optional
        If given, central differences of this step replace automatic differentiation:
        for fields that TensorFlow cannot see through.
    batch : int, optional
        Points differentiated at once; by default as many as make 64 MB of Jacobians.

    Returns
    -------
    ndarray, shape (n, d, d)
        J[k, i, j] = d psi_i / d x_j at point k.

    Raises
    ------
    ValueError, TypeError
        If x is not a finite array of points, the field has no score or, without a step,
        none that TensorFlow can differentiate, or the step is not positive or so small that
        it is lost in the rounding of x.
    """
    if not hasattr(field, "score"):
        raise TypeError(f"a field must have a method score, got {field!r}")
    if step is not None:
        return _central_differences(
            field, as_points(x, dtype="float64"), positive(step, "step")
        )
    x = as_points(x, dtype=getattr(field, "compute_dtype", "float32"))
    if batch is None:
        batch = max(1, 2**24 // x.shape[1] ** 2 // 16)
    batch = whole(batch, "batch")
    batched = _batched_jacobian(field, x.shape[1], x.dtype.name)
    try:
        parts = [
            batched(tf.constant(x[i : i + batch])) for i in range(0, len(x), batch)
        ]
    except NotImplementedError:  # a symbolic tensor was asked for its numbers
        raise TypeError(
            f"TensorFlow cannot differentiate the score of {field!r}: give `step`, for "
            "central differences"
        ) from None
    return np.concatenate([part.numpy() for part in parts])


def curl(field, x, **kwargs):
    """Return d1 psi_2 - d2 psi_1 at every point (two dimensions), shape (n,).

    Parameters are those of `jacobian`.
    """
    x = as_points(x, shape=2, dtype="float64")
    J = jacobian(field, x, **kwargs)
    return J[:, 1, 0] - J[:, 0, 1]


def divergence(field, x, **kwargs):
    """Return tr J at every point, shape (n,); for an energy, minus its Laplacian.

    Parameters are those of `jacobian`.
    """
    return np.trace(jacobian(field, x, **kwargs), axis1=1, axis2=2)


@functools.lru_cache(maxsize=32)
def _batched_jacobian(field, dimension, dtype):
    @tf.function(
        input_signature=[tf.TensorSpec((None, dimension), dtype)], autograph=False
    )
    def batched(x):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            psi = field.score(x)
            components = tf.unstack(psi, axis=1) if dimension <= FEW else None
        if components is None:
            return tape.batch_jacobian(psi, x)
        # One backward pass for each output, over the whole batch: psi at a point depends
        # on that point alone, so a gradient of the sum over points keeps them apart.
        zero = tf.UnconnectedGradients.ZERO
        rows = [tape.gradient(c, x, unconnected_gradients=zero) for c in components]
        return tf.stack(rows, axis=1)  # (n, i, j)

    return batched


def _central_differences(field, x, step):
    dtype = getattr(field, "compute_dtype", "float64")
    if (np.asarray(x + step, dtype) == np.asarray(x, dtype)).any():
        raise ValueError(f"step = {step:g} is lost in the rounding of x in {dtype}")
    columns = []
    for j in range(x.shape[1]):
        shift = np.zeros(x.shape[1])
        shift[j] = step
        forward, backward = field.score(x + shift), field.score(x - shift)
        columns.append((np.asarray(forward) - np.asarray(backward)) / (2 * step))
    return np.stack(columns, axis=2)
