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
import functools
import hashlib
import itertools
import json
import lzma
import os
import re
import tarfile
import uuid
import warnings
import zipfile
import zlib

import numpy as np

from deen_tf.atomic import replacing
from deen_tf.validation import as_points, output_folder, positive, whole

VAN_HATEREN, PHOTOGRAPHS = "van Hateren", "scikit-image photographs"
SPLITS = ("train", "validation", "test")
ROWS, COLUMNS = 1024, 1536
BYTES = 2 * ROWS * COLUMNS
BORDER = 4  # the first row is dark, the two outer columns on each side hold the image's mean
SATURATED = 0.01  # fraction of a patch at the image's largest value: the camera clipped it
CHUNK = 256  # patches in a chunk of the cache
FORMAT = "deen_tf patches 1"
_NAME = re.compile(r"imk\d+\.im[lc]", re.IGNORECASE)
_PHOTOGRAPHS = "astronaut brick camera chelsea coffee grass gravel rocket".split()
_LITTER = {"thumbs.db", "desktop.ini"}  # left by operating systems, with .* and __MACOSX/
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGE = (OSError, EOFError, RuntimeError, ValueError, tarfile.TarError)
_DAMAGE += (zipfile.BadZipFile, zlib.error, lzma.LZMAError)


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
        A folder, .zip, .tar(.gz) or single .iml/.imc file. By default the folder
        `van_hateren` in the folder that the environment variable DEEN_DATA names, if it
        exists; else the photographs of scikit-image, which path=PHOTOGRAPHS asks for.
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
        Go on without files that cannot be used, with a warning that names them; else refuse.
    progress : bool
        Show a progress bar.

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
    splits = tuple(positive(fraction, "each of splits", zero=True) for fraction in splits)
    if len(splits) != 3 or not 0 < sum(splits) <= 1 + 1e-9:
        raise ValueError(f"splits must be three fractions summing to 1 at most, got {splits}")
    path = find(path)
    settings = {"size": size, "per_image": per_image, "grid": bool(grid), "seed": seed}
    settings |= {"splits": splits, "border": BORDER, "saturated": SATURATED}
    settings = json.dumps(settings | {"skip_bad": bool(skip_bad)}, sort_keys=True)
    with contextlib.ExitStack() as stack:
        images, bad = _listing(path, stack)
        if bad and not skip_bad:
            raise _refusal(path, bad)
        if cache is not None:
            matching = _matching(cache, settings, path, images, bad)
            if matching is not None:
                return _warned(Patches(matching))
        with _new_file(cache) as file:
            file.attrs["format"], file.attrs["settings"] = FORMAT, settings
            file.attrs["source"] = PHOTOGRAPHS if path is None else VAN_HATEREN
            file["stamp"] = _stamp(path)
            _cut_all(file, images, bad, json.loads(settings), path, progress)
            if cache is None:
                return _warned(Patches(file))
        return _warned(Patches(_open(cache)))


class Patches:
    """Patches split by image; `patches` makes them.

    Attributes
    ----------
    train, validation, test : ndarray, shape (n, size^2), float32
        x = log(I + 1), read when first asked for.
    images : dict
        Split -> names of its images, in the order of their patches.
    dropped : dict
        "flat" (standard deviation 0) and "saturated" -> how many patches were dropped.
    skipped : dict
        Name of each file that was passed over -> why.
    source : str
        "van Hateren" or "scikit-image photographs".
    sha256 : str
        Of the lines "name sha256" of the images used, sorted: the same for a folder and an
        archive of the same files.
    size : int
    """

    def __init__(self, file):
        self._file = file
        self.size = json.loads(file.attrs["settings"])["size"]
        self.source = file.attrs["source"]
        self.sha256 = file.attrs["sha256"]
        self.dropped = json.loads(file.attrs["dropped"])
        self.skipped = json.loads(file["skipped"][()])
        self.images = {split: sorted(file[split]) for split in SPLITS}

    @functools.cached_property
    def train(self):
        return self._whole("train")

    @functools.cached_property
    def validation(self):
        return self._whole("validation")

    @functools.cached_property
    def test(self):
        return self._whole("test")

    def image_of(self, split):
        """Return for each patch the index of its image in `images[split]`, shape (n,)."""
        counts = list(self._counts(split).values())
        return np.repeat(np.arange(len(counts)), counts)

    def stream(self, split="train", batch_size=128, seed=0, buffer=32, shuffle=True, epoch=0):
        """Return a tf.data.Dataset of batches (batch, size^2) that never holds them all.

        Each time it is iterated over is an epoch: every patch once, chunks of 256 in random
        order, patches shuffled among `buffer` chunks at a time. The order depends on the
        seed and the number of the epoch, which starts at `epoch`. Pass it to
        `fit(..., shuffle=False)`.
        """
        import tensorflow as tf

        batch_size, buffer = whole(batch_size, "batch_size"), whole(buffer, "buffer")
        seed, epochs = whole(seed, "seed", 0), itertools.count(whole(epoch, "epoch", 0))
        counts = self._counts(split)
        if not sum(counts.values()):
            raise ValueError(f"there are no {split} patches to stream")
        blocks = [(k, i) for k, count in counts.items() for i in range(0, count, CHUNK)]
        d = self.size**2

        def batches():
            random = np.random.default_rng([seed, next(epochs)])
            order = random.permutation(len(blocks)) if shuffle else range(len(blocks))
            rest = np.empty((0, d), "float32")
            for first in range(0, len(blocks), buffer):
                chosen = [blocks[i] for i in order[first : first + buffer]]
                pool = [self._read(split, name, slice(i, i + CHUNK)) for name, i in chosen]
                pool = np.concatenate([rest, *pool])
                if shuffle:
                    pool = pool[random.permutation(len(pool))]
                full = len(pool) - len(pool) % batch_size
                yield from np.split(pool[:full], full // batch_size) if full else ()
                rest = pool[full:]
            if len(rest):
                yield rest

        dataset = tf.data.Dataset.from_generator(
            batches, output_signature=tf.TensorSpec((None, d), tf.float32)
        )
        length = -(-sum(counts.values()) // batch_size)
        return dataset.apply(tf.data.experimental.assert_cardinality(length)).prefetch(1)

    def _whole(self, split):
        counts = self._counts(split)
        x = np.empty((sum(counts.values()), self.size**2), "float32")
        first = 0
        for name, count in counts.items():
            x[first : first + count] = self._read(split, name, slice(None))
            first += count
        return x

    def _counts(self, split):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        return {name: len(self._file[split][name]) for name in self.images[split]}

    def _read(self, split, name, rows):
        try:
            return self._file[split][name][rows]
        except OSError as error:
            raise OSError(
                f"the cache {self._file.filename} is damaged at {split}/{name}: delete it and "
                f"cut the patches again ({error})"
            ) from None


def find(path=None):
    """Return where the images are: `path`, else DEEN_DATA/van_hateren, else None.

    None, also if path is PHOTOGRAPHS, means that the photographs of scikit-image stand in.
    FileNotFoundError if another `path` is given and does not exist.
    """
    if path == PHOTOGRAPHS:
        return None
    if path is not None:
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"no van Hateren images at {path}: give a folder, .zip or .tar(.gz) that "
                "holds imk00001.iml and the like"
            )
        return os.fspath(path)
    data = os.environ.get("DEEN_DATA")
    folder = os.path.join(data, "van_hateren") if data else ""
    return folder if os.path.exists(folder) else None


def names(path=None):
    """Return the sorted names of the images in `path` (see `patches`) that can be used."""
    with contextlib.ExitStack() as stack:
        return sorted(_listing(find(path), stack)[0])


def image(name, path=None):
    """Return a whole image, log(I + 1) with bad borders cropped, (height, width), float32.

    `name` as in `names(path)`, with or without its ending. KeyError if there is none such.
    """
    path = find(path)
    with contextlib.ExitStack() as stack:
        images, _ = _listing(path, stack)
        for known, read in images.items():
            if name.lower() in (known, known.rpartition(".")[0]):
                try:
                    return np.log1p(_decode(read()), dtype="float32")
                except _DAMAGE as error:
                    raise ValueError(f"{known} in {path} cannot be used: {error}") from None
    raise KeyError(f"no image {name!r} among the {len(images)} of {path or PHOTOGRAPHS}")


def photographs():
    """Return the stand-in photographs that ship inside scikit-image.

    Returns
    -------
    dict
        Name -> grayscale pixels, (height, width), uint8, gamma-encoded.
    """
    return {name: _photograph(name) for name in _PHOTOGRAPHS}


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


def _listing(path, stack):
    """Return ({name: function that reads it}, {name: why it is refused})."""
    if path is None:
        return {name: functools.partial(_photograph, name) for name in _PHOTOGRAPHS}, {}
    images, bad = {}, {}
    try:
        for member, size, read in _members(path, stack):
            parts = re.split(r"[\\/]", member)
            name = parts[-1].lower()
            if name.startswith(".") or name in _LITTER or "__MACOSX" in parts:
                continue
            if ".." in parts or parts[0].endswith(":") or (not parts[0] and len(parts) > 1):
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
    except _DAMAGE as error:
        bad[os.path.basename(path)] = f"damaged or not such an archive ({error})"
    if not images:
        raise ValueError(f"no van Hateren images in {path}{': ' * bool(bad)}{_shown(bad)}")
    return images, bad


def _members(path, stack):
    """Yield (name, size or None if not a regular file, function that reads it)."""
    if os.path.isdir(path):
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if not entry.is_dir():
                size = entry.stat().st_size if entry.is_file() else None
                yield entry.name, size, functools.partial(_bytes, open, entry.path, "rb")
    elif path.lower().endswith(".zip"):
        archive = stack.enter_context(zipfile.ZipFile(path))
        for info in archive.infolist():
            if not info.is_dir():
                read = functools.partial(_bytes, archive.open, info)
                yield info.filename, info.file_size, read
    elif path.lower().endswith(_TARS):
        archive = stack.enter_context(tarfile.open(path))
        for info in archive:
            if not info.isdir():
                size = info.size if info.isreg() else None
                yield info.name, size, functools.partial(_bytes, archive.extractfile, info)
    else:
        read = functools.partial(_bytes, open, path, "rb")
        yield os.path.basename(path), os.path.getsize(path), read


def _bytes(opener, *arguments):
    with opener(*arguments) as stream:
        return stream.read(BYTES + 1)  # never more, whatever an archive's header says


def _photograph(name):
    import skimage

    pixels = getattr(skimage.data, name)()
    if pixels.ndim == 3:
        pixels = np.round(255 * skimage.color.rgb2gray(pixels)).astype("uint8")
    return np.ascontiguousarray(pixels)


def _decode(data):
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


def _shown(bad):
    some = "; ".join(f"{name}: {why}" for name, why in itertools.islice(bad.items(), 5))
    return some + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")


def _refusal(path, bad):
    return ValueError(
        f"{len(bad)} unusable in {path}: {_shown(bad)} (skip_bad=True goes on without)"
    )


def _warned(result):
    if result.skipped:
        message = f"{len(result.skipped)} files skipped: {_shown(result.skipped)}"
        warnings.warn(message, stacklevel=3)
    return result


def _allot(names, splits, seed, path):
    """Return {name: split}: a random choice, in number as near to the fractions as can be."""
    wanted = np.array(splits) * len(names)
    counts = np.where(wanted > 0, np.maximum(1, np.floor(wanted + 1e-9)), 0).astype(int)
    while counts.sum() < round(wanted.sum()):
        counts[np.argmax(wanted - counts)] += 1
    while counts.sum() > len(names) and counts.max() > 1:
        counts[np.argmax(counts)] -= 1
    if counts.sum() > len(names):
        raise ValueError(
            f"{path} holds {len(names)} image(s), too few for {np.count_nonzero(counts)} splits "
            "by image; splits=(1, 0, 0) trains on all"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    split_of = np.repeat(SPLITS, counts)
    return {names[i]: str(split) for i, split in zip(order, split_of, strict=False)}


def _cut_all(file, images, bad, settings, path, progress):
    """Write the patches of all images and what was found on the way into `file`."""
    from tqdm.auto import tqdm

    show = {"disable": not progress, "leave": False}
    digests, used, dropped = {}, [], {"flat": 0, "saturated": 0}
    if settings["skip_bad"]:  # known before the images are shared out
        for name, read in tqdm(list(images.items()), "checking images", **show):
            try:
                _decode(read())
            except _DAMAGE as error:
                bad[name], digests[name] = str(error), _digest(read)
                del images[name]
    allotted = _allot(sorted(images), settings["splits"], settings["seed"], path)
    for split in SPLITS:
        file.create_group(split)
    # In the order of storage: going back in a compressed archive starts it all over.
    for name, read in tqdm(images.items(), "cutting patches", **show):
        try:
            data = read()
            digests[name] = hashlib.sha256(data).hexdigest()
            pixels = _decode(data)
        except _DAMAGE as error:
            raise _refusal(path, {name: error}) from None
        if name not in allotted:
            continue
        if min(pixels.shape) < settings["size"]:
            raise ValueError(f"size must be at most {min(pixels.shape)}, the side of {name}")
        x, flat, saturated = _cut(name, pixels, settings)
        dropped["flat"] += flat
        dropped["saturated"] += saturated
        used.append(f"{name} {digests[name]}\n")
        part = file[allotted[name]].create_dataset(
            name,
            data=x,
            chunks=(min(max(len(x), 1), CHUNK), x.shape[1]),
            maxshape=(None, x.shape[1]),
            fletcher32=True,
        )
        part.attrs["sha256"] = digests[name]
    for split, fraction in zip(SPLITS, settings["splits"], strict=True):
        if fraction > 0 and not sum(map(len, file[split].values())):
            raise ValueError(f"no {split} patches left: dropped {dropped}, refused {bad}")
    file.attrs["sha256"] = hashlib.sha256("".join(sorted(used)).encode()).hexdigest()
    file.attrs["dropped"] = json.dumps(dropped)
    # As data, because attributes end at 64 KiB.
    file["files"], file["skipped"] = json.dumps(digests), json.dumps(bad)


def _cut(name, pixels, settings):
    """Return good patches (n, size^2) and how many were flat and saturated."""
    size, number = settings["size"], settings["per_image"]
    random = np.random.default_rng([settings["seed"], zlib.crc32(name.encode())])
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (size, size))
    if settings["grid"]:
        cells = windows[::size, ::size]
        count = cells.shape[0] * cells.shape[1]
        number = count if number is None else min(number, count)
        chosen = np.sort(random.choice(count, number, replace=False))
        cut = cells[np.unravel_index(chosen, cells.shape[:2])]
    else:
        cut = windows[tuple(random.integers(windows.shape[:2], size=(number, 2)).T)]
    cut = cut.reshape(len(cut), size**2)
    flat = cut.max(1) == cut.min(1)
    saturated = ((cut == pixels.max()).mean(1) >= SATURATED) & ~flat
    x = np.log1p(cut[~(flat | saturated)], dtype="float32")
    return x, int(flat.sum()), int(saturated.sum())


def _digest(read):
    """Return the sha256 of what `read` gives, None if it cannot be read."""
    try:
        return hashlib.sha256(read()).hexdigest()
    except _DAMAGE:
        return None


def _stamp(path):
    """Return what changes whenever one of the files does, without reading them."""
    if path is None:
        return ""
    inside = os.scandir(path) if os.path.isdir(path) else ()
    files = sorted(entry.path for entry in inside if entry.is_file()) or [path]
    stats = [(os.path.abspath(file), os.stat(file)) for file in files]
    return json.dumps([[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats])


def _open(cache):
    import h5py

    return h5py.File(cache, "r")


@contextlib.contextmanager
def _new_file(cache):
    """Give a new HDF5 file: one in memory that stays open, or one that becomes `cache`."""
    import h5py

    if cache is None:
        yield h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False)
        return
    output_folder(os.path.dirname(os.path.abspath(cache)))
    with replacing(cache) as temporary, h5py.File(temporary, "w") as file:
        yield file


def _matching(cache, settings, path, images, bad):
    """Return the open cache if it holds these patches of these files, else None.

    ValueError if `cache` is something else, which must not be overwritten.
    """
    if not os.path.exists(cache):
        return None
    foreign = ValueError(f"{cache} is not a cache of patches: it will not be replaced")
    if not os.path.isfile(cache):
        raise foreign
    with open(cache, "rb") as stream:
        start = stream.read(8)
    if start and start != b"\x89HDF\r\n\x1a\n":
        raise foreign
    try:
        file = _open(cache)
        ours = "format" in file.attrs
    except (OSError, RuntimeError):
        return None  # cut short or damaged
    if not ours:
        raise foreign
    try:
        if file.attrs["format"] != FORMAT or file.attrs["settings"] != settings:
            return None
        files, skipped = (json.loads(file[key][()]) for key in ("files", "skipped"))
        if files.keys() != images.keys() or skipped.keys() - images.keys() != bad.keys():
            return None
        if path is None or file["stamp"].asstr()[()] != _stamp(path):
            if any(_digest(read) != files[name] for name, read in images.items()):
                return None
    except (OSError, KeyError, RuntimeError, ValueError):
        return None
    return file
