"""`funcprop train --sharding`: on all devices, and gone on with on another number of them."""

import json
import shutil

import jax
import numpy as np
import pytest

from funcprop.cli import main
from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.devices import all_devices
from funcprop.cli.job.processes import check
from funcprop.layers import Dense

WORDS = ["train", "--data", "xor", "--layers", "8", "--batch-size", "64", "--epochs", "2"]
WORDS += ["--gradient", "automatic", "--checkpoint-every", "3"]


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


def test_a_sharded_run_goes_on_to_the_same_bits_and_elsewhere_to_the_same_losses(tmp_path, capsys):
    whole, part, other = (tmp_path / name for name in ("whole", "part", "other"))
    code, out, err = run(capsys, *WORDS, "--sharding", "fully-sharded", "--out", whole)
    n = jax.device_count()
    assert (code, err) == (0, "")
    assert f"(cpu), fully-sharded: batch 64 = {n} x {64 // n}; " in out
    for path in (whole / "checkpoints").iterdir():
        if int(path.name) > 12:
            shutil.rmtree(path)
    name = "params.safetensors"
    for folder in (part, other):
        shutil.copytree(whole, folder)
        (folder / name).unlink()
    assert run(capsys, "train", "--resume", part)[0] == 0
    assert (part / name).read_bytes() == (whole / name).read_bytes()
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"sharding": None}))
    assert run(capsys, "train", "--resume", other)[0] == 0  # on one device
    np.testing.assert_allclose(losses(other), losses(whole), rtol=1e-5)


def test_devices_that_cannot_share_a_batch_say_what_they_could():
    n = jax.device_count()
    if n > 1:
        with pytest.raises(RecipeError, match=rf"cannot share it evenly: --batch-size {n}"):
            all_devices("data-parallel", Dense(2), n + 1)
    assert all_devices(None, Dense(2), 3).mesh is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("host:1", None, None), "--coordinator without --processes, --process: give"),
        ((None, 2, 0), "--processes without --coordinator: give"),
        (("auto", 2, None), "finds --processes itself: leave it out"),
        (("host", 2, 0), "wanted HOST:PORT"),
        (("host:1", 2, 2), "wanted a whole number from 0 to 1"),
    ],
)
def test_options_of_processes_that_do_not_go_together(words, said):
    with pytest.raises(RecipeError, match=said):
        check(*words)
