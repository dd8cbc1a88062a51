"""Data of others: MNIST, van Hateren's natural images. (Laws are in `deen_tf.laws`.)"""

import importlib

__all__ = ["mnist", "van_hateren"]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"deen_tf.datasets.{name}")
    laws = importlib.import_module("deen_tf.laws")
    if name in laws.__all__:  # where 0.1 had them
        return getattr(laws, name)
    raise AttributeError(f"module 'deen_tf.datasets' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
