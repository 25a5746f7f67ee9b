"""`funcprop explain`, in process: what it takes, what it writes, what it refuses."""

import json
import re
import time

import pytest

import funcprop.cli as cli
from funcprop.explorer.explaining import distance


@pytest.fixture
def explain(tmp_path, capsys):
    def run(*words, out="page.html"):
        code = cli.main(["explain", *map(str, words), "--out", str(tmp_path / out)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err, tmp_path / out

    return run


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.S)[1])


def test_a_small_network_of_ones_own_choice(explain):
    code, out, _, path = explain(
        *("--data", "xor", "--layers", 4, 3, "--activation", "relu", "--loss", "quadratic"),
        *("--learning-rate", 0.5, "--steps", 3, "--seed", 2),
    )
    assert code == 0 and out.startswith(f"{path}: xor, 2 → 4 → 3 → 1 (")
    data = data_of(path)
    assert data["sizes"] == [2, 4, 3, 1] and data["activations"] == ["relu", "relu", "identity"]
    assert data["steps"] == [0, 1, 2, 3] and data["learningRate"] == 0.5


def test_one_neuron_to_begin_with(explain):
    code, out, err, path = explain("--example", "neuron")
    assert code == 0 and err == "training 300 steps …\n"
    for words in ("0.8176", "0.3342", "0.1219"):
        assert words in out
    data = data_of(path)
    assert data["sizes"] == [1, 1] and data["learningRate"] == 0.15 and data["steps"][-1] == 300


def test_what_is_equal_is_not_apart():
    assert distance(0.0, "norm") == "are exactly equal"
    assert distance(3e-16, "norm") == "differ by at most 3\u00a0×\u00a010⁻¹⁶ of a leaf's norm"


def test_a_worked_example(explain):
    code, out, _, path = explain("--example", "mazur", "--steps", 1)
    assert code == 0 and "0.291027924" in out and data_of(path)["steps"] == [0, 1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--data", "moon"), "--data: unknown 'moon': did you mean 'moons'?"),
        (("--example", "olaf"), "did you mean 'olah'?"),
        (("--activation", "sigmod"), "did you mean 'sigmoid'?"),
        (("--model", "gtp"), "did you mean 'gpt'?"),
        (("--layers", 21), "--layers is 21, wanted a whole number from 1 to 20"),
        (("--steps", -1), "--steps is -1"),
        (("one", "two"), "2 folders: give one"),
        (("nowhere",), "give the folder of `funcprop train --out`"),
    ],
)
def test_what_is_refused_is_told_in_a_line(explain, words, reason):
    code, out, err, path = explain(*words)
    assert code == 2 and reason in err and err.count("\n") == 1 and out == ""
    assert not path.exists()


def test_a_file_that_exists_is_kept(explain):
    assert explain("--example", "olah")[0] == 0
    code, _, err, _ = explain("--example", "olah")
    assert code == 2 and "exists already: give another name, or --overwrite" in err
    assert explain("--example", "olah", "--overwrite")[0] == 0


def test_the_folder_of_a_training(explain, tmp_path):
    folder = tmp_path / "run"
    words = ("--layers", "6", "--epochs", "1", "--gradient", "automatic", "--batch-size", "100")
    assert cli.main(["train", *words, "--out", str(folder)]) == 0
    code, out, _, path = explain(folder)
    data = data_of(path)
    assert code == 0 and "the network as it was trained" in out
    assert data["sizes"] == [64, 6, 10] and data["steps"] == [0] and data["image"] == [8, 8]


def test_a_language_model(explain, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 40, "utf-8")
    start = time.perf_counter()
    code, out, _, path = explain("--model", "gpt", "--data", f"text:{text}")
    print(f"\nfuncprop explain --model gpt: {time.perf_counter() - start:.1f} s")
    assert code == 0 and "31 layers" in out
    run = data_of(path)["runs"][0]
    attention = [layer for layer in run["layers"] if layer["name"] == "DotProductAttention"]
    assert [layer["group"] for layer in attention] == ["block 1", "block 2"]
    assert [len(layer["maps"][0]["pairs"]) for layer in attention] == [4, 4]
    assert max(leaf["apart"] for leaf in data_of(path)["leaves"]) < 1e-4
