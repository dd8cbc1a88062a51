"""Data: two-dimensional laws with known density, MNIST, natural images."""

import importlib

__all__ = [
    "Checkerboard",
    "GaussianMixture",
    "Moons",
    "Rings",
    "Spiral",
    "mnist",
    "toy",
    "van_hateren",
]


def __getattr__(name):
    if name in __all__ and name.islower():
        return importlib.import_module(f"deen_tf.datasets.{name}")
    if name in __all__:
        return getattr(importlib.import_module("deen_tf.datasets.toy"), name)
    raise AttributeError(f"module 'deen_tf.datasets' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
