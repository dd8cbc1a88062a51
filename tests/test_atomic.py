"""Outputs appear whole or not at all, under whatever name, on whatever disk."""

import contextlib
import errno
import os
import pathlib
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest

from deen_tf import atomic


class Killed(BaseException):
    pass


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount a disk of `size` bytes on a folder; skip the test where that is not allowed."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        mounted = subprocess.run(
            ["mount", *options], check=False, capture_output=True
        ).returncode
    except OSError:
        mounted = -1
    if mounted:
        pytest.skip("cannot mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 40 * 1024) as folder:
        yield folder


def write(path, content="new"):
    with atomic.replacing(path) as temporary:
        pathlib.Path(temporary).write_text(content)


# ---- a full disk ------------------------------------------------------------------------


def write_hdf5(path, n):
    with atomic.hdf5(path) as file:
        for group in "abc":  # metadata between the data, as in a file of weights
            file.create_group(group).attrs["n"] = n
            file[group]["x"] = np.arange(n)


WRITERS = {
    "bytes": lambda path, n: atomic.write_bytes(path, bytes(8 * n)),
    "text": lambda path, n: write(path, "12345678" * n),
    "hdf5": write_hdf5,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_error_that_names_the_file(writer, disk):
    path = disk / "result"
    WRITERS[writer](path, 10)
    older = path.read_bytes()
    with pytest.raises(OSError) as caught:
        WRITERS[writer](path, 10_000)
    assert str(caught.value) == f"[Errno 28] No space left on device: '{path}'"
    assert caught.value.errno == errno.ENOSPC and caught.value.__suppress_context__
    assert path.read_bytes() == older and os.listdir(disk) == ["result"]
    WRITERS[writer](path, 20)  # there is room again
    assert path.read_bytes() != older


ATOMIC = f"""
import runpy, sys
hdf5 = runpy.run_path({atomic.__file__!r})["hdf5"]
"""


def process(script, *arguments):
    command = [sys.executable, "-c", ATOMIC + script, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_hdf5_does_not_end_the_process_wherever_the_disk_is_full(tmp_path):
    """Not at any of the writes that a file consists of, nor when the process ends."""
    script = """
for folder in sys.argv[1:]:
    try:
        with hdf5(folder + "/file.h5") as file:
            for i in range(1000):
                file.create_group(str(i)).attrs["i"] = i
                file[str(i)]["x"] = range(50)
    except OSError as error:
        print(error)
"""
    with contextlib.ExitStack() as stack:
        folders = [
            stack.enter_context(small_disk(tmp_path / str(kb), 1024 * kb))
            for kb in (4, 8, 24, 40, 100, 400)
        ]
        run = process(script, *folders)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.splitlines() == [
            f"[Errno 28] No space left on device: '{folder}/file.h5'"
            for folder in folders
        ]
        assert not any(os.listdir(folder) for folder in folders)


def test_an_interrupt_on_a_full_disk_stays_one(disk):
    with pytest.raises(KeyboardInterrupt), atomic.hdf5(disk / "file.h5") as file:
        file["x"] = np.arange(10_000)
        raise KeyboardInterrupt


def test_hdf5_needs_no_memory_for_what_is_written(tmp_path):
    pytest.importorskip("resource")
    script = """
import resource
import h5py, numpy as np
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with hdf5(sys.argv[1]) as file:
    before = peak()
    for i in range(64):
        file[str(i)] = np.full(2**18, i, "float64")  # 2 MB each
print(peak() - before)
"""
    run = process(script, tmp_path / "file.h5")
    assert int(run.stdout) < 32 * 1024  # kB, of 128 MB written
    with h5py.File(tmp_path / "file.h5") as file:
        assert all((file[str(i)][()] == i).all() for i in range(64))


# ---- names, links, permissions ------------------------------------------------------------


@pytest.mark.parametrize("length", (1, 100, 101, 234, 240, 255))
@pytest.mark.parametrize("letter", ("x", "\u00e4"))
def test_names_of_any_length_that_the_system_takes(length, letter, tmp_path):
    size = len(letter.encode())
    name = letter * (length // size) + "y" * (length % size)
    assert len(name.encode()) == length
    for content in ("older", "newer"):
        write(tmp_path / name, content)
    assert (tmp_path / name).read_text() == "newer"
    assert os.listdir(tmp_path) == [name]
    with atomic.replacing(tmp_path / "folder" / name) as temporary:
        os.mkdir(temporary)
    assert (tmp_path / "folder" / name).is_dir()


@pytest.mark.parametrize("kind", ("file", "folder", "chain", "new"))
def test_what_a_symbolic_link_points_to_is_replaced(kind, tmp_path):
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    target.parent.mkdir()
    if kind == "folder":
        target.mkdir()
    elif kind != "new":  # (a link to what is not there yet makes it, as `open` does)
        target.write_text("older")
    if kind == "chain":
        (tmp_path / "between").symlink_to(target)
        link.symlink_to("between")
    else:
        link.symlink_to(os.path.join("there", "target"))
    before = os.readlink(link)
    with atomic.replacing(link) as temporary:
        if kind == "folder":
            os.mkdir(temporary)
            temporary = os.path.join(temporary, "inside")
        pathlib.Path(temporary).write_text("newer")
    written = target / "inside" if kind == "folder" else target
    assert os.readlink(link) == before and written.read_text() == "newer"
    assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize("kind", ("circle", "pipe"))
def test_what_is_neither_file_nor_folder_is_left_alone(kind, tmp_path):
    path = tmp_path / "path"
    if kind == "circle":
        path.symlink_to("path")
    else:
        os.mkfifo(path)
    message = "Neither a file nor a folder|Too many levels of symbolic links"
    with (
        pytest.raises(OSError, match=f"({message}): '{path}'"),
        atomic.replacing(path),
    ):
        raise AssertionError("begun")
    assert os.listdir(tmp_path) == ["path"] and not path.is_file()


@pytest.mark.parametrize("mask", (0o022, 0o077, 0o002))
def test_permissions(mask, tmp_path):
    """An older file's stay, a new one's are those of the umask."""
    (tmp_path / "older").touch()
    (tmp_path / "older").chmod(0o640)
    before = os.umask(mask)
    try:
        for name in ("older", "new"):
            write(tmp_path / name)
            write_hdf5(tmp_path / f"{name}.h5", 3)
        with atomic.replacing(tmp_path / "folder") as temporary:
            os.mkdir(temporary)
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    new = 0o666 & ~mask
    assert modes == {
        "older": 0o640,
        "new": new,
        "older.h5": new,
        "new.h5": new,
        "folder": 0o777 & ~mask,
    }


def test_errors_speak_of_the_path_that_the_user_gave(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write(tmp_path / "folder")
    assert caught.value.filename == str(tmp_path / "folder")
    with (
        pytest.raises(FileNotFoundError) as caught,
        atomic.replacing(tmp_path / "file") as temporary,
        open(os.path.join(temporary, "inside"), "w"),
    ):
        pass
    assert caught.value.filename == str(tmp_path / "file")
    for error in (OSError("no number"), FileNotFoundError(2, "gone", "another")):
        with pytest.raises(OSError) as caught, atomic.replacing(tmp_path / "file"):
            raise error
        assert caught.value is error
    assert os.listdir(tmp_path) == ["folder"]


def test_an_error_leaves_the_older_output(tmp_path):
    (tmp_path / "file").write_text("older")
    with pytest.raises(Killed), atomic.replacing(tmp_path / "file") as temporary:
        pathlib.Path(temporary).write_text("half")
        raise Killed
    assert (tmp_path / "file").read_text() == "older"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ("a", 250 * "a"))
def test_what_a_killed_writer_left_is_removed_after_a_day(name, tmp_path):
    def left_by(name):
        with contextlib.suppress(Killed), atomic.replacing(tmp_path / name):
            (folder,) = tmp_path.iterdir()
            raise Killed
        return folder

    old, fresh, other = left_by(name), left_by(name), left_by(name + "b")
    for folder in (old, fresh, other):
        folder.mkdir()
    past = time.time() - 1.1 * atomic.DAY
    for folder in (old, other):
        os.utime(folder, (past, past))
    write(tmp_path / name)
    assert not old.exists() and fresh.exists() and other.exists()


# ---- two at once --------------------------------------------------------------------------


def while_writing(write, read, times):
    """Call `read` all the while that another thread calls `write` again and again."""
    reads, errors = 0, []

    def writer():
        try:
            for i in range(times):
                write(i)
        except Exception as error:  # noqa: BLE001 (shown by the reader)
            errors.append(error)

    write(0)
    thread = threading.Thread(target=writer)
    thread.start()
    while thread.is_alive():
        read()
        reads += 1
    thread.join()
    assert not errors, errors
    assert reads > 5


def write_folder(path, content):
    with atomic.replacing(path) as temporary:
        os.makedirs(temporary)
        for name in "abc":
            pathlib.Path(temporary, name).write_text(str(content))


@pytest.mark.skipif(
    sys.platform != "linux", reason="two folders change places on Linux"
)
def test_a_folder_is_there_at_every_moment(tmp_path):
    path = tmp_path / "model"

    def read():
        folder = os.open(path, os.O_RDONLY)  # one and the same folder, old or new
        try:
            # (Of an old one that is being removed, what is left.)
            assert set(os.listdir(folder)) <= {"a", "b", "c"}
        finally:
            os.close(folder)
        assert path.is_dir()

    while_writing(lambda i: write_folder(path, i), read, 300)
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_is_replaced_where_nothing_is_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    for content in "ab":
        with atomic.replacing(tmp_path / "model") as temporary:
            os.mkdir(temporary)
            pathlib.Path(temporary, content).touch()
    assert os.listdir(tmp_path / "model") == ["b"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("kind", ("file", "folder", "folder set aside"))
def test_two_writers_at_once_leave_the_whole_output_of_one(kind, tmp_path, monkeypatch):
    path = tmp_path / "output"
    if kind == "folder set aside":
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    errors, start = [], threading.Barrier(4)

    def writer(who):
        try:
            start.wait()
            for i in range(100):
                content = f"{who}{i}" * 50
                if kind == "file":
                    write(path, content)
                else:
                    write_folder(path, content)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=writer, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    files = [path] if kind == "file" else sorted(path.iterdir())
    last = {who + "99" for who in "abcd"}
    contents = {file.read_text() for file in files}
    assert len(files) == (1 if kind == "file" else 3) and len(contents) == 1
    assert contents.pop() in {50 * who for who in last}
    assert os.listdir(tmp_path) == ["output"]


# ---- a lock -------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    script = """
with runpy.run_path(sys.argv[1])["lock"](sys.argv[2]):
    print("held", flush=True)
    input()
"""
    command = [sys.executable, "-c", "import runpy, sys" + script]
    with subprocess.Popen(
        [*command, atomic.__file__, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_run_is_refused_by_name(other, tmp_path):
    out = tmp_path / "out"
    message = rf"another run \(pid {other.pid}\) is writing to {out}: "
    with pytest.raises(BlockingIOError, match=message), atomic.lock(out):
        raise AssertionError("both at once")
    with atomic.lock(tmp_path / "elsewhere"):
        pass


def test_a_killed_run_holds_nothing(other, tmp_path):
    other.kill()
    other.wait()
    assert os.listdir(tmp_path / "out") == [".lock"]
    with atomic.lock(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path / "out") == []


def test_the_lock_ends_with_its_block(tmp_path):
    out = tmp_path / "new" / "out"
    for _ in range(2):
        with pytest.raises(Killed), atomic.lock(out):
            with (
                pytest.raises(BlockingIOError, match=f"pid {os.getpid()}"),
                atomic.lock(out),
            ):
                raise AssertionError("both at once")
            raise Killed
        assert os.listdir(out) == []


def test_never_two_in_one_folder(tmp_path):
    """Many threads take it and let go of it; none is ever in it together with another."""
    inside, most, refused = [], [], []

    def run():
        for _ in range(200):
            try:
                with atomic.lock(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0)
                    inside.pop()
            except BlockingIOError:
                refused.append(1)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) + len(refused) == 800
    assert os.listdir(tmp_path) == []
