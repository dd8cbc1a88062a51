"""Photographs that the field measures denoising on, whole and in grayscale.

    train   400 of 180 x 180      bsd68   68 of 481 x 321 or 321 x 481      set12   12

The first two are cut from the Berkeley segmentation data set (D. Martin, C. Fowlkes, D. Tal
and J. Malik, ICCV 2001; for non-commercial research and education), and like Set12, whose
photographs are of various origin, come as PNG files with the code of DnCNN. Each set is a
folder: `train` or `Train400`, `bsd68` or `Set68`, `set12`, in any case of letters, in the
folder `bsds` of the data, or named itself.

Where they are missing, the photographs that ship inside scikit-image can stand in, if asked
to: the same five train in `train`'s place, the same three test in that of the others.
Pixels are in [0, 1], as the files have them: gamma-encoded, not linear in light.
"""

import hashlib
import io
import os
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from deen_tf.checks import whole
from deen_tf.datasets import places
from deen_tf.datasets.archives import members
from deen_tf.images import windows

SETS = {  # number of photographs, names of the folder in small letters
    "train": (400, ("train", "train400")),
    "bsd68": (68, ("bsd68", "set68")),
    "set12": (12, ("set12",)),
}
BERKELEY, STAND_IN = "Berkeley segmentation data set", "scikit-image photographs"
WHERE = (
    "The Berkeley segmentation data set is published at "
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/, its photographs in "
    "grayscale as they are used here at https://github.com/cszn/DnCNN"
)
LARGEST = 2**26  # bytes of a file
SCIKIT_IMAGE = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "grass",
    "gravel",
    "rocket",
)
TESTED = ("camera", "chelsea", "coffee")


class Photographs(NamedTuple):
    """Photographs of one set, in the order of their names."""

    images: list  # of (height, width) float32 in [0, 1]
    names: list
    source: str  # BERKELEY, STAND_IN, or Set12
    sha256: str  # of the lines "name sha256", sorted


def load(name, path=None, stand_in=False):
    """Return one of the sets.

    Parameters
    ----------
    name : {"train", "bsd68", "set12"}
    path : str, optional
        The set's folder, that of all sets, or a folder of data with `bsds` in it; by default
        DEEN_DATA.
    stand_in : bool
        Where the set is not found, take photographs of scikit-image's, with a warning.

    Returns
    -------
    Photographs

    Raises
    ------
    FileNotFoundError
        If it is not found (and nothing may stand in) or `path` does not exist.
    ValueError
        If a file is damaged or no PNG of 8-bit grayscale, or photographs are missing.
    """
    if name not in SETS:
        raise ValueError(f"name must be one of {', '.join(SETS)}, got {name!r}")
    for folder in _folders(name, path):
        if found := _read(folder):
            return _checked(name, folder, found)
    if not stand_in:
        raise FileNotFoundError(
            f"no photographs of {name} in {path or os.environ.get('DEEN_DATA') or 'DEEN_DATA'}"
            f": put its PNG files in a folder bsds/{name} there. {WHERE}"
        )
    chosen = [n for n in SCIKIT_IMAGE if (n in TESTED) == (name != "train")]
    warnings.warn(f"{STAND_IN} stand in for {name}: {', '.join(chosen)}", stacklevel=2)
    pixels = {n: scikit_image(n) for n in chosen}
    sums = {n: hashlib.sha256(x.tobytes()).hexdigest() for n, x in pixels.items()}
    return _photographs(pixels, sums, STAND_IN)


def patches(images, size, n, rng):
    """Draw square patches of photographs, each turned and mirrored at random.

    Every place in every photograph, and each of the eight symmetries of the square, is as
    likely as any other.

    Parameters
    ----------
    images : sequence of ndarray, shape (height, width)
    size : int
        Side of a patch in pixels.
    n : int
        How many.
    rng : numpy.random.Generator
        Advanced by what is drawn.

    Returns
    -------
    ndarray, shape (n, size, size, 1), of the images' type

    Raises
    ------
    ValueError
        If there is no photograph or one is smaller than a patch.
    """
    size, n = whole(size, "size"), whole(n, "n")
    images = [np.asarray(image) for image in images]
    if not images or any(x.ndim != 2 or min(x.shape) < size for x in images):
        shapes = sorted({image.shape for image in images})
        raise ValueError(
            f"images must be photographs (height, width) of at least {size} x {size}, got "
            f"{shapes}"
        )
    views = [windows(image, (size, size)) for image in images]
    ends = np.cumsum([view.shape[0] * view.shape[1] for view in views])
    place, turn = rng.integers(ends[-1], size=n), rng.integers(8, size=n)
    image_of = np.searchsorted(ends, place, side="right")
    x = np.empty((n, size, size), np.result_type(*images))
    for k in np.unique(image_of):
        chosen = image_of == k
        inside = place[chosen] - (ends[k - 1] if k else 0)
        x[chosen] = views[k][np.unravel_index(inside, views[k].shape[:2])]
    for k in range(8):
        x[turn == k] = symmetry(x[turn == k], k)
    return x[..., None]


def symmetry(x, k):
    """Return squares (n, size, size) turned by k quarters, and mirrored if k is 4 or more."""
    return np.rot90(x[..., ::-1] if k >= 4 else x, k, axes=(1, 2))


def scikit_image(name):
    """Return a photograph of scikit-image's, (height, width) uint8, colours as luminance."""
    import skimage

    pixels = getattr(skimage.data, name)()
    if pixels.ndim == 3:
        pixels = np.round(255 * skimage.color.rgb2gray(pixels)).astype("uint8")
    return np.ascontiguousarray(pixels)


def _folders(name, path):
    """Yield the folders that may hold the set, the likeliest first."""
    for place in filter(os.path.isdir, places("bsds", path)):
        for inside in sorted(os.listdir(place)):
            if inside.lower() in SETS[name][1] and os.path.isdir(
                folder := os.path.join(place, inside)
            ):
                yield folder
    if path is not None and os.path.isdir(path):
        yield os.fspath(path)


def _read(folder):
    """Return {name: bytes} of the PNG files in a folder."""
    return {
        name: read()
        for name, size, read in members(folder, LARGEST, None)
        if name.lower().endswith(".png")
        and not name.startswith(".")
        and size is not None
    }


def _checked(name, folder, files):
    count = SETS[name][0]
    if len(files) != count:
        raise ValueError(
            f"{folder} holds {len(files)} photographs, where {name} has {count}"
        )
    pixels = {
        file: _decode(data, os.path.join(folder, file)) for file, data in files.items()
    }
    sums = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    return _photographs(pixels, sums, "Set12" if name == "set12" else BERKELEY)


def _decode(data, path):
    """Return the pixels of a PNG file, (height, width) uint8."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.mode == "L":
                return np.asarray(picture)
            mode = picture.mode
    except Exception as error:  # noqa: BLE001 (damage shows in many ways)
        raise ValueError(f"{path} is damaged or no PNG file ({error})") from None
    raise ValueError(f"{path} must be grayscale of 8 bits, got a picture of {mode}")


def _photographs(pixels, sums, source):
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(sums.items()))
    return Photographs(
        [x.astype("float32") / 255 for x in pixels.values()],
        list(pixels),
        source,
        hashlib.sha256(lines.encode()).hexdigest(),
    )
