"""Panels of the figures: Axes in, Axes out.

Maps take their values on a square grid, `grid(box, points)`; images are (n, h, w) or
(n, h * w). Every map has its colorbar below.
"""

import matplotlib.pyplot as plt
import numpy as np

SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"


def grid(box, points):
    """Return the nodes of a square grid.

    Parameters
    ----------
    box : (low, high)
        The same in both coordinates.
    points : int
        Nodes along each side.

    Returns
    -------
    ndarray, shape (points * points, 2)
        Row by row, x1 running fastest.
    """
    side = np.linspace(*box, points)
    x1, x2 = np.meshgrid(side, side)
    return np.stack([x1.ravel(), x2.ravel()], axis=1)


def value_map(ax, values, box, title, signed=False, limit=None, label=None):
    """Draw values (points, points) over the square box, with a colorbar below.

    Parameters
    ----------
    ax : Axes
    values : ndarray, shape (points, points) or (points * points,)
    box : (low, high)
    title : str
    signed : bool
        Diverging colours centred on zero.
    limit : float, optional
        The largest value shown; by default that of the values.
    label : str, optional
        Of the colorbar.

    Returns
    -------
    Axes
    """
    values = np.asarray(values)
    if values.ndim == 1:
        side = round(values.size**0.5)
        values = values.reshape(side, side)
    top = np.nanmax(np.abs(values)) if limit is None else limit
    image = ax.imshow(
        values,
        origin="lower",
        extent=(*box, *box),
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-top if signed else min(0.0, np.nanmin(values)),
        vmax=top,
        interpolation="bilinear",
    )
    _finish(ax, image, box, title, label)
    return ax


def score_field(ax, psi, box, title, arrows=25):
    """Draw a vector field: its length as colour, its direction as arrows.

    Parameters
    ----------
    ax : Axes
    psi : ndarray, shape (points * points, 2)
        On `grid(box, points)`.
    box : (low, high)
    title : str
    arrows : int
        Along each side.

    Returns
    -------
    Axes
    """
    side = round(len(psi) ** 0.5)
    psi = np.asarray(psi).reshape(side, side, 2)
    length = np.linalg.norm(psi, axis=2)
    image = ax.imshow(
        length,
        origin="lower",
        extent=(*box, *box),
        cmap=SEQUENTIAL,
        vmin=0,
        vmax=np.quantile(length, 0.99),
        interpolation="bilinear",
    )
    keep = np.linspace(0, side - 1, arrows).round().astype(int)
    nodes = grid(box, side).reshape(side, side, 2)[np.ix_(keep, keep)]
    # Arrows of one length where the field is strong, shorter where it fades.
    coarse, size = psi[np.ix_(keep, keep)], length[np.ix_(keep, keep)]
    unit = coarse / (size + 0.1 * np.median(length))[..., None]
    ax.quiver(
        nodes[..., 0],
        nodes[..., 1],
        unit[..., 0],
        unit[..., 1],
        color="white",
        pivot="mid",
        angles="xy",
        scale_units="xy",
        scale=1.1 * arrows / (box[1] - box[0]),
        width=0.004,
    )
    _finish(ax, image, box, title, r"$\|\psi\|$, nats per unit")
    return ax


def _finish(ax, image, box, title, label):
    ax.set(
        title=title, xlim=box, ylim=box, aspect="equal", xlabel="$x_1$", ylabel="$x_2$"
    )
    bar = ax.figure.colorbar(
        image, ax=ax, orientation="horizontal", pad=0.02, fraction=0.05, aspect=30
    )
    bar.ax.tick_params(labelsize=7)
    bar.locator = plt.MaxNLocator(5)
    bar.update_ticks()
    if label:
        bar.set_label(label, fontsize=8)


def loss_curves(ax, curves, title, floor=None, bound=None):
    """Draw the loss over the iterations.

    Parameters
    ----------
    ax : Axes
    curves : dict of str -> (iterations, losses)
    title : str
    floor : float, optional
        The Bayes error L*, drawn dashed.
    bound : dict of str -> float, optional
        Further horizontal lines, such as the rank bound, by name.

    Returns
    -------
    Axes
    """
    for name, (iterations, losses) in curves.items():
        ax.plot(iterations, losses, label=name, lw=1.2)
    if floor is not None:
        ax.axhline(floor, color="black", ls="--", lw=1, label="floor $L^*$ (exact)")
    for (name, value), style in zip((bound or {}).items(), (":", "-."), strict=False):
        ax.axhline(value, color="black", ls=style, lw=1, label=name)
    ax.set(title=title, xlabel="iteration", ylabel="loss (sum over dimensions)")
    ax.legend(fontsize=7)
    return ax


def patch_grid(ax, images, shape, rows, title, labels=None, limits=(0, 1)):
    """Draw images in a grid of the given number of rows, grey, with one scale for all.

    Parameters
    ----------
    ax : Axes
    images : ndarray, shape (n, h * w) or (n, h, w)
    shape : (h, w)
    rows : int
        n must be a multiple of it.
    title : str
    labels : sequence of str, optional
        Written below each image.
    limits : (float, float)
        Values shown black and white.

    Returns
    -------
    Axes
    """
    images = np.asarray(images).reshape(-1, *shape)
    columns = len(images) // rows
    gap = 0.12 if labels is None else 0.42
    for k, image in enumerate(images[: rows * columns]):
        row, column = divmod(k, columns)
        left, top = column * 1.08, -row * (1 + gap)
        ax.imshow(
            image,
            cmap="gray",
            vmin=limits[0],
            vmax=limits[1],
            extent=(left, left + 1, top - 1, top),
        )
        if labels is not None:
            ax.text(
                left + 0.5, top - 1.05, labels[k], ha="center", va="top", fontsize=7
            )
    ax.set(
        title=title,
        xlim=(-0.04, columns * 1.08 - 0.04),
        ylim=(-(rows - 1) * (1 + gap) - 1 - gap, 0.04),
        aspect="equal",
    )
    ax.axis("off")
    return ax
