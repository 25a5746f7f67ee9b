"""Records: what was written comes back, and a damaged file does not."""

import numpy as np
import pytest

from funcprop.data import DataError, open, stream, write_records

pytest.importorskip("array_record.python.array_record_module")

X = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 1), np.uint8)
Y = np.arange(40) % 3


def test_what_was_written_comes_back(tmp_path):
    path = tmp_path / "a.records"
    halves = [(X[:25], Y[:25]), (X[25:], Y[25:].astype(np.int64))]
    assert write_records(path, halves, labels="a,b,c") == 40
    source = open(f"records:{path}")
    assert (len(source), source.labels, source.classes) == (40, ("a", "b", "c"), 3)
    i = np.array([39, 0, 0, 17])
    x, y = source.read(i)
    assert (x.dtype, y.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(x, X[i])
    np.testing.assert_array_equal(y, Y[i])
    assert [each.name for each in tmp_path.iterdir()] == ["a.records"]


def test_a_stream_can_be_written(tmp_path):
    source = stream(
        (X / np.float32(9), Y, Y), 16, epochs=1, shuffle=False, drop_last=False, device=False
    )
    assert write_records(tmp_path / "a", source) == 40
    np.testing.assert_array_equal(open(f"records:{tmp_path}/a")[33][0], X[33] / np.float32(9))


def test_contents_have_their_fingerprint(tmp_path):
    for name, x in (("a", X), ("b", X), ("c", X + 1), ("d", X[:39])):
        write_records(tmp_path / name, [(x, Y[: len(x)])])
    a, b, c, d = (open(f"records:{tmp_path}/{name}").fingerprint for name in "abcd")
    assert a == b and len({a, c, d}) == 3


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "no examples to write"),
        ([(X, Y), (X[:, 1:], Y)], "after 40 examples has arrays .* and the first"),
        ([(X, Y[:3])], r"a batch of \[40, 5, 4, 1\], \[3\], wanted arrays"),
        ([X], "a batch is a ndarray, wanted a tuple of arrays"),
        ([(np.full((2, 2), np.nan), Y[:2])], "holds nan"),
        ([(X, np.array(["a"] * 40))], "is an array of <U1, wanted numbers"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, batches, words):
    with pytest.raises(DataError, match=words):
        write_records(tmp_path / "a", batches)
    assert list(tmp_path.iterdir()) == []


def test_other_files(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    write_records(tmp_path / "a", [(X, Y)])
    data = bytearray((tmp_path / "a").read_bytes())
    (tmp_path / "short").write_bytes(data[:3000])
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    (tmp_path / "text").write_text("no")
    later = b'{"records": 2, "arrays": [], "labels": []}'
    others = {"foreign": [b"\x0a\x03abc"], "later": [later], "none": []}
    for name, records in others.items():
        writer = module.ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
    for name, words in {
        "short": "is damaged|truncated", "cut": "is empty or truncated",
        "text": "is damaged|truncated",
        "foreign": "was written by something else: write it with fp.data.write_records",
        "later": "is of version 2", "none": "is empty or truncated", "gone": "does not exist",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=words):
            open(f"records:{tmp_path}/{name}")
    with pytest.raises(DataError, match=r"the folder .* does not exist"):
        write_records(tmp_path / "x" / "a", [(X, Y)])


def test_a_bit_that_fell_over_is_found(tmp_path):
    path = tmp_path / "a"
    write_records(path, [(X, Y)])
    source = open(f"records:{path}")
    good = source.read(np.arange(40))
    data = bytearray(path.read_bytes())
    place = data.find(X[20].tobytes()[:8])
    data[place if place >= 0 else 1500] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        open(f"records:{path}").read(np.arange(40))
    assert good[0].shape == X.shape
