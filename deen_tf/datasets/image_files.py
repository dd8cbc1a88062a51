"""Image files of van Hateren's data base: what is found, what is refused, what is passed over.

A listing is a pair: {name: function that reads it} and {name: why it is refused}.
"""

import functools
import hashlib
import itertools
import json
import os
import re

import numpy as np

from deen_tf.datasets import photographs
from deen_tf.datasets.archives import DAMAGE, legible, members

ROWS, COLUMNS = 1024, 1536
BYTES = 2 * ROWS * COLUMNS
# The first row is dark, the two outer columns on each side hold the image's mean.
BORDER = 4
ENDINGS = (".iml", ".imc")
_NAME = re.compile(r"imk\d{1,9}\.im[lc]")


def listing(path, stack):
    """Return ({name: function that reads it}, {name: why it is refused}).

    What does not end in .iml or .imc is passed over. ValueError if no image is left.
    """
    if path is None:
        return {
            name: functools.partial(photographs.scikit_image, name)
            for name in photographs.SCIKIT_IMAGE
        }, {}
    images, bad, others = {}, {}, {}
    try:
        for member, size, read in members(path, BYTES + 1, stack):
            parts = re.split(r"[\\/]", member)
            name, shown = parts[-1].lower(), legible(member)
            hidden = name.startswith(".") or "__MACOSX" in parts
            if hidden or not name.endswith(ENDINGS):
                others[shown] = "not named like imk00001.iml"
            elif (
                ".." in parts or parts[0].endswith(":") or (not parts[0] and parts[1:])
            ):
                bad[shown] = "its path leads out of the archive"
            elif not _NAME.fullmatch(name):
                bad[shown] = "not named like imk00001.iml"
            elif size is None:
                bad[shown] = "not a regular file"
            elif size != BYTES:
                bad[shown] = f"{size} bytes, where an image has {BYTES}"
            elif any(name[:-1] + kind in images for kind in "lc"):
                bad[shown] = "the same photograph twice"
            else:
                images[name] = read
    except DAMAGE as error:
        bad[os.path.basename(path)] = f"damaged or not such an archive ({error})"
    if not images:
        refused = bad or others
        raise ValueError(
            f"no van Hateren images in {path}{': ' * bool(refused)}{listed(refused)}"
        )
    return images, bad


def decode(data):
    """Return the cropped pixels of a file's bytes, or raise ValueError if it is no image."""
    if isinstance(data, np.ndarray):
        return data
    if len(data) != BYTES:
        raise ValueError(f"{len(data)} bytes, where an image has {BYTES}")
    pixels = np.frombuffer(data, ">u2").reshape(ROWS, COLUMNS)
    pixels = pixels[BORDER:-BORDER, BORDER:-BORDER].astype("uint16")
    # In a photograph neighbours are alike (0.81 to 0.997 over 48 of these); swapped bytes
    # (0.56 at most) and compressed or encrypted ones are not.
    right, swapped = _neighbours(pixels), _neighbours(pixels.byteswap())
    if not right > max(0.5, swapped):
        raise ValueError(
            f"not a photograph in big-endian uint16: neighbouring pixels correlate by {right:.2f} "
            f"({swapped:.2f} with the bytes swapped)"
        )
    return pixels


def _neighbours(pixels):
    some = pixels[::8].astype("float64")
    if np.ptp(some) == 0:
        return 0.0
    return np.corrcoef(some[:, 1:].ravel(), some[:, :-1].ravel())[0, 1]


def listed(bad):
    """Return the first five of {name: why}, on one line of bounded length."""
    some = "; ".join(
        f"{legible(name)}: {legible(why, 200)}"
        for name, why in itertools.islice(bad.items(), 5)
    )
    return some + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")


def refusal(path, bad):
    return ValueError(
        f"{len(bad)} unusable in {path}: {listed(bad)} (skip_bad=True goes on without)"
    )


def digest(read):
    """Return the sha256 of what `read` gives, None if it cannot be read."""
    try:
        return hashlib.sha256(read()).hexdigest()
    except DAMAGE:
        return None


def stamp(path):
    """Return what changes whenever one of the images does, without reading them."""
    if path is None:
        return ""
    files = [path]
    if os.path.isdir(path):
        names = filter(lambda name: name.lower().endswith(ENDINGS), os.listdir(path))
        files = [os.path.join(path, name) for name in sorted(names)]
    return json.dumps([[os.path.abspath(file), *_times(file)] for file in files])


def _times(file):
    try:
        found = os.stat(file)
    except OSError:  # a symbolic link that leads nowhere
        return [None]
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
