"""Derivatives of a vector field psi: Jacobian, curl, divergence.

    J_ij = d psi_i / d x_j                          (n, d, d)
    curl = d1 psi_2 - d2 psi_1 = J_21 - J_12        two dimensions (Sec. 4)
    div  = tr J

A point may have any shape; i and j then count its d coordinates in the order of memory, as
`reshape(-1)` lays them out.

The field is anything with a `.score` that TensorFlow can differentiate (the models of
this package, a loaded SavedModel's signature in a wrapper); for others, such as an exact
density in NumPy, central differences take its place.

A model's program stands in the model's own store, beside its score: it is forgotten with it,
and dies with the model. Any other field is traced anew for each call, as only it knows what
its score reads.
"""

import numpy as np
import tensorflow as tf

from deen_tf.checks import as_points, positive, whole

FEW = 8  # outputs: up to here one backward pass each, beyond them a vectorised loop


def jacobian(field, x, step=None, batch=None):
    """Return the Jacobian of the score at every point.

    Parameters
    ----------
    field : object with `.score`
        (n, ...) -> (n, ...), each point for itself.
    x : array_like, shape (n, ...)
    step : float, optional
        If given, central differences of this step replace automatic differentiation:
        for fields that TensorFlow cannot see through.
    batch : int, optional
        Points differentiated at once; by default as many as make 64 MB of Jacobians.

    Returns
    -------
    ndarray, shape (n, d, d)
        J[k, i, j] = d psi_i / d x_j at point k, of whose d coordinates i and j are two.

    Raises
    ------
    ValueError, TypeError
        If x is not a finite array of points, the field has no score, one of another shape or,
        without a step, none that TensorFlow can differentiate, or the step is not positive or
        so small that it is lost in the rounding of x.

    Examples
    --------
    >>> law = deen.laws.Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    >>> deen.fields.jacobian(law, [[1.0, 1.0]], step=1e-3).round(3) + 0.0
    array([[[-1.  ,  0.  ],
            [ 0.  , -0.25]]])
    """
    if isinstance(field, type) or not hasattr(field, "score"):
        raise TypeError(f"a field must have a method score, got {field!r}")
    dtype = dtype_of(field)
    x = as_points(x, shape_of(field), dtype=dtype if step is None else "float64")
    check(field, "score", x[:1], x[:1].shape)
    if step is not None:
        return _central_differences(field, x, positive(step, "step"))
    if batch is None:
        batch = max(1, 2**24 // x[0].size ** 2 // 16)
    batch = whole(batch, "batch")
    batched = _batched_jacobian(field, x.shape[1:], dtype)
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

    Examples
    --------
    >>> model = deen.DEEN.from_preset("fig1-mixture")
    >>> bool(abs(deen.fields.curl(model, [[1.0, 0.5]])[0]) < 1e-4)  # rounding
    True
    """
    x = as_points(x, 2, dtype="float64")
    J = jacobian(field, x, **kwargs)
    return J[:, 1, 0] - J[:, 0, 1]


def divergence(field, x, **kwargs):
    """Return tr J at every point, shape (n,); for an energy, minus its Laplacian.

    Parameters are those of `jacobian`.
    """
    return np.trace(jacobian(field, x, **kwargs), axis1=1, axis2=2)


def shape_of(density):
    """Return the shape of a point as far as the density tells, for `as_points`."""
    shape = getattr(density, "point_shape", None) or getattr(density, "dimension", None)
    return ... if shape is None else shape


def dtype_of(density, otherwise="float32"):
    """Return the type of the points of the density, if it computes in TensorFlow."""
    dtype = getattr(density, "variable_dtype", None)
    return dtype or getattr(density, "compute_dtype", otherwise)


def units_of(density):
    """Return the center m and the scales s of a model's data, of all coordinates and of each.

    0 and infinity where they are not known: of a law or a model without data.
    """
    model = getattr(density, "model", density)  # of a model at one of its levels
    if not hasattr(model, "profile") or not float(model.scale):
        return 0.0, np.inf, np.inf
    scale = float(model.scale)
    return np.asarray(model.center), scale, scale * np.asarray(model.profile)


def check_one_level(density):
    """Refuse a model of several noise levels where it is not asked at one."""
    if getattr(density, "several_levels", False):
        raise ValueError(
            f"this {type(density).__name__} has several noise levels, of which one is needed "
            "here: give model.smoothed(sigma) in its place"
        )


def check(density, method, x, shape):
    """Let the density answer for one point, and check the shape of what it says."""
    check_one_level(density)
    answer = np.shape(getattr(density, method)(x))
    if answer != shape:
        raise ValueError(
            f"the {method} of {type(density).__name__} must have shape {shape} for one "
            f"point, got {answer}"
        )


def _batched_jacobian(field, shape, dtype):
    """Return the program (n, *shape) -> (n, d, d)."""
    d = int(np.prod(shape))

    def batched(x):
        x = tf.reshape(x, (-1, d))
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            psi = field.score(tf.reshape(x, (-1, *shape)))
            psi = tf.ensure_shape(tf.reshape(psi, (-1, d)), (None, d))
            components = tf.unstack(psi, axis=1) if d <= FEW else None
        if tape.gradient(psi, x) is None:
            raise NotImplementedError
        if components is None:
            return tape.batch_jacobian(psi, x)
        # One backward pass for each output, over the whole batch: psi at a point depends
        # on that point alone, so a gradient of the sum over points keeps them apart.
        zero = tf.UnconnectedGradients.ZERO
        rows = [tape.gradient(c, x, unconnected_gradients=zero) for c in components]
        return tf.stack(rows, axis=1)  # (n, i, j)

    def compiled():
        x = tf.TensorSpec((None, *shape), dtype)
        return tf.function(batched, input_signature=[x], autograph=False)

    # (In its own attributes: a view of a model at one noise level may answer for the model.)
    kept = getattr(field, "__dict__", {}).get("_programs")
    return compiled() if kept is None else kept.get("jacobian", compiled)


def _central_differences(field, x, step):
    dtype = dtype_of(field, "float64")
    if (np.asarray(x + step, dtype) == np.asarray(x, dtype)).any():
        raise ValueError(f"step = {step:g} is lost in the rounding of x in {dtype}")
    columns, n = [], len(x)
    for j in range(x[0].size):
        shift = np.zeros(x[0].size)
        shift[j] = step
        shift = shift.reshape(x.shape[1:])
        difference = np.subtract(field.score(x + shift), field.score(x - shift))
        columns.append(difference.reshape(n, -1) / (2 * step))
    return np.stack(columns, axis=2)
