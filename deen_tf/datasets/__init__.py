"""Data: two-dimensional laws with known density, MNIST, natural images."""

import importlib

_TOY = ("Checkerboard", "GaussianMixture", "Moons", "Rings", "Spiral")
_MODULES = ("mnist", "toy", "van_hateren")

__all__ = [*_TOY, *_MODULES]


def __getattr__(name):
    if name in _TOY:
        return getattr(importlib.import_module("deen_tf.datasets.toy"), name)
    if name in _MODULES:
        return importlib.import_module(f"deen_tf.datasets.{name}")
    raise AttributeError(f"module 'deen_tf.datasets' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
