"""Outputs appear whole or not at all: written under a temporary name, then moved into place."""

import contextlib
import os
import shutil
import tempfile


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
    workspace = tempfile.mkdtemp(prefix=f".{name}-", dir=folder)
    temporary = os.path.join(workspace, name)
    try:
        yield temporary
        if os.path.isdir(temporary) and os.path.isdir(path):
            # A folder cannot be replaced in one step: set the old one aside first.
            os.rename(path, os.path.join(workspace, "old"))
        os.replace(temporary, path)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
