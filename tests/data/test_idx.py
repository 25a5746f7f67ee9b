import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from funcprop.data import DataError, load, load_idx_folder, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array):
    """The bytes of an IDX file."""
    header = struct.pack(">BBBB", 0, 0, CODES[array.dtype.str[1:]], array.ndim)
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    return header + lengths + array.astype(array.dtype.newbyteorder(">")).tobytes()


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 2), np.uint8)


def labels(n, classes=10, first=0):
    return (np.arange(n) % classes + first).astype(np.uint8)


def write_set(folder, train="train", test="t10k", n=12, m=4, y=labels, separator="-", pack=False):
    """Four files of a set with n training and m test images; returns their images."""
    ending, packed = (".gz", gzip.compress) if pack else ("", bytes)
    written = images(n, 1), images(m, 2)
    for prefix, pixels in zip((train, test), written, strict=True):
        for kind, array in (("images", pixels), ("labels", y(len(pixels)))):
            name = f"{prefix}-{kind}{separator}idx{array.ndim}-ubyte{ending}"
            (folder / name).write_bytes(packed(idx(array)))
    return written


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (1, 2, 1, 2, 1), (0, 28, 28)])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_every_dtype_and_rank(tmp_path, dtype, shape, packed):
    array = np.random.default_rng(0).normal(0, 50, shape) if dtype[0] == "f" else None
    if array is None:
        bounds = np.iinfo(dtype)
        array = np.random.default_rng(0).integers(bounds.min, bounds.max, shape, dtype)
    array = np.asarray(array, dtype)
    (tmp_path / "file").write_bytes(packed(idx(array)))
    read = read_idx(tmp_path / "file")
    assert read.dtype == np.dtype(dtype) and read.dtype.isnative
    np.testing.assert_array_equal(read, array)


GOOD = idx(images(5))
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file"),
        (b"<!DOCTYPE html>", "is not an IDX file: it begins with b'<!DO'"),
        (b"\1" + GOOD[1:], "is not an IDX file"),
        (GOOD[:2] + b"\x0a" + GOOD[3:], "is not an IDX file"),
        (GOOD[:9], "is truncated: 9 bytes, and 3 axes need a header of 16"),
        (GOOD[:-1], "is truncated: 45 bytes, and its header"),
        (GOOD + b"\0", "is too long: 47 bytes, and its header"),
        (PACKED[:-12], "is corrupt gzip"),
        (PACKED[:20] + b"\xff\xff\xff" + PACKED[23:], "is corrupt gzip"),
        (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "is corrupt gzip"),
        (b"\x1f\x8b", "is corrupt gzip"),
        (gzip.compress(GOOD[:-1], mtime=0), "is truncated: 45 bytes"),
        (b"\0\0\x08\x41" + struct.pack(">65I", *[1] * 65) + b"\0", "impossible shape of 65 axes"),
        (b"\0\0\x08\4" + struct.pack(">4I", *[2**32 - 1] * 3, 0), "impossible shape of 4 axes"),
    ],
    # Compressed bytes differ between versions of zlib, and workers must agree on every name.
    ids=lambda given: "" if isinstance(given, bytes) else given,
)
def test_a_bad_file_raises_one_error_that_names_it(tmp_path, content, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_idx(tmp_path / "train-images-idx3-ubyte")
    assert "train-images-idx3-ubyte" in str(raised.value)
    assert "download" in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="absent cannot be read"):
        read_idx(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("pack", [False, True])
def test_an_image_set(tmp_path, name, separator, pack):
    train, test = write_set(tmp_path, separator=separator, pack=pack)
    data = load(name, folder=str(tmp_path))
    assert data.name == name and data.classes == 10 and len(data.labels) == 10
    assert data.train.x.shape == (12, 3, 2, 1) and data.test.x.shape == (4, 3, 2, 1)
    assert data.train.x.dtype == np.uint8
    np.testing.assert_array_equal(data.train.x[..., 0], train)
    np.testing.assert_array_equal(data.test.x[..., 0], test)
    np.testing.assert_array_equal(data.train.y, labels(12))
    assert data.validation is None


def test_validation_is_the_end_of_the_training_set(tmp_path):
    write_set(tmp_path)
    whole = load_idx_folder(tmp_path, "mnist")
    data = load_idx_folder(tmp_path, "mnist", validation=True)
    assert data.validation is not None
    np.testing.assert_array_equal(data.train.x, whole.train.x[:8])
    np.testing.assert_array_equal(data.validation.x, whole.train.x[8:])
    np.testing.assert_array_equal(data.validation.y, whole.train.y[8:])
    np.testing.assert_array_equal(data.test.x, whole.test.x)


def test_a_training_set_too_small_for_validation(tmp_path):
    write_set(tmp_path, n=4, m=4)
    with pytest.raises(DataError, match=r"4 training images leave none .* validation=False"):
        load_idx_folder(tmp_path, "mnist", validation=True)


@pytest.mark.parametrize(
    ("name", "split", "classes", "first", "last"),
    [
        ("emnist", "balanced", 47, 0, "t"),
        ("emnist-balanced", "balanced", 47, 0, "t"),
        ("emnist-bymerge", "bymerge", 47, 0, "t"),
        ("emnist-byclass", "byclass", 62, 0, "z"),
        ("emnist-letters", "letters", 26, 1, "Z"),
        ("emnist-digits", "digits", 10, 0, "9"),
        ("emnist-mnist", "mnist", 10, 0, "9"),
    ],
)
def test_emnist_is_turned_upright_and_counted_from_zero(
    tmp_path, name, split, classes, first, last
):
    train, _ = write_set(
        tmp_path,
        train=f"emnist-{split}-train",
        test=f"emnist-{split}-test",
        n=70,
        y=lambda n: labels(n, classes, first),
    )
    data = load(name, folder=tmp_path)
    assert data.classes == classes and data.labels[-1] == last
    assert data.train.x.shape == (70, 2, 3, 1) and data.train.x.flags.c_contiguous
    upright = train.transpose(0, 2, 1)
    np.testing.assert_array_equal(data.train.x[..., 0], upright)
    np.testing.assert_array_equal(data.train.y, labels(70, classes))


def test_letters_that_count_from_zero_raise(tmp_path):
    write_set(tmp_path, train="emnist-letters-train", test="emnist-letters-test")
    with pytest.raises(DataError, match="label 0 is 0, wanted 1 to 26"):
        load("emnist-letters", folder=tmp_path)


def test_a_missing_folder():
    with pytest.raises(DataError, match=r"mnist needs a folder .*t10k-labels-idx1-ubyte"):
        load("mnist")


def test_an_absent_folder(tmp_path):
    with pytest.raises(DataError, match="absent does not exist: give the folder"):
        load("mnist", folder=tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="file is not a folder: give the folder"):
        load("mnist", folder=tmp_path / "file")


@pytest.mark.parametrize(
    "missing",
    [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ],
)
def test_a_missing_file_is_named(tmp_path, missing):
    write_set(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=rf"{missing}\[.gz\] is missing: give the folder"):
        load("mnist", folder=tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train-images-idx3", idx(labels(12)), r"holds uint8 \[12\], wanted uint8 images"),
        ("train-labels-idx1", idx(images(12)), r"\[12, 3, 2\], wanted uint8 labels"),
        ("train-images-idx3", idx(images(12).astype("f4")), "holds float32 .* wanted uint8"),
        ("train-labels-idx1", idx(labels(12).astype("i4")), "holds int32 .* wanted uint8"),
        ("train-images-idx3", idx(images(11)), "holds 11 images and .* 12 labels"),
        ("t10k-images-idx3", idx(images(0)), r"holds no images \[0, 3, 2\]"),
        ("t10k-labels-idx1", idx(np.full(4, 10, "u1")), "label 0 is 10, wanted 0 to 9"),
        ("train-images-idx3", GOOD[:-1], "is truncated"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, file, content, message):
    write_set(tmp_path)
    (tmp_path / f"{file}-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load("mnist", folder=tmp_path)
    assert f"{file}-ubyte" in str(raised.value)


def test_an_unknown_image_set(tmp_path):
    with pytest.raises(DataError, match="unknown image set 'qmnist': wanted one of mnist"):
        load_idx_folder(tmp_path, "qmnist")


def test_mnist_itself():
    beside = Path(__file__).parents[3] / "shared" / "data" / "mnist"
    folder = Path(os.environ.get("FUNCPROP_MNIST", beside))
    if not folder.is_dir():
        pytest.skip(f"MNIST is not in {folder}: set FUNCPROP_MNIST to the folder of its files")
    data = load("mnist", folder=folder)
    assert data.train.x.shape == (60_000, 28, 28, 1)
    assert data.test.x.shape == (10_000, 28, 28, 1)
    assert data.train.x.min() == 0 and data.train.x.max() == 255
    assert data.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.train.y).tolist() == train
    assert np.bincount(data.test.y).tolist() == test

    held = load("mnist", folder=folder, validation=True)
    assert held.validation is not None
    assert len(held.train.y) == 50_000 and len(held.validation.y) == len(held.test.y) == 10_000
    np.testing.assert_array_equal(held.validation.y, data.train.y[50_000:])
