"""`funcprop train` on data that stay on disk: to the same bits from the middle of an epoch."""

import json
import shutil

import numpy as np
import pytest

from funcprop.cli import main
from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.disk import open_data


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Points on two sides of a line, in a CSV file."""
    file = tmp_path_factory.mktemp("disk") / "points.csv"
    points = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    rows = "".join(f"{a},{b},{int(a > b)}\n" for a, b in points)
    file.write_text("a,b,side\n" + rows)
    return f"table:{file}?target=side&classes=2"


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_run_goes_on_in_the_middle_of_an_epoch_to_the_same_bits(table, tmp_path, capsys):
    whole, part = tmp_path / "whole", tmp_path / "part"
    words = ["--layers", "3", "--batch-size", "10", "--epochs", "3", "--checkpoint-every", "4"]
    words += ["--gradient", "automatic"]
    code, out, err = run(capsys, "train", "--data", table, *words, "--out", whole)
    assert (code, err) == (0, "") and "54 training + 6 test" in out and "read from disk" in out
    shutil.copytree(whole, part)
    for path in (part / "checkpoints").iterdir():
        if int(path.name) > 16:
            shutil.rmtree(path)
    assert [path.name for path in (part / "checkpoints").iterdir()] == ["16"]  # of 6 in an epoch
    (part / "params.safetensors").unlink()
    code, out, err = run(capsys, "train", "--resume", part)
    assert (code, err) == (0, "") and "Epoch 1" not in out
    name = "params.safetensors"
    assert (whole / name).read_bytes() == (part / name).read_bytes()
    mine, other = (
        [
            json.loads(line) | {"seconds": 0}
            for line in (f / "metrics.jsonl").read_text().splitlines()
        ]
        for f in (whole, part)
    )
    assert mine == other
    code, out, _ = run(capsys, "predict", whole)
    assert code == 0 and "/ 6)" in out


def test_the_parts_of_the_data_have_no_example_in_common(table):
    data = open_data(table, validation=True)
    parts = (data.source.read(np.arange(len(data.source)))[0], data.test.x, data.validation.x)
    assert [len(part) for part in parts] == [48, 6, 6]
    assert len({tuple(row) for part in parts for row in part}) == 60


def test_of_tokens_the_end_is_the_test_set(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(81) % 300)
    data = open_data(f"tokens:{tmp_path / 'ids.npy'}?vocabulary=300", length=4)
    assert data.text and data.classes == 300
    assert data.test.x.ravel().tolist() == list(range(72, 80))
    with pytest.raises(RecipeError, match=r"how many tokens there are: write --data 'tokens:"):
        open_data(f"tokens:{tmp_path / 'ids.npy'}", length=4)


def test_classes_are_counted_where_nobody_says(tmp_path):
    file = tmp_path / "few.npz"
    np.savez(file, x=np.zeros((5, 2), np.float32), y=np.arange(5))
    assert open_data(f"npz:{file}").classes == 5
    np.savez(file, x=np.zeros((5, 2), np.float32), y=np.zeros(5, np.float32))
    with pytest.raises(RecipeError, match="wanted x and the number of its class"):
        open_data(f"npz:{file}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table:none.csv?target=a&classes=2"], "none.csv"),
        (["images:nowhere"], "nowhere"),
        (["table:a.csv", "--data-dir", "."], "has its own path: leave it out"),
    ],
)
def test_errors_are_one_line(words, said, capsys):
    code, _, err = run(capsys, "train", "--data", *words)
    assert code == 2 and said in err and err.count("\n") == 1
