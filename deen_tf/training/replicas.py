"""Training over the replicas of a `tf.distribute` strategy, on one machine or several.

    with strategy.scope():
        model = deen.DEEN(...)

A global batch of N points is split over R replicas, n_r points to the r-th. Its loss is

    L = 1/N sum_i l(x_i) = sum_r (n_r / N) L_r,    L_r the mean over the points of replica r.

Optimizers sum gradients over the replicas, so each descends (n_r / N) L_r: the update is
that of one worker on the whole batch, also where R does not divide N, and where a replica
has no point at all. Each replica draws noise of its own (`noise.key`).
"""

import itertools
import math
import os
import warnings
import zlib

import h5py
import keras
import numpy as np
import tensorflow as tf

from deen_tf.atomic import replacing
from deen_tf.training import noise


def distributed(model):
    """Whether the model was made in the scope of a strategy."""
    with model.distribute_strategy.scope():
        return tf.distribute.has_strategy()


def several_workers(model):
    """Whether the replicas live in several processes."""
    resolver = model.distribute_strategy.cluster_resolver
    cluster = {} if resolver is None else resolver.cluster_spec().as_dict()
    return len(cluster.get("chief", []) + cluster.get("worker", [])) > 1


# ---- a step, in the context of one replica -----------------------------------------------


def part_of_batch(data):
    """Return this replica's points, its share n_r / N of the global batch, and N.

    Where there are none, a point of zeros stands in, whose share is 0.
    """
    rows = tf.shape(tf.nest.flatten(data)[0])[0]
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return data, 1, rows
    missing = tf.maximum(1 - rows, 0)
    data = tf.nest.map_structure(lambda x: tf.pad(x, [[0, missing], [0, 0]]), data)
    rows = tf.cast(rows, tf.float32)
    total = sum_over_replicas(rows)
    return data, rows / total, total


def sum_over_replicas(value):
    """Return the sum of a tensor, or of each of a list, over the replicas."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return value
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def clipped(optimizer, gradients):
    """Return gradients whose sum over the replicas is clipped as the optimizer would.

    An optimizer clips what each replica gives it, and sums after that. What is clipped here
    and divided by R it does not clip again.
    """
    R = tf.distribute.get_strategy().num_replicas_in_sync
    clips = optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue
    if R == 1 or not clips:
        return gradients
    return [g / R for g in optimizer._clip_gradients(sum_over_replicas(gradients))]


# ---- fit and evaluate --------------------------------------------------------------------


def plain(program):
    """Return the arguments of `compile` that work under a strategy; warn of a change.

    Keras' loop of several steps, and XLA with variables on several devices, fail in there.
    """
    works = {"steps_per_execution": 1, "jit_compile": False}
    if program != works:
        warnings.warn(
            f"under a distribution strategy {program} becomes {works}", stacklevel=3
        )
    return works


def check_scope(model, variables, what):
    """Raise ValueError if variables were made outside the scope of the model's strategy."""
    strategy = model.distribute_strategy
    if distributed(model) and not all(
        strategy.extended.variable_created_in_scope(v.value) for v in variables
    ):
        raise ValueError(
            f"the {what} must be made inside strategy.scope(), where the model was"
        )


def prepare(model, x):
    """Build what Keras would build inside the first step.

    Raises
    ------
    ValueError
        If the model has no weights yet and x does not tell their shape, or if its weights
        were made outside the scope.
    """
    check_scope(model, model.weights, "weights")
    with model.distribute_strategy.scope():
        if not model.built:
            if not isinstance(x, tf.data.Dataset):
                raise ValueError(
                    "under a distribution strategy a model must have weights before a "
                    "stream: call adapt(sample) or build((None, d))"
                )
            model.build(tf.nest.flatten(x.element_spec)[0].shape)
        model.optimizer.build(model.trainable_variables)


def fit(model, keras_fit, x, batch_size, steps_per_epoch, validation_data, **more):
    """Run Keras' `fit` on points in memory, split over the replicas; see `training.fit`."""
    start = Start(x)
    callbacks = keras.tree.flatten(more.pop("callbacks", None) or [])
    size = more.pop("validation_batch_size")
    if isinstance(validation_data, np.ndarray):
        steps = more.get("validation_steps") or math.ceil(len(validation_data) / size)
        more["validation_steps"] = steps
        validation_data = batches(model, validation_data, size)
    shuffle = more.pop("shuffle")
    return keras_fit(
        batches(model, x, batch_size, start if shuffle else None),
        steps_per_epoch=steps_per_epoch or math.ceil(len(x) / batch_size),
        validation_data=validation_data,
        callbacks=[*callbacks, start],
        shuffle=False,
        **more,
    )


def evaluate(model, keras_evaluate, x, batch_size=None, steps=None, **more):
    """Run Keras' `evaluate` on points in memory, split over the replicas."""
    size = batch_size or 32
    steps = steps or math.ceil(len(x) / size)
    return keras_evaluate(batches(model, x, size), steps=steps, **more)


def batches(model, x, batch_size, start=None):
    """Return points in memory as a distributed stream of global batches, for ever.

    Every worker holds all points, and every replica takes its own part of each batch. The
    batches are those of a fit without a strategy: a permutation of the data for each epoch,
    a function of (seed, optimizer.iterations).

    Parameters
    ----------
    model : ScoreModel
    x : ndarray, shape (n, d)
    batch_size : int
        N, of the global batch.
    start : Start, optional
        Knows the step at which the first epoch begins. If not given, the points stay in
        order.

    Returns
    -------
    tf.distribute.DistributedDataset
    """
    n, steps = len(x), math.ceil(len(x) / batch_size)

    def parts(context):
        R = context.num_replicas_in_sync
        here = R // context.num_input_pipelines
        first = here * context.input_pipeline_id

        def generate():
            for epoch in itertools.count():
                order = np.arange(n)
                if start is not None:
                    step = start.step + epoch * steps
                    order = noise.permutation(n, model.seed, step)
                for batch in np.split(order, range(batch_size, n, batch_size)):
                    N = len(batch)
                    for r in range(first, first + here):
                        yield x[batch[r * N // R : (r + 1) * N // R]]

        rows = tf.TensorSpec((None, x.shape[1]), x.dtype)
        dataset = tf.data.Dataset.from_generator(generate, output_signature=rows)
        # TensorFlow asks all workers at each step who has data left, unless all have.
        for_ever = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return dataset.apply(for_ever)

    return model.distribute_strategy.distribute_datasets_from_function(parts)


class Start(keras.callbacks.Callback):
    """The step at which a fit begins, seen after all that a callback restores.

    Parameters
    ----------
    x : ndarray
        The data.

    Raises
    ------
    ValueError
        If workers begin with other data, weights or epochs than others: each would go on
        with a model of its own.
    """

    def __init__(self, x):
        super().__init__()
        self.x, self.step = x, None

    def on_epoch_begin(self, epoch, logs=None):
        if self.step is not None:
            return
        self.step = int(self.model.optimizer.iterations.numpy())
        mine = zlib.crc32(self.x, epoch)
        for v in [*self.model.weights, *self.model.optimizer.variables]:
            mine = zlib.crc32(v.numpy(), mine)
        strategy = self.model.distribute_strategy

        @tf.function
        def total():
            each = strategy.run(lambda: tf.constant(mine, tf.int64))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None)

        if int(total()) != strategy.num_replicas_in_sync * mine:
            raise ValueError(
                "all workers must begin with the same data, weights, optimizer and epoch "
                f"(this one at epoch {epoch}, iteration {self.step})"
            )


class BackupAndRestore(keras.callbacks.Callback):
    """Keras' callback of this name, fit for several workers.

    At the end of each epoch the first worker writes weights, optimizer and epoch as ONE
    file, which appears whole or not at all; when a fit begins all workers read it. A run
    that was killed and is started again goes on exactly. (With Keras' own, every worker
    writes; one that is killed may leave weights and epoch that do not belong together, or
    another epoch than the others'.)

    Parameters
    ----------
    path : str
        Of the file, `*.weights.h5`, where all workers see it. It is removed when the fit
        has ended.
    """

    def __init__(self, path):
        super().__init__()
        self.path = os.fspath(path)
        if not self.path.endswith(".weights.h5"):
            raise ValueError(f"path must end in .weights.h5, got {self.path!r}")

    def on_train_begin(self, logs=None):
        if os.path.exists(self.path):
            self.model.load_weights(self.path)
            with h5py.File(self.path) as file:
                self.model._initial_epoch = int(file.attrs["epoch"])

    def on_epoch_end(self, epoch, logs=None):
        if self.first_worker:
            with replacing(self.path) as temporary:
                self.model.save_weights(temporary)
                with h5py.File(temporary, "a") as file:
                    file.attrs["epoch"] = epoch + 1

    def on_train_end(self, logs=None):
        if self.first_worker and os.path.exists(self.path):
            os.remove(self.path)

    @property
    def first_worker(self):
        """Whether this process writes: the others do not, nor should they save the model."""
        return self.model.distribute_strategy.extended.should_checkpoint
