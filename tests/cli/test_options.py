"""The options of `funcprop train`, each followed to the end of a run."""

import json
import math

import pytest

from funcprop.cli import main

WORDS = ["train", "--data", "xor", "--layers", "4", "--epochs", "2", "--gradient", "automatic"]


@pytest.fixture
def train(tmp_path, capsys):
    """words -> the folder's history, the exit code, and what was printed on both outputs."""

    def train(*words, code=0):
        given = [*WORDS, "--out", str(tmp_path / "run"), *map(str, words)]
        assert main(given) == code
        out, err = capsys.readouterr()
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], out, err

    return train


def test_a_schedule_is_told(train):
    _, out, _ = train("--schedule", "cosine", "--warmup", 3)
    assert "at learning rate 0.001, cosine to 0, after 3 steps of warmup" in out


def test_only_the_training_loss_is_smoothed(train):
    rows, _, _ = train("--label-smoothing", 0.9, "--learning-rate", 1e-6)
    # targets are all but uniform there, and the first network is far from it
    assert all(abs(row["loss"] - row["held_out_loss"]) > 1e-3 for row in rows)


def test_what_is_kept_and_judged_is_the_average(train, tmp_path, capsys):
    rows, out, _ = train("--ema", 0.999, "--learning-rate", 0.1)
    assert main(["predict", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == out.splitlines()[-1] + "\n"
    plain = tmp_path / "plain"
    assert main([*WORDS, "--learning-rate", "0.1", "--out", str(plain)]) == 0
    others = [json.loads(line) for line in (plain / "metrics.jsonl").read_text().splitlines()]
    for row, other in zip(rows, others, strict=True):
        assert math.isclose(row["loss"], other["loss"])  # training is the same
        assert row["held_out_loss"] != other["held_out_loss"]
