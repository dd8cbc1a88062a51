"""Patches cut from images, split by image, held in an HDF5 file on disk or in memory."""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import uuid
import warnings
import zlib

import numpy as np

from deen_tf import atomic
from deen_tf.checks import output_folder, whole
from deen_tf.datasets.archives import DAMAGE
from deen_tf.datasets.image_files import decode, digest, refusal, stamp
from deen_tf.images import windows

SPLITS = ("train", "validation", "test")
SATURATED = 0.01  # of a patch at the image's largest value: the camera clipped it
CHUNK = 256  # patches in a chunk of the cache
FORMAT = "deen_tf patches 2"


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

    def stream(
        self, split="train", batch_size=128, seed=0, buffer=32, shuffle=True, epoch=0
    ):
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
                pool = [
                    self._read(split, name, slice(i, i + CHUNK)) for name, i in chosen
                ]
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
        return dataset.apply(tf.data.experimental.assert_cardinality(length)).prefetch(
            1
        )

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


def cut_all(file, images, bad, settings, path, progress):
    """Write the patches of all images and what was found on the way into `file`."""
    from tqdm.auto import tqdm

    show = {"disable": None if progress else True, "leave": False}
    digests, used, dropped = {}, [], {"flat": 0, "saturated": 0}
    if settings["skip_bad"]:  # known before the images are shared out
        for name, read in tqdm(list(images.items()), "checking images", **show):
            try:
                decode(read())
            except DAMAGE as error:
                bad[name], digests[name] = str(error), digest(read)
                del images[name]
    allotted = _allot(sorted(images), settings["splits"], settings["seed"], path)
    for split in SPLITS:
        file.create_group(split)
    # In the order of storage: going back in a compressed archive starts it all over.
    for name, read in tqdm(images.items(), "cutting patches", **show):
        try:
            data = read()
            digests[name] = hashlib.sha256(data).hexdigest()
            pixels = decode(data)
        except DAMAGE as error:
            raise refusal(path, {name: error}) from None
        if name not in allotted:
            continue
        if min(pixels.shape) < settings["size"]:
            raise ValueError(
                f"size must be at most {min(pixels.shape)}, the side of {name}"
            )
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
            raise ValueError(
                f"no {split} patches left: dropped {dropped}, refused {bad}"
            )
    file.attrs["sha256"] = hashlib.sha256("".join(sorted(used)).encode()).hexdigest()
    file.attrs["dropped"] = json.dumps(dropped)
    # As data, because attributes end at 64 KiB.
    file["files"], file["skipped"] = json.dumps(digests), json.dumps(bad)
    file.attrs["checksum"] = checksum(file)


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


def _cut(name, pixels, settings):
    """Return good patches (n, size^2) and how many were flat and saturated."""
    size, number = settings["size"], settings["per_image"]
    random = np.random.default_rng([settings["seed"], zlib.crc32(name.encode())])
    places = windows(pixels, (size, size))
    if settings["grid"]:
        cells = places[::size, ::size]
        count = cells.shape[0] * cells.shape[1]
        number = count if number is None else min(number, count)
        chosen = np.sort(random.choice(count, number, replace=False))
        cut = cells[np.unravel_index(chosen, cells.shape[:2])]
    else:
        cut = places[tuple(random.integers(places.shape[:2], size=(number, 2)).T)]
    cut = cut.reshape(len(cut), size**2)
    flat = cut.max(1) == cut.min(1)
    saturated = ((cut == pixels.max()).mean(1) >= SATURATED) & ~flat
    x = np.log1p(cut[~(flat | saturated)], dtype="float32")
    return x, int(flat.sum()), int(saturated.sum())


def open_cache(cache):
    import h5py

    return h5py.File(cache, "r")


@contextlib.contextmanager
def new_file(cache):
    """Give a new HDF5 file: one in memory that stays open, or one that becomes `cache`."""
    import h5py

    if cache is None:
        yield h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False)
        return
    output_folder(os.path.dirname(os.path.abspath(cache)))
    with atomic.hdf5(cache) as file:
        yield file


def checksum(file):
    """Return the sha256 of all that is taken from a cache: settings, names, sums, patches."""
    digest = hashlib.sha256()
    for key in sorted(file.attrs.keys() - {"checksum"}):
        digest.update(f"{key} {file.attrs[key]}\n".encode())
    for key in ("stamp", "files", "skipped"):
        digest.update(file[key][()] + b"\n")
    for split in SPLITS:
        for name, part in file[split].items():
            digest.update(
                f"{split}/{name} {part.shape} {part.attrs['sha256']}\n".encode()
            )
            digest.update(part[()].tobytes())
    return digest.hexdigest()


def matching(cache, settings, path, images, bad):
    """Return the open cache if it holds these patches of these files, else None.

    A damaged one is named in a warning. ValueError if `cache` is something else, which must
    not be overwritten.
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
        file = open_cache(cache)
        if "format" not in file.attrs:
            raise foreign
        if file.attrs["format"] != FORMAT or file.attrs["settings"] != settings:
            return None
        if file.attrs["checksum"] != checksum(file):
            raise OSError("its checksum is that of other patches")
        files, skipped = (json.loads(file[key][()]) for key in ("files", "skipped"))
        if (
            files.keys() != images.keys()
            or skipped.keys() - images.keys() != bad.keys()
        ):
            return None
        untouched = path is not None and file["stamp"].asstr()[()] == stamp(path)
        if not untouched and any(
            digest(read) != files[name] for name, read in images.items()
        ):
            return None
    except (OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if error is foreign:
            raise
        warnings.warn(
            f"{cache} is damaged, its patches are cut anew: {error}", stacklevel=3
        )
        return None
    return file
