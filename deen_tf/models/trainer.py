"""Keras' own methods, as the models of this package answer them.

`compile` needs no arguments, `fit` and `evaluate` take points without targets, and send
those in memory the fast way (`deen_tf.training.loop`), those under a strategy to its replicas
(`deen_tf.training.replicas`); what is written appears whole or not at all.
"""

import os

import keras
import tensorflow as tf

from deen_tf.atomic import replacing
from deen_tf.checks import as_points
from deen_tf.models import export
from deen_tf.training import guard as divergence
from deen_tf.training import loop as training
from deen_tf.training import replicas as distribution


class Trainer(keras.Model):
    """Base of `ScoreModel`, which brings the network, the objective and the step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dimension = None  # d, once the model is built
        self._programs = training.Programs()
        self._epochs = None  # set while `fit` runs on data in memory

    def compile(
        self,
        optimizer=None,
        steps_per_execution="auto",
        jit_compile="auto",
        **kwargs,
    ):
        """Choose the optimizer; by default the paper's, Adam at learning rate 1e-3.

        Parameters
        ----------
        optimizer : keras optimizer or str, optional
        steps_per_execution : int or "auto"
            Steps that run as one program. "auto": see `fit`.
        jit_compile : bool or "auto"
            Compile with XLA. "auto": see `fit`.
        **kwargs
            Of `keras.Model.compile`, but the loss: a model brings its own.
        """
        for name in ("loss", "metrics", "loss_weights", "weighted_metrics"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"{type(self).__name__} brings its own objective: compile() takes no "
                    f"{name}"
                )
        self._auto = {
            "steps_per_execution": steps_per_execution == "auto",
            "jit_compile": jit_compile == "auto",
        }
        self._programs = training.Programs()
        program = {
            "steps_per_execution": (
                1 if self._auto["steps_per_execution"] else steps_per_execution
            ),
            "jit_compile": False if self._auto["jit_compile"] else jit_compile,
        }
        if distribution.distributed(self):
            program = distribution.plain(program)
        with self.distribute_strategy.scope():
            super().compile(
                optimizer=self.default_optimizer() if optimizer is None else optimizer,
                **program,
                **kwargs,
            )
        distribution.check_scope(self, [self.optimizer.iterations], "optimizer")

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "steps_per_execution": (
                "auto"
                if self._auto["steps_per_execution"]
                else self.steps_per_execution
            ),
            "jit_compile": "auto" if self._auto["jit_compile"] else self.jit_compile,
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def default_optimizer(self):
        return keras.optimizers.Adam(learning_rate=1e-3)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        steps_per_epoch=None,
        callbacks=None,
        check_divergence=True,
        **kwargs,
    ):
        """Train; as `keras.Model.fit`, without targets.

        Points in memory (an array, a list, an eager tensor) go the fast way: they stay
        on the device, and whole runs of steps are one compiled program in which
        minibatches are gathered and noise is drawn (see `deen_tf.training.loop`). Anything
        else (tf.data, generators, a distribution strategy) goes through Keras' own loop.

        Parameters
        ----------
        x : array_like (n, d), tf.data.Dataset, keras.utils.PyDataset or generator
        batch_size : int, optional
            32 if not given, as Keras has it.
        epochs, validation_split, validation_data, shuffle, steps_per_epoch, callbacks
            As in `keras.Model.fit`.
        check_divergence : bool
            Stop a training that has diverged: see `deen_tf.training.guard`.
        **kwargs
            Of `keras.Model.fit`.

        Returns
        -------
        keras.callbacks.History

        Raises
        ------
        DivergenceError
            If the loss is not finite, or the model has fallen into the dead state, loss =
            sigma^2 d and score 0. The model then has the last good weights.
        """
        if y is not None:
            raise ValueError(
                f"{type(self).__name__} learns from points alone: fit() takes no y"
            )
        for name in ("sample_weight", "class_weight"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"{type(self).__name__}: fit() takes no {name}")
        if check_divergence:
            x, callbacks = divergence.watch(x, callbacks)
        return training.fit(
            self,
            super().fit,
            x,
            batch_size=batch_size,
            epochs=epochs,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, **kwargs):
        """Return the objective on the points x; as `keras.Model.evaluate`."""
        if x is None:
            raise TypeError("x must be points, shape (n, d), or a stream, got None")
        if training.in_memory(x):
            x = as_points(x, self.dimension, dtype=self.compute_dtype)
            self._check_width(x)
            if y is None and distribution.distributed(self):
                return distribution.evaluate(self, super().evaluate, x, **kwargs)
        return super().evaluate(x, y, **kwargs)

    def predict(self, x, **kwargs):
        """Return `call` of the points x; as `keras.Model.predict`."""
        if training.in_memory(x):
            x = as_points(x, self.dimension, dtype=self.compute_dtype)
            self._check_width(x)
        return super().predict(x, **kwargs)

    def make_train_function(self, force=False):
        if self._epochs is None:
            return super().make_train_function(force)
        self.train_function = self._epochs
        return self.train_function

    def _check_width(self, x):
        if x.ndim != 2 or self.dimension not in (None, x.shape[1]):
            wanted = "d" if self.dimension is None else self.dimension
            raise ValueError(
                f"x must have shape (n, {wanted}), got {tuple(x.shape)}: the model was "
                f"built for points of {wanted} dimensions"
            )
        if not self.built:
            with self.distribute_strategy.scope():
                self.build((None, x.shape[1]))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Under a strategy Keras builds from the mean of the replicas' parts of a batch,
        # which does not exist where they differ in length.
        if not self.built:
            super()._maybe_symbolic_build(iterator, data_batch)

    # ---- saving ----------------------------------------------------------------------

    def save(self, filepath, overwrite=True, **kwargs):
        """Write a .keras file; as `keras.Model.save`, but never seen half written.

        If it cannot be written to the end an older file is left as it was.
        """
        if os.path.isdir(filepath) or not overwrite:
            return super().save(filepath, overwrite=overwrite, **kwargs)
        with replacing(filepath) as temporary:
            super().save(temporary, **kwargs)

    def export(self, filepath, format="tf_saved_model", verbose=False, **kwargs):
        """Write the model for use without Keras and without this package.

        Each of `signatures` takes `x` of shape (n, d), any n, in the precision of the
        weights, and answers with a dictionary whose one entry has the signature's name.

        Parameters
        ----------
        filepath : str
            A folder, for LiteRT a file; replaced if it exists, never seen half written.
        format : str
            "tf_saved_model": a SavedModel, for `tf.saved_model.load` and TensorFlow's
            servers. "litert": one file for LiteRT (TensorFlow Lite), float32 alone. Any
            other: what `keras.Model.export` makes of `call`, an energy without its score.
        verbose : bool
        **kwargs
            Of `keras.Model.export`, for those other formats.

        Raises
        ------
        ValueError
            If the model has no weights yet, or LiteRT lacks an operation it needs.
        """
        if not self.built:
            raise ValueError(
                "the model has no weights yet: fit it, or evaluate a point, before export()"
            )
        write = {"tf_saved_model": export.saved_model, "litert": export.litert}
        if format in write:
            if kwargs:
                raise TypeError(f"export() got unexpected arguments {sorted(kwargs)}")
            return write[format](self, filepath, verbose)
        x = tf.TensorSpec((None, self.dimension), self.variable_dtype, name="x")
        kwargs = {"input_signature": [x]} | kwargs
        return super().export(filepath, format=format, verbose=verbose, **kwargs)
