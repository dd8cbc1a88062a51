"""Folders and archives: read as the standard library reads them, at a bounded cost."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from deen_tf.datasets import archives
from deen_tf.datasets import van_hateren as vh

PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def found(path, most=1000):
    with contextlib.ExitStack() as stack:
        return [
            (name, size, read() if size is not None else None)
            for name, size, read in archives.members(str(path), most, stack)
        ]


def as_tarfile_says(path):
    with tarfile.open(path) as archive:
        return [
            (info.name, info.size, archive.extractfile(info).read())
            if info.isreg()
            else (info.name, None, None)
            for info in archive
            if not info.isdir()
        ]


def header(name="a", size=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data):
    return data + bytes(-len(data) % 512)


NAMES = ["a", "folder/b", 99 * "c", 100 * "d", 101 * "e", 300 * "f", "g/" * 120 + "h"]
NAMES += ["\u00e4\u00f6", 200 * "\u00fc", "with space", "with=sign", "12 path=x"]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize(
    "form", (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
)
def test_tars_are_read_as_tarfile_reads_them(form, ending, tmp_path):
    rng = np.random.default_rng(0)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for k, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            info.size = (0, 1, 511, 512, 513, 700)[k % 6]
            info.mtime = k + 0.5  # a pax header of its own
            with contextlib.suppress(ValueError):  # too long for ustar
                archive.addfile(info, io.BytesIO(rng.bytes(info.size)))
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.DIRTYPE,
            tarfile.FIFOTYPE,
        ):
            info = tarfile.TarInfo(f"of type {kind}")
            info.type, info.linkname = kind, 150 * "x" if form != 0 else "x"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("last"))
    path = tmp_path / f"archive.tar{ending}"
    path.write_bytes(PACK[ending](out.getvalue()))
    members = found(path)
    assert members == as_tarfile_says(path)
    assert len(members) >= 10 and members[-1][0] == "last"


def test_members_can_be_read_in_any_order(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for k in range(5):
            info = tarfile.TarInfo(str(k))
            info.size = 600
            archive.addfile(info, io.BytesIO(bytes([k]) * 600))
    with contextlib.ExitStack() as stack:
        members = list(archives.members(str(tmp_path / "a.tar.gz"), 10**6, stack))
        for k in (3, 0, 4, 4, 1):
            assert members[k][2]() == bytes([k]) * 600


@pytest.mark.parametrize("form", ("folder", "file", "zip", "tar"))
def test_no_more_of_a_member_is_read_than_asked_for(form, tmp_path):
    data = np.random.default_rng(0).bytes(5000)
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "a"
    path.write_bytes(data)
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(path, "a")
    elif form == "tar":
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.add(path, "a")
    where = {"folder": path.parent, "file": path}.get(form, tmp_path / f"a.{form}")
    assert found(where, 700) == [("a", 5000, data[:700])]
    assert found(where, 9000) == [("a", 5000, data)]


@pytest.mark.parametrize("ending", PACK)
def test_what_is_compressed_is_told_by_its_content(ending, tmp_path):
    for name in ("a", "a.gz", "a.tar"):
        (tmp_path / name).write_bytes(PACK[ending](b"some content"))
        with archives.unpacked(tmp_path / name) as stream:
            assert stream.read() == b"some content"


def test_a_link_in_a_circle_hides_nothing(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").symlink_to("b")
    (tmp_path / "c").symlink_to("nowhere")
    (tmp_path / "d").symlink_to("a")
    (tmp_path / "e").symlink_to(".")
    (tmp_path / "f").write_text("f")
    assert found(tmp_path) == [
        ("a", 1, b"a"),
        ("b", None, None),
        ("c", None, None),
        ("d", 1, b"a"),
        ("f", 1, b"f"),
    ]


# ---- archives made to do harm -------------------------------------------------------------


def long_header(kind, size, character):
    """A header that says it goes on for `size` bytes, and these bytes."""
    return header("long", size, kind) + character * size + bytes(-size % 512)


HARM = {
    # tarfile searches N digits in a time of N^2.
    "pax of digits": lambda: long_header(tarfile.XHDTYPE, 2**26, b"0"),
    "global pax of digits": lambda: long_header(tarfile.XGLTYPE, 2**26, b"0"),
    "long name": lambda: long_header(tarfile.GNUTYPE_LONGNAME, 2**26, b"x"),
    "long link": lambda: long_header(tarfile.GNUTYPE_LONGLINK, 2**26, b"x"),
    "headers without end": lambda: 5000 * long_header(tarfile.XHDTYPE, 0, b"0"),
    "members without end": lambda: 5000 * header("a"),
    "digits as long as allowed": lambda: (
        200 * long_header(tarfile.XHDTYPE, 2**16, b"0") + header("a", 2**40)
    ),
    "far more than there is": lambda: header("imk00001.iml", 2**33),
    "larger than any": lambda: header("imk00001.iml", 2**60),
    "less than nothing": lambda: header("imk00001.iml", -(2**20)),
    "sparse": lambda: header("imk00001.iml", 0, tarfile.GNUTYPE_SPARSE),
    "cut within a header": lambda: header("a") + header("b")[:300],
    "no header": lambda: header("a") + b"x" * 512,
}


@pytest.mark.parametrize("harm", HARM)
def test_a_tar_made_to_do_harm_is_refused_at_once(harm, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBERS", archives.MEMBERS // 25)
    path = tmp_path / "images.tar.gz"
    path.write_bytes(gzip.compress(HARM[harm](), 1))
    assert path.stat().st_size < 2_000_000
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ValueError, match="images.tar.gz: damaged") as caught:
        vh.patches(path)
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A header of 64 MB takes years in a time of N^2, and half a second to unpack; 4000
    # members, or one header, a few MB.
    assert seconds < 10 and peak < 1e7 and len(str(caught.value)) < 1000


def test_what_is_damaged_half_way_is_said(tmp_path):
    """tarfile ends there as if that were all."""
    path = tmp_path / "images.tar"
    image = padded(bytes(2 * 1024 * 1536))
    second = bytearray(header("imk00002.iml", len(image)))
    second[0] ^= 1
    parts = header("imk00001.iml", len(image)) + image + bytes(second) + image
    path.write_bytes(parts + bytes(1024))
    with pytest.raises(ValueError, match="images.tar: damaged .*bad checksum"):
        vh.patches(path)


def test_a_flipped_bit_or_a_cut_is_an_error_or_told_as_tarfile_does(tmp_path):
    path, name = tmp_path / "a.tar", b"20 path=bbbbbbbbbbb\n"
    extended = header("pax", len(name), tarfile.XHDTYPE)
    data = header("a", 3) + padded(b"abc") + extended + padded(name) + header("b", 3)
    data += padded(b"def") + header("c") + bytes(1024)
    told = 0
    for at in range(0, len(data), 11):
        if 1536 <= at < 2048:  # within the long name
            continue
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        for changed in (bytes(flipped), data[:at]):
            path.write_bytes(changed)
            with contextlib.suppress(*archives.DAMAGE):
                assert found(path) == as_tarfile_says(path)
                told += 1
    assert 100 < told < 400  # in the content of files, and where the archive is cut


def test_what_strangers_wrote_is_shown_short_and_printable(tmp_path):
    evil = "\x1b[2J\u202e\n\udc80" + 70_000 * "x" + ".iml"
    with tarfile.open(
        tmp_path / "images.tar", "w", format=tarfile.GNU_FORMAT
    ) as archive:
        archive.addfile(tarfile.TarInfo(evil[:60_000] + ".iml"))
    with pytest.raises(ValueError, match="not named like imk00001.iml") as caught:
        vh.patches(tmp_path / "images.tar")
    assert "?[2J???xxxx" in str(caught.value) and len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    assert archives.legible("short") == "short"
    assert archives.legible(80 * "x") == 80 * "x"
    assert archives.legible(81 * "x") == 80 * "x" + "..."


@pytest.mark.parametrize("name", ("imk00001.iml", "images.zip", "images.tar.gz"))
def test_a_pipe_is_never_opened(name, tmp_path):
    os.mkfifo(tmp_path / name)
    assert found(tmp_path) == [(name, None, None)]
    with pytest.raises(ValueError, match=f"{name}: .*not a regular file"):
        vh.patches(tmp_path / name)
