"""Where the points of a fit come from: an array of them all, or a stream."""

import contextlib
import itertools
import types

import keras
import numpy as np
import tensorflow as tf

from deen_tf.checks import as_numbers, as_points, check_shape, whole

NOT_FINITE = "the stream must be finite"
PEEK = 8  # batches of a stream that a model adapts to


def in_memory(x):
    """Whether x holds all its points now: whatever NumPy makes an array of."""
    if x is None or isinstance(x, dict):
        return False
    streams = (
        tf.data.Dataset,
        keras.utils.PyDataset,
        types.GeneratorType,
        tf.distribute.DistributedDataset,
        tf.data.Iterator,
    )
    if isinstance(x, streams):
        return False
    if tf.is_tensor(x):
        return hasattr(x, "numpy")
    return hasattr(x, "__array__") or isinstance(x, list | tuple)


def peek(x, name="x"):
    """Return a stream, and its first points as an array, (n, ...)."""
    if x is None or isinstance(x, dict):
        as_numbers(x, name)  # says what is wrong
    if isinstance(x, tf.data.Dataset):
        first = list(x.take(PEEK))
    elif isinstance(x, keras.utils.PyDataset):
        first = [x[i] for i in range(min(len(x), PEEK))]
    elif hasattr(x, "__next__"):
        first = list(itertools.islice(x, PEEK))
        x = _chain(first, x)
    elif isinstance(x, tf.distribute.DistributedDataset):
        return x, None
    else:
        raise TypeError(
            f"{name} must be an array of points, a tf.data.Dataset, a PyDataset or a "
            f"generator, got {type(x).__name__}"
        )
    if not first:
        raise ValueError(f"the stream {name} has no batch")
    points = []
    for batch in first:
        batch, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if y is not None or weight is not None:
            raise ValueError(
                "an energy learns from points alone: the stream must give x without targets "
                "or sample weights"
            )
        batch = as_numbers(batch, "a batch of the stream")
        check_shape(batch.shape, ..., "a batch of the stream")
        points.append(batch)
    points = np.concatenate(points)
    if not np.isfinite(points).all():
        row, *_ = np.argwhere(~np.isfinite(points))[0]
        raise ValueError(f"{NOT_FINITE}, got {points[row].ravel()[:8]} at row {row}")
    return x, points


def _chain(first, rest):
    for batch in itertools.chain(first, rest):
        yield batch if isinstance(batch, tuple) else (batch,)  # as Keras wants it


def as_keras_takes(x):
    """Return a stream as Keras takes it: a generator gives tuples."""
    return _chain([], x) if hasattr(x, "__next__") else x


class Batches(keras.utils.PyDataset):
    """The batches of a generator, which gives them once, to be seen after every epoch."""

    def __init__(self, generator, steps=None):
        super().__init__()
        self.batches = list(_chain([], itertools.islice(generator, steps)))

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, k):
        return self.batches[k]


def alone(data):
    """Return validation data, which Keras takes as (x,) or (x, None) as well.

    Raises
    ------
    ValueError
        If there are targets.
    """
    if not isinstance(data, tuple) or not data:
        return data
    if len(data) > 1 and in_memory(data[0]) and np.ndim(data[0]) < 2:
        return data  # points, in a tuple
    if any(part is not None for part in data[1:]):
        raise ValueError(
            "an energy learns from points alone: validation_data must be points, got "
            f"targets as well, a tuple of {len(data)}"
        )
    return data[0]


def for_validation(data, shape, how, dtype):
    """Return points of a shape, or a stream of them that can be seen after every epoch."""
    name = "validation_data"
    if data is None:
        return None
    if in_memory(data):
        return as_points(data, shape, name, dtype)
    if hasattr(data, "__next__"):
        data = Batches(data, how.get("validation_steps"))
    data, first = peek(data, name)
    if first is not None:
        check_shape(first.shape, shape, name)
    return data


@contextlib.contextmanager
def told_if_not_finite(optimizer):
    """Say it of NaN or infinity that a compiled step has met in a stream."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if NOT_FINITE not in error.message:
            raise
        raise ValueError(
            f"{NOT_FINITE}: there is NaN or infinity in a batch of it (iteration "
            f"{int(optimizer.iterations.numpy())})"
        ) from None


def validation(x, split, data):
    """Return the points to train on, and those for validation."""
    if not 0 <= split < 1:
        raise ValueError(f"validation_split must lie in [0, 1), got {split!r}")
    if data is not None or not split:
        return x, data
    kept = int(len(x) * (1 - split))
    if not 0 < kept < len(x):
        raise ValueError(
            f"validation_split={split} of {len(x)} points leaves nothing to train or to "
            "validate on"
        )
    return x[:kept], x[kept:]


def check_schedule(how):
    """Raise TypeError or ValueError if what says when to validate, and on how much, cannot."""
    for name, least in (
        ("initial_epoch", 0),
        ("validation_batch_size", 1),
        ("validation_steps", 1),
    ):
        if how.get(name) is not None:
            how[name] = whole(how[name], name, least)
    freq = how.get("validation_freq", 1)
    epochs = freq if isinstance(freq, list | tuple | set) else [freq]
    epochs = [whole(epoch, "validation_freq") for epoch in epochs]
    how["validation_freq"] = epochs[0] if np.ndim(freq) == 0 else epochs


def check_steps(steps_per_epoch, batch_size, n):
    """Raise TypeError or ValueError if so many steps an epoch need more than n points."""
    if steps_per_epoch is None:
        return
    needed = batch_size * whole(steps_per_epoch, "steps_per_epoch")
    if needed > n:
        raise ValueError(
            f"{steps_per_epoch} steps an epoch of {batch_size} points need {needed} points, "
            f"got {n}"
        )
