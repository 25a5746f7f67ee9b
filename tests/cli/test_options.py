"""The options of `funcprop train`, each followed to the end of a run."""

import json
import math
import shutil

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


def stopped(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["held_out_loss"] for row in rows]
    return rows, losses.index(min(losses))


EARLY = ("--validation", "--early-stopping", 2, "--epochs", 40, "--learning-rate", 0.5)


def test_a_run_stops_where_the_validation_loss_does_not_fall(train, tmp_path, capsys):
    _, out, _ = train(*EARLY, "--checkpoint-every", "1epoch")
    rows, best = stopped(tmp_path / "run")
    assert len(rows) == best + 3 < 40
    said = f"Stopped after {best + 3} of 40 epochs; kept: epoch {best}, with the smallest"
    assert said in out
    # what is kept is what a run has that ends there
    short = tmp_path / "short"
    words = [*EARLY[:4], best + 1, *EARLY[5:]]
    assert main([*WORDS, *map(str, [*words, "--out", short])]) == 0
    assert f"Kept: epoch {best}" in capsys.readouterr().out
    name = "params.safetensors"
    assert (short / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    # ... and what it has that was interrupted after the best epoch
    wanted = (tmp_path / "run" / name).read_bytes()
    (tmp_path / "run" / name).unlink()
    steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(steps[-1]))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    resumed = capsys.readouterr().out
    assert said in resumed and f"Epoch {best + 2}" in resumed and f"Epoch {best}:" not in resumed
    assert (tmp_path / "run" / name).read_bytes() == wanted
    assert len(stopped(tmp_path / "run")[0]) == best + 3


@pytest.mark.parametrize("gradient", ["manual", "automatic"])
def test_float16_says_what_was_skipped(train, tmp_path, capsys, gradient):
    rows, out, _ = train("--precision", "float16", "--gradient", gradient)
    assert "computed in float16" in out
    assert "Loss scale: 32768; 0 of 26 steps skipped" in out
    assert len(rows) == 2
    assert main(["predict", str(tmp_path / "run")]) == 0  # float32 parameters, as ever
    assert capsys.readouterr().out == out.splitlines()[-1] + "\n"
