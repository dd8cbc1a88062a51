"""Keras' own methods, as the models of this package answer them.

`compile` needs no arguments; what is written appears whole or not at all.
"""

import os

import keras
import tensorflow as tf

from deen_tf import presets
from deen_tf.atomic import replacing
from deen_tf.checks import as_points
from deen_tf.models import export
from deen_tf.training import loop, replicas, sources


class KerasMethods(keras.Model):
    """Base of `ScoreModel`, which brings the network, the objective and the step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._programs = loop.Programs()

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
            Steps that run as one program, at most. "auto": see `deen_tf.training.loop`.
        jit_compile : bool or "auto"
            Compile with XLA. "auto": what is faster, see `deen_tf.training.loop`.
        **kwargs
            Of `keras.Model.compile`, but the loss: a model brings its own.
        """
        for name in ("loss", "metrics", "loss_weights", "weighted_metrics"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"{type(self).__name__} brings its own objective: compile() takes no "
                    f"{name}"
                )
        self.asked = {"steps": steps_per_execution, "jit_compile": jit_compile}
        self._programs = loop.Programs()
        streams = {  # Keras' own loop cannot take "auto"
            "steps_per_execution": (
                1 if steps_per_execution == "auto" else steps_per_execution
            ),
            "jit_compile": False if jit_compile == "auto" else jit_compile,
        }
        if replicas.distributed(self):
            streams = replicas.plain(streams)
        with self.distribute_strategy.scope():
            super().compile(
                optimizer=self.default_optimizer() if optimizer is None else optimizer,
                **streams,
                **kwargs,
            )
        replicas.check_scope(self, [self.optimizer.iterations], "optimizer")

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "steps_per_execution": self.asked["steps"],
            "jit_compile": self.asked["jit_compile"],
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def default_optimizer(self):
        return keras.optimizers.Adam(learning_rate=1e-3)

    def predict(self, x, **kwargs):
        """Return `call` of the points x; as `keras.Model.predict`."""
        if sources.in_memory(x):
            x = as_points(x, self.point_shape or ..., dtype=self.variable_dtype)
            self.see_shape(x.shape)
        return super().predict(x, **kwargs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Under a strategy Keras builds from the mean of the replicas' parts of a batch,
        # which does not exist where they differ in length.
        if not self.built:
            super()._maybe_symbolic_build(iterator, data_batch)

    # ---- trained models that come with the package -----------------------------------

    presets = presets.Presets(doc="{name: card} of what `from_preset` takes.")

    @classmethod
    def from_preset(cls, name):
        """Return a trained model that comes with the package: see `deen_tf.presets`.

        Parameters
        ----------
        name : str
            One of `presets`, which is {name: card}.

        Raises
        ------
        ValueError
            If there is no such preset, or it is of a class that this one does not include.

        Examples
        --------
        >>> model = deen.DEEN.from_preset("fig1-mixture")
        >>> model.denoise([[1.3, 0.0]]).round(1) + 0.0  # the nearest mode is at (1, 0)
        array([[1.2, 0. ]], dtype=float32)
        >>> deen.DEEN.presets["fig1-mixture"]["points"]
        'rows (n, 2)'
        """
        return presets.load(name, cls)

    # ---- saving ----------------------------------------------------------------------

    def save(self, filepath, overwrite=True, **kwargs):
        """Write a .keras file; as `keras.Model.save`, but never seen half written.

        If it cannot be written to the end an older file is left as it was.
        """
        if not os.fspath(filepath).endswith(".keras"):
            raise ValueError(
                f"save() writes .keras files, got {filepath!s}: save_weights() writes "
                ".weights.h5, export() a SavedModel"
            )
        if os.path.isdir(filepath) or not overwrite:
            return super().save(filepath, overwrite=overwrite, **kwargs)
        with replacing(filepath) as temporary:
            super().save(temporary, **kwargs)

    def export(self, filepath, format="tf_saved_model", verbose=False, **kwargs):
        """Write the model for use without Keras and without this package.

        Each of `signatures` takes `x` of shape (n, ...), any n, in the precision of the
        weights, and answers with a dictionary whose one entry has the signature's name.

        Parameters
        ----------
        filepath : str
            A folder, for LiteRT a file; replaced if it exists, never seen half written.
        format : str
            "tf_saved_model": a SavedModel, for `tf.saved_model.load` and TensorFlow's
            servers. "litert": one file for LiteRT (TensorFlow Lite), float32 alone, of one
            noise level, and of networks whose gradients LiteRT has (dense, Conv2D). Any
            other: what `keras.Model.export` makes of `call`, an energy without its score.
        verbose : bool
        **kwargs
            Of `keras.Model.export`, for those other formats.

        Raises
        ------
        ValueError
            If the model has no weights yet, or LiteRT lacks an operation it needs.
        """
        export.check_built(self)
        if format in export.FORMATS:
            if kwargs:
                raise TypeError(f"export() got unexpected arguments {sorted(kwargs)}")
            return export.FORMATS[format](self, filepath, verbose)
        x = tf.TensorSpec((None, *self.point_shape), self.variable_dtype, name="x")
        kwargs = {"input_signature": [x]} | kwargs
        return super().export(filepath, format=format, verbose=verbose, **kwargs)
