"""What other programs read of a run: TensorBoard's events and a trace."""

import json

import pytest

from funcprop.cli import main

WORDS = ["train", "--data", "xor", "--layers", "4", "--batch-size", "100"]
WORDS += ["--gradient", "automatic"]


def values(folder):
    """tag -> [(step, value)] of the events in a folder, read as records with their checksums."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_curves_and_trace(tmp_path, capsys):
    out = tmp_path / "run"
    more = ["--epochs", "5", "--out", str(out), "--tensorboard", "--profile"]
    assert main([*WORDS, *more]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = values(out / "tensorboard")
    assert len(found) == 5
    assert [step for step, _ in found["loss/training"]] == [0, 1, 2, 3, 4]
    wanted = [row["held_out_loss"] for row in rows]
    assert [value for _, value in found["loss/held-out"]] == pytest.approx(wanted, rel=1e-6)
    assert list((out / "profile").rglob("*.xplane.pb"))
    assert json.loads((out / "config.json").read_text())["tensorboard"] is True


@pytest.mark.parametrize("option", ["--tensorboard", "--profile"])
def test_they_need_a_folder(capsys, option):
    assert main([*WORDS, option]) == 2
    assert f"{option} writes into the folder of --out" in capsys.readouterr().err
