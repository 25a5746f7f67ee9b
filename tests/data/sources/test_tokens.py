"""Tokens in a file: windows, each with what follows it, and files that are none of tokens."""

import numpy as np
import pytest

from funcprop.data import DataError, open, stream
from funcprop.data.sources import files

IDS = np.arange(1000) * 7 % 640


@pytest.fixture
def path(tmp_path):
    IDS.astype("<u2").tofile(tmp_path / "ids.bin")
    np.save(tmp_path / "ids.npy", IDS)
    return tmp_path / "ids.bin"


def test_windows_stand_side_by_side(path):
    source = open(f"tokens:{path}", dtype="uint16", length=9, vocabulary=640)
    assert len(source) == 111 and source.classes == 640
    x, y = source.read(np.arange(111))
    assert x.dtype == y.dtype == np.int32 and x.shape == y.shape == (111, 9)
    np.testing.assert_array_equal(x.ravel(), IDS[:999])
    np.testing.assert_array_equal(y.ravel(), IDS[1:1000])
    np.testing.assert_array_equal(source[-1][0], x[-1])
    with pytest.raises(IndexError, match="has 111 examples, and no example 111"):
        source[111]
    assert repr(source) == (
        f"<Source tokens:{path}: 111 examples of int32 [9], int32 [9], 640 classes>"
    )


def test_options_stand_in_the_name_too_and_npy_says_its_dtype(path):
    one = open(f"tokens:{path}?dtype=uint16&length=9")
    other = open(f"tokens:{path.with_suffix('.npy')}?length=9")
    np.testing.assert_array_equal(one.read(np.array([3, 1])), other.read(np.array([3, 1])))
    assert open(f"tokens:{path}", dtype=np.uint16, length=9).fingerprint == one.fingerprint
    assert open(f"tokens:{path}?dtype=uint16&length=8").fingerprint != one.fingerprint


def test_any_text_is_a_file_of_bytes(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be")
    x, y = open(f"tokens:{tmp_path}/a.txt?dtype=uint8&length=5")[1]
    assert (bytes(x.tolist()), bytes(y.tolist())) == (b" or n", b"or no")


def test_pages_are_given_back(path, monkeypatch):
    monkeypatch.setattr(files, "HELD", 1)
    batches = stream(open(f"tokens:{path}?dtype=uint16&length=9"), 10, shuffle=False)
    np.testing.assert_array_equal(next(batches)[0].ravel(), IDS[:90])
    np.testing.assert_array_equal(next(batches)[0].ravel(), IDS[90:180])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ids.bin", r"nothing in the file says .* write open\('tokens:.*', dtype='uint16'\)"),
        ("ids.bin?dtype=int64", "dtype is int64, wanted uint8, uint16, uint32"),
        ("ids.bin?dtype=uint16&length=1000", "has 1000 tokens, wanted at least 1001"),
        ("ids.bin?dtype=uint16&length=0", "length is 0, wanted a whole number"),
        ("ids.bin?dtype=uint16&length=x", "length is 'x', wanted a whole number"),
        ("ids.bin?dtype=uint16&lenght=8", "no option 'lenght': did you mean 'length'"),
        ("ids.npy?dtype=uint16", "an .npy says it itself: leave it out"),
        ("nowhere.bin?dtype=uint16", "does not exist: write tokens:PATH"),
        ("", "is no file"),
        ("odd.bin?dtype=uint16", "has 3 bytes, which are no whole number of uint16"),
        ("empty.bin?dtype=uint8", "has 0 bytes"),
        ("odd.npy", r"cannot be read \(.*\): write it with np.save"),
        ("short.npy", r"cannot be read \(.*\): write it with np.save"),
        ("floats.npy", r"holds float64 \[3, 2\], wanted integers \[n\]"),
        ("objects.npy", "cannot be read"),
    ],
)
def test_what_is_no_file_of_tokens(path, name, words):
    folder = path.parent
    (folder / "odd.bin").write_bytes(b"abc")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "odd.npy").write_bytes(b"abc")
    (folder / "short.npy").write_bytes((folder / "ids.npy").read_bytes()[:-100])
    np.save(folder / "floats.npy", np.zeros((3, 2)))
    np.save(folder / "objects.npy", np.array([None, 1]))
    with pytest.raises(DataError, match=words):
        open(f"tokens:{folder}/{name}")


def test_a_token_that_is_no_token(tmp_path):
    ids = np.zeros(4000, np.int64)
    np.save(tmp_path / "a.npy", ids)
    for token, words in ((640, "token 1503 is 640, wanted 0 to 639"), (-1, "token 1503 is -1")):
        ids[1503] = token
        np.save(tmp_path / "a.npy", ids)
        source = open(f"tokens:{tmp_path}/a.npy?length=4&vocabulary=640")
        with pytest.raises(DataError, match=words):
            source.read(np.array([1, 375, 2]))
    ids[0] = 2**31  # the sample that is taken on opening is looked at, too
    np.save(tmp_path / "a.npy", ids)
    with pytest.raises(DataError, match="token 0 is 2147483648, wanted 0 to 2147483647"):
        open(f"tokens:{tmp_path}/a.npy")
