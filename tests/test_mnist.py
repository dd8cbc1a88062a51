"""MNIST is found, verified, and never replaced by something else."""

import gzip
import os
import zipfile

import numpy as np
import pytest

from deen_tf.datasets import mnist


def small(monkeypatch, n=6, m=3):
    """Let MNIST be n + m random digits: the format without its 70,000 images."""
    shapes = {
        "x_train": (n, 28, 28),
        "y_train": (n,),
        "x_test": (m, 28, 28),
        "y_test": (m,),
    }
    monkeypatch.setattr(mnist, "SHAPES", shapes)
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 256 if len(shape) == 3 else 10, shape).astype("uint8")
        for name, shape in shapes.items()
    }


def idx(array):
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write(folder, arrays, form):
    folder.mkdir(parents=True, exist_ok=True)
    if form == "npz":
        np.savez_compressed(folder / "mnist.npz", **arrays)
        return
    for name, file in mnist.FILES.items():
        data = idx(arrays[name])
        if form in ("gz", "gz without its ending"):
            data = gzip.compress(data)
        if form in ("gz", "unpacked with its ending"):
            file += ".gz"
        if form == "dot":
            file = file.replace("-idx", ".idx")
        (folder / file).write_bytes(data)


@pytest.mark.parametrize(
    "form",
    ("npz", "idx", "gz", "dot", "gz without its ending", "unpacked with its ending"),
)
@pytest.mark.parametrize("how", ("path", "environment"))
@pytest.mark.parametrize("inside", ("", "mnist", "MNIST/raw", "raw"))
def test_round_trip(form, how, inside, tmp_path, monkeypatch):
    """The folder given may be that of the files, of torchvision, or of all data."""
    arrays = small(monkeypatch)
    write(tmp_path / inside, arrays, form)
    if how == "environment":
        monkeypatch.setenv("DEEN_DATA", str(tmp_path))
    digits = mnist.load(tmp_path if how == "path" else None)
    assert digits.x_train.dtype == "float32" and digits.x_train.shape == (6, 784)
    np.testing.assert_allclose(
        digits.x_test[1], arrays["x_test"][1].ravel() / 255, 1e-6
    )
    np.testing.assert_array_equal(digits.y_train, arrays["y_train"])
    assert len(digits.identity) == (1 if form == "npz" else 4)
    assert all(len(sha) == 64 for sha in digits.identity.values())


def damage(folder, what, arrays):
    file = folder / "mnist.npz"
    if what == "truncated":
        file.write_bytes(file.read_bytes()[:-2000])
    elif what == "flipped":
        data = bytearray(file.read_bytes())
        data[200] ^= 255
        file.write_bytes(bytes(data))
    elif what == "text":
        file.write_text("not a zip file")
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "keys":
        np.savez(file, x_train=arrays["x_train"])
    elif what == "shape":
        np.savez(file, **(arrays | {"x_test": arrays["x_test"][:, :20]}))
    elif what == "dtype":
        np.savez(file, **(arrays | {"x_test": arrays["x_test"] / 255}))
    elif what == "labels":
        np.savez(file, **(arrays | {"y_test": arrays["y_test"] + np.uint8(10)}))
    elif what == "pickle":
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(name + ".npy", "w") as stream:
                    np.lib.format.write_array(stream, array.astype(object))


@pytest.mark.parametrize(
    "what",
    "truncated,flipped,text,empty,keys,shape,dtype,labels,pickle".split(","),  # noqa
)
def test_a_damaged_npz_is_named(what, tmp_path, monkeypatch):
    arrays = small(monkeypatch)
    write(tmp_path, arrays, "npz")
    damage(tmp_path, what, arrays)
    with pytest.raises(ValueError, match=r"mnist\.npz is (damaged or )?not"):
        mnist.load(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data[:-1], "truncated or too long"),
        (lambda data: data + b"x", "truncated or too long"),
        (lambda data: b"\0\0\x09" + data[3:], "not an idx file"),
        (lambda data: data[:2], "not an idx file"),
        (lambda data: data[:7] + b"\x09" + data[8:], "its sizes are"),
    ],
)
def test_a_damaged_idx_file_is_named(change, message, tmp_path, monkeypatch):
    write(tmp_path, small(monkeypatch), "idx")
    file = tmp_path / mnist.FILES["x_train"]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte.*{message}"):
        mnist.load(tmp_path)


def test_a_truncated_gzip_is_named(tmp_path, monkeypatch):
    write(tmp_path, small(monkeypatch), "gz")
    file = tmp_path / (mnist.FILES["y_test"] + ".gz")
    data = file.read_bytes()
    for damaged in (data[:-4], data[:15], data[:12] + b"xxxx" + data[16:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="t10k-labels.*damaged"):
            mnist.load(tmp_path)


def test_three_of_four_files_are_not_mnist(tmp_path, monkeypatch):
    arrays = small(monkeypatch)
    write(tmp_path, arrays, "idx")
    (tmp_path / mnist.FILES["y_test"]).unlink()
    with pytest.raises(FileNotFoundError, match="no MNIST in .*the four files"):
        mnist.load(tmp_path)
    write(tmp_path / "raw", arrays, "idx")
    assert len(mnist.load(tmp_path).identity) == 4


@pytest.mark.parametrize(
    "error, wanted",
    [
        (PermissionError(13, "Permission denied"), PermissionError),
        (EOFError(), ValueError),
    ],
)
def test_what_the_system_refuses_is_no_damage(error, wanted, tmp_path, monkeypatch):
    write(tmp_path, small(monkeypatch), "idx")

    def refuse(file):
        raise error

    monkeypatch.setattr(mnist, "unpacked", refuse)
    with pytest.raises(wanted):
        mnist.load(tmp_path)


def test_a_place_without_mnist_says_what_to_put_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="put mnist.npz there, or the four files"
    ):
        mnist.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*nowhere$"):
        mnist.load(tmp_path / "nowhere")


@pytest.fixture
def keras_home(tmp_path, monkeypatch):
    monkeypatch.delenv("DEEN_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


def test_offline_and_absent_says_what_to_put_where(keras_home, monkeypatch):
    import keras

    def offline(*args, **kwargs):
        raise Exception("URL fetch failure: no network")  # noqa: TRY002 (as Keras does)

    monkeypatch.setattr(keras.utils, "get_file", offline)
    with pytest.raises(FileNotFoundError, match="no network.*--data FOLDER.*DEEN_DATA"):
        mnist.load()


def test_a_foreign_file_in_keras_cache_is_left_alone(keras_home):
    (keras_home / "mnist.npz").write_bytes(b"somebody's own")
    with pytest.raises(ValueError, match="is not Keras' mnist.npz.*move it away"):
        mnist.load()
    assert (keras_home / "mnist.npz").read_bytes() == b"somebody's own"


@pytest.mark.skipif("DEEN_DATA" not in os.environ, reason="DEEN_DATA is not set")
def test_the_real_digits():
    digits = mnist.load()
    assert digits.identity == {"mnist.npz": mnist.NPZ_SHA256}
    assert digits.x_train.shape == (60_000, 784) and digits.x_test.shape == (
        10_000,
        784,
    )
    assert digits.x_train.min() == 0 and digits.x_train.max() == 1
    # Known of the official files: mean 0.1307, and the first labels.
    assert digits.x_train.mean() == pytest.approx(0.1307, abs=1e-4)
    assert digits.y_train[:5].tolist() == [5, 0, 4, 1, 9]
