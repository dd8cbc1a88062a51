"""One process of a distributed training: what `test_distribution` starts.

    python -m tests.replicas steps FOLDER     every kind of step
    python -m tests.replicas backup FOLDER    a fit that goes on where a killed one was

With TF_CONFIG it is one worker of several, without it has two logical CPUs. It writes what
it did to FOLDER, for the test to compare.
"""

import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import deen_tf as deen
from deen_tf.training.replicas import BackupAndRestore, Mirrored

SEED, BATCH, EPOCHS = 3, 17, 2
OPTIMIZERS = {
    # Adam would not see a factor in the gradient.
    "plain": lambda: keras.optimizers.SGD(0.05),
    "clipped": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.2),
}


def points():
    """Return points whose last batch is of one: there a replica goes without."""
    return np.random.default_rng(0).normal(size=(35, 2)).astype("float32")


def model_of(optimizer):
    model = deen.DEEN((8, 6), sigma=0.3, seed=SEED)
    model.compile(optimizer)
    return model


def flat(variables):
    return np.concatenate([v.numpy().ravel() for v in variables])


def stream(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(BATCH)


def strategy_and_worker():
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return strategy, strategy.cluster_resolver.task_id
    (cpu,) = tf.config.list_physical_devices("CPU")
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one, one])
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), 0


def steps(folder):
    strategy, worker = strategy_and_worker()
    x, done = points(), {}
    for name, optimizer in OPTIMIZERS.items():
        with strategy.scope():
            model = model_of(optimizer())
        fit = model.fit(
            x, batch_size=BATCH, epochs=EPOCHS, validation_data=x[:20], verbose=0
        )
        done[name] = flat(model.trainable_variables)
        done |= {f"{name} {log}": values for log, values in fit.history.items()}
    done["evaluate"] = model.evaluate(x, batch_size=BATCH, verbose=0)
    if worker == 0:
        model.save(folder / "model.keras")
        model.export(folder / "saved_model")
        done["score"] = model.score(x)

    traced = []
    Mirrored._trace = lambda self, n: traced.append(n)
    model.fit(x, batch_size=BATCH, verbose=0)
    done["traced again"] = traced

    with strategy.scope():
        model = model_of(OPTIMIZERS["plain"]())
    fit = model.fit(stream(x), verbose=0)  # it adapts to the first batches, here all
    done |= {
        "stream": flat(model.trainable_variables),
        "stream loss": fit.history["loss"],
    }
    done["evaluate stream"] = model.evaluate(stream(x), verbose=0)

    if "TF_CONFIG" in os.environ:
        done["other data"] = error(lambda: model.fit(x + worker, verbose=0))
        done["other order"] = error(
            lambda: model.fit(x, shuffle=worker == 0, verbose=0)
        )
        with strategy.scope():
            other = deen.DEEN((8, 6), sigma=0.3 + 0.1 * worker, seed=SEED)
            other.compile()
        done["other sigma"] = error(lambda: other.fit(x, verbose=0))
    with strategy.scope():
        model = deen.DEEN((8, 6), sigma=0.3)
    done["optimizer"] = error(lambda: model.compile(OPTIMIZERS["plain"]()))
    model.compile("sgd", steps_per_execution=4, jit_compile=True)
    done["program"] = model.steps_per_execution, model.jit_compile
    shared = strategy.experimental_distribute_dataset(stream(x))
    done["stream first"] = error(lambda: model.fit(shared, verbose=0))
    model.build((None, 2))
    done["weights"] = error(lambda: model.fit(x, verbose=0))
    np.savez(folder / f"{worker}.npz", **done)


def error(function):
    try:
        function()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def backup(folder):
    class Say(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            print("epoch", epoch, flush=True)

    strategy, worker = strategy_and_worker()
    with strategy.scope():
        model = model_of(None)
    model.fit(
        points(),
        batch_size=BATCH,
        epochs=30,
        verbose=0,
        callbacks=[BackupAndRestore(folder / "backup.h5"), Say()],
    )
    np.save(folder / f"{worker}.npy", flat(model.weights + model.optimizer.variables))


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]))
