"""Training over the replicas of a `tf.distribute` strategy, on one machine or several.

    with strategy.scope():
        model = deen.DEEN(...)

A global batch of N points is split over R replicas, n_r points to the r-th. Its loss is

    L = 1/N sum_i l(x_i) = sum_r (n_r / N) L_r,    L_r the mean over the points of replica r.

Gradients are summed over the replicas, so each descends (n_r / N) L_r: the update is
that of one worker on the whole batch, also where R does not divide N, and where a replica
has no point at all. Each replica draws noise of its own (`noise.key`).

Replicas of one machine (MirroredStrategy) train as one process does: many steps in one
program. In each step the replicas' gradients are compiled functions of plain tensors; the
optimizer sums them, once, and updates every replica. Several workers, and layers that change
in training by more than gradients, go through Keras' own loop.

Several workers, where one machine is too small: the same program, train.py, started on each,
with the cluster's addresses in TF_CONFIG.

    import tensorflow as tf

    import deen_tf as deen
    from deen_tf.training.checkpoints import BackupAndRestore

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    x = deen.laws.Moons().sample(20_000, seed=0)  # the same on every worker
    with strategy.scope():
        model = deen.DEEN(hidden_units=(32, 32, 32), sigma=0.1, seed=0)
    model.compile()  # an optimizer other than the default: made inside the scope
    backup = BackupAndRestore("backup.h5")  # in a folder that all see
    model.fit(x, batch_size=2048, epochs=20, callbacks=[backup], verbose=2)
    if backup.first_worker:
        model.save("moons.keras")

Here twice on one machine, for a try:

    export CLUSTER='"cluster": {"worker": ["localhost:12345", "localhost:12346"]}'
    TF_CONFIG="{$CLUSTER, \"task\": {\"type\": \"worker\", \"index\": 1}}" python train.py &
    TF_CONFIG="{$CLUSTER, \"task\": {\"type\": \"worker\", \"index\": 0}}" python train.py

`batch_size` is that of the global batch, of which each replica takes its part and draws its own
noise. If a worker dies the others stop with an error after a minute or so; started again, all go
on from the last epoch and end with the same bits. Streams (`tf.data`) are split batch by batch:
give every worker the same, in the same order.
"""

import contextlib
import itertools
import math
import warnings
import zlib

import keras
import numpy as np
import tensorflow as tf

from deen_tf.training import noise
from deen_tf.training.checkpoints import BackupAndRestore, variables

__all__ = ["BackupAndRestore"]


def distributed(model):
    """Whether the model was made in the scope of a strategy."""
    with model.distribute_strategy.scope():
        return tf.distribute.has_strategy()


def several_workers(model):
    """Whether the replicas live in several processes."""
    resolver = model.distribute_strategy.cluster_resolver
    cluster = {} if resolver is None else resolver.cluster_spec().as_dict()
    return len(cluster.get("chief", []) + cluster.get("worker", [])) > 1


def by_keras(model):
    """Whether Keras' own loop trains the replicas."""
    return distributed(model) and (
        several_workers(model)
        or model.run_eagerly
        or any(_changes(layer) for layer in model.network._flatten_layers())
    )


def _changes(layer):
    return isinstance(layer, keras.layers.BatchNormalization) or hasattr(
        layer, "seed_generator"
    )


# ---- the replicas of one machine ---------------------------------------------------------


def on_devices(model, x):
    """Return the points x as a tensor, or a tensor on each replica's device."""
    x, tensors = tensor_of(x), []
    if not distributed(model):
        return x
    for device in model.distribute_strategy.extended.worker_devices:
        with tf.device(device):
            tensors.append(tf.identity(x))
    return tensors


def tensor_of(x):
    """Return a tensor that holds a copy of the array x.

    `tf.constant` makes two copies, and TensorFlow's allocator keeps their memory for ever.
    A tensor that shares NumPy's memory must begin at a multiple of 64 bytes.
    """
    if x.dtype.kind != "f" or tf.config.list_logical_devices("GPU"):
        return tf.constant(x)  # bfloat16, which NumPy cannot share; another memory
    memory = np.empty(x.nbytes + 64, "uint8")
    start = -memory.ctypes.data % 64
    copy = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[:] = x
    return tf.experimental.dlpack.from_dlpack(copy.__dlpack__())


class Mirrored:
    """The replicas of one machine: compiled gradients, and one sum over them."""

    def __init__(self, model, jit, sizes):
        self.model, self.jit = model, jit
        self.devices = model.distribute_strategy.extended.worker_devices
        self.variables = model.weights
        self.compiled = {}  # number of points -> the gradient of so many
        self._prepare(sizes)

    def _prepare(self, sizes):
        """Compile what steps of these sizes need, outside of every strategy's scope."""
        R = len(self.devices)
        for N in sizes:
            for n in {(r + 1) * N // R - r * N // R for r in range(R)} - {0}:
                self._trace(n)

    def _trace(self, n):
        specs = [tf.TensorSpec(v.shape, v.dtype) for v in self.variables]
        function, first = self._gradient(n)
        function = tf.function(function, jit_compile=self.jit, autograph=False)
        self.compiled[n] = function.get_concrete_function(*first, *specs)

    def descend(self, x, rows):
        R, N = len(self.devices), rows.shape[0]
        losses, gradients = [], []
        for r, device in enumerate(self.devices):
            part = rows[r * N // R : (r + 1) * N // R]
            n = part.shape[0]
            if not n:
                continue
            with tf.device(device):
                gradient = self.compiled[n]
                values = [_local(v, r) for v in self.variables]
                step = _local(self.model.optimizer.iterations, r)
                loss, g = gradient(
                    tf.gather(x[r], part), tf.constant(n / N), step, r, *values
                )
                losses.append(loss)
                gradients.append(g)
        some = gradients[0]
        if len(gradients) < R:  # fewer points than replicas
            some = [tf.zeros_like(g) for g in some]
        strategy = self.model.distribute_strategy
        strategy.run(
            self._apply,
            args=(
                strategy.experimental_distribute_values_from_function(
                    lambda context: gradients.pop(0) if gradients else some
                ),
            ),
        )
        return tf.add_n(losses)

    def _apply(self, gradients):
        """In each replica: the optimizer sums over all, and every one is updated alike."""
        optimizer = self.model.optimizer
        gradients = clipped(optimizer, gradients)
        optimizer.apply_gradients(
            zip(gradients, self.model.trainable_variables, strict=True)
        )

    def _gradient(self, n):
        model = self.model

        def gradient(x, share, step, replica, *values):
            mapping = list(zip(self.variables, values, strict=True))
            trainable = [id(v) for v in model.trainable_variables]
            mine = [value for v, value in mapping if id(v) in trainable]
            with tf.GradientTape() as tape:
                tape.watch(mine)
                with keras.StatelessScope(state_mapping=mapping):
                    descended, reported = model.losses(
                        x, step, noise.TRAINING, training=True, replica=replica
                    )
                    descended = model.optimizer.scale_loss(descended)
                descended *= tf.cast(share, descended.dtype)
            zero = tf.UnconnectedGradients.ZERO
            g = tape.gradient(descended, mine, unconnected_gradients=zero)
            return reported * tf.cast(share, reported.dtype), g

        x = tf.TensorSpec((n, *model.point_shape), model.variable_dtype)
        scalar = tf.TensorSpec((), "float32")
        step = tf.TensorSpec((), model.optimizer.iterations.dtype)
        return gradient, [x, scalar, step, tf.TensorSpec((), "int32")]


def _local(variable, replica):
    value = variable.value
    values = getattr(value, "values", None)
    return tf.convert_to_tensor(value if values is None else values[replica])


# ---- a step of Keras' loop, in the context of one replica ----------------------------------


def part_of_batch(x):
    """Return this replica's points, and its share n_r / N of the global batch.

    Where there are none, a point of zeros stands in, whose share is 0.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return x, 1
    rows = tf.shape(x)[0]
    missing = [[0, tf.maximum(1 - rows, 0)], *[[0, 0]] * (len(x.shape) - 1)]
    rows = tf.cast(rows, tf.float32)
    return tf.pad(x, missing), rows / sum_over(rows)


def rows(x, share):
    """Return the number of points in the global batch."""
    mine = tf.cast(tf.shape(x)[0], share.dtype)
    return sum_over(tf.where(share > 0, mine, tf.zeros_like(mine)))


def sum_over(value):
    """Return the sum of a tensor, or of each of a list, over the replicas."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return value
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


@contextlib.contextmanager
def alone(optimizer):
    """Let Keras' optimizer apply the gradients of one process as they are.

    It sums them over the replicas, of one too, by a function with a gradient of its own. That
    TensorFlow registers for ever, and with it the graph of every program that holds a step.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if tf.distribute.has_strategy() or not hasattr(inner, "_all_reduce_sum_gradients"):
        yield
        return
    inner._all_reduce_sum_gradients = list
    try:
        yield
    finally:
        del inner._all_reduce_sum_gradients


def clipped(optimizer, gradients):
    """Return gradients whose sum over the replicas is clipped as the optimizer would.

    An optimizer clips what each replica gives it, and sums after that. What is clipped here
    and divided by R it does not clip again.
    """
    R = tf.distribute.get_strategy().num_replicas_in_sync
    clips = optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue
    if R == 1 or not clips:
        return gradients
    return [g / R for g in optimizer._clip_gradients(sum_over(gradients))]


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


def prepare(model):
    """Build what Keras would build inside the first step.

    Raises
    ------
    ValueError
        If the weights were made outside the scope.
    """
    check_scope(model, model.weights, "weights")
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)


def fit(
    model, keras_fit, x, batch_size, shuffle, validation_data, callbacks=None, **more
):
    """Run Keras' `fit` on points in memory, split over the replicas."""
    prepare(model)
    start = Start(model, x, batch_size, shuffle)
    steps = more.pop("steps_per_epoch", None) or math.ceil(len(x) / batch_size)
    if isinstance(validation_data, np.ndarray):
        size = more.pop("validation_batch_size", None) or batch_size
        more.setdefault("validation_steps", math.ceil(len(validation_data) / size))
        validation_data = batches(model, validation_data, size)
    return keras_fit(
        batches(model, x, batch_size, start if shuffle else None),
        steps_per_epoch=steps,
        validation_data=validation_data,
        callbacks=[*keras.tree.flatten(callbacks or []), start],
        shuffle=False,
        **more,
    )


def batches(model, x, batch_size, start=None):
    """Return points in memory as a distributed stream of global batches, for ever.

    Every worker holds all points, and every replica takes its own part of each batch. The
    batches are those of a fit without a strategy: a permutation of the data for each epoch,
    a function of (seed, optimizer.iterations).

    Parameters
    ----------
    model : ScoreModel
    x : ndarray, shape (n, ...)
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
                    key = noise.key(model.seed, step, noise.SHUFFLE)
                    order = noise.permutation(order, n, key).numpy()
                for batch in np.split(order, range(batch_size, n, batch_size)):
                    N = len(batch)
                    for r in range(first, first + here):
                        yield x[batch[r * N // R : (r + 1) * N // R]]

        rows = tf.TensorSpec((None, *x.shape[1:]), x.dtype)
        dataset = tf.data.Dataset.from_generator(generate, output_signature=rows)
        # TensorFlow asks all workers at each step who has data left, unless all have.
        for_ever = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return dataset.apply(for_ever)

    return model.distribute_strategy.distribute_datasets_from_function(parts)


class Start(keras.callbacks.Callback):
    """The step at which a fit begins, seen after all that a callback restores.

    Parameters
    ----------
    model : ScoreModel
    x : ndarray
        The data.
    batch_size : int
    shuffle : bool

    Raises
    ------
    ValueError
        If workers begin with other data, weights, settings or epochs than others: each would
        go on with a model of its own.
    """

    def __init__(self, model, x, batch_size, shuffle):
        super().__init__()
        self.x, self.step = x, None
        config = [model.get_config(), model.optimizer.get_config()]
        for part in config:
            part.pop("name", None)  # Keras counts them up
        self.settings = repr([config, batch_size, shuffle])

    def on_epoch_begin(self, epoch, logs=None):
        if self.step is not None:
            return
        self.step = int(self.model.optimizer.iterations.numpy())
        mine = zlib.crc32(np.ascontiguousarray(self.x), epoch)
        mine = zlib.crc32(self.settings.encode(), mine)
        for v in variables(self.model):
            mine = zlib.crc32(np.ascontiguousarray(v.numpy()), mine)
        strategy = self.model.distribute_strategy

        @tf.function
        def total():
            each = strategy.run(lambda: tf.constant(mine, tf.int64))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None)

        if int(total()) != strategy.num_replicas_in_sync * mine:
            raise ValueError(
                "all workers must begin with the same data, weights, settings, optimizer "
                f"and epoch (this one at epoch {epoch}, iteration {self.step})"
            )
