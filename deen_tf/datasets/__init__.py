"""Data of others: MNIST, van Hateren's natural images, photographs to denoise.

(Laws are in `deen_tf.laws`.) Where data are looked for is one rule for all of them: the
`path` given, which a script calls `--data`, else the folder that the environment variable
DEEN_DATA names. Either may be the data set's own folder or file, or a folder of data, in
which the set has one named after it: `mnist`, `van_hateren`, `bsds`.
"""

import importlib
import os

__all__ = ["mnist", "photographs", "van_hateren"]


def places(name, path=None):
    """Return where the data set `name` may lie, the likeliest first; [] if nobody says.

    Raises
    ------
    FileNotFoundError
        If `path`, or the folder that DEEN_DATA names, does not exist.
    """
    given = os.environ.get("DEEN_DATA") if path is None else os.fspath(path)
    if not given:
        return []
    if not os.path.exists(given):
        source = " (named by DEEN_DATA)" * (path is None)
        raise FileNotFoundError(f"no such file or folder: {given}{source}")
    inside = os.path.join(given, name)
    return [inside, given] if os.path.isdir(inside) else [given]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"deen_tf.datasets.{name}")
    laws = importlib.import_module("deen_tf.laws")
    if name in laws.__all__:  # where 0.1 had them
        return getattr(laws, name)
    raise AttributeError(f"module 'deen_tf.datasets' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
