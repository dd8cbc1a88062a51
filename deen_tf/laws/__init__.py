"""Densities that are known: drawn from, and exactly evaluated at every noise level.

Of the plane: `Spiral`, `Moons`, `Rings`, `Checkerboard`. Of any dimension: `Gaussian`,
`GaussianMixture`, `StudentMixture`, `ManyWells`, `IndependentComponents`, `Funnel`. Of data:
`Gaussian.fit`, whose denoiser is the Wiener filter, and `Parzen`.
"""

import importlib

_HOMES = {
    "Checkerboard": "plane",
    "Funnel": "funnel",
    "Gaussian": "gaussian",
    "GaussianMixture": "mixtures",
    "IndependentComponents": "products",
    "ManyWells": "products",
    "Moons": "plane",
    "Parzen": "parzen",
    "Rings": "plane",
    "Spiral": "plane",
    "StudentMixture": "mixtures",
    "select_sigma": "bandwidth",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        home = importlib.import_module(f"deen_tf.laws.{_HOMES[name]}")
        return getattr(home, name)
    raise AttributeError(f"module 'deen_tf.laws' has no attribute {name!r}")


def __dir__():
    return __all__
