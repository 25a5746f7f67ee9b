"""What other programs read of a run: TensorBoard's events and a trace."""

import json

import jax
import optax
import pytest

import funcprop as fp
from funcprop.cli import main
from funcprop.cli.job.folder import read_config
from funcprop.cli.job.job import make_job, read
from funcprop.data import Examples
from funcprop.training import load_checkpoint

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


def test_speed_and_norms(tmp_path, capsys):
    out = tmp_path / "run"
    more = ["--optimizer", "sgd", "--learning-rate", "0.5", "--epochs", "2", "--out", str(out)]
    assert main([*WORDS, *more, "--speed", "--norms", "--tensorboard"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        speed = row["speed"]
        assert speed["examples_per_second"] == row["examples"] / row["seconds"]
        assert 1e7 < speed["resident_bytes"] < 1e12
        assert 0 < speed["share_of_peak"] < 1
        assert list(row["norms"]) == ["[2]", "[4]"]
    # after the last epoch, from the parameters that were kept
    recipe = read_config(out)[0]
    job = make_job(recipe, read(recipe, "xor", None))
    params, _ = load_checkpoint(out / "params.safetensors", job.state.params, ())
    batch = job.part(Examples(job.data.train.x[:100], job.data.train.y[:100]))
    grads = jax.grad(fp.objective(job.model, fp.SoftmaxCrossEntropy()))(params, batch)
    for name, place in (("[2]", 2), ("[4]", 4)):
        norm, share = rows[-1]["norms"][name]
        found, held = (float(optax.tree.norm(tree[place])) for tree in (grads, params))
        assert norm == pytest.approx(found, rel=1e-4)
        assert share == pytest.approx(0.5 * found / held, rel=1e-4)
    curves = values(out / "tensorboard")
    assert [value for _, value in curves["gradient_norm/4"]] == pytest.approx(
        [row["norms"]["[4]"][0] for row in rows], rel=1e-6
    )
    assert len(curves["speed/share_of_peak"]) == 2
    capsys.readouterr()
    assert main(["train", "--resume", str(out), "--epochs", "3"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert ["norms" in row and "speed" in row for row in rows] == [True] * 3


@pytest.mark.parametrize("option", ["--tensorboard", "--profile", "--norms"])
def test_they_need_a_folder(capsys, option):
    assert main([*WORDS, option]) == 2
    assert f"{option} writes into the folder of --out" in capsys.readouterr().err
