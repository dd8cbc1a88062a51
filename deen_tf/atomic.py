"""Outputs appear whole or not at all: written under a temporary name, then moved into place.

Whoever opens `path` finds the old output or the new one, also after a power cut, and when
two write at once one of the two. A folder is one output too: old and new change places in
one step where the system can (Linux); elsewhere there is a moment without it. Who is reading
a folder file by file when it is replaced must open it again.

`write_bytes` and `hdf5` write a file so; `replacing` lets any writer do it; `lock` keeps two
runs out of one folder.
"""

import contextlib
import ctypes
import errno
import glob
import hashlib
import io
import itertools
import os
import shutil
import stat
import tempfile
import time

DAY = 86_400.0  # seconds after which what a killed writer left is removed
LONGEST = 100  # bytes of a name that are repeated in that of its temporary folder


@contextlib.contextmanager
def replacing(path):
    """Give a temporary path beside `path`; when the block ends without error, move it to `path`.

    The temporary name keeps the file's ending, so writers that look at it still work. It may
    become a file or a folder. After an error nothing is left, and an older `path` is untouched.
    As in writing to a file that is open: a symbolic link stays, what it points to is replaced;
    an older output's permissions stay, a new one's are those of the umask.

    Raises
    ------
    OSError
        The block's own, about `path` where it named the temporary path or none; or if `path`
        is neither a file nor a folder (a device, a symbolic link in a circle).

    Examples
    --------
    >>> with replacing("result.txt") as temporary:
    ...     with open(temporary, "w") as stream:
    ...         _ = stream.write("all of it")
    >>> open("result.txt").read()
    'all of it'
    """
    given = os.path.abspath(os.fsdecode(path))
    path = os.path.realpath(given)
    mode = _mode(path)
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "Neither a file nor a folder", given)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    short = len(os.fsencode(name)) <= LONGEST
    stem = name if short else hashlib.sha256(os.fsencode(name)).hexdigest()
    _remove_left_over(os.path.join(folder, f".{stem}.unfinished-"))
    workspace = tempfile.mkdtemp(prefix=f".{stem}.unfinished-", dir=folder)
    temporary = os.path.join(workspace, name)
    try:
        yield temporary
        if os.path.isfile(temporary):
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
        if mode:
            os.chmod(temporary, stat.S_IMODE(mode))
        _move(temporary, path, workspace)
    except OSError as error:
        about = str(error.filename or workspace)
        if error.errno is None or not about.startswith(workspace):
            raise
        told = OSError(error.errno, error.strerror, given)
        raise told.with_traceback(error.__traceback__) from None
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def write_bytes(path, content):
    """Write a file of these bytes, as `replacing` does: OSError if the disk is full."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        stream.write(content)


@contextlib.contextmanager
def hdf5(path):
    """Give a new h5py.File; when the block ends without error, it is moved to `path`.

    On a full disk the block goes on to its end, and then OSError names `path`: HDF5 itself
    must not see a failing write, or it ends the whole process. What is written need not fit
    in memory.
    """
    import h5py

    with (
        replacing(path) as temporary,
        _Patient(temporary, "w+") as disk,
        h5py.File(disk, "w") as file,
    ):
        yield file


class _Patient(io.FileIO):
    """A file that keeps its first error until it is closed at the end of its block."""

    failure = None

    def write(self, data):
        data = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(data) and not self.failure:
                written += super().write(data[written:])
        except OSError as error:
            self.failure = error
        return len(data)

    def truncate(self, size=None):
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error

    def readinto(self, buffer):
        size = super().readinto(buffer)
        if self.failure:  # what was not written
            buffer[size:] = bytes(len(buffer) - size)
            return len(buffer)
        return size

    def __exit__(self, kind, *error):
        super().__exit__(kind, *error)
        if self.failure and (kind is None or issubclass(kind, Exception)):
            raise self.failure from None


@contextlib.contextmanager
def lock(folder):
    """Keep other runs out of `folder`, which is made if it is missing, during the block.

    The lock is the system's, on the file `.lock` in it: it ends with the process, however
    that ends. Where there are no such locks (Windows, some network disks) nobody is refused.

    Raises
    ------
    BlockingIOError
        If another run, named by its process number, holds it.
    """
    folder = os.path.abspath(folder)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, ".lock")
    with contextlib.ExitStack() as stack:
        while True:
            stream = stack.enter_context(open(path, "a+"))
            if not _locked(stream):
                stream.seek(0)
                pid = stream.read().strip()
                raise BlockingIOError(
                    f"another run{f' (pid {pid})' * bool(pid)} is writing to {folder}: wait "
                    "until it has ended, or write to another folder"
                )
            # Whoever held it before may have removed the file between opening and locking.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                    break
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder itself may be gone
                os.remove(path)


def _locked(stream):
    """Lock an open file; False if another has."""
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # no such locks here
        pass
    return True


def _mode(path):
    """Return what `path` is and its permissions, 0 if there is no such path."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return 0


def _move(temporary, path, workspace):
    for turn in itertools.count():
        if os.path.isdir(temporary) and os.path.isdir(path):
            if _exchange(temporary, path):
                return
            # A folder cannot be replaced in one step: set the old one aside first.
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, os.path.join(workspace, f"old-{turn}"))
        try:
            return os.replace(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another writer's folder came in between: replace that one.


def _exchange(a, b):
    """Let two paths change places in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, TypeError):  # not Linux
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def _remove_left_over(prefix):
    for workspace in glob.glob(glob.escape(prefix) + "*"):
        with contextlib.suppress(OSError):  # another writer was faster
            if time.time() - os.path.getmtime(workspace) > DAY:
                shutil.rmtree(workspace)
