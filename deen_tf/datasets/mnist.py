"""MNIST: 60,000 training and 10,000 test digits of 28 x 28 pixels in [0, 1].

Keras' `mnist.npz`, or the four idx files of the original under any of their names
(`train-images-idx3-ubyte`, `train-images.idx3-ubyte`, with or without `.gz`, packed or not;
torchvision's `MNIST/raw`), is looked for in

1. the path given, a file or a folder;
2. the folder named by the environment variable DEEN_DATA;
3. Keras' cache and, if it is not there, Keras' download, with its checksum.

In a folder, a folder `mnist` in it comes first. Nothing ever stands in for it.
"""

import hashlib
import itertools
import os
from typing import NamedTuple

import numpy as np

from deen_tf.datasets import places
from deen_tf.datasets.archives import DAMAGE, unpacked

NPZ_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
SHAPES = {
    "x_train": (60_000, 28, 28),
    "y_train": (60_000,),
    "x_test": (10_000, 28, 28),
    "y_test": (10_000,),
}


class Digits(NamedTuple):
    """MNIST as arrays."""

    x_train: np.ndarray  # (60000, 784) float32 in [0, 1]
    y_train: np.ndarray  # (60000,) uint8
    x_test: np.ndarray  # (10000, 784) float32
    y_test: np.ndarray  # (10000,) uint8
    identity: dict  # where from: file names and their sha256


def load(path=None):
    """Return MNIST.

    Parameters
    ----------
    path : str, optional
        A file or a folder; see the module's docstring.

    Returns
    -------
    Digits

    Raises
    ------
    FileNotFoundError
        If the path does not hold MNIST, or there is none and no network.
    ValueError
        If a file is damaged or is not MNIST; the file is named.
    """
    for place in places("mnist", path):
        if files := [place] if os.path.isfile(place) else _files_in(place):
            return _read(files)
    if path is not None:
        raise FileNotFoundError(
            f"no MNIST in {path}: put mnist.npz there, or the four files "
            f"{', '.join(FILES.values())} (also .gz)"
        )
    return _read([_keras_file()])


def _read(files):
    if len(files) == 1:
        arrays = _read_npz(files[0])
    else:
        arrays = {
            name: _read_idx(file, SHAPES[name])
            for name, file in zip(FILES, files, strict=True)
        }
    for name, array in arrays.items():
        if array.shape != SHAPES[name] or array.dtype != np.uint8:
            raise ValueError(
                f"{files[0]} is not MNIST: {name} is {array.dtype} {array.shape}, "
                f"wanted uint8 {SHAPES[name]}"
            )
    if max(arrays["y_train"].max(), arrays["y_test"].max()) > 9:
        raise ValueError(f"{files[0]} is not MNIST: a label is larger than 9")
    images = {
        name: arrays[name].reshape(len(arrays[name]), -1).astype("float32") / 255
        for name in ("x_train", "x_test")
    }
    identity = {os.path.basename(file): _sha256(file) for file in files}
    return Digits(**(arrays | images), identity=identity)


def _files_in(folder):
    """Return [npz], or the four idx files, or [] if neither is complete."""
    for inside in ("", os.path.join("MNIST", "raw"), "raw"):
        stem = os.path.join(folder, inside)
        if os.path.isfile(npz := os.path.join(stem, "mnist.npz")):
            return [npz]
        found = [_first(stem, name) for name in FILES.values()]
        if all(found):
            return found
    return []


def _first(folder, name):
    """Return the idx file of this name, under whichever of its spellings there is."""
    spellings = itertools.product((name, name.replace("-idx", ".idx")), ("", ".gz"))
    files = (os.path.join(folder, a + b) for a, b in spellings)
    return next(filter(os.path.isfile, files), None)


def _read_npz(file):
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [name for name in SHAPES if name not in archive]
            if missing:
                raise ValueError(f"it has no array {', '.join(missing)}")
            for name, shape in SHAPES.items():  # before it is unpacked
                size = archive.zip.getinfo(f"{name}.npy").file_size
                # (float64 is read, to be refused by its name)
                if size > 8 * np.prod(shape) + 2**16:
                    raise ValueError(f"{name} is far too large, {size} bytes")
            return {name: archive[name] for name in SHAPES}
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 (damage shows in many ways)
        raise ValueError(
            f"{file} is damaged or not Keras' mnist.npz ({error}); its sha256 should "
            f"begin with {NPZ_SHA256[:12]}"
        ) from None


def _read_idx(file, shape):
    """Read an idx file: magic (0, 0, 8 = uint8, rank), big-endian sizes, then the bytes."""
    header = 4 + 4 * len(shape)
    try:
        with unpacked(file) as stream:
            data = stream.read(header + int(np.prod(shape)) + 1)  # never more
    except DAMAGE as error:
        if getattr(error, "errno", None):  # the system's, not the file's
            raise
        raise ValueError(f"{file} is damaged: {error}") from None
    if len(data) < header or data[:4] != bytes([0, 0, 8, len(shape)]):
        raise ValueError(f"{file} is not an idx file of {len(shape)}-dimensional bytes")
    sizes = tuple(np.frombuffer(data, ">u4", len(shape), 4).tolist())
    if sizes != shape:
        raise ValueError(
            f"{file} is not MNIST's: its sizes are {sizes}, wanted {shape}"
        )
    if len(data) != header + int(np.prod(shape)):
        raise ValueError(
            f"{file} is truncated or too long: it should have "
            f"{header + int(np.prod(shape))} bytes"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _keras_file():
    """Return Keras' own file, downloaded if need be.

    Keras deletes a cached file of another checksum before it downloads: such a file is
    the user's, and is left alone.
    """
    import keras

    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    cached = os.path.join(home, "datasets", "mnist.npz")
    if os.path.isfile(cached):
        if _sha256(cached) != NPZ_SHA256:
            raise ValueError(
                f"{cached} is not Keras' mnist.npz (sha256 {_sha256(cached)[:12]}..., "
                f"wanted {NPZ_SHA256[:12]}...): move it away, or name it as the path"
            )
        return cached
    url = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
    try:
        return keras.utils.get_file(
            "mnist.npz", url, file_hash=NPZ_SHA256, cache_dir=home
        )
    except Exception as error:  # noqa: BLE001 (Keras raises no other)
        raise FileNotFoundError(
            f"MNIST is not here and could not be downloaded ({error}). Put mnist.npz (from "
            f"{url}) or the four idx files in a folder and name it: --data FOLDER, or "
            f"DEEN_DATA=FOLDER; or put mnist.npz at {cached}"
        ) from None


def _sha256(file):
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
