"""The files in a folder, a .zip, a .tar(.gz, .bz2, .xz), or a single one.

Archives are never extracted, and nothing costs more than what it claims to be is worth: of
a file no more is read than was asked for, a header of a tar may hold 64 KiB, and an archive
100,000 members and 32 GiB. (`tarfile` reads a header whatever its size, in a time that
grows as its square, and keeps all of them.)
"""

import bz2
import contextlib
import functools
import gzip
import lzma
import os
import re
import tarfile
import zipfile
import zlib

DAMAGE = (OSError, EOFError, RuntimeError, ValueError, tarfile.TarError)
DAMAGE += (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
HEADER, MEMBERS, LARGEST = 2**16, 100_000, 2**35
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def members(path, most, stack):
    """Yield (name, size or None if not a regular file, function that reads it).

    Parameters
    ----------
    path : str
    most : int
        Bytes read of a member at most.
    stack : contextlib.ExitStack
        Until it closes, members can be read.
    """
    if os.path.isdir(path):
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            try:
                if entry.is_dir():
                    continue
                size = entry.stat().st_size if entry.is_file() else None
            except OSError:  # a symbolic link in a circle
                size = None
            yield (
                entry.name,
                size,
                functools.partial(_bytes, most, open, entry.path, "rb"),
            )
    elif not os.path.isfile(path):  # a pipe would be waited for
        raise OSError("not a regular file")
    elif path.lower().endswith(".zip"):
        archive = stack.enter_context(zipfile.ZipFile(path))
        for info in archive.infolist():
            if not info.is_dir():
                read = functools.partial(_bytes, most, archive.open, info)
                yield info.filename, info.file_size, read
    elif path.lower().endswith(TARS):
        stream = stack.enter_context(unpacked(path))
        for name, size, start in _tar_members(stream):
            length = min(most, size or 0)
            yield name, size, functools.partial(_bytes, length, _part, stream, start)
    else:
        read = functools.partial(_bytes, most, open, path, "rb")
        yield os.path.basename(path), os.path.getsize(path), read


def unpacked(path):
    """Open a file to read its bytes; a compressed one, whatever its name, is unpacked."""
    with open(path, "rb") as stream:
        start = stream.read(6)
    compressed = (open_ for magic, open_ in OPENERS.items() if start.startswith(magic))
    return next(compressed, open)(path, "rb")


def legible(text, most=80):
    """Return what a stranger wrote as it can be shown: of that length, and printable."""
    text = str(text)[: most + 1]
    shown = "".join(c if c.isprintable() else "?" for c in text[:most])
    return shown + "..." * (len(text) > most)


def _bytes(most, opener, *arguments):
    with opener(*arguments) as stream:
        return stream.read(most)  # never more, whatever a header says


@contextlib.contextmanager
def _part(stream, start):
    stream.seek(start)
    yield stream


def _tar_members(stream):
    """Yield (name, size or None if not a regular file, where its bytes begin)."""
    longer = None  # the next member's name, where its own header has no room for it
    for _ in range(MEMBERS):
        block = stream.read(512)
        if not block.strip(b"\0"):
            return
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        start = stream.tell()
        if info.type in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            info.size = 0  # whatever the header says, as in tarfile
        end = start + -(-info.size // 512) * 512
        if info.size < 0 or end > LARGEST or info.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a member too large, or sparse")
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) or (
            info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        ):
            if info.size > HEADER:
                raise tarfile.ReadError(f"a header of {info.size} bytes")
            content = stream.read(info.size)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                longer = content.rstrip(b"\0")
            elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                path = re.search(rb"(?:^|\n)\d{1,9} path=([^\n]*)", content)
                longer = path[1] if path else longer
        else:
            name = longer.decode("utf-8", "surrogateescape") if longer else info.name
            if info.type != tarfile.DIRTYPE:
                regular = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                yield name, info.size if regular else None, start
            longer = None
        if end > start:
            stream.seek(end - 1)
            if not stream.read(1):
                raise tarfile.ReadError("unexpected end of data")
    raise tarfile.ReadError(f"more than {MEMBERS} members")
