"""Text: windows of bytes, each with what follows it, split in the order of the text."""

import sys

import numpy as np
import pytest

from funcprop.data import DataError, Dataset, Examples, load, load_text

ALPHABET = bytes(range(65, 65 + 26)) * 5  # 130 bytes


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "alphabet.txt"
    path.write_bytes(ALPHABET)
    return path


def test_targets_are_the_bytes_that_follow(path):
    data = load_text(path, length=10)
    assert data.text and data.classes == 256 and data.validation is None
    assert (data.train.x.shape, data.test.x.shape) == ((11, 10), (1, 10))
    assert (data.train.x.dtype, data.train.y.dtype) == (np.uint8, np.int32)
    assert bytes(data.train.x[0]) == b"ABCDEFGHIJ" and data.train.y[0, -1] == ord("K")
    np.testing.assert_array_equal(data.train.x[:, 1:], data.train.y[:, :-1])
    np.testing.assert_array_equal(data.train.x[1:, 0], data.train.y[:-1, -1])


def test_parts_stand_in_the_order_of_the_text(path):
    plain, held = load_text(path, length=4), load_text(path, validation=True, length=4)
    assert held.validation is not None
    together = np.concatenate([held.train.x, held.validation.x, held.test.x]).tobytes()
    assert together == ALPHABET[: len(together)] and len(together) == 128
    assert [len(part.y) for part in (held.train, held.validation, held.test)] == [26, 3, 3]
    np.testing.assert_array_equal(plain.test.x, held.test.x)


def test_without_a_file_it_is_the_help_text_of_python():
    data = load("text:")
    assert data.name == "text:" and data.text and data.train.x.shape[1] == 128
    assert len(data.train.x) > 1000
    assert b"statement" in data.train.x.tobytes()


def test_by_name(path):
    name = f"text:{path}"
    assert load(name, length=7).train.x.shape[1] == 7
    assert load(f"text:{path.name}", folder=path.parent, length=9).test.x.shape == (1, 9)
    with pytest.raises(DataError, match="digits has no windows"):
        load("digits", length=7)
    with pytest.raises(DataError, match="without a file reads no folder"):
        load("text:", folder=path.parent)


def test_bytes_that_are_no_letters_are_tokens_too(tmp_path):
    path = tmp_path / "binary"
    path.write_bytes(bytes(range(256)))
    assert load_text(path, length=100).train.y.max() == 100


def test_what_cannot_be_read_is_named(path, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"none\.txt cannot be read \(No such file"):
        load_text(tmp_path / "none.txt")
    with pytest.raises(DataError, match="cannot be read"):
        load_text(tmp_path)
    with pytest.raises(DataError, match="has 130 bytes, wanted at least 257: 2 windows of 128"):
        load_text(path)
    with pytest.raises(DataError, match="130 bytes, wanted at least 181: 3 windows of 60"):
        load_text(path, validation=True, length=60)
    with pytest.raises(DataError, match="length is 0"):
        load_text(path, length=0)
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="write text:FILE"):
        load_text()


def test_every_token_must_be_in_the_vocabulary():
    x = np.array([[0, 1, 2], [1, 2, 0]], np.uint8)
    y = np.array([[1, 2, 1], [2, 0, 1]], np.int32)
    assert Dataset("toy", Examples(x, y), Examples(x, y), 3).text
    with pytest.raises(DataError, match="x holds the token 2, wanted 0 to 1"):
        Dataset("toy", Examples(x, y % 2), Examples(x, y % 2), 2)
    with pytest.raises(DataError, match=r"label of example \(0, 1\) is 3, wanted 0 to 2"):
        wrong = np.where(y == 2, 3, y).astype(np.int32)
        Dataset("toy", Examples(x, wrong), Examples(x, y), 3)
    with pytest.raises(DataError, match="all parts are text, or none is"):
        Dataset("toy", Examples(x, y), Examples(x, y[:, 0]), 3)
    with pytest.raises(DataError, match=r"wanted x \[n, \.\.\.\] and y \[n\]"):
        Dataset("toy", Examples(x, y[:, :2]), Examples(x, y), 3)
