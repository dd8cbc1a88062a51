"""Image files: what is found in a folder, an archive or a single file, and what is refused.

A listing is a pair: {name: function that reads it} and {name: why it is refused}. Archives
are never extracted, and no more of a file is read than an image can hold.
"""

import functools
import hashlib
import itertools
import json
import lzma
import os
import re
import tarfile
import zipfile
import zlib

import numpy as np

ROWS, COLUMNS = 1024, 1536
BYTES = 2 * ROWS * COLUMNS
# The first row is dark, the two outer columns on each side hold the image's mean.
BORDER = 4
DAMAGE = (OSError, EOFError, RuntimeError, ValueError, tarfile.TarError)
DAMAGE += (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
PHOTOGRAPH_NAMES = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "grass",
    "gravel",
    "rocket",
)
_NAME = re.compile(r"imk\d+\.im[lc]", re.IGNORECASE)
_LITTER = {"thumbs.db", "desktop.ini"}  # of operating systems, with .* and __MACOSX/
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def listing(path, stack):
    """Return ({name: function that reads it}, {name: why it is refused})."""
    if path is None:
        return {
            name: functools.partial(photograph, name) for name in PHOTOGRAPH_NAMES
        }, {}
    images, bad = {}, {}
    try:
        for member, size, read in _members(path, stack):
            parts = re.split(r"[\\/]", member)
            name = parts[-1].lower()
            if name.startswith(".") or name in _LITTER or "__MACOSX" in parts:
                continue
            if (
                ".." in parts
                or parts[0].endswith(":")
                or (not parts[0] and len(parts) > 1)
            ):
                bad[member] = "its path leads out of the archive"
            elif not _NAME.fullmatch(name):
                bad[member] = "not named like imk00001.iml"
            elif size is None:
                bad[member] = "not a regular file"
            elif size != BYTES:
                bad[member] = f"{size} bytes, where an image has {BYTES}"
            elif any(name[:-1] + kind in images for kind in "lc"):
                bad[member] = "the same photograph twice"
            else:
                images[name] = read
    except DAMAGE as error:
        bad[os.path.basename(path)] = f"damaged or not such an archive ({error})"
    if not images:
        raise ValueError(
            f"no van Hateren images in {path}{': ' * bool(bad)}{shown(bad)}"
        )
    return images, bad


def _members(path, stack):
    """Yield (name, size or None if not a regular file, function that reads it)."""
    if os.path.isdir(path):
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if not entry.is_dir():
                size = entry.stat().st_size if entry.is_file() else None
                read = functools.partial(_bytes, open, entry.path, "rb")
                yield entry.name, size, read
    elif path.lower().endswith(".zip"):
        archive = stack.enter_context(zipfile.ZipFile(path))
        for info in archive.infolist():
            if not info.is_dir():
                read = functools.partial(_bytes, archive.open, info)
                yield info.filename, info.file_size, read
    elif path.lower().endswith(_TARS):
        archive = stack.enter_context(tarfile.open(path))  # noqa: SIM115
        for info in archive:
            if not info.isdir():
                size = info.size if info.isreg() else None
                read = functools.partial(_bytes, archive.extractfile, info)
                yield info.name, size, read
    else:
        read = functools.partial(_bytes, open, path, "rb")
        yield os.path.basename(path), os.path.getsize(path), read


def _bytes(opener, *arguments):
    with opener(*arguments) as stream:
        return stream.read(BYTES + 1)  # never more, whatever an archive's header says


def photograph(name):
    import skimage

    pixels = getattr(skimage.data, name)()
    if pixels.ndim == 3:
        pixels = np.round(255 * skimage.color.rgb2gray(pixels)).astype("uint8")
    return np.ascontiguousarray(pixels)


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


def shown(bad):
    some = "; ".join(f"{name}: {why}" for name, why in itertools.islice(bad.items(), 5))
    return some + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")


def refusal(path, bad):
    return ValueError(
        f"{len(bad)} unusable in {path}: {shown(bad)} (skip_bad=True goes on without)"
    )


def digest(read):
    """Return the sha256 of what `read` gives, None if it cannot be read."""
    try:
        return hashlib.sha256(read()).hexdigest()
    except DAMAGE:
        return None


def stamp(path):
    """Return what changes whenever one of the files does, without reading them."""
    if path is None:
        return ""
    inside = os.scandir(path) if os.path.isdir(path) else ()
    files = sorted(entry.path for entry in inside if entry.is_file()) or [path]
    stats = [(os.path.abspath(file), os.stat(file)) for file in files]
    return json.dumps(
        [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats]
    )
