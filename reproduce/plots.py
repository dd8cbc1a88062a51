"""What the figures share: one width, rows of images, losses block by block."""

import matplotlib.pyplot as plt
import numpy as np

from deen_tf import plotting

WIDTH = 10  # inches: as wide as a page, at which 8 points can be read
plt.rcParams.update({"font.size": 8, "axes.titlesize": 8.5, "figure.titlesize": 9.5})
plt.rcParams.update(
    {
        "legend.fontsize": 7,
        "lines.markersize": 4,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1,
    }
)


def panels(rows, columns, height, **more):
    """Return a figure of one page's width and its axes, (rows, columns)."""
    more = {"layout": "constrained", "squeeze": False} | more
    return plt.subplots(rows, columns, figsize=(WIDTH, height), **more)


def image_rows(ax, rows, side, title, limits=(0, 1)):
    """Draw rows of square images, each with its name at the left.

    Parameters
    ----------
    ax : Axes
    rows : sequence of (str, ndarray of shape (n, side * side))
    side : int
    title : str
    limits : (float, float)
        Values shown black and white.
    """
    images = np.concatenate([images for _, images in rows])
    plotting.patch_grid(ax, images, (side, side), len(rows), title, limits=limits)
    for k, (name, _) in enumerate(rows):
        ax.text(-0.15, -1.12 * k - 0.5, name, ha="right", va="center", fontsize=7)


def block_means(losses, steps):
    """Return the last iteration and the mean loss of every block of so many steps."""
    blocks = np.asarray(losses)[: len(losses) // steps * steps].reshape(-1, steps)
    return steps * np.arange(1, len(blocks) + 1), blocks.mean(1)
