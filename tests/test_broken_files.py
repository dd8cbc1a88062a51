"""Broken files, full disks, places that cannot be written, no network.

What is damaged is named and never used; what cannot be written leaves the older output.
"""

import contextlib
import errno
import io
import os
import pathlib
import resource
import tarfile
import zipfile

import h5py
import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import deen_tf as deen
from deen_tf import atomic, sampling
from deen_tf.datasets import mnist, van_hateren
from deen_tf.laws import plane as toy
from tests.test_hostile_input import PACKAGE, X, raised_here
from tests.test_mnist import idx, small, write


@pytest.fixture(scope="module")
def model():
    model = deen.DEEN((5, 4), sigma=0.3)
    model.build((None, 2))
    model.compile(run_eagerly=True)
    return model


def listing(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@contextlib.contextmanager
def full_disk(room):
    """Let no file grow beyond `room` bytes: writes fail half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def keras_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    model.save(path)
    return path.read_bytes()


class TestFullDisk:
    def test_replacing(self, tmp_path):
        path = tmp_path / "result.json"
        path.write_text("older")
        with (
            pytest.raises(OSError, match="File too large|No space left") as caught,
            full_disk(1000),
            atomic.replacing(path) as temporary,
            open(temporary, "w") as stream,
        ):
            stream.write(5000 * "x")
        assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
        assert path.read_text() == "older" and listing(tmp_path) == ["result.json"]

    def test_saving(self, model, keras_file, tmp_path):
        path = tmp_path / "model.keras"
        path.write_bytes(keras_file)
        with pytest.raises(OSError, match="File too large"), full_disk(1000):
            model.save(path)
        assert path.read_bytes() == keras_file and listing(tmp_path) == ["model.keras"]

    def test_exporting(self, model, tmp_path):
        path = tmp_path / "model"
        path.mkdir()
        (path / "older").write_text("older")
        with pytest.raises(OSError, match="cannot write the SavedModel"), full_disk(99):
            model.export(path)
        assert listing(tmp_path) == ["model", "model/older"]

    def test_a_cache_of_patches(self, tmp_path):
        cache = tmp_path / "patches.h5"
        cut = {"path": van_hateren.PHOTOGRAPHS, "size": 8, "cache": cache}
        van_hateren.patches(per_image=2, **cut)
        older = cache.read_bytes()
        message = f"^.Errno {errno.EFBIG}. File too large: '{cache}'$"
        with pytest.raises(OSError, match=message), full_disk(20_000):
            van_hateren.patches(per_image=50, **cut)
        assert cache.read_bytes() == older and listing(tmp_path) == ["patches.h5"]


PLACES = {
    "below a file": lambda tmp_path: tmp_path / "file" / "output",
    "no permission": lambda _: pathlib.Path("/proc/no/output"),
}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
@pytest.mark.parametrize("place", PLACES)
def test_places_that_cannot_be_written(place, model, tmp_path):
    (tmp_path / "file").write_text("a file")
    path = PLACES[place](tmp_path)
    with pytest.raises(OSError, match="file|output|proc"):
        model.save(path.with_suffix(".keras"))
    with pytest.raises(OSError, match="file|output|proc"):
        model.export(path)
    with pytest.raises(
        OSError, match=f"cannot write to the output folder {path.parent}"
    ):
        van_hateren.patches(
            van_hateren.PHOTOGRAPHS, size=8, per_image=1, cache=path.with_suffix(".h5")
        )
    assert listing(tmp_path) == ["file"]


def test_a_file_where_a_folder_goes_and_the_reverse(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError):
        model.export(tmp_path / "file")
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises((OSError, ValueError)):
        model.save(tmp_path / "folder.keras")
    (tmp_path / "mnist.npz").mkdir()
    with pytest.raises(FileNotFoundError, match="no MNIST in"):
        mnist.load(tmp_path)
    with pytest.raises(ValueError, match="no van Hateren images in"):
        van_hateren.patches(tmp_path / "folder.keras")
    assert (tmp_path / "file").read_text() == "mine"


def rewritten(data, change):
    """Return the bytes of an archive whose members are what `change(name, bytes)` says."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return out.getvalue()


def in_config(old, new):
    def change(name, content):
        if name == "config.json":
            assert old in content
            return content.replace(old, new)
        return content

    return change


DAMAGES = {  # of a .keras file
    "empty": lambda data: b"",
    "text": lambda data: 50 * b"not a zip file ",
    "truncated": lambda data: data[:-100],
    "half": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[:9000] + bytes([data[9000] ^ 255]) + data[9001:],
    "no config": lambda data: rewritten(data, lambda n, c: None if "conf" in n else c),
    "no weights": lambda data: rewritten(data, lambda n, c: None if "h5" in n else c),
    "half the weights": lambda data: rewritten(
        data, lambda n, c: c[: len(c) // 2] if "h5" in n else c
    ),
    "half the config": lambda data: rewritten(
        data, lambda n, c: c[: len(c) // 2] if "conf" in n else c
    ),
    "another width": lambda data: rewritten(data, in_config(b"[5, 4]", b"[5, 6]")),
    "a negative sigma": lambda data: rewritten(data, in_config(b": 0.3", b": -0.3")),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models_are_never_loaded(damage, keras_file, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(DAMAGES[damage](keras_file))
    with pytest.raises((ValueError, OSError, KeyError, zipfile.BadZipFile)):
        keras.saving.load_model(path)


def test_a_model_file_runs_no_code(keras_file, tmp_path):
    """Safe mode: neither another class nor a lambda is made of what the file names."""
    path = tmp_path / "model.keras"
    path.write_bytes(
        rewritten(
            keras_file,
            in_config(b'"deen_tf>DEEN"', b'"subprocess>Popen"'),
        ).replace(b"deen_tf.models.deen", b"subprocess  ")
    )
    with pytest.raises((TypeError, ValueError, zipfile.BadZipFile)):
        keras.saving.load_model(path)


@pytest.mark.parametrize("damage", ("truncated", "empty", "no variables"))
def test_damaged_saved_models_are_never_loaded(damage, tmp_path):
    archive = tf.Module()
    archive.v = tf.Variable(np.ones((3, 3), "float32"))
    tf.saved_model.save(archive, str(tmp_path / "model"))
    graph = tmp_path / "model" / "saved_model.pb"
    if damage == "no variables":
        (tmp_path / "model/variables/variables.data-00000-of-00001").unlink()
    else:
        data = graph.read_bytes()
        graph.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    # (TensorFlow's own: its errors are its own too.)
    with pytest.raises((OSError, ValueError, IndexError, tf.errors.OpError)):
        tf.saved_model.load(str(tmp_path / "model"))


class TestMnist:
    def test_a_lone_array_is_no_archive(self, tmp_path):
        np.save(tmp_path / "mnist.npy", X)
        with pytest.raises(ValueError, match="mnist.npy is damaged or not Keras'"):
            mnist.load(tmp_path / "mnist.npy")

    def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(
        self, tmp_path, monkeypatch
    ):
        bomb = small(monkeypatch) | {"x_train": np.zeros((10**7,), "uint8")}
        write(tmp_path, bomb, "npz")
        assert (tmp_path / "mnist.npz").stat().st_size < 20_000
        monkeypatch.setattr(np.lib.format, "read_array", None)
        with pytest.raises(
            ValueError, match="x_train is far too large, 10000128 bytes"
        ):
            mnist.load(tmp_path)

    def test_a_header_that_claims_more_than_there_is(self, tmp_path, monkeypatch):
        write(tmp_path, small(monkeypatch), "npz")
        data = (tmp_path / "mnist.npz").read_bytes()

        def unclosed(name, content):  # for which NumPy has no error of its own
            return content.replace(b"(6, 28, 28), }", b"(6, 28, 28),  ")

        (tmp_path / "mnist.npz").write_bytes(rewritten(data, unclosed))
        with pytest.raises(ValueError, match="mnist.npz is damaged"):
            mnist.load(tmp_path)
        huge = b"(6, 28, 28), }", b"(9" + 8 * b"9" + b",)}"

        def claim_terabytes(name, content):
            return content.replace(huge[0], huge[1].ljust(14)).replace(b"|u1", b"<f8")

        (tmp_path / "mnist.npz").write_bytes(rewritten(data, claim_terabytes))
        with pytest.raises(ValueError, match="mnist.npz is damaged"):
            mnist.load(tmp_path)

    def test_no_more_of_a_gz_is_read_than_an_idx_file_has(self, tmp_path, monkeypatch):
        arrays = small(monkeypatch)
        write(tmp_path, arrays, "gz")
        limit = len(idx(arrays["x_train"])) + 1
        asked = []

        class Endless(io.RawIOBase):
            def read(self, size=-1):
                asked.append(size)
                return idx(arrays["x_train"]) + b"0" * (size - limit + 1)

        monkeypatch.setattr(mnist, "unpacked", lambda _: Endless())
        with pytest.raises(ValueError, match="train-images.*truncated or too long"):
            mnist.load(tmp_path)
        assert asked == [limit]

    def test_without_a_network_one_line_says_what_to_do(
        self, tmp_path, monkeypatch, capsys
    ):
        def unreachable(*args, **kwargs):
            raise OSError("Temporary failure in name resolution")

        monkeypatch.delenv("DEEN_DATA", raising=False)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        monkeypatch.setattr("socket.getaddrinfo", unreachable)
        monkeypatch.setattr("socket.create_connection", unreachable)
        with pytest.raises(
            FileNotFoundError, match="could not be downloaded"
        ) as caught:
            mnist.load()
        message = str(caught.value)
        assert "--data FOLDER" in message and "DEEN_DATA=FOLDER" in message
        assert "\n" not in message and raised_here(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
        assert not [name for name in listing(tmp_path) if name.endswith(".npz")]


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    data=st.binary(max_size=60)
    | st.builds(
        lambda cut, at, bit: bytes(
            b ^ (bit if i == at else 0) for i, b in enumerate(ARCHIVE[:cut])
        ),
        st.integers(0, 600),
        st.integers(0, 600),
        st.integers(1, 255),
    )
)
@pytest.mark.parametrize(
    "name", ("mnist.npz", "imk00001.iml", "images.zip", "images.tar.gz", "cache.h5")
)
def test_any_bytes_given_to_a_reader(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(data)
    if name == "cache.h5":  # an empty file, or what was HDF5, may become a cache
        hypothesis.assume(data and data[:8] != b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=name) as caught:
        if name == "mnist.npz":
            mnist.load(path)
        elif name == "cache.h5":
            van_hateren.patches(
                van_hateren.PHOTOGRAPHS, size=8, per_image=1, cache=path
            )
        else:
            van_hateren.patches(path)
    assert raised_here(caught.value)
    assert path.read_bytes() == data


def _archive():
    out = io.BytesIO()
    np.savez(out, x_train=np.zeros((2, 3), "uint8"))
    return out.getvalue()


ARCHIVE = _archive()


def test_a_foreign_hdf5_file_is_not_replaced(tmp_path):
    cache = tmp_path / "mine.h5"
    with h5py.File(cache, "w") as file:
        file["x"] = X
        # Links that lead elsewhere are not followed.
        file["train"] = h5py.ExternalLink("/etc/passwd", "/")
    before = cache.read_bytes()
    with pytest.raises(ValueError, match="mine.h5 is not a cache of patches"):
        van_hateren.patches(van_hateren.PHOTOGRAPHS, size=8, per_image=1, cache=cache)
    assert cache.read_bytes() == before


def test_a_tar_that_writes_outside_writes_nothing(tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        member = tarfile.TarInfo("../../outside/imk00001.iml")
        member.size = 2 * 1024 * 1536
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(ValueError, match="its path leads out of the archive"):
        van_hateren.patches(tmp_path / "images.tar")
    assert listing(tmp_path) == ["images.tar"]


def test_nothing_is_written_but_what_was_asked_for(model, tmp_path, monkeypatch):
    for name in ("here", "home", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    model.save(tmp_path / "out" / "model.keras")
    keras.saving.load_model(tmp_path / "out" / "model.keras")
    van_hateren.patches(
        van_hateren.PHOTOGRAPHS,
        size=8,
        per_image=1,
        cache=tmp_path / "out" / "cache.h5",
    )
    van_hateren.patches(van_hateren.PHOTOGRAPHS, size=8, per_image=1)
    model.fit(X, verbose=0)
    sampling.langevin(toy.Moons(), X, step=0.1, steps=2)
    assert listing(tmp_path) == [
        "here",
        "home",
        "out",
        "out/cache.h5",
        "out/model.keras",
    ]


def test_nothing_is_ever_unpickled():
    for file in pathlib.Path(PACKAGE).rglob("*.py"):
        source = file.read_text()
        assert "pickle" not in source.replace("allow_pickle=False", "")
        assert source.count("np.load(") == source.count("allow_pickle=False")
