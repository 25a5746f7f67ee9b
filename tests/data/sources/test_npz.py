"""Arrays of an .npz: mapped where they are stored as they are."""

import numpy as np
import pytest

from funcprop.data import DataError, open
from funcprop.data.sources import npz

X = np.random.default_rng(0).normal(size=(50, 3, 2))
Y = np.arange(50)


def test_members_are_mapped_and_read_by_rows(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, bytes=X.astype(np.uint8), f=np.asfortranarray(X[..., 0]))
    source = open(f"npz:{tmp_path}/a.npz")
    assert all(isinstance(array, np.memmap) for array in source.arrays)
    x, y = source.read(np.array([7, 7, 49]))
    assert (x.dtype, y.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(x, X[[7, 7, 49]].astype(np.float32))
    others = open(f"npz:{tmp_path}/a.npz?members=bytes,f,y")
    raw, fortran, _ = others.read(np.arange(50))
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(fortran, X[..., 0].astype(np.float32))
    assert source.fingerprint != others.fingerprint


def test_compressed_ones_are_in_memory_and_large_ones_say_so(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y)
    name = f"npz:{tmp_path}/a.npz"
    np.testing.assert_array_equal(open(name)[3][1], 3)
    monkeypatch.setattr(npz, "HELD", 1000)
    with pytest.warns(UserWarning, match=r"x.npy is compressed, so that all 0 MiB.*np\.savez "):
        assert not isinstance(open(name).arrays[0], np.memmap)


def test_what_is_none(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, short=Y[:3], words=np.array(["a"] * 50), none=X[:0])
    np.savez(tmp_path / "o.npz", x=np.array([None]), y=Y)
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:-100])
    (tmp_path / "text.npz").write_text("no")
    for name, words in {
        "cut.npz": r"cut.npz cannot be read \(",
        "text.npz": "cannot be read",
        "gone.npz": "does not exist",
        "o.npz": "is of object, wanted numbers",
        "a.npz?members=x,z": "has no member 'z': write members='x,y' with two of x, y, short",
        "a.npz?members=x,short": r"\[50, 3, 2\], \[3\], wanted arrays \[n, ...\] of one length",
        "a.npz?members=x,words": "is an array of <U1, wanted numbers",
        "a.npz?members=none": "not empty",
        "a.npz?members=x,x": "wanted different names",
        "a.npz?members=": "wanted different names",
    }.items():
        with pytest.raises(DataError, match=words):
            open(f"npz:{tmp_path}/{name}")


def test_a_value_that_is_not_finite_is_found_when_it_is_read(tmp_path):
    x = X.copy()
    x[41, 2, 1] = np.inf
    np.savez(tmp_path / "a.npz", x=x, y=Y)
    source = open(f"npz:{tmp_path}/a.npz")
    with pytest.raises(DataError, match=r"example 41 holds inf, wanted finite numbers"):
        source.read(np.array([3, 41]))
