"""A model's answers as graphs that run without Keras and without this package.

Each signature takes `x`, (n, d) for any n, in the precision of the weights, and answers
with a dictionary whose one entry has the signature's name. Scores are exported as the
gradients they are: backward passes, written out as a graph like any other.

    model.export("saved_model")  # signatures energy, score, denoise, experts
    model.export("deen.tflite", format="litert")  # the same as one file for LiteRT

Loaded in Python, on the command line, and as a layer of another model:

    served = tf.saved_model.load("saved_model")
    psi = served.signatures["score"](x=tf.constant(x, tf.float32))["score"]

    saved_model_cli run --dir saved_model --tag_set serve --signature_def score --inputs x=x.npy --outdir .

    keras.layers.TFSMLayer("saved_model", call_endpoint="score")

Models of several levels take `sigma`, (n,), beside `x`; `model.smoothed(sigma).export(...)`
writes one of the levels, whose signatures take `x` alone. A graph does not look at its input: a
`sigma` outside the model's levels, or an `x` in other units, gets an answer, not an error.
"""

import pathlib
import re

import keras
import tensorflow as tf

from deen_tf.atomic import replacing


def saved_model(model, filepath, verbose=False, sigma=None):
    """Write `model.signatures` as a SavedModel; a folder, replaced if it exists.

    With `sigma` the model of several levels at this one.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    check_built(model)
    if str(filepath).endswith(".tflite"):
        raise ValueError('a .tflite file is written by format="litert"')
    with replacing(filepath) as temporary:
        _write(model, temporary, verbose, sigma)


def litert(model, filepath, verbose=False, sigma=None):
    """Write `model.signatures` as one file for LiteRT; replaced if it exists.

    Raises
    ------
    ValueError
        If LiteRT lacks the model's precision, or an operation that it needs.
    OSError
        If it cannot be written.
    """
    check_built(model)
    if model.dtype_policy.name != "float32":
        raise ValueError(
            f"LiteRT computes in float32, this model in {model.dtype_policy.name}: export it "
            "as a SavedModel"
        )
    with replacing(filepath) as temporary:
        folder = f"{temporary}-saved_model"  # goes with the temporary file's folder
        _write(model, folder, verbose, sigma)
        try:
            converter = tf.lite.TFLiteConverter.from_saved_model(
                folder, signature_keys=list(model.signatures)
            )
            content = converter.convert()
        except Exception as error:  # the converter's own class is not public
            missing = re.search("TF Select ops: (.*)", str(error))
            if not missing:
                raise
            raise ValueError(
                f"LiteRT has no {missing[1]}, which {type(model).__name__} needs: export "
                "it as a SavedModel"
            ) from error
        pathlib.Path(temporary).write_bytes(content)


def check_built(model):
    if not model.built:
        raise ValueError(
            "the model has no weights yet: fit it, or evaluate a point, before export()"
        )


def _write(model, folder, verbose, sigma):
    archive = keras.export.ExportArchive()
    weights = tf.Module()  # not the model: its call is no endpoint
    weights.variables_ = [v.value for v in model.variables]
    archive.track(weights)
    for name in model.signatures:
        answer, inputs = _endpoint(model, name, sigma)
        archive.add_endpoint(name, answer, input_signature=inputs)
    try:
        archive.write_out(folder, verbose=verbose)
    except tf.errors.OpError as error:  # a full disk, for one
        raise OSError(f"cannot write the SavedModel: {error.message}") from error


def _endpoint(model, name, one):
    function = getattr(type(model), name).tensor_function
    inputs = [tf.TensorSpec((None, *model.point_shape), model.variable_dtype, name="x")]
    if model.several_levels and one is None:
        inputs.append(tf.TensorSpec((None,), model.variable_dtype, name="sigma"))

    def answer(x, sigma=one):
        sigma = sigma if sigma is None else tf.convert_to_tensor(sigma, x.dtype)
        return {name: function(model, x, model.level(x, sigma))}

    return answer, inputs


FORMATS = {"tf_saved_model": saved_model, "litert": litert}
