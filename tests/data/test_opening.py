"""Names of sources."""

import sys

import pytest

from funcprop.data import DataError, open, stream


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image:DIR", "unknown source 'image:DIR': did you mean 'images:'"),
        ("mnist", "unknown source 'mnist': The kinds are images:, tokens:, records:, npz:"),
        (3, "unknown source 3"),
        ("npz:", r"has no path: write open\('npz:PATH'\)"),
        ("npz:?members=x", "has no path"),
    ],
)
def test_a_name_that_opens_nothing(name, words):
    with pytest.raises(DataError, match=words):
        open(name)


def test_a_path_may_hold_a_question_mark(tmp_path):
    path = tmp_path / "what?.txt"
    path.write_bytes(bytes(range(100)))
    assert len(open(f"tokens:{path}", dtype="uint8", length=9)) == 11
    assert len(open(f"tokens:{path}?dtype=uint8&length=9")) == 11
    with pytest.raises(DataError, match="length is given twice"):
        open(f"tokens:{path}?length=9", length=9)


@pytest.mark.parametrize(
    ("library", "call", "words"),
    [
        ("grain", lambda f: next(stream(f"tokens:{f}?dtype=uint8&length=9", 2)), "train"),
        ("array_record", lambda f: open(f"records:{f}"), "a file of records needs array_record"),
        ("pyarrow", lambda f: open(f"table:{f}?target=a"), r"pip install 'funcprop\[data\]'"),
        ("datasets", lambda f: open(f"datasets:{f.parent}"), r"pip install 'funcprop\[data\]'"),
        ("PIL", lambda f: open(f"images:{f.parent}"), "reading images needs pillow"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    tmp_path, monkeypatch, library, call, words
):
    path = tmp_path / "a.parquet"
    path.write_bytes(bytes(range(100)))
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if not _finds(each)])
    with pytest.raises(ModuleNotFoundError, match=words):
        call(path)


def _finds(finder):
    """Whether it looks in folders, as those of an editable installation do as well."""
    return getattr(finder, "__name__", type(finder).__name__) not in (
        "BuiltinImporter",
        "FrozenImporter",
    )
