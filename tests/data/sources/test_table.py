"""Tables: CSV by rows, Parquet by row groups, and every field that is no number."""

import numpy as np
import pytest

from funcprop.data import DataError, open, stream
from funcprop.data.sources import csv_table

NUMBERS = np.random.default_rng(0).normal(size=(100, 3)).round(4)
WORDS = [("low", "high")[k % 3 == 0] for k in range(100)]
TEXT = "a,b,c,kind\n" + "".join(
    f"{a},{b},{c},{word}\n" for (a, b, c), word in zip(NUMBERS, WORDS, strict=True)
)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "t.csv").write_text(TEXT)
    return tmp_path / "t.csv"


@pytest.fixture(params=["csv", "parquet"])
def either(request, path):
    """The same table as both, Parquet in groups of 15 rows."""
    if request.param == "parquet":
        pa, pq = (pytest.importorskip(f"pyarrow{name}") for name in ("", ".parquet"))
        table = {name: NUMBERS[:, k] for k, name in enumerate("abc")} | {"kind": WORDS}
        pq.write_table(pa.table(table), path.with_suffix(".parquet"), row_group_size=15)
    return f"table:{path.with_suffix('.' + request.param)}"


def test_columns_are_features_and_target(either):
    source = open(either, target="kind", labels="low,high")
    assert (len(source), source.classes, source.labels) == (100, 2, ("low", "high"))
    i = np.array([99, 0, 16, 15, 14, 0])
    x, y = source.read(i)
    np.testing.assert_array_equal(x, NUMBERS[i].astype(np.float32))
    assert x.dtype == np.float32 and y.dtype == np.int32
    assert y.tolist() == [int(k % 3 == 0) for k in i]
    x, y = open(f"{either}?target=c,a&features=b").read(i)
    np.testing.assert_array_equal(y, NUMBERS[i][:, [2, 0]].astype(np.float32))
    np.testing.assert_array_equal(x, NUMBERS[i][:, [1]].astype(np.float32))


def test_a_stream_has_every_row_once(either):
    source = open(either, target="c", features="a,b")
    seen = np.concatenate(
        [y for _, y in stream(source, 7, epochs=1, drop_last=False, device=False)]
    )
    assert sorted(seen.ravel()) == sorted(NUMBERS[:, 2].astype(np.float32))
    again = stream(source, 7, seed=1)
    first = [next(again)[0] for _ in range(20)]
    rest = again.at({**again.position, "epoch": 0, "step": 13})
    np.testing.assert_array_equal(next(rest)[0], first[13])


@pytest.mark.parametrize("piece", [7, 64, 2**22])
def test_rows_are_found_at_any_size_of_piece(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(csv_table, "PIECE", piece)
    rows = [f'{k},"word, {k}\nand ""more""",{k * k}\r\n' for k in range(70)]
    (tmp_path / "q.csv").write_bytes("".join(['\ufeffa,"b",c\r\n', *rows, "\r\n\n"]).encode())
    source = open(f"table:{tmp_path}/q.csv?target=c&features=a")
    assert len(source) == 70
    x, y = source.read(np.arange(70))
    np.testing.assert_array_equal(x[:, 0], np.arange(70))
    np.testing.assert_array_equal(y[:, 0], np.arange(70) ** 2)


def test_a_last_row_without_a_newline_and_another_separator(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1;0\n2;1")
    source = open(f"table:{tmp_path}/t.csv?target=b&separator=;&classes=2")
    assert source.read(np.arange(2))[1].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"has one column 'a;b': write open\('.*', separator=';'\)"):
        open(f"table:{tmp_path}/t.csv?target=b")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (TEXT.splitlines()[50], "1,2,low", "row 50 has 3 fields, and the header 4: give each row"),
        (TEXT.splitlines()[50], "1,2,3,4,low", "row 50 has 5 fields"),
        (TEXT.splitlines()[50], "", "row 50 has 1 fields"),
        ("a,b,c,kind", "a,b,b,kind", "has two columns 'b'"),
        ("a,b,c,kind", "1,2,3,4", "begins with numbers"),
        (TEXT, "", "is empty"),
        (TEXT, "\n\n", "holds empty lines only"),
        (TEXT, "a,kind\n", "has column names and no rows"),
    ],
)
def test_a_file_of_another_form_is_refused_when_it_is_opened(path, old, new, words):
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(DataError, match=words):
        open(f"table:{path}", target="kind", labels="low,high")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("", "t.csv: a: example 50 holds '', wanted a number"),
        ("n/a", "example 50 holds 'n/a'"),
        ("nan", "example 50 holds nan, wanted finite numbers"),
        ("-inf", "holds -inf"),
        ("1e40", "holds 1e[+]40, wanted finite"),
        ("1_000", "holds '1_000'"),
        ('"1"2', "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_field_that_is_no_number_is_found_when_it_is_read(path, field, words):
    lines = TEXT.splitlines()
    lines[51] = f"{field},1,2,low"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=words):
        open(f"table:{path}", target="kind", labels="low,high").read(np.arange(48, 53))


def test_options_of_a_table(either, path):
    for options, words in {
        "": r"has the columns a, b, c, kind: say which is the target: open\('.*', target='kind'\)",
        "target=d": "no column 'd': wanted one of a, b, c, kind",
        "target=a&features=a,b": "a is a feature and the target",
        "target=a,kind&features=b&classes=2": "classes stand in one column",
        "target=a,b,c,kind": "no feature is left",
        "target=kind&labels=low,high&classes=3": "2 labels name 3 classes",
    }.items():
        with pytest.raises(DataError, match=words):
            open(f"{either}?{options}" if options else either)
    for options, words in {
        "target=a": "kind.*wanted (a number|numbers): leave (the column|it) out by features=",
        "target=kind": r"or (classes|name its classes) by labels='a,b'",
        "target=kind&labels=low,higher": "kind of example 0 is high, wanted one of low, higher",
        "target=a&features=b&classes=3": "a of example 0 is .*, wanted a class of 0 to 2",
    }.items():
        with pytest.raises(DataError, match=words):
            open(f"{either}?{options}").read(np.arange(5))
    with pytest.raises(DataError, match=r"which a \.csv has only"):
        open(f"table:{_touched(path, 'x.parquet')}?target=a&separator=;")
    with pytest.raises(DataError, match=r"wanted a \.csv or a .parquet"):
        open(f"table:{_touched(path, 'x.xlsx')}?target=a")
    with pytest.raises(DataError, match="cannot be read"):
        open(f"table:{_touched(path, 'x.parquet')}?target=a")


def _touched(path, name):
    path.with_name(name).write_text("PAR1")
    return path.with_name(name)


def test_gaps_and_damage_of_parquet(tmp_path):
    pa, pq = (pytest.importorskip(f"pyarrow{name}") for name in ("", ".parquet"))
    file, a = tmp_path / "t.parquet", [float(k) for k in range(40)]
    gap = [None if k == 33 else k for k in range(40)]
    pq.write_table(pa.table({"a": a, "y": gap}), file, row_group_size=10)
    with pytest.raises(DataError, match="y has 1 gaps, the first in example 33: fill them in"):
        open(f"table:{file}?target=y").read(np.array([0, 31]))
    a[12] = float("nan")
    pq.write_table(pa.table({"a": a, "y": range(40)}), file, row_group_size=10)
    source = open(f"table:{file}?target=y")
    assert source.read(np.array([0, 39]))[1].ravel().tolist() == [0, 39]
    with pytest.raises(DataError, match="a: example 12 holds nan"):
        source.read(np.array([15]))
    data = file.read_bytes()
    file.write_bytes(data[:400])
    with pytest.raises(DataError, match="cannot be read"):
        open(f"table:{file}?target=y")


def test_parquet_keeps_few_groups(tmp_path, monkeypatch):
    pa, pq = (pytest.importorskip(f"pyarrow{name}") for name in ("", ".parquet"))
    from funcprop.data.sources import parquet_table

    monkeypatch.setattr(parquet_table, "HELD", 2 * 3 * 10 * 8)  # two windows of three groups
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": range(400), "y": range(400)}), file, row_group_size=10)
    source = open(f"table:{file}?target=y")
    assert source.window == 3
    decoded = []
    monkeypatch.setattr(
        source, "_decoded", lambda k, old=source._decoded: decoded.append(k) or old(k)
    )
    seen = [y for _, y in stream(source, 8, epochs=1, prefetch=0)]
    assert len(np.unique(np.concatenate(seen))) == 400
    assert len(source._kept) <= 6
    assert len(decoded) <= 42  # each once, but for what was kept from opening
