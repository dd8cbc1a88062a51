"""Panels of the figures: Axes in, Axes out.

Maps take their values on a square grid, `grid(box, points)`; images are (n, h, w) or
(n, h * w). Every map has its colorbar below. Where there are no data a map may differ from
the truth without being wrong: given the exact density, it is veiled there.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np

from deen_tf.checks import as_numbers, as_points, image_shape, whole

SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"


def grid(box, points):
    """Return the nodes of a square grid.

    Parameters
    ----------
    box : (low, high)
        The same in both coordinates.
    points : int
        Nodes along each side, the first and the last on the edges.

    Returns
    -------
    ndarray, shape (points * points, 2)
        Row by row, x1 running fastest.
    """
    side = np.linspace(*_interval(box), whole(points, "points", 2))
    x1, x2 = np.meshgrid(side, side)
    return np.stack([x1.ravel(), x2.ravel()], axis=1)


def value_map(
    ax, values, box, title, signed=False, limit=None, label=None, density=None
):
    """Draw values on a grid over the square box, with a colorbar below.

    Parameters
    ----------
    ax : Axes
    values : array_like, shape (points * points,) or (points, points)
        On `grid(box, points)`; NaN stays blank.
    box : (low, high)
    title : str
    signed : bool
        Diverging colours centred on zero.
    limit : float, optional
        The largest value shown; by default that of the values that are not veiled.
    label : str, optional
        Of the colorbar.
    density : array_like, optional
        Exact density of the data at the same nodes: the rest is veiled, see `veil`.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If the values are no real numbers on a square grid.
    """
    box, values = _interval(box), _on_grid(values, "values")
    shown = values[_with_data(density, values.shape)]
    if np.isinf(values).any() or np.isnan(shown).all():
        raise ValueError("values must not be infinite, nor all NaN")
    top = np.nanmax(np.abs(shown)) if limit is None else limit
    image = _image(
        ax,
        values,
        box,
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-top if signed else min(0.0, np.nanmin(shown)),
        vmax=top,
    )
    _finish(ax, image, box, title, label, density)
    return ax


def score_field(ax, psi, box, title, arrows=25, density=None):
    """Draw a vector field: its length as colour, its direction as arrows.

    Parameters
    ----------
    ax : Axes
    psi : array_like, shape (points * points, 2)
        On `grid(box, points)`.
    box : (low, high)
    title : str
    arrows : int
        Along each side, at most as many as there are nodes.
    density : array_like, optional
        Exact density of the data at the same nodes: the rest is veiled, see `veil`.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If psi is not finite or no field on a square grid.
    """
    box, psi = _interval(box), as_points(psi, 2, "psi", "float64")
    length = _on_grid(np.linalg.norm(psi, axis=1), "psi")
    side = len(length)
    arrows = whole(arrows, "arrows", 2)
    if arrows > side:
        raise ValueError(f"arrows must be at most the {side} nodes, got {arrows}")
    top = np.quantile(length[_with_data(density, length.shape)], 0.99)
    image = _image(ax, length, box, cmap=SEQUENTIAL, vmin=0, vmax=top)
    keep = np.linspace(0, side - 1, arrows).round().astype(int)
    chosen = np.ix_(keep, keep)
    nodes, coarse = (v.reshape(side, side, 2)[chosen] for v in (grid(box, side), psi))
    # Arrows of one length where the field is strong, shorter where it fades.
    strong = length[chosen] + 0.1 * np.median(length)
    unit = coarse / np.maximum(strong, np.finfo(float).tiny)[..., None]
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
    _finish(ax, image, box, title, r"$\|\psi\|$, nats per unit", density)
    return ax


def veil(ax, density, box, mass=0.999):
    """Lay a white veil over the part of a map where there are no data.

    That is what lies outside the smallest region that holds `mass` of the density: one
    point in a thousand falls there.

    Parameters
    ----------
    ax : Axes
    density : array_like, shape (points * points,) or (points, points)
        On `grid(box, points)`, up to a factor: exact, smoothed by the noise of training.
    box : (low, high)
    mass : float
        Between 0 and 1.

    Returns
    -------
    Axes
    """
    box, density = _interval(box), _on_grid(density, "density")
    level = _level(density, mass)
    if density.min() < level:
        side = np.linspace(*box, len(density))
        edges, above = [-np.inf, level], {"zorder": 3}  # also over arrows
        ax.contourf(side, side, density, edges, colors="white", alpha=0.6, **above)
        ax.contour(side, side, density, [level], colors="0.3", linewidths=0.7, **above)
    return ax


def _level(density, mass):
    """Return the density on the edge of the smallest region that holds `mass` of it."""
    if not 0 < mass < 1:
        raise ValueError(f"mass must lie between 0 and 1, got {mass!r}")
    if not (np.isfinite(density).all() and density.min() >= 0 < density.max()):
        raise ValueError("density must be finite, not negative, and not 0 everywhere")
    falling = np.sort(density, axis=None)[::-1]
    share = np.cumsum(falling) / falling.sum()
    return falling[np.searchsorted(share, mass)]


def _with_data(density, shape):
    """Return which nodes are not veiled, bool (points, points)."""
    if density is None:
        return np.ones(shape, bool)
    density = _on_grid(density, "density")
    if density.shape != shape:
        raise ValueError(f"density must have shape {shape}, got {density.shape}")
    return density >= _level(density, 0.999)


def _on_grid(values, name):
    """Return values as (points, points) of float64."""
    values = as_numbers(values, name).astype("float64")
    side = round(values.size**0.5)
    if side < 2 or values.shape not in ((side * side,), (side, side)):
        raise ValueError(
            f"{name} must be on a square grid, (points * points,) or (points, points), "
            f"got shape {values.shape}"
        )
    return values.reshape(side, side)


def _interval(box, name="box"):
    """Return (low, high) as two floats, low < high."""
    try:
        low, high = (float(edge) for edge in box)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (low, high), got {box!r:.60}") from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"{name} must be (low, high), low < high, got {(low, high)}")
    return low, high


def _image(ax, values, box, **colours):
    """Draw values (points, points), each node in the middle of its pixel."""
    half = (box[1] - box[0]) / (len(values) - 1) / 2
    sides = (box[0] - half, box[1] + half)
    return ax.imshow(
        values,
        origin="lower",
        extent=(*sides, *sides),
        interpolation="bilinear",
        **colours,
    )


def _finish(ax, image, box, title, label, density):
    if density is not None:
        veil(ax, density, box)
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


def median_and_range(ax, at, values, band=False, horizontal=False, **style):
    """Draw medians, and around each the range from the least to the greatest value.

    Parameters
    ----------
    ax : Axes
    at : array_like, shape (n,)
        Abscissae (ordinates if `horizontal`).
    values : sequence of n sequences of float
        Such as those of several seeds, one or more at each place.
    band : bool
        The ranges as one band instead of a bar at each place.
    horizontal : bool
        Bars along the other axis.
    **style
        Of the line or the points, as in `Axes.errorbar`: color, label, fmt, ...

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If there are not as many sets of values as places, or one is empty or not finite.
    """
    at = as_numbers(at, "at").astype("float64")
    if at.ndim != 1 or len(at) != len(values):
        raise ValueError(
            f"at must be {len(values)} places, one a value, got {at.shape}"
        )
    values = [as_points([v], name="values", dtype="float64")[0] for v in values]
    low, middle, high = (
        np.array([f(v) for v in values]) for f in (np.min, np.median, np.max)
    )
    reach = (middle - low, high - middle)
    if band:
        line, *_ = ax.errorbar(at, middle, **style)
        ax.fill_between(at, low, high, color=line.get_color(), alpha=0.2, lw=0)
    elif horizontal:
        ax.errorbar(middle, at, xerr=reach, **style)
    else:
        ax.errorbar(at, middle, yerr=reach, **style)
    return ax


def loss_curves(ax, curves, title, floor=None, bound=None):
    """Draw the loss over the iterations.

    Parameters
    ----------
    ax : Axes
    curves : dict of str -> (iterations, losses)
        Of as many losses as iterations.
    title : str
    floor : float, optional
        The Bayes error L*, drawn dashed.
    bound : dict of str -> float, optional
        Further horizontal lines, such as the rank bound, by name.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If a curve has not as many losses as iterations.
    """
    for name, (iterations, losses) in curves.items():
        iterations, losses = (
            as_numbers(v, f"the curve {name!r}") for v in (iterations, losses)
        )
        if iterations.ndim != 1 or iterations.shape != losses.shape:
            raise ValueError(
                f"the curve {name!r} must have as many losses as iterations, got shapes "
                f"{iterations.shape} and {losses.shape}"
            )
        ax.plot(iterations, losses, label=name, lw=1.2)
    if floor is not None:
        ax.axhline(floor, color="black", ls="--", lw=1, label="floor $L^*$ (exact)")
    styles = itertools.cycle((":", "-.", (0, (1, 4)), (0, (5, 5))))
    for (name, value), style in zip((bound or {}).items(), styles, strict=False):
        ax.axhline(value, color="black", ls=style, lw=1, label=name)
    ax.set(title=title, xlabel="iteration", ylabel="loss (sum over dimensions)")
    ax.legend(fontsize=7)
    return ax


def patch_grid(ax, images, shape, rows, title, labels=None, limits=(0, 1)):
    """Draw images in a grid of the given number of rows, grey, with one scale for all.

    Parameters
    ----------
    ax : Axes
    images : array_like, shape (n, h * w) or (n, h, w)
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

    Raises
    ------
    TypeError, ValueError
        If the images are not finite, of another shape or number.
    """
    (height, width), rows = image_shape(shape), whole(rows, "rows")
    images = as_points(images, ..., "images")
    if images.shape[1:] not in ((height * width,), (height, width)):
        raise ValueError(
            f"images must have shape (n, {height * width}) or (n, {height}, {width}), got "
            f"{images.shape}"
        )
    if len(images) % rows:
        raise ValueError(f"images must be a multiple of {rows} rows, got {len(images)}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(
            f"labels must be {len(images)}, one an image, got {len(labels)}"
        )
    low, high = _interval(limits, "limits")
    columns = len(images) // rows
    gap = 0.12 if labels is None else 0.42
    for k, image in enumerate(images.reshape(-1, height, width)):
        row, column = divmod(k, columns)
        left, top = column * 1.08, -row * (1 + gap)
        ax.imshow(
            image,
            cmap="gray",
            vmin=low,
            vmax=high,
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
