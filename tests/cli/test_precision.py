"""Runs of sixteen bits to their end, small: losses fall, and steps that were skipped are counted.

convnet and resnet on images that a folder of MNIST's format holds, gpt on text of its own.
"""

import json
import re

import numpy as np
import pytest

from funcprop.cli import main


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of 8 × 8 in MNIST's format: a bright half says which class it is."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, n in (("train", 64), ("t10k", 20)):
        labels = random.integers(0, 2, n, np.uint8)
        pixels = random.integers(0, 60, (n, 8, 8), np.uint8)
        pixels[labels == 1, :4] += 190
        head = [bytes([0, 0, 8, kind, 0, 0, 0, n]) for kind in (3, 1)]
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            head[0] + bytes([0, 0, 0, 8] * 2) + pixels.tobytes()
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head[1] + labels.tobytes())
    return ["--data", "mnist", "--data-dir", str(folder), "--width", "4"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "abc.txt"
    path.write_text("abcdefgh" * 60)
    sizes = ["--width", "8", "--depth", "1", "--heads", "2", "--length", "8"]
    return ["--data", f"text:{path}", *sizes]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("model", ["convnet", "resnet", "gpt"])
def test_a_run_to_its_end(model, precision, images, text, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", "--model", model, *(text if model == "gpt" else images)]
    words += ["--precision", precision, "--epochs", "2", "--batch-size", "16"]
    words += [
        "--learning-rate",
        "0.01",
        "--gradient",
        "manual" if model == "convnet" else "automatic",
    ]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"computed in {precision}" in said
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and losses[1] < losses[0]
    found = re.search(r"Loss scale: (\S+); (\d+) of (\d+) steps skipped", said)
    assert (found is not None) == (precision == "float16")
    if found:
        scale, skipped, steps = map(float, found.groups())
        # each one skipped halves the scale it began with, and 2000 good ones never come
        assert steps > 0 and scale == 2.0 ** (15 - skipped)
