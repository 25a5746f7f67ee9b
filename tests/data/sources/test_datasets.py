"""Hugging Face's folders: two columns of them, without gaps."""

import numpy as np
import pytest

from funcprop.data import DataError, open, stream

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

F, VALUE = datasets.Features, datasets.Value
X = np.random.default_rng(0).integers(0, 256, (9, 4, 3), np.uint8)


def save(folder, data, features=None, split=None):
    made = datasets.Dataset.from_dict(data, features=features)
    made = datasets.DatasetDict({split: made}) if split else made
    made.save_to_disk(str(folder))
    return f"datasets:{folder}"


def test_images_bytes_and_numbers(tmp_path):
    from PIL import Image

    label = datasets.ClassLabel(names=["a", "b"])
    drawn = [Image.fromarray(np.stack([x] * 3, -1)) for x in X]
    name = save(
        tmp_path / "images",
        {"image": drawn, "label": [k % 2 for k in range(9)]},
        F(image=datasets.Image(), label=label),
    )
    source = open(name)
    x, y = source.read(np.array([4, 1]))
    np.testing.assert_array_equal(x, np.stack([X[[4, 1]]] * 3, -1))
    assert (x.dtype, y.dtype, source.labels) == (np.uint8, np.int32, ("a", "b"))
    assert y.tolist() == [0, 1] and len(source) == 9
    name = save(
        tmp_path / "arrays",
        {"pixels": X, "target": np.arange(9) / 2, "id": range(9)},
        F(pixels=datasets.Array2D((4, 3), "uint8"), target=VALUE("float64"), id=VALUE("int64")),
        split="train",
    )
    x, y = next(stream(open(f"{name}?split=train&features=pixels"), 9, shuffle=False))
    assert (x.dtype, y.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(x, X)
    x, y = open(name, split="train", features="id", target="target")[3]
    assert (x.tolist(), y.tolist()) == (3, 1.5)


def test_what_cannot_be_read(tmp_path):
    ok = save(tmp_path / "ok", {"a": [1.0, 2.0], "b": [1, 2], "label": [0, 1]})
    ragged = save(tmp_path / "ragged", {"a": [[1], [1, 2]], "label": [0, 1]})
    gap = save(tmp_path / "gap", {"a": [1.0, None], "label": [0, 1]})
    words = save(tmp_path / "words", {"a": ["x", "y"], "label": [0, 1]})
    parts = save(tmp_path / "parts", {"a": [1.0], "label": [0]}, split="train")
    empty = save(tmp_path / "empty", {"a": [], "label": []})
    none = save(
        tmp_path / "none",
        {"a": [1.0, 2.0], "label": [0, -1]},
        F(a=datasets.Value("float32"), label=datasets.ClassLabel(names=["a"])),
    )
    (tmp_path / "nothing").mkdir()
    for name, message in {
        ok: r"has the columns a, b, label: write open\('.*', features='a', target='label'\)",
        f"{ok}?features=z": "has no column 'z'",
        f"{ok}?features=a&split=train": "has no splits",
        ragged: r"example 1 is int64 \[2\], and example 0 int64 \[1\]",
        gap: "the column a has 1 gaps",
        words: "a is an array of <U1, wanted numbers",
        parts: r"has the splits train: write open\('.*', split='train'\)",
        empty: "has no rows|cannot be read",
        none: "label of example 1 is -1, wanted 0 to 0",
        f"datasets:{tmp_path}/nothing": "cannot be read .* write it with save_to_disk",
        f"datasets:{tmp_path}/gone": "does not exist",
    }.items():
        with pytest.raises(DataError, match=message):
            open(name)
