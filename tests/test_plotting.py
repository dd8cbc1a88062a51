"""What the panels show, read back from the artists and held against what was given."""

import functools
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib import collections
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.quiver import Quiver
from scipy import stats

from deen_tf import plotting
from tests.test_hostile_input import raised_here

BOX, SIDE = (-2.0, 3.0), 41
NODES = plotting.grid(BOX, SIDE)


@pytest.fixture
def ax():
    return Figure().add_subplot()


def only(ax, kind):
    (artist,) = (artist for artist in ax.get_children() if isinstance(artist, kind))
    return artist


def pixels(ax):
    """Return the centres of a map's pixels (n, 2), and what it shows there (n,)."""
    image = only(ax, matplotlib.image.AxesImage)
    values = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    rows, columns = values.shape
    x1 = left + (np.arange(columns) + 0.5) / columns * (right - left)
    x2 = bottom + (np.arange(rows) + 0.5) / rows * (top - bottom)
    assert image.origin == "lower"
    return np.stack(np.meshgrid(x1, x2), -1).reshape(-1, 2), values.ravel()


def test_grid():
    assert NODES.shape == (SIDE**2, 2)
    np.testing.assert_array_equal(
        NODES[[0, 1, SIDE, -1]], [[-2, -2], [-1.875, -2], [-2, -1.875], [3, 3]]
    )


@pytest.mark.parametrize("square", (False, True))
def test_a_map_shows_each_value_at_its_node(ax, square):
    values = NODES[:, 0] + 10 * NODES[:, 1]  # neither axis can be taken for the other
    given = values.reshape(SIDE, SIDE) if square else values
    assert plotting.value_map(ax, given, BOX, "title") is ax
    centres, shown = pixels(ax)
    np.testing.assert_allclose(centres, NODES, atol=1e-12)
    np.testing.assert_allclose(shown, values)
    assert ax.get_xlim() == ax.get_ylim() == BOX and ax.get_aspect() == 1


@pytest.mark.parametrize(
    "values, options, limits",
    [
        (NODES[:, 0], {}, (-2, 3)),
        (NODES[:, 0] + 4, {}, (0, 7)),
        (NODES[:, 0] - 2, {"signed": True}, (-4, 4)),
        (NODES[:, 0], {"signed": True, "limit": 0.5}, (-0.5, 0.5)),
        (np.where(NODES[:, 0] > 1, np.nan, NODES[:, 0]), {"signed": True}, (-2, 2)),
        # What is veiled sets no scale: of the data there is none beyond x1 = 1.
        (NODES[:, 0] + 2, {"density": 1.0 * (NODES[:, 0] < 1)}, (0, 2.875)),
    ],
)
def test_colours_of_a_map(ax, values, options, limits):
    plotting.value_map(ax, values, BOX, "title", **options)
    image = only(ax, matplotlib.image.AxesImage)
    assert image.get_clim() == pytest.approx(limits)
    name = plotting.DIVERGING if options.get("signed") else plotting.SEQUENTIAL
    assert image.get_cmap().name == name


def field(x):
    """A field of which no component, sign or axis can be taken for another."""
    return np.stack([1 + x[:, 0] * x[:, 1], x[:, 0] - 2 * x[:, 1] ** 2], 1)


@pytest.mark.parametrize("arrows", (2, 9, SIDE))
def test_arrows_point_where_the_field_does(ax, arrows):
    assert plotting.score_field(ax, field(NODES), BOX, "title", arrows) is ax
    quiver = only(ax, Quiver)
    at, given = quiver.get_offsets(), np.stack([quiver.U, quiver.V], 1)
    assert len(at) == arrows**2
    wanted = field(np.asarray(at))
    length = np.linalg.norm(wanted, axis=1)
    cosine = (given * wanted).sum(1) / length / np.linalg.norm(given, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-9)
    # On the figure too: the angle is that of data coordinates, the head at the far end.
    assert quiver.angles == quiver.scale_units == "xy" and quiver.pivot == "middle"
    assert quiver.scale > 0
    # None reaches its neighbour, none is longer where the field is weaker.
    drawn = np.linalg.norm(given, axis=1)
    assert drawn.max() / quiver.scale <= (BOX[1] - BOX[0]) / arrows
    assert (np.diff(drawn[np.argsort(length)]) > -1e-12).all()


def test_the_colour_of_a_field_is_its_length(ax):
    plotting.score_field(ax, field(NODES), BOX, "title")
    centres, shown = pixels(ax)
    np.testing.assert_allclose(centres, NODES, atol=1e-12)
    np.testing.assert_allclose(shown, np.hypot(*field(NODES).T))
    top = only(ax, matplotlib.image.AxesImage).get_clim()[1]
    assert 0.985 < (shown <= top).mean() < 0.995


def test_a_field_that_is_zero(ax):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plotting.score_field(ax, 0 * NODES, BOX, "title")
    assert not only(ax, Quiver).U.any()


# ---- where there are no data --------------------------------------------------------------


def veiled(ax, x):
    """Whether points lie under the veil."""
    sets = [c for c in ax.collections if isinstance(c, matplotlib.contour.ContourSet)]
    (fill,) = (c for c in sets if c.filled)
    (path,) = fill.get_paths()
    inside = [Path(ring).contains_points(x) for ring in path.to_polygons()]
    return np.logical_xor.reduce(inside)  # a ring within a ring is a hole


@pytest.mark.parametrize("mass", (0.5, 0.9, 0.99))
def test_the_veil_leaves_the_smallest_region_of_that_mass(ax, mass):
    """Of N(m, s^2 I) that is the disk of radius s sqrt(-2 log(1 - mass))."""
    m, s, box = np.array([0.7, -0.4]), 0.5, (-3.0, 4.0)
    nodes = plotting.grid(box, 201)
    density = 7 * stats.multivariate_normal(m, s**2).pdf(nodes)
    assert plotting.veil(ax, density, box, mass) is ax
    radius = s * np.sqrt(-2 * np.log(1 - mass))
    x = np.random.default_rng(0).uniform(*box, size=(4000, 2))
    distance = np.linalg.norm(x - m, axis=1)
    clear = np.abs(distance - radius) > 0.035  # the distance of two nodes
    np.testing.assert_array_equal(veiled(ax, x)[clear], (distance > radius)[clear])


@pytest.mark.parametrize("draw", ("map", "field"))
def test_maps_are_veiled_where_there_are_no_data(ax, draw):
    density = stats.multivariate_normal([1.0, 0.0], 0.1).pdf(NODES)
    values = np.exp(np.linalg.norm(NODES - [1.0, 0.0], axis=1))
    if draw == "map":
        plotting.value_map(ax, values, BOX, "title", density=density)
    else:
        plotting.score_field(
            ax, values[:, None] * [1, 0], BOX, "title", density=density
        )
    assert veiled(ax, [[-1.5, 2.5]])[0] and not veiled(ax, [[1.1, 0.1]])[0]
    # The colours are those of the data: beyond 3.8 s = 1.2 the values go on to e^4.2.
    assert only(ax, matplotlib.image.AxesImage).get_clim()[1] < np.exp(1.3)
    zorders = [c.get_zorder() for c in ax.collections if not isinstance(c, Quiver)]
    assert min(zorders) > max(
        [c.get_zorder() for c in ax.collections if isinstance(c, Quiver)], default=0
    )


def test_a_uniform_density_has_no_veil(ax):
    plotting.veil(ax, np.ones(SIDE**2), BOX)
    assert not ax.collections


# ---- medians and ranges -------------------------------------------------------------------

AT = [1.0, 2.0, 4.0]
VALUES = [[3.0, 1.0, 2.0, 9.0], [5.0], [0.0, 4.0]]  # medians 2.5, 5, 2
MEDIAN, LOW, HIGH = [2.5, 5, 2], [1, 5, 0], [9, 5, 4]


@pytest.mark.parametrize("horizontal", (False, True))
def test_median_and_range(ax, horizontal):
    plotting.median_and_range(
        ax, AT, VALUES, horizontal=horizontal, color="C3", fmt="o"
    )
    bars = only(ax, collections.LineCollection)
    (line,) = ax.get_lines()
    swap = -1 if horizontal else 1
    assert line.get_color() == "C3" and line.get_linestyle() == "None"
    np.testing.assert_array_equal(
        line.get_xydata()[:, ::swap], np.stack([AT, MEDIAN], 1)
    )
    wanted = [[(x, a), (x, b)] for x, a, b in zip(AT, LOW, HIGH, strict=True)]
    segments = np.array(bars.get_segments())[:, :, ::swap]
    np.testing.assert_allclose(segments, wanted, atol=1e-12)


def test_median_in_a_band(ax):
    plotting.median_and_range(
        ax, AT, np.array(VALUES, object), band=True, label="a", fmt="s--"
    )
    (line,) = ax.get_lines()
    band = only(ax, matplotlib.collections.PolyCollection)
    np.testing.assert_array_equal(line.get_xydata(), np.stack([AT, MEDIAN], 1))
    assert line.get_linestyle() == "--" and ax.get_legend_handles_labels()[1] == ["a"]
    (path,) = band.get_paths()
    corners = {tuple(point) for point in path.vertices}
    edges = {(x, y) for side in (LOW, HIGH) for x, y in zip(AT, side, strict=True)}
    assert corners == edges


# ---- curves and pictures ------------------------------------------------------------------


def test_loss_curves(ax):
    curves = {"one": ([1, 2], [5.0, 4.0]), "other": ([1, 2, 3], [6.0, 3.0, 2.0])}
    bounds = dict(zip("abcde", range(5), strict=True))
    plotting.loss_curves(ax, curves, "title", floor=1.5, bound=bounds)
    lines = {line.get_label(): line for line in ax.get_lines()}
    for name, (iterations, losses) in curves.items():
        np.testing.assert_array_equal(lines[name].get_xdata(), iterations)
        np.testing.assert_array_equal(lines[name].get_ydata(), losses)
    assert lines["floor $L^*$ (exact)"].get_ydata() == [1.5, 1.5]
    for name, value in bounds.items():  # all of them, however many
        assert lines[name].get_ydata() == [value, value]
    assert lines["a"].get_linestyle() != lines["b"].get_linestyle()


@pytest.mark.parametrize("flat", (False, True))
def test_patches_stand_in_rows(ax, flat):
    images = np.random.default_rng(0).normal(size=(6, 4, 5))
    given = images.reshape(6, 20) if flat else images
    labels = list("abcdef")
    plotting.patch_grid(ax, given, (4, 5), 2, "title", labels, (-1, 2))
    shown = [i for i in ax.get_children() if isinstance(i, matplotlib.image.AxesImage)]
    place = [(i.get_extent()[0], i.get_extent()[3]) for i in shown]
    for k, image in enumerate(shown):
        np.testing.assert_allclose(image.get_array(), images[k], rtol=1e-6)
        assert image.get_clim() == (-1, 2) and image.get_cmap().name == "gray"
        left, right, bottom, top = image.get_extent()
        assert left < right and bottom < top and image.origin == "upper"
        below = next(t for t in ax.texts if t.get_text() == labels[k])
        assert (
            left < below.get_position()[0] < right and below.get_position()[1] < bottom
        )
    columns, rows = np.array(place).T
    assert (np.diff(columns.reshape(2, 3)) > 1).all() and (
        np.diff(rows[::3]) < -1
    ).all()


# ---- mistakes -----------------------------------------------------------------------------

MAP = functools.partial(plotting.value_map, values=NODES[:, 0], box=BOX, title="")
FIELD = functools.partial(plotting.score_field, psi=NODES, box=BOX, title="")
GRID = functools.partial(
    plotting.patch_grid, images=np.zeros((6, 20)), shape=(4, 5), rows=2, title=""
)
VEIL = functools.partial(plotting.veil, density=np.ones(SIDE**2), box=BOX)
RANGE = functools.partial(plotting.median_and_range, at=AT, values=VALUES)
CURVES = functools.partial(plotting.loss_curves, title="")
MISTAKES = [
    (MAP, {"values": np.zeros(10)}, ValueError, r"square grid.*got shape \(10,\)"),
    (MAP, {"values": np.zeros((4, 5))}, ValueError, r"square grid.*got shape \(4, 5\)"),
    (MAP, {"values": NODES}, ValueError, "values must be on a square grid"),
    (MAP, {"values": 3.0}, ValueError, "values must be on a square grid"),
    (MAP, {"values": "abc"}, TypeError, "values must be"),
    (MAP, {"values": NODES[:, 0] * 1j}, TypeError, "values must hold real numbers"),
    (MAP, {"values": np.full(16, np.nan)}, ValueError, "values must not be .* all NaN"),
    (MAP, {"values": np.full(16, np.inf)}, ValueError, "values must not be infinite"),
    (MAP, {"box": (1, 1)}, ValueError, "box must be .low, high., low < high, got"),
    (MAP, {"box": (1, np.inf)}, ValueError, "box must be .low, high., low < high"),
    (MAP, {"box": 3}, ValueError, "box must be .low, high., got 3"),
    (MAP, {"box": "abc"}, ValueError, "box must be .low, high., got 'abc'"),
    (MAP, {"density": np.ones(9)}, ValueError, r"density must have shape \(41, 41\)"),
    (MAP, {"density": np.zeros(SIDE**2)}, ValueError, "not 0 everywhere"),
    (
        MAP,
        {"density": -np.ones(SIDE**2)},
        ValueError,
        "density must be .* not negative",
    ),
    (VEIL, {"mass": 1.0}, ValueError, "mass must lie between 0 and 1, got 1.0"),
    (VEIL, {"density": np.ones(7)}, ValueError, "density must be on a square grid"),
    (FIELD, {"psi": NODES[:, 0]}, ValueError, r"psi must have shape \(n, 2\), got"),
    (FIELD, {"psi": NODES[:-1]}, ValueError, "psi must be on a square grid"),
    (FIELD, {"psi": NODES * np.nan}, ValueError, "psi must be finite"),
    (FIELD, {"arrows": SIDE + 1}, ValueError, "arrows must be at most the 41 nodes"),
    (FIELD, {"arrows": 2.5}, TypeError, "arrows must be a whole number"),
    (FIELD, {"density": np.ones(9)}, ValueError, "density must have shape"),
    (GRID, {"images": np.zeros((6, 21))}, ValueError, r"\(n, 20\) or \(n, 4, 5\), got"),
    (GRID, {"images": np.zeros((6, 5, 4))}, ValueError, r"\(n, 20\) or \(n, 4, 5\)"),
    (GRID, {"images": np.zeros((5, 20))}, ValueError, "multiple of 2 rows, got 5"),
    (GRID, {"images": np.zeros((0, 20))}, ValueError, "at least one"),
    (GRID, {"rows": 0}, ValueError, "rows must be at least 1"),
    (GRID, {"shape": 20}, TypeError, "shape must be a pair"),
    (GRID, {"labels": ["a"]}, ValueError, "labels must be 6, one an image, got 1"),
    (GRID, {"limits": (1, 0)}, ValueError, "limits must be .low, high., low < high"),
    (RANGE, {"at": [1, 2]}, ValueError, "at must be 3 places"),
    (
        RANGE,
        {"values": [[1.0], [], [2.0]]},
        ValueError,
        r"values must have shape .* got \(1, 0\)",
    ),
    (RANGE, {"values": [[1.0], [np.nan], [2.0]]}, ValueError, "values must be finite"),
    (
        CURVES,
        {"curves": {"a": ([1, 2], [3])}},
        ValueError,
        "curve 'a' must have as many",
    ),
    (CURVES, {"curves": {"a": (1, 3)}}, ValueError, "curve 'a' must have as many"),
]


@pytest.mark.parametrize("draw, arguments, error, message", MISTAKES)
def test_mistakes_are_told_before_anything_is_drawn(
    ax, draw, arguments, error, message
):
    with pytest.raises(error, match=message) as caught:
        draw(ax, **arguments)
    assert raised_here(caught.value)
    assert not ax.images and not ax.collections and not ax.lines


@pytest.mark.parametrize("points", (1, 0, 2.5, "a"))
def test_a_grid_of_no_points(points):
    with pytest.raises((TypeError, ValueError), match="points must be"):
        plotting.grid(BOX, points)
