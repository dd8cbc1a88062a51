"""Outputs appear whole or not at all: written under a temporary name, then moved into place.

Whoever opens `path` finds the old output or the new one. A folder is one output too: the
two change places in one step where the system can (Linux); elsewhere there is a moment
without it. Who is reading a folder file by file when it is replaced must open it again.
"""

import contextlib
import ctypes
import glob
import os
import shutil
import tempfile
import time

DAY = 86_400.0  # seconds after which what a killed writer left is removed


@contextlib.contextmanager
def replacing(path):
    """Give a temporary path beside `path`; when the block ends without error, move it to `path`.

    The temporary name keeps the file's ending, so writers that look at it still work. It may
    become a file or a folder. After an error nothing is left, and an older `path` is untouched.

    Examples
    --------
    >>> with replacing("result.json") as temporary:
    ...     with open(temporary, "w") as stream:
    ...         json.dump(result, stream)
    """
    path = os.path.abspath(path)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    prefix = f".{name}.unfinished-"
    _remove_left_over(os.path.join(folder, prefix))
    workspace = tempfile.mkdtemp(prefix=prefix, dir=folder)
    temporary = os.path.join(workspace, name)
    try:
        yield temporary
        if os.path.isdir(temporary) and os.path.isdir(path):
            if _exchange(temporary, path):
                return
            # A folder cannot be replaced in one step: set the old one aside first.
            os.rename(path, os.path.join(workspace, "old"))
        os.replace(temporary, path)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


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
