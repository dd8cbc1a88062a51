"""The field's photographs are found, checked, cut at random, and never replaced unasked."""

import hashlib
import os
import warnings

import numpy as np
import pytest
from scipy import stats
from skimage import io

from deen_tf.datasets import photographs

REAL = os.environ.get("DEEN_DATA", "")
COUNTS = {"train": 5, "bsd68": 3, "set12": 2}


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("DEEN_DATA", raising=False)


def pixels(seed, shape=(20, 24)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


def write(folder, count, first=0):
    folder.mkdir(parents=True)
    for k in range(count):
        io.imsave(folder / f"{k:03}.png", pixels(first + k), check_contrast=False)


@pytest.fixture
def bsds(tmp_path, monkeypatch):
    """The three sets, of fewer and smaller photographs."""
    for k, (name, count) in enumerate(COUNTS.items()):
        monkeypatch.setitem(photographs.SETS, name, (count, photographs.SETS[name][1]))
        write(tmp_path / "bsds" / name, count, 100 * k)
    return tmp_path / "bsds"


@pytest.mark.parametrize("name", COUNTS)
def test_a_set_is_its_files_between_0_and_1(bsds, name):
    found = photographs.load(name, bsds)
    first = 100 * list(COUNTS).index(name)
    assert found.names == [f"{k:03}.png" for k in range(COUNTS[name])]
    for k, image in enumerate(found.images):
        assert image.dtype == "float32"
        np.testing.assert_array_equal(image, pixels(first + k) / np.float32(255))
    digest = hashlib.sha256()
    for file in found.names:
        content = (bsds / name / file).read_bytes()
        digest.update(f"{file} {hashlib.sha256(content).hexdigest()}\n".encode())
    assert found.sha256 == digest.hexdigest()
    assert ("Berkeley" in found.source) == (name != "set12")


def test_where_they_are_looked_for(bsds, tmp_path, monkeypatch):
    """--data DIR and DEEN_DATA=DIR are the same, whichever folder DIR is."""
    wanted = photographs.load("bsd68", bsds).sha256
    for path in (tmp_path, bsds, bsds / "bsd68"):
        assert photographs.load("bsd68", path).sha256 == wanted
    for path in (tmp_path, bsds):
        monkeypatch.setenv("DEEN_DATA", str(path))
        assert photographs.load("bsd68").sha256 == wanted
    (bsds / "bsd68").rename(bsds / "Set68")
    assert photographs.load("bsd68").sha256 == wanted
    assert photographs.load("train").sha256 != wanted
    (bsds / "train").rename(bsds / "Train400")
    assert len(photographs.load("train").images) == COUNTS["train"]


def test_what_is_no_photograph_is_passed_over(bsds):
    wanted = photographs.load("bsd68", bsds).sha256
    for name in ("README.md", ".DS_Store", "._000.png", "000.mat"):
        (bsds / "bsd68" / name).write_text("hello")
    (bsds / "bsd68" / "loop.png").symlink_to("loop.png")
    (bsds / "bsd68" / "old.png").mkdir()
    assert photographs.load("bsd68", bsds).sha256 == wanted


@pytest.mark.parametrize("stand_in", (False, True))
def test_damaged_sets_are_refused(bsds, stand_in):
    file = bsds / "bsd68" / "001.png"
    data = file.read_bytes()
    for damaged in (data[:-30], data[:40], b"", b"hello", data[:60] + b"x" + data[61:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="001.png is damaged or no PNG file"):
            photographs.load("bsd68", bsds, stand_in)
    for strange in (pixels(0, (9, 9, 3)), pixels(0).astype("uint16") * 200):
        io.imsave(file, strange, check_contrast=False)
        with pytest.raises(
            ValueError, match="001.png must be grayscale of 8 bits, got"
        ):
            photographs.load("bsd68", bsds, stand_in)
    file.unlink()
    with pytest.raises(ValueError, match="bsd68 holds 2 photographs.*bsd68 has 3"):
        photographs.load("bsd68", bsds, stand_in)


def test_a_missing_set_says_where_it_is_published(tmp_path, monkeypatch):
    published = "https://www2.eecs.berkeley.edu/.*/bsds/"
    for path in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"of bsd68 in .*{published}"):
            photographs.load("bsd68", path)
    monkeypatch.setenv("DEEN_DATA", str(tmp_path))
    io.imsave(tmp_path / "figure.png", pixels(0), check_contrast=False)  # of other data
    with pytest.raises(
        FileNotFoundError, match=f"of bsd68 in {tmp_path}: .*bsds/bsd68"
    ):
        photographs.load("bsd68")
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*nowhere"):
        photographs.load("bsd68", tmp_path / "nowhere", stand_in=True)
    with pytest.raises(ValueError, match="one of train, bsd68, set12, got 'BSD500'"):
        photographs.load("BSD500")


def test_scikit_image_stands_in_only_if_asked_and_says_so(bsds):
    names = {}
    for name in COUNTS:
        with pytest.warns(UserWarning, match=f"scikit-image photographs.* for {name}"):
            found = photographs.load(name, stand_in=True)
        assert found.source == "scikit-image photographs" and len(found.sha256) == 64
        assert all(0 <= x.min() and 0.5 < x.max() <= 1 for x in found.images)
        names[name] = set(found.names)
    # What is tested on was not trained on.
    assert names["bsd68"] == names["set12"] and not names["train"] & names["bsd68"]
    assert len(names["train"] | names["bsd68"]) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = photographs.load("bsd68", bsds, stand_in=True)
    assert "Berkeley" in found.source


# ---- patches to train on ------------------------------------------------------------------


def symmetries(square):
    """The eight of the square, by the flips of its two axes and of its diagonal."""
    for turned in (square, square.T):
        for rows in (1, -1):
            for columns in (1, -1):
                yield turned[::rows, ::columns]


def test_patches_are_drawn_evenly_from_places_and_symmetries():
    """Every patch is known by its corner: its place, photograph and symmetry are counted."""
    size, n = 3, 48_000
    shapes = [(5, 4), (3, 3), (4, 6)]  # 6, 1 and 8 places
    images, first = [], 0
    for shape in shapes:
        images.append(np.arange(first, first + np.prod(shape)).reshape(shape) * 1.0)
        first += 100
    known = {}
    for image in images:
        for i in range(image.shape[0] - size + 1):
            for j in range(image.shape[1] - size + 1):
                patch = image[i : i + size, j : j + size]
                known |= {
                    s.tobytes(): len(known) + k for k, s in enumerate(symmetries(patch))
                }
    assert len(known) == 8 * (6 + 1 + 8)
    x = photographs.patches(images, size, n, np.random.default_rng(0))
    assert x.shape == (n, size, size, 1) and x.dtype == images[0].dtype
    drawn = [known[patch.tobytes()] for patch in x[..., 0]]
    counts = np.bincount(drawn, minlength=len(known))
    # 400 of each expected; a true uniform draw fails this once in ten thousand seeds.
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_generator_decides():
    images = [pixels(k, (12, 15)) for k in range(3)]
    one, other = (
        photographs.patches(images, 4, 50, np.random.default_rng(1)) for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)
    rng = np.random.default_rng(1)
    photographs.patches(images, 4, 50, rng)
    assert not np.array_equal(photographs.patches(images, 4, 50, rng), one)
    assert one.dtype == "uint8"


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "of at least 4 x 4, got"),
        ([np.zeros((9, 3))], r"of at least 4 x 4, got .*\(9, 3\)"),
        ([np.zeros((9, 9)), np.zeros((9, 9, 3))], "height, width. of at least"),
    ],
)
def test_photographs_that_cannot_be_cut(images, message):
    with pytest.raises(ValueError, match=message):
        photographs.patches(images, 4, 10, np.random.default_rng(0))


# ---- the real ones ------------------------------------------------------------------------


@pytest.mark.skipif(
    not os.path.isdir(os.path.join(REAL, "bsds")),
    reason="no photographs: set DEEN_DATA to the folder that holds bsds",
)
def test_the_real_photographs():
    shapes = {"train": {(180, 180)}, "bsd68": {(321, 481), (481, 321)}}
    shapes["set12"] = {(256, 256), (512, 512)}
    for name, (count, _) in photographs.SETS.items():
        found = photographs.load(name, REAL)
        assert len(found.images) == count
        assert {x.shape for x in found.images} == shapes[name]
    # Natural light: neighbouring pixels are alike.
    x = np.stack(photographs.load("train", REAL).images)
    assert np.corrcoef(x[:, 1:].ravel(), x[:, :-1].ravel())[0, 1] > 0.9
