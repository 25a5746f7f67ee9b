"""`funcprop train --resume`: on to the same bits, longer, or refused in a line."""

import json
import shutil

import pytest

from funcprop.cli import main
from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.recipe import LATER
from funcprop.cli.job.saving import Every, every

WORDS = ["train", "--data", "xor", "--layers", "4", "--batch-size", "64", "--seed", "3"]


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four epochs, saved every three steps of seven."""
    folder = tmp_path_factory.mktemp("resume") / "run"
    words = [*WORDS, "--epochs", "4", "--checkpoint-every", "3", "--out", folder]
    assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    return folder


def history(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]


def back(folder, steps):
    """The folder as it was when it had saved after so many steps and no more."""
    for path in (folder / "checkpoints").iterdir():
        if not path.name.isdecimal() or int(path.name) > steps:
            shutil.rmtree(path)
    (folder / "params.safetensors").unlink()


def test_from_the_middle_of_an_epoch_to_the_same_bits(trained, copy, capsys):
    numbers = sorted(int(path.name) for path in (copy / "checkpoints").iterdir())
    middle = [n for n in numbers if n < max(numbers)][-1]
    back(copy, middle)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 9, "lo')  # a line that was torn
    code, out, err = run(capsys, "train", "--resume", copy)
    assert (code, err) == (0, "") and "Epoch 3" in out and "Epoch 2" not in out
    assert history(copy) == history(trained)
    name = "params.safetensors"
    assert (copy / name).read_bytes() == (trained / name).read_bytes()


def test_a_damaged_one_is_passed_over_in_one_line(trained, copy, capsys):
    newest = max((copy / "checkpoints").iterdir(), key=lambda path: int(path.name))
    (newest / "content" / "metadata").write_text("{}")
    code, _, err = run(capsys, "train", "--resume", copy)
    assert code == 0 and err.count("\n") == 1
    assert err.startswith(f"funcprop: {newest} is damaged") and "going on from step" in err
    assert history(copy) == history(trained)


def test_where_nothing_was_saved_it_begins_anew(trained, copy, capsys):
    back(copy, 0)
    code, out, _ = run(capsys, "train", "--resume", copy)
    assert code == 0 and "Epoch 0" in out
    assert history(copy) == history(trained)


def test_one_that_has_ended_says_what_it_reached(copy, capsys):
    code, out, err = run(capsys, "train", "--resume", copy)
    assert (code, err) == (0, "")
    assert out.startswith("Test accuracy") and "Epoch" not in out


def test_it_may_become_longer(trained, copy, capsys):
    code, out, _ = run(capsys, "train", "--resume", copy, "--epochs", 6)
    assert code == 0 and "Epoch 4" in out and "Epoch 5" in out and "Epoch 3" not in out
    assert history(copy)[:4] == history(trained) and len(history(copy)) == 6
    assert json.loads((copy / "config.json").read_text())["epochs"] == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optimizer", "sgd"], "--optimizer is sgd, and"),
        (["--layers", "5"], "--layers is (5,), and"),
        (["--out", "other"], "leave out --out"),
        (["--epochs", "2"], "4 epochs were wanted, and --epochs is 2"),
    ],
)
def test_another_recipe_is_refused(copy, capsys, words, said):
    code, out, err = run(capsys, "train", "--resume", copy, *words)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1


def test_a_schedule_that_has_ended_is_not_made_longer(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"schedule": "cosine"}))
    code, out, err = run(capsys, "train", "--resume", copy, "--epochs", 6)
    assert (code, out) == (2, "") and "the cosine schedule of" in err and err.count("\n") == 1


def test_a_run_from_before_an_option_goes_on(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    for name in LATER:
        del config[name]
    (copy / "config.json").write_text(json.dumps(config))
    code, out, err = run(capsys, "train", "--resume", copy)
    assert (code, err) == (0, "") and out.startswith("Test accuracy")


def test_other_data_are_refused(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"data": "moons"}))
    code, _, err = run(capsys, "train", "--resume", copy)
    assert code == 2 and "is of another run: its contents of the data was" in err


def test_what_is_no_run_is_refused(tmp_path, capsys):
    code, _, err = run(capsys, "train", "--resume", tmp_path / "nothing")
    assert code == 2 and "config.json cannot be read" in err
    (tmp_path / "config.json").write_text("{}")
    code, _, err = run(capsys, "train", "--resume", tmp_path)
    assert code == 2 and "is no configuration of a run" in err


def test_a_history_that_was_lost_is_told(copy, capsys):
    (copy / "metrics.jsonl").write_text("")
    code, _, err = run(capsys, "train", "--resume", copy)
    assert code == 2 and "is not what the run wrote (it has 0 of 4 epochs)" in err


def test_how_often_needs_a_folder(capsys):
    code, _, err = run(capsys, *WORDS, "--checkpoint-every", "3")
    assert code == 2 and "--checkpoint-every writes into the folder of --out" in err


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("500", Every(steps=500)),
        ("1 step", Every(steps=1)),
        ("2epochs", Every(epochs=2)),
        ("90s", Every(seconds=90)),
        ("10m", Every(seconds=600)),
        ("1h", Every(seconds=3600)),
        ("never", Every()),
    ],
)
def test_how_often(text, wanted):
    assert every(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "0m", "-3", "ten", "3 days", "1.5h", "9" * 12])
def test_how_often_not(text):
    with pytest.raises(RecipeError, match="--checkpoint-every is"):
        every(text)
