"""Patches of van Hateren's natural images (Sec. 4, Figure 3), or of stand-in photographs.

    x = log(I + 1),  I: intensity (linear in light, camera units), cut into size x size patches

The data base (J. H. van Hateren and A. van der Schaaf, "Independent component filters of
natural images compared with simple cells in primary visual cortex", Proc. R. Soc. Lond. B
265, 359-366, 1998) is free for scientific, non-commercial use with that citation. An image
`imk00001.iml` (or the deblurred `.imc`) is 1024 rows of 1536 big-endian uint16, no header.
They are read from a folder, a .zip or a .tar(.gz), one at a time; archives are never
extracted. Images, not patches, are split into train, validation and test, because patches
of one image resemble each other.

Where no van Hateren images are given, the photographs that ship inside scikit-image stand
in; `Patches.source` tells which it was. Their 8-bit values are gamma-encoded, not linear.

Normalisations: z = (x - mean) / scale with each patch's own mean and either one scale for
all (`remove_mean`, `overall_std`) or each patch's own (`normalise_contrast`). `restore`
inverts both. Under noise 0.5 std(x) nu per patch the second sees one noise level, 0.5.
"""

import contextlib
import json
import os
import warnings

import numpy as np

from deen_tf.checks import as_points, positive, whole
from deen_tf.datasets import photographs as _photographs
from deen_tf.datasets import places
from deen_tf.datasets.archives import DAMAGE
from deen_tf.datasets.image_files import (
    BORDER,
    ENDINGS,
    decode,
    listed,
    listing,
    refusal,
    stamp,
)
from deen_tf.datasets.patch_cache import (
    FORMAT,
    SATURATED,
    Patches,
    cut_all,
    matching,
    new_file,
    open_cache,
)

VAN_HATEREN, PHOTOGRAPHS = "van Hateren", "scikit-image photographs"


def patches(
    path=None,
    size=32,
    per_image=500,
    grid=False,
    seed=0,
    splits=(0.7, 0.1, 0.2),
    cache=None,
    skip_bad=False,
    progress=False,
):
    """Cut patches from every image, or take them from a cache made of the same.

    Parameters
    ----------
    path : str, optional
        A folder, .zip, .tar(.gz) or single .iml/.imc file, or a folder of data with
        `van_hateren` in it. By default the folder that the environment variable DEEN_DATA
        names, if it is one of these; else the photographs of scikit-image, which
        path=PHOTOGRAPHS asks for. What is not named like an image is passed over.
    size : int
        Side of a patch in pixels; d = size^2.
    per_image : int or None
        Patches cut from each image, before bad ones are dropped. None: the whole grid.
    grid : bool
        Places on a grid of non-overlapping patches (a random choice without replacement if
        `per_image` is fewer), instead of anywhere.
    seed : int
        An image's places depend on the seed and its own name only.
    splits : three floats
        Fractions of the IMAGES to train, validate and test on, summing to 1 at most. Each
        that is not 0 gets one image or more.
    cache : str, optional
        An HDF5 file to take the patches from if it was made with these settings from these
        files, and to write otherwise. Without it the patches are held in memory.
    skip_bad : bool
        Go on without images that cannot be used, with a warning that names them; else
        refuse.
    progress : bool
        Show a progress bar, where standard error is a terminal.

    Returns
    -------
    Patches

    Raises
    ------
    FileNotFoundError
        If `path` does not exist.
    ValueError
        If files are truncated, misnamed or foreign (named in the message), nothing usable is
        left, or an argument is out of range.
    """
    size = whole(size, "size", 2)
    if per_image is not None:
        per_image = whole(per_image, "per_image")
    elif not grid:
        raise ValueError("per_image=None takes the whole grid: it needs grid=True")
    seed = whole(seed, "seed", 0)
    if np.ndim(splits) != 1:
        raise TypeError(f"splits must be three fractions, got {splits!r}")
    splits = tuple(
        positive(fraction, "each of splits", zero=True) for fraction in splits
    )
    if len(splits) != 3 or not 0 < sum(splits) <= 1 + 1e-9:
        raise ValueError(
            f"splits must be three fractions summing to 1 at most, got {splits}"
        )
    path = find(path)
    settings = {"size": size, "per_image": per_image, "grid": bool(grid), "seed": seed}
    settings |= {"splits": splits, "border": BORDER, "saturated": SATURATED}
    settings = json.dumps(settings | {"skip_bad": bool(skip_bad)}, sort_keys=True)
    with contextlib.ExitStack() as stack:
        images, bad = listing(path, stack)
        if bad and not skip_bad:
            raise refusal(path, bad)
        if cache is not None:
            file = matching(cache, settings, path, images, bad)
            if file is not None:
                return _warned(Patches(file))
        with new_file(cache) as file:
            file.attrs["format"], file.attrs["settings"] = FORMAT, settings
            file.attrs["source"] = PHOTOGRAPHS if path is None else VAN_HATEREN
            file["stamp"] = stamp(path)
            cut_all(file, images, bad, json.loads(settings), path, progress)
            if cache is None:
                return _warned(Patches(file))
        return _warned(Patches(open_cache(cache)))


def find(path=None):
    """Return where the images are: in `path`, else in DEEN_DATA (see `datasets`), else None.

    None, also if path is PHOTOGRAPHS, means that the photographs of scikit-image stand in.
    FileNotFoundError if another `path` is given and does not exist.
    """
    if path == PHOTOGRAPHS:
        return None
    found = places("van_hateren", path)
    if path is None and len(found) == 1:  # DEEN_DATA may be for other data
        inside = os.listdir(found[0]) if os.path.isdir(found[0]) else ()
        found = found * any(name.lower().endswith(ENDINGS) for name in inside)
    return found[0] if found else None


def names(path=None):
    """Return the sorted names of the images in `path` (see `patches`) that can be used."""
    with contextlib.ExitStack() as stack:
        return sorted(listing(find(path), stack)[0])


def image(name, path=None):
    """Return a whole image, log(I + 1) with bad borders cropped, (height, width), float32.

    `name` as in `names(path)`, with or without its ending. KeyError if there is none such.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be that of an image, got {name!r}")
    path = find(path)
    with contextlib.ExitStack() as stack:
        images, _ = listing(path, stack)
        for known, read in images.items():
            if name.lower() in (known, known.rpartition(".")[0]):
                try:
                    return np.log1p(decode(read()), dtype="float32")
                except DAMAGE as error:
                    raise ValueError(
                        f"{known} in {path} cannot be used: {error}"
                    ) from None
    raise KeyError(
        f"no image {name!r} among the {len(images)} of {path or PHOTOGRAPHS}"
    )


def photographs():
    """Return the stand-in photographs that ship inside scikit-image.

    Returns
    -------
    dict
        Name -> grayscale pixels, (height, width), uint8, gamma-encoded.
    """
    names = _photographs.SCIKIT_IMAGE
    return {name: _photographs.scikit_image(name) for name in names}


def overall_std(x):
    """Return the standard deviation of all pixels once each patch's mean is removed."""
    x = as_points(x)
    return float(np.sqrt(np.mean((x - x.mean(1, keepdims=True)) ** 2, dtype="float64")))


def remove_mean(x, scale=1.0):
    """Return z = (x - mean) / scale, (n, d), and the means, (n, 1).

    With scale = overall_std(training patches), those have unit overall standard deviation.
    """
    x, scale = as_points(x), positive(scale, "scale")
    mean = x.mean(1, keepdims=True)
    return (x - mean) / np.float32(scale), mean


def normalise_contrast(x):
    """Return z = (x - mean) / std of each patch, (n, d), the means and the stds, (n, 1).

    ValueError if a patch is flat (standard deviation 0).
    """
    x = as_points(x)
    mean = x.mean(1, keepdims=True)
    std = np.where(np.ptp(x, axis=1, keepdims=True) > 0, x.std(1, keepdims=True), 0)
    if not std.all():
        raise ValueError(f"patch {np.argmin(std)} is flat: its standard deviation is 0")
    return (x - mean) / std, mean, std


def restore(z, mean, scale):
    """Return x = z scale + mean: the inverse of `remove_mean` and `normalise_contrast`."""
    return np.asarray(z) * np.asarray(scale, "float32") + mean


def _warned(result):
    if result.skipped:
        message = f"{len(result.skipped)} files skipped: {listed(result.skipped)}"
        warnings.warn(message, stacklevel=3)
    return result
