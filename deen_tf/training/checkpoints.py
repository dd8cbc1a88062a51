"""The state of a training, kept and taken up again: one mechanism for all who need it.

A state is all that training changes: the model's weights (its units and the streams of its
layers' random numbers among them), the optimizer's variables, and the epoch. In memory it is
a list of arrays; on disk ONE file, which appears whole or not at all and carries its own
checksum. A file that does not match it is named in a warning and not used.
"""

import hashlib
import io
import os
import time
import warnings

import h5py
import keras
import numpy as np

from deen_tf.atomic import write_bytes


def variables(model):
    """Return what training changes: weights, seeds of layers, the optimizer's variables."""
    seeds = [v for v in model.variables if not any(v is w for w in model.weights)]
    seeds = [v for v in seeds if v.dtype != "string" and v is not model.noise_level]
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    seeds = [v for v in seeds if id(v) not in metrics]
    return [*model.weights, *seeds, *model.optimizer.variables]


def state(model):
    """Return copies of all that training changes."""
    return [v.numpy() for v in variables(model)]


def restore(model, values):
    """Give the model and its optimizer the values of `state`."""
    for v, value in zip(variables(model), values, strict=True):
        v.assign(value)


def save_state(path, model, epoch=0):
    """Write the state of a model that is being trained.

    Raises
    ------
    OSError
        If it cannot be written; an older file is left as it was. (HDF5 itself ends the
        process on a full disk: the file is made in memory first.)
    """
    arrays = state(model)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for i, array in enumerate(arrays):
            file[str(i)] = array
        file.attrs["epoch"] = epoch
        file.attrs["sha256"] = _digest(arrays, epoch)
    write_bytes(path, buffer.getbuffer())


def load_state(path, model):
    """Give a model the state in a file and return its epoch, or None if it cannot be used.

    A model without weights, a file that is damaged, or one of another model is left alone;
    the last two with a warning.
    """
    if not os.path.exists(path):
        return None
    try:
        with h5py.File(path, "r") as file:
            arrays = [file[str(i)][()] for i in range(len(file))]
            epoch = int(file.attrs["epoch"])
            whole = file.attrs["sha256"] == _digest(arrays, epoch)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        warnings.warn(f"{path} is damaged and not used: {error}", stacklevel=2)
        return None
    if not whole:
        warnings.warn(
            f"{path} does not match its checksum: it is damaged, and not used",
            stacklevel=2,
        )
        return None
    if not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
    wanted = [tuple(v.shape) for v in variables(model)]
    if [a.shape for a in arrays] != wanted:
        warnings.warn(
            f"{path} is of another model or optimizer, and not used", stacklevel=2
        )
        return None
    restore(model, arrays)
    return epoch


def _digest(arrays, epoch):
    digest = hashlib.sha256(str(epoch).encode())
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


class BackupAndRestore(keras.callbacks.Callback):
    """Keras' callback of this name, which nothing can leave half written.

    At the end of epochs the state is written to one file; when a fit begins it is read, and
    the training goes on exactly: the run that was interrupted ends with the bits of one that
    was not. Of several workers the first writes, and all read. (With Keras' own, every worker
    writes, two files in place; one that is killed may leave weights and epoch that do not
    belong together.)

    Parameters
    ----------
    path : str
        Of the file, where all workers see it. It is removed when the fit has ended.
    every : float
        Seconds from one backup to the next, at least; 0 for each epoch.
    """

    def __init__(self, path, every=0.0):
        super().__init__()
        self.path, self.every = os.fspath(path), every

    def on_train_begin(self, logs=None):
        self.written = time.monotonic()
        epoch = load_state(self.path, self.model)
        if epoch is not None:
            self.model._initial_epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if self.first_worker and time.monotonic() - self.written >= self.every:
            save_state(self.path, self.model, epoch + 1)
            self.written = time.monotonic()

    def on_train_end(self, logs=None):
        if self.first_worker and os.path.exists(self.path):
            os.remove(self.path)

    @property
    def first_worker(self):
        """Whether this process writes: the others do not, nor should they save the model."""
        return self.model.distribute_strategy.extended.should_checkpoint
