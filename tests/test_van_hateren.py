"""Reading, cutting, splitting, caching and streaming of natural image patches."""

import io
import os
import shutil
import socket
import sys
import tarfile
import warnings
import zipfile

import h5py
import numpy as np
import pytest
from scipy import ndimage

from deen_tf.datasets import archives, patch_cache
from deen_tf.datasets import van_hateren as vh

SHAPE = (1024, 1536)
CROPPED = (1016, 1528)  # four pixels less on each side
NAMES = ["imk00001.iml", "imk00020.iml", "imk00300.imc", "imk04000.iml"]
REAL = os.path.join(os.environ.get("DEEN_DATA", ""), "van_hateren")
ARGUMENTS = {"size": 16, "per_image": 30, "splits": (0.5, 0.25, 0.25)}


def photograph(seed):
    """Smooth light with texture, 1000 to 2000 units."""
    random = np.random.default_rng(seed)
    smooth = ndimage.zoom(random.random((33, 49)), 32, order=1)[: SHAPE[0], : SHAPE[1]]
    return (1000 + 900 * smooth + random.integers(0, 100, SHAPE)).astype("uint16")


def write(path, pixels):
    path.write_bytes(pixels.astype(">u2").tobytes())


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("van_hateren")
    for seed, name in enumerate(NAMES):
        write(folder / name, photograph(seed))
    return folder


@pytest.fixture
def folder(originals, tmp_path):
    """The images under a folder of the test's own, without copying them."""
    links = tmp_path / "images"
    links.mkdir()
    for name in NAMES:
        os.link(originals / name, links / name)
    return links


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("DEEN_DATA", raising=False)


def pack_zip(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def pack_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def contents(folder):
    return {f"a/folder/{name}": (folder / name).read_bytes() for name in NAMES}


def same(a, b):
    for split in patch_cache.SPLITS:
        np.testing.assert_array_equal(getattr(a, split), getattr(b, split))
    assert a.images == b.images and a.sha256 == b.sha256 and a.dropped == b.dropped


# ------------------------------------------------------------------ reading


def all_names(p):
    return [name for names in p.images.values() for name in names]


def test_an_image_is_the_logarithm_of_its_cropped_pixels(folder):
    intensity = photograph(1)[4:-4, 4:-4].astype("float64")
    x = vh.image("imk00020", folder)
    assert x.dtype == "float32" and x.shape == CROPPED
    np.testing.assert_allclose(x, np.log(intensity + 1), rtol=1e-6)  # float32
    np.testing.assert_array_equal(vh.image("imk00020.iml", folder / "imk00020.iml"), x)
    with pytest.raises(KeyError, match="imk00021.*4 of"):
        vh.image("imk00021", folder)


def test_folder_zip_and_tar_give_the_same_patches(folder, tmp_path):
    files = contents(folder)
    wanted = vh.patches(folder, **ARGUMENTS)
    assert wanted.train.shape == (60, 256) and wanted.train.dtype == "float32"
    pack_zip(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED)
    # In the tar the images stand in another order.
    backwards = dict(reversed(files.items()))
    pack_tar(tmp_path / "b.tar", backwards)
    pack_tar(tmp_path / "c.tar.gz", files, "w:gz")
    for name in ("a.zip", "b.tar", "c.tar.gz"):
        found = vh.patches(str(tmp_path / name), **ARGUMENTS)
        same(wanted, found)
        assert found.source == "van Hateren"
        assert vh.names(tmp_path / name) == NAMES
    x = vh.image("imk00001", tmp_path / "c.tar.gz")
    np.testing.assert_array_equal(x, vh.image("imk00001", folder))


def test_one_image_is_enough_to_train_on(folder):
    p = vh.patches(folder / NAMES[0], size=16, per_image=5, splits=(1, 0, 0))
    assert p.train.shape == (5, 256) and p.validation.shape == (0, 256)
    with pytest.raises(ValueError, match="1 image.*too few for 3 splits"):
        vh.patches(folder / NAMES[0], size=16)


# ------------------------------------------------------------------ cutting and splitting


def test_random_patches_lie_in_their_image(folder):
    p = vh.patches(folder, **ARGUMENTS)
    for split in patch_cache.SPLITS:
        which = p.image_of(split)
        x = getattr(p, split)
        assert len(which) == len(x) == 30 * len(p.images[split])
        for k, name in enumerate(p.images[split]):
            image = vh.image(name, folder)
            for patch in x[which == k][::10].reshape(-1, 16, 16):
                corners = np.argwhere(image[:-15, :-15] == patch[0, 0])
                assert any(
                    np.array_equal(image[i : i + 16, j : j + 16], patch)
                    for i, j in corners
                )


def test_the_whole_grid_tiles_the_image(folder):
    p = vh.patches(folder / NAMES[0], 32, None, grid=True, splits=(1, 0, 0))
    image = vh.image(NAMES[0], folder)
    rows, columns = 1016 // 32, 1528 // 32
    tiles = (
        image[: 32 * rows, : 32 * columns].reshape(rows, 32, columns, 32).swapaxes(1, 2)
    )
    np.testing.assert_array_equal(p.train, tiles.reshape(-1, 1024))


def test_some_of_the_grid_are_different_tiles(folder):
    whole = vh.patches(folder / NAMES[0], 64, None, grid=True, splits=(1, 0, 0)).train
    some = vh.patches(folder / NAMES[0], 64, 40, grid=True, splits=(1, 0, 0)).train
    rows = {row.tobytes() for row in some}
    assert len(rows) == 40 and rows <= {row.tobytes() for row in whole}


def test_seeds_decide_and_other_images_do_not(folder, tmp_path):
    first = vh.patches(folder, seed=3, **ARGUMENTS)
    same(first, vh.patches(folder, seed=3, **ARGUMENTS))
    other = vh.patches(folder, seed=4, **ARGUMENTS)
    assert not np.array_equal(first.train[:30], other.train[:30])
    alone = vh.patches(folder / NAMES[2], 16, 30, seed=3, splits=(1, 0, 0)).train
    split = next(s for s in patch_cache.SPLITS if NAMES[2] in first.images[s])
    k = first.images[split].index(NAMES[2])
    np.testing.assert_array_equal(
        alone, getattr(first, split)[first.image_of(split) == k]
    )


@pytest.mark.parametrize(
    "count, splits, wanted",
    [
        (47, (0.7, 0.1, 0.2), (33, 5, 9)),  # 32.9, 4.7, 9.4
        (8, (0.75, 0.05, 0.2), (6, 1, 1)),  # 6, 0.4, 1.6
        (3, (0.98, 0.01, 0.01), (1, 1, 1)),
        (4000, (0.9, 0, 0.1), (3600, 0, 400)),
        (10, (0.2, 0.1, 0.2), (2, 1, 2)),
    ],
)
def test_images_are_split_disjointly(count, splits, wanted):
    names = [f"imk{i:05}.iml" for i in range(count)]
    allotted = patch_cache._allot(
        names, splits, 0, "path"
    )  # a dict: no image in two splits
    assert set(allotted) <= set(names)
    assert (
        tuple(list(allotted.values()).count(split) for split in patch_cache.SPLITS)
        == wanted
    )
    if count > 8:
        assert allotted != patch_cache._allot(names, splits, 1, "path")


def test_flat_and_saturated_patches_are_dropped_and_counted(tmp_path):
    pixels = photograph(0)
    inner = pixels[4:-4, 4:-4]
    inner[:64, :32] = 500  # two flat tiles of 32 x 32
    inner[64:96, :32] = 6277  # one flat tile, and clipped
    inner[96:128, :11] = 6277  # a third of one tile clipped
    inner[128, :10] = 6277  # 10 of 1024 pixels: under 1 %
    inner[160, :11] = 6277  # 11 of 1024: over
    inner[192:224, :32] = 0  # flat and black: log(0 + 1) is finite
    write(tmp_path / "imk00001.iml", pixels)
    p = vh.patches(tmp_path, 32, None, grid=True, splits=(1, 0, 0))
    assert p.dropped == {"flat": 4, "saturated": 2}
    assert len(p.train) == (1016 // 32) * (1528 // 32) - 6
    assert np.isfinite(p.train).all() and p.train.std(1).min() > 0


# ------------------------------------------------------------------ bad files


def bad_file(folder, kind):
    """Put one bad file beside the good ones; return its name and what the error says of it."""
    good = (folder / NAMES[0]).read_bytes()
    if kind == "truncated":
        (folder / "imk00002.iml").write_bytes(good[:1000])
        return "imk00002.iml", "1000 bytes, where an image has 3145728"
    if kind == "too long":
        (folder / "imk00002.iml").write_bytes(good + b"x")
        return "imk00002.iml", "3145729 bytes"
    if kind == "empty":
        (folder / "imk00002.iml").write_bytes(b"")
        return "imk00002.iml", "0 bytes"
    if kind == "misnamed":
        (folder / "forest.iml").write_bytes(good)
        return "forest.iml", "not named like imk00001.iml"
    if kind == "circle":
        (folder / "imk00002.iml").symlink_to("imk00002.iml")
        return "imk00002.iml", "not a regular file"
    if kind == "twice":
        (folder / "imk00001.imc").write_bytes(good)
        return "imk00001.iml", "the same photograph twice"
    if kind == "little-endian":
        (folder / "imk00002.iml").write_bytes(photograph(9).astype("<u2").tobytes())
        return "imk00002.iml", "not a photograph in big-endian uint16"
    if kind == "random bytes":
        (folder / "imk00002.iml").write_bytes(np.random.default_rng(0).bytes(len(good)))
        return "imk00002.iml", "not a photograph"
    if kind == "zeros":
        (folder / "imk00002.iml").write_bytes(bytes(len(good)))
        return "imk00002.iml", "not a photograph"
    if kind == "broken link":
        (folder / "imk00002.iml").symlink_to("nowhere")
        return "imk00002.iml", "not a regular file"
    if kind == "pipe":
        os.mkfifo(folder / "imk00002.iml")
        return "imk00002.iml", "not a regular file"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    ["truncated", "too long", "empty", "misnamed", "circle", "twice", "little-endian"]
    + ["random bytes", "zeros", "broken link", "pipe"],
)
def test_a_bad_file_is_named_and_refused_or_skipped(folder, tmp_path, kind):
    name, why = bad_file(folder, kind)
    cache = tmp_path / "cache.h5"
    with pytest.raises(ValueError, match=f"1 unusable in .*{name}: {why}.*skip_bad"):
        vh.patches(folder, cache=cache, **ARGUMENTS)
    assert not cache.exists() and not list(tmp_path.glob(".cache*"))
    with pytest.warns(UserWarning, match=f"1 files skipped: {name}: {why}"):
        p = vh.patches(folder, cache=cache, skip_bad=True, **ARGUMENTS)
    assert list(p.skipped) == [name] and why in p.skipped[name]
    assert len(p.train) and len(p.validation) and len(p.test)
    with pytest.warns(UserWarning, match=name):  # said again when taken from the cache
        same(p, vh.patches(folder, cache=cache, skip_bad=True, **ARGUMENTS))


@pytest.mark.parametrize("kind", ["circle", "truncated", "zeros"])
def test_the_rest_is_what_it_would_be_without_the_bad_file(folder, kind):
    wanted = vh.patches(folder, **ARGUMENTS)
    bad_file(folder, kind)
    with pytest.warns(UserWarning, match="1 files skipped"):
        same(wanted, vh.patches(folder, skip_bad=True, **ARGUMENTS))


@pytest.mark.parametrize("skip_bad", (False, True))
def test_what_is_not_named_like_an_image_is_passed_over(folder, tmp_path, skip_bad):
    wanted = vh.patches(folder, **ARGUMENTS)
    files = contents(folder) | {"__MACOSX/a/._imk00001.iml": b"x", "a/.DS_Store": b"x"}
    pack_zip(tmp_path / "a.zip", files | {"a/Thumbs.db": b"x", "../README": b"x"})
    for name in ("README", ".DS_Store", "._imk00001.iml", "convert.py", "imk00001.png"):
        (folder / name).write_text("hello")
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nowhere")
    (folder / "imk00099.iml").mkdir()
    for path in (folder, tmp_path / "a.zip"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cache = tmp_path / f"{path.name}.h5"
            for _ in range(2):
                same(
                    wanted,
                    vh.patches(path, cache=cache, skip_bad=skip_bad, **ARGUMENTS),
                )


def test_nothing_usable(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*nowhere"):
        vh.patches(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no van Hateren images in"):
        vh.patches(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "loop.iml").symlink_to("loop.iml")
    for skip_bad in (False, True):
        with pytest.raises(ValueError, match="van Hateren images in .*loop.iml: not"):
            vh.patches(tmp_path, skip_bad=skip_bad)
    (tmp_path / "loop.iml").unlink()
    with pytest.raises(
        ValueError, match="van Hateren images in .*notes.txt: not named"
    ):
        vh.patches(tmp_path)
    write(tmp_path / "imk00001.iml", np.full(SHAPE, 7))
    with pytest.raises(ValueError, match="correlate by 0.00"):
        vh.image("imk00001", tmp_path)


# ------------------------------------------------------------------ archives


OUTSIDE = [
    "../imk00009.iml",
    "a/../../imk00009.iml",
    "/imk00009.iml",
    "..\\imk00009.iml",
]


@pytest.mark.parametrize("name", OUTSIDE + ["C:\\imk00009.iml"])
@pytest.mark.parametrize("pack, ending", [(pack_zip, "zip"), (pack_tar, "tar")])
def test_names_that_lead_out_of_an_archive_are_refused(
    folder, tmp_path, name, pack, ending
):
    archive = tmp_path / f"evil.{ending}"
    good = contents(folder)
    pack(archive, {name: good["a/folder/imk00001.iml"], **good})
    before = sorted(tmp_path.rglob("*")), sorted(tmp_path.parent.glob("*"))
    with pytest.raises(
        ValueError, match="imk00009.iml: its path leads out of the archive"
    ):
        vh.patches(archive, **ARGUMENTS)
    with pytest.warns(UserWarning, match="leads out"):
        same(
            vh.patches(archive, skip_bad=True, **ARGUMENTS),
            vh.patches(folder, **ARGUMENTS),
        )
    assert before == (sorted(tmp_path.rglob("*")), sorted(tmp_path.parent.glob("*")))


def test_links_in_a_tar_are_not_followed(folder, tmp_path):
    archive = tmp_path / "links.tar"
    with tarfile.open(archive, "w") as tar:
        for name in NAMES:
            tar.add(folder / name, name)
        for number, kind in enumerate(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)
        ):
            info = tarfile.TarInfo(f"imk0010{number}.iml")
            info.type, info.linkname = kind, str(folder / NAMES[0])
            tar.addfile(info)
    with pytest.raises(
        ValueError, match="3 unusable.*imk00100.iml: not a regular file"
    ):
        vh.patches(archive, **ARGUMENTS)


def test_damaged_archives(folder, tmp_path):
    files = contents(folder)
    pack_zip(tmp_path / "whole.zip", files)
    data = bytearray((tmp_path / "whole.zip").read_bytes())
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="no van Hateren images in .*cut.zip: damaged"):
        vh.patches(tmp_path / "cut.zip")
    data[2_000_000] ^= 1  # one bit within the first image: its checksum no longer holds
    (tmp_path / "flipped.zip").write_bytes(data)
    with pytest.raises(ValueError, match="imk00001.iml: Bad CRC-32"):
        vh.patches(tmp_path / "flipped.zip", **ARGUMENTS)
    with pytest.warns(UserWarning, match="1 files skipped: imk00001.iml: Bad CRC"):
        p = vh.patches(tmp_path / "flipped.zip", skip_bad=True, size=16, per_image=5)
    assert NAMES[0] not in all_names(p)

    pack_tar(tmp_path / "whole.tar.gz", files, "w:gz")
    data = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: int(0.9 * len(data))])
    with pytest.raises(ValueError, match="cut.tar.gz: damaged"):
        vh.patches(tmp_path / "cut.tar.gz", **ARGUMENTS)
    with pytest.warns(UserWarning, match="cut.tar.gz: damaged"):
        p = vh.patches(tmp_path / "cut.tar.gz", skip_bad=True, size=16, per_image=5)
    assert sorted(all_names(p)) == NAMES[:3]
    shutil.copy(tmp_path / "whole.tar.gz", tmp_path / "really_a_tar.zip")
    with pytest.raises(
        ValueError, match="really_a_tar.zip: damaged or not such an archive"
    ):
        vh.patches(tmp_path / "really_a_tar.zip")


# ------------------------------------------------------------------ cache


@pytest.fixture
def reads(monkeypatch):
    """The number of image files read so far."""
    counted = []
    original = archives._bytes
    monkeypatch.setattr(
        archives, "_bytes", lambda *a: counted.append(a) or original(*a)
    )
    return counted


def test_a_matching_cache_is_used_without_reading_an_image(folder, tmp_path, reads):
    cache = tmp_path / "deep" / "cache.h5"
    wanted = vh.patches(folder, **ARGUMENTS)
    assert len(reads) == 4
    same(wanted, vh.patches(folder, cache=cache, **ARGUMENTS))
    assert len(reads) == 8
    made = cache.stat().st_ino
    same(wanted, vh.patches(folder, cache=cache, **ARGUMENTS))
    assert len(reads) == 8 and cache.stat().st_ino == made
    with h5py.File(cache) as file:
        assert (
            file.attrs["source"] == "van Hateren"
            and file.attrs["sha256"] == wanted.sha256
        )
        part = file["train"][wanted.images["train"][0]]
        assert part.chunks == (30, 256) and len(part.attrs["sha256"]) == 64
    assert [entry.name for entry in cache.parent.iterdir()] == ["cache.h5"]


def test_files_that_look_newer_are_compared_by_content(folder, tmp_path, reads):
    cache = tmp_path / "cache.h5"
    wanted = vh.patches(folder, cache=cache, **ARGUMENTS)
    made = cache.stat().st_ino
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    same(wanted, vh.patches(copy, cache=cache, **ARGUMENTS))
    assert cache.stat().st_ino == made and len(reads) == 8
    # Another content under the same name and the same modification time.
    stat = (copy / NAMES[0]).stat()
    write(copy / NAMES[0], photograph(17))
    os.utime(copy / NAMES[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = vh.patches(copy, cache=cache, **ARGUMENTS)
    assert cache.stat().st_ino != made and changed.sha256 != wanted.sha256
    same(changed, vh.patches(copy, **ARGUMENTS))


@pytest.mark.parametrize(
    "change",
    [
        {"size": 17},
        {"per_image": 31},
        {"seed": 1},
        {"grid": True},
        {"splits": (0.5, 0, 0.5)},
    ]
    + [{"skip_bad": True}],
)
def test_other_settings_make_another_cache(folder, tmp_path, change):
    cache = tmp_path / "cache.h5"
    vh.patches(folder, cache=cache, **ARGUMENTS)
    made = cache.stat().st_ino
    same(
        vh.patches(folder, **ARGUMENTS | change),
        p := vh.patches(folder, cache=cache, **ARGUMENTS | change),
    )
    assert cache.stat().st_ino != made and p.size == (ARGUMENTS | change)["size"]


def test_one_image_more_or_less_makes_another_cache(folder, tmp_path):
    cache = tmp_path / "cache.h5"
    vh.patches(folder, cache=cache, **ARGUMENTS)
    (folder / NAMES[3]).rename(folder / "imk04001.iml")
    p = vh.patches(folder, cache=cache, **ARGUMENTS)
    assert "imk04001.iml" in all_names(p)
    (folder / "imk04001.iml").unlink()
    assert (
        sum(map(len, vh.patches(folder, cache=cache, **ARGUMENTS).images.values())) == 3
    )


@pytest.fixture
def cached(folder, tmp_path):
    """A cache, and the patches in it."""
    cache = tmp_path / "cache.h5"
    vh.patches(folder, cache=cache, **ARGUMENTS)
    return cache, vh.patches(folder, **ARGUMENTS)


@pytest.mark.parametrize("part", (0, 0.001, 0.01, 0.5, 0.99))
def test_a_cache_cut_short_is_made_again(cached, folder, part):
    cache, wanted = cached
    data = cache.read_bytes()
    cache.write_bytes(data[: int(part * len(data))])
    with pytest.warns(
        UserWarning, match="cache.h5 is damaged, its patches are cut anew"
    ):
        same(wanted, vh.patches(folder, cache=cache, **ARGUMENTS))
    assert cache.stat().st_size == len(data)


def swapped(file):
    one, other = list(file["train"])
    file.move(f"train/{one}", "aside")
    file.move(f"train/{other}", f"train/{one}")
    file.move("aside", f"train/{other}")


def renamed(file):
    (name,) = file["test"]
    file.move(f"test/{name}", "test/imk00009.iml")


def rewritten(file, change):
    (name,) = file["test"]
    part = file["test"][name]
    part[...] = change(part[()])


def in_another_type(file):
    (name,) = file["test"]
    x, attributes = file["test"][name][()], dict(file["test"][name].attrs)
    del file["test"][name]
    file["test"][name] = x.astype("float64")
    file["test"][name].attrs.update(attributes)


CHANGES = {
    "filled with NaN": lambda file: rewritten(file, lambda x: x * np.nan),
    "one last bit": lambda file: rewritten(
        file,
        lambda x: np.where(np.arange(x.size).reshape(x.shape), x, np.nextafter(x, 9)),
    ),
    "another order": lambda file: rewritten(file, lambda x: x[::-1]),
    "another sha256": lambda file: file.attrs.update({"sha256": 64 * "0"}),
    "another source": lambda file: file.attrs.update({"source": vh.PHOTOGRAPHS}),
    "another count": lambda file: file.attrs.update({"dropped": '{"flat": 1}'}),
    "no checksum": lambda file: file.attrs.__delitem__("checksum"),
    "fewer patches": lambda file: next(iter(file["test"].values())).resize(7, axis=0),
    "an image missing": lambda file: file["train"].__delitem__(
        next(iter(file["train"]))
    ),
    "images swapped": swapped,
    "an image renamed": renamed,
    "another type": in_another_type,
    "a split missing": lambda file: file.__delitem__("validation"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_proves_its_content_before_it_is_served(cached, folder, change):
    cache, wanted = cached
    with h5py.File(cache, "r+") as file:
        CHANGES[change](file)
    with pytest.warns(
        UserWarning, match="cache.h5 is damaged, its patches are cut anew"
    ):
        same(wanted, vh.patches(folder, cache=cache, **ARGUMENTS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(wanted, vh.patches(folder, cache=cache, **ARGUMENTS))


def test_any_flipped_bit_of_a_cache_is_harmless(cached, folder):
    """It is seen, or it lies where nothing is kept."""
    cache, wanted = cached
    data, rng = cache.read_bytes(), np.random.default_rng(0)
    seen = 0
    for at in rng.integers(len(data), size=40):
        changed = bytearray(data)
        changed[at] ^= 1 << rng.integers(8)
        cache.write_bytes(changed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                p = vh.patches(folder, cache=cache, **ARGUMENTS)
            except ValueError as error:  # its mark as a cache is lost
                assert "is not a cache of patches" in str(error)
                continue
            same(wanted, p)
        seen += bool(caught)
    assert seen > 20


def test_a_chunk_damaged_after_it_was_proved_is_named(cached, folder):
    cache, _ = cached
    p = vh.patches(folder, cache=cache, **ARGUMENTS)
    (name,) = p.images["test"]
    with h5py.File(cache) as file:
        place = file["test"][name].id.get_chunk_info(0).byte_offset
    with open(cache, "r+b") as stream:
        stream.seek(place + 100)
        stream.write(b"\0\0\0\1")
    assert len(p.train) == 60
    with pytest.raises(OSError, match=f"cache.h5 is damaged at test/{name}: delete it"):
        _ = p.test


def test_files_that_are_no_caches_are_left_alone(folder, tmp_path):
    text = tmp_path / "thesis.txt"
    text.write_text("years of work")
    results = tmp_path / "results.h5"
    with h5py.File(results, "w") as file:
        file["energies"] = np.arange(3)
    for path in (text, results, tmp_path):
        with pytest.raises(ValueError, match=f"{path} is not a cache of patches"):
            vh.patches(folder, cache=path, **ARGUMENTS)
    assert text.read_text() == "years of work"
    with h5py.File(results) as file:
        assert list(file["energies"]) == [0, 1, 2]


def test_a_cache_that_cannot_be_written(folder, tmp_path, reads):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to the output folder"):
        vh.patches(folder, cache=tmp_path / "file" / "cache.h5", **ARGUMENTS)
    assert not reads


def test_an_interrupted_build_keeps_the_older_cache(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache.h5"
    vh.patches(folder, cache=cache, **ARGUMENTS)
    before = cache.read_bytes()

    def interrupt(data):
        raise KeyboardInterrupt

    monkeypatch.setattr(patch_cache, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        vh.patches(folder, seed=5, cache=cache, **ARGUMENTS)
    assert cache.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache.h5", "images"]


# ------------------------------------------------------------------ stand-in photographs


def test_photographs_stand_in_without_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setitem(sys.modules, "pooch", None)
    photographs = vh.photographs()
    assert sorted(photographs) == vh.names()
    assert all(x.ndim == 2 and x.dtype == "uint8" for x in photographs.values())
    p = vh.patches(size=16, per_image=20, cache=tmp_path / "cache.h5")
    assert p.source == "scikit-image photographs"
    assert sorted(all_names(p)) == vh.names()
    same(p, vh.patches(size=16, per_image=20, cache=tmp_path / "cache.h5"))
    np.testing.assert_allclose(
        vh.image("camera"),
        np.log(photographs["camera"].astype("float64") + 1),
        rtol=1e-6,
    )


def test_where_images_are_looked_for(folder, tmp_path, monkeypatch):
    """--data DIR and DEEN_DATA=DIR are the same: the images, or `van_hateren` in it."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "mnist.npz").touch()
    monkeypatch.setenv("DEEN_DATA", str(data))
    assert vh.find() is None  # for other data
    with pytest.raises(ValueError, match="no van Hateren images in .*mnist.npz: not"):
        vh.names(data)
    folder.rename(data / "van_hateren")
    assert vh.names() == vh.names(data) == vh.names(data / "van_hateren") == NAMES
    same(vh.patches(**ARGUMENTS), vh.patches(data, **ARGUMENTS))
    x = vh.image("imk00001")
    np.testing.assert_array_equal(x, vh.image("imk00001", data))
    monkeypatch.setenv("DEEN_DATA", str(data / "van_hateren"))
    assert vh.names() == NAMES
    assert (
        vh.patches(vh.PHOTOGRAPHS, size=16, per_image=5).source
        == "scikit-image photographs"
    )
    one = data / "van_hateren" / NAMES[1]
    assert vh.names(one) == [NAMES[1]]
    monkeypatch.setenv("DEEN_DATA", str(tmp_path / "mistyped"))
    with pytest.raises(FileNotFoundError, match="mistyped .named by DEEN_DATA."):
        vh.patches(**ARGUMENTS)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 1}, "size must be at least 2"),
        ({"size": 301}, "size must be at most 300, the side of chelsea"),
        ({"per_image": 0}, "per_image must be at least 1"),
        ({"per_image": None}, "needs grid=True"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"splits": (0.5, 0.5)}, "three fractions"),
        ({"splits": (0.5, 0.5, 0.5)}, "three fractions"),
        ({"splits": (1, -0.5, 0.5)}, "each of splits must be finite and not negative"),
        ({"splits": (0, 0, 0)}, "three fractions"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        vh.patches(**arguments)


# ------------------------------------------------------------------ streaming


@pytest.mark.parametrize("cached", [True, False])
def test_a_stream_gives_every_patch_once_an_epoch(
    folder, tmp_path, cached, monkeypatch
):
    monkeypatch.setattr(patch_cache, "CHUNK", 7)  # several chunks in an image
    cache = tmp_path / "cache.h5" if cached else None
    p = vh.patches(folder, cache=cache, **ARGUMENTS)
    stream = p.stream("train", batch_size=16, seed=1, buffer=2)
    first, second = ([batch.numpy() for batch in stream] for _ in range(2))
    assert "train" not in vars(p)  # never read as a whole
    assert [len(batch) for batch in first] == [16, 16, 16, 12]
    assert len(stream) == 4 and stream.element_spec.shape.as_list() == [None, 256]

    def rows(batches):
        return [row.tobytes() for row in np.concatenate(batches)]

    wanted = [row.tobytes() for row in p.train]
    assert sorted(rows(first)) == sorted(rows(second)) == sorted(wanted)
    assert rows(first) != rows(second) and rows(first) != wanted
    # The order is that of (seed, epoch).
    again = p.stream("train", batch_size=16, seed=1, buffer=2, epoch=1)
    assert rows([batch.numpy() for batch in again]) == rows(second)
    other = p.stream("train", batch_size=16, seed=2, buffer=2)
    assert rows([batch.numpy() for batch in other]) != rows(first)
    plain = p.stream("train", batch_size=16, shuffle=False)
    assert rows([batch.numpy() for batch in plain]) == wanted


def test_streams_refuse_what_is_not_there(folder):
    p = vh.patches(folder, **ARGUMENTS | {"splits": (0.5, 0, 0.5)})
    with pytest.raises(ValueError, match="no validation patches"):
        p.stream("validation")
    with pytest.raises(ValueError, match="split must be one of .*'training'"):
        p.stream("training")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        p.stream(batch_size=0)


# ------------------------------------------------------------------ normalisation


@pytest.fixture
def x():
    random = np.random.default_rng(0)
    contrast = random.uniform(0.05, 2, (50, 1))
    return (7 + contrast * random.standard_normal((50, 64))).astype("float32")


def test_means_are_removed_and_the_overall_scale_is_one(x):
    scale = vh.overall_std(x)
    assert scale == pytest.approx(
        np.sqrt(np.var(x.astype("float64"), axis=1).mean()), rel=1e-5
    )
    z, mean = vh.remove_mean(x, scale)
    np.testing.assert_allclose(
        z.mean(1), 0, atol=1e-5
    )  # float32 sums of numbers near 7
    assert z.std() == pytest.approx(1, rel=1e-5)
    assert z.std(1).max() > 1.5 and z.std(1).min() < 0.5  # contrasts are kept
    np.testing.assert_allclose(vh.restore(z, mean, scale), x, atol=1e-5)


def test_contrast_is_normalised(x):
    z, mean, std = vh.normalise_contrast(x)
    np.testing.assert_allclose(z.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(1), 1, rtol=1e-4)
    assert mean.shape == std.shape == (50, 1)
    np.testing.assert_allclose(std[:, 0], x.astype("float64").std(1), rtol=1e-4)
    np.testing.assert_allclose(vh.restore(z, mean, std), x, atol=1e-5)
    x[3] = 0.1  # its mean and std are not exact in float32
    with pytest.raises(ValueError, match="patch 3 is flat"):
        vh.normalise_contrast(x)


# ------------------------------------------------------------------ the real images


def test_real_images():
    if not os.path.isdir(REAL):
        pytest.skip(
            "no van Hateren images: set DEEN_DATA to the folder that holds van_hateren"
        )
    assert len(vh.names(REAL)) >= 3
    p = vh.patches(REAL, per_image=20)
    assert p.source == "van Hateren" and not p.skipped
    # Contrast within a patch of 3 % to 100 %: the images are natural, the units right.
    assert 0.1 < vh.overall_std(p.train) < 1
    x = vh.image(vh.names(REAL)[0], REAL)
    assert x.shape == CROPPED
    # No bad border is left: each edge is like the line next to it.
    for edge, inside in (
        (x[0], x[1]),
        (x[-1], x[-2]),
        (x[:, 0], x[:, 1]),
        (x[:, -1], x[:, -2]),
    ):
        assert abs(edge.mean() - inside.mean()) < 0.05
