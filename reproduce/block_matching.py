"""BM3D (Dabov et al., 2007), where its package is installed: for comparisons alone.

pip install bm3d
"""


def bm3d():
    """Return BM3D as a function (image, noise level), or None without the package."""
    try:
        from bm3d import bm3d
    except ImportError:
        return None
    return lambda xi, sigma: bm3d(xi, sigma)
