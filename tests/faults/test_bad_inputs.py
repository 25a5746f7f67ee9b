"""A table of bad inputs: command lines, configurations, files, and calls from Python.

Every one of them ends, within seconds, in words that name what to give instead: from the command
line in one line and exit code 1 or 2, from Python in an exception whose message is ours.
"""

import json
import re
import resource
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.cli import main
from funcprop.data import DataError
from funcprop.layer import LayerError
from funcprop.training.checkpoint import CheckpointError

SECONDS = 60  # until a row counts as one that hangs
QUICK = "train --data xor --layers --gradient automatic --init glorot --epochs 1 --batch-size 100"
REMEDY = re.compile(
    r"; it has --|: --model \w|\b(wanted|wants|give|write|take|add|did you mean|see `|leave out|"
    r"leave it out|train again|restore|pip install|choose|start a new run|start from|make room|"
    r"required|expected one argument|invalid|(commands|names|kinds|they) are|free it|"
    r"can only become longer|call|scale that of|use|unrecognized|remove|define|save it again|"
    r"build the model with)\b"
)

COMMANDS = """
|trian|-x|train surplus|train --layrs 3|train --epochs|train --epochs 0|train --epochs 1e3
train --epochs -1|train --epochs nan|train --epochs 99999999|train --layers x|train --layers 30.5
train --layers 0|train --layers 3 -1|train --layers 999999|train --batch-size 0
train --batch-size 2000|train --batch-size x|train --batch-size|train --learning-rate
train --learning-rate abc|train --learning-rate -1|train --learning-rate 0
train --learning-rate nan|train --learning-rate inf|train --learning-rate 1e30|train --seed -1
train --seed 99999999999|train --seed 1.5|train --schedule cosin|train --schedule
train --warmup -1|train --warmup 90 --epochs 2|train --warmup x|train --label-smoothing 1
train --label-smoothing -0.1|train --label-smoothing 0.1 --loss hinge|train --early-stopping 3
train --early-stopping 0 --validation|train --early-stopping x --validation
train --precision float61|train --precision float64|train --ema 1|train --ema -1|train --ema nan
train --clip-norm 0|train --clip-norm -1|train --clip-norm inf|train --weight-decay -1
train --weight-decay nan|train --l2 inf|train --l2 -1|train --model mpl|train --model
train --activation sigmod|train --activation 3|train --loss qudratic|train --optimizer adamm
train --init golrot|train --gradient automatc|train --data digit|train --data mnist|train --data ""
train --data mnist --data-dir /no/such|train --data mnist --data-dir /dev/null|train --width 8
train --data emnist|train --data openml:|train --data text:/no/such
train --model convnet --width x|train --model convnet --width 0|train --model convnet --layers
train --model convnet --width 99999999|train --model convnet --data xor|train --depth 3
train --model convnet --dropout 1|train --model convnet --dropout -1|train --model resnet --depth 0
train --model lstm --activation tanh|train --model lstm --data xor|train --model vit --patch 3
train --model vit --heads 5|train --model vit --heads 0|train --model vit --data xor
train --model gpt|train --model gpt --loss hinge --data text:|train --data text:
train --model lstm --data text:|train --model gpt --data text|train --model gpt --data text:/tmp
train --model gpt --data text:/dev/null|train --model gpt --data text: --length 900000
train --model gpt --data text: --batch-size 9999|train --model gpt --data text: --heads 7
train --model gpt --data text: --length 0|train --model gpt --data text: --layers 3
train --plots|train --tensorboard|train --profile|train --norms|train --speed
train --checkpoint-every 5|train --checkpoint-every 0 --out x|train --checkpoint-every 5x --out x
train --checkpoint-every -1s --out x|train --out|train --out /proc/x|train --out /dev/null
train --out /dev/null/x|train --out /etc/passwd|train --out /proc/self/x|train --out /sys/x
train --resume /no/such|train --resume /dev/null|train --resume|train --resume /tmp --out x
predict|predict /no/such|predict /dev/null|predict /proc|predict --out x|predict a b
compare Desne|compare no_such:thing|compare json:nothing|compare json:|compare :x
compare Dense --x 8xx4|compare json:loads --x 0x4|compare json:loads --x int99:3
compare --script /no/such.py|summary --model mpl|summary --layers 0|summary --data mnist
explain --data nosuch --out x.html|explain --out /proc/x.html|explain --layers 0
exercise tahn|exercise /no/such.py|exercise /dev/null
""".strip("\n").replace("\n", "|").split("|")  # fmt: skip


def refused(words, capsys, codes=(1, 2)):
    """One line on standard error that names a remedy, no traceback, and an exit code."""
    code = main([str(word) for word in words])
    err = capsys.readouterr().err
    assert code in codes, (code, err)
    assert err.startswith("funcprop: ") and err.count("\n") == 1, err
    assert "Traceback" not in err and "Error:" not in err, err
    assert REMEDY.search(err), err


@pytest.fixture(autouse=True)
def ends():
    """Raises where a row takes longer than it may."""

    def late(*_):
        raise TimeoutError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_line(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused([word.strip('"') for word in line.split()], capsys)
    assert not list(tmp_path.iterdir())  # nothing was begun


# --- folders of runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert main([*QUICK.split(), "--out", str(folder)]) == 0
    return folder


def written(name, content):
    def damage(folder):
        data = content if isinstance(content, bytes) else str(content).encode()
        (folder / name).write_bytes(data)

    return damage


def removed(name):
    return lambda folder: (folder / name).unlink()


def halved(name):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def exchanged(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def configured(**fields):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return damage


def checkpoints(change):
    def damage(folder):
        for path in sorted((folder / "checkpoints").rglob("*")):
            if path.is_file():
                change(path)

    return damage


def foreign(folder):
    """The parameters of another model."""
    from safetensors.numpy import save_file

    save_file({"other.w": np.ones((3, 4), np.float32)}, folder / "params.safetensors")


HEAD = (8).to_bytes(8, "little") + b"{}      "
PREDICT = {
    "params missing": removed("params.safetensors"),
    "params empty": written("params.safetensors", b""),
    "params are text": written("params.safetensors", "no tensors at all"),
    "params cut": halved("params.safetensors"),
    "params are a folder": exchanged("params.safetensors"),
    "params of another model": foreign,
    "params without a tensor": written("params.safetensors", HEAD),
    "params with a huge header": written("params.safetensors", b"\xff" * 64),
    "config missing": removed("config.json"),
    "config cut": halved("config.json"),
    "config is a folder": exchanged("config.json"),
    "config is binary": written("config.json", b"\x80\x81\x82"),
    "config of another width": configured(layers=[7]),
    "config of another example": configured(example=[3]),
    "config of other classes": configured(classes=5),
    "config of another model": configured(model="convnet"),
    "config of unknown data": configured(data="nowhere"),
    "config of text": configured(data="text:/no/such"),
}
RESUME = {
    "config missing": removed("config.json"),
    "config cut": halved("config.json"),
    "config of another width": configured(layers=[7]),
    "config of another seed": configured(seed=3),
    "config of another optimizer": configured(optimizer="sgd"),
    "config of another example": configured(example=[3]),
    "checkpoints are empty files": checkpoints(lambda path: path.write_bytes(b"")),
    "checkpoints are text": checkpoints(lambda path: path.write_text("{}")),
    "checkpoints are gone but for folders": checkpoints(lambda path: path.unlink()),
    "history is missing": removed("metrics.jsonl"),
    "history is text": written("metrics.jsonl", "epoch 0"),
    "history is binary": written("metrics.jsonl", b"\xff\xfe"),
    "history of other names": written("metrics.jsonl", '{"epoch": 0, "no": 1}\n'),
}
OPTIONS = ("--seed 5", "--layers 3", "--out x", "--overwrite", "--epochs 0", "--optimizer sgd",
           "--checkpoint-every x", "--batch-size 7")  # fmt: skip


@pytest.mark.parametrize("how", PREDICT)
def test_predict_from_a_folder_that_is_none(how, trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    PREDICT[how](folder)
    refused(["predict", folder], capsys)


@pytest.mark.parametrize("how", RESUME)
def test_resume_from_a_folder_that_is_none(how, trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    RESUME[how](folder)
    refused(["train", "--resume", folder, "--epochs", "2"], capsys)


@pytest.mark.parametrize("options", OPTIONS)
def test_resume_with_what_does_not_go_with_it(options, trained, capsys):
    refused(["train", "--resume", trained, *options.split()], capsys)


def test_out_where_a_run_is(trained, capsys):
    refused([*QUICK.split(), "--out", trained], capsys)
    refused([*QUICK.split(), "--out", trained / "config.json", "--overwrite"], capsys)


def test_out_on_a_full_disk(tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        code = main([*QUICK.split(), "--out", str(tmp_path / "run")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capsys.readouterr().err
    assert code in (1, 2) and err.startswith("funcprop: ") and err.count("\n") == 1, err
    assert REMEDY.search(err), err


# --- files of data, and calls from Python ---------------------------------------------------------

MODEL, LOSS = fp.Dense(2), fp.MeanSquaredError()
X = jnp.ones((4, 3))


def file(folder, name, content=b""):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def opened(kind, name, content=b"", option=""):
    return lambda folder: fp.data.open(f"{kind}:{file(folder, name, content)}{option}")[0]


def saved_npz(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return fp.data.open(f"npz:{folder / 'a.npz'}")[0]


def images(folder, content):
    for part in ("a", "b"):
        file(folder, f"{part}/one.png", content)
    return fp.data.open(f"images:{folder}")[0]


def state():
    return fp.init_state(MODEL, optax.sgd(0.1), jax.random.key(0), X)


def step():
    return fp.train_step(fp.backprop(MODEL, LOSS), optax.sgd(0.1))


def mesh():
    return jax.make_mesh((1,), ("data",))


def place(**fields):
    return fp.placement.Placement(**fields)


TABLE = "a,b,y\n1,2,0\n3,4,1\n"
SCALED = fp.backprop(MODEL, LOSS)
CALLS = {
    "open 3": lambda f: fp.data.open(3),
    "open nothing": lambda f: fp.data.open(""),
    "open no kind": lambda f: fp.data.open("/no/such"),
    "open unknown kind": lambda f: fp.data.open("parquets:x"),
    "open unknown option": opened("table", "t.csv", TABLE, "?targets=y"),
    "open missing images": lambda f: fp.data.open("images:/no/such"),
    "open empty folder": lambda f: fp.data.open(f"images:{f}"),
    "open broken images": lambda f: images(f, b"\x89PNG\r\n\x1a\nno"),
    "open empty images": lambda f: images(f, b""),
    "open missing npz": lambda f: fp.data.open("npz:/no/such.npz"),
    "open empty npz": opened("npz", "a.npz"),
    "open text npz": opened("npz", "a.npz", "no zip"),
    "open cut npz": opened("npz", "a.npz", b"PK\x03\x04" + b"\0" * 40),
    "open folder npz": lambda f: fp.data.open(f"npz:{f}"),
    "open npz of lengths that differ": lambda f: saved_npz(f, x=np.ones(3), y=np.ones(4)),
    "open npz of objects": lambda f: saved_npz(f, x=np.array([{}, 1], object), y=np.ones(2)),
    "open npz of other names": lambda f: saved_npz(f, a=np.ones(3)),
    "open npz of no axis": lambda f: saved_npz(f, x=np.float32(1), y=np.float32(1)),
    "open missing table": lambda f: fp.data.open("table:/no/such.csv?target=y"),
    "open table of another ending": opened("table", "t.xls", TABLE, "?target=y"),
    "open empty table": opened("table", "t.csv", "", "?target=y"),
    "open table without rows": opened("table", "t.csv", "a,y\n", "?target=y"),
    "open table without that target": opened("table", "t.csv", TABLE, "?target=z"),
    "open table without that feature": opened("table", "t.csv", TABLE, "?target=y&features=q"),
    "open table of words": opened("table", "t.csv", "a,y\nx,0\nz,1\n", "?target=y"),
    "open table of uneven lines": opened("table", "t.csv", "a,y\n1,0\n1\n", "?target=y"),
    "open binary table": opened("table", "t.csv", b"\xff\xfe\x00a,y\n1,0\n", "?target=y"),
    "open text parquet": opened("table", "t.parquet", TABLE, "?target=y"),
    "open empty parquet": opened("table", "t.parquet", b"", "?target=y"),
    "open cut parquet": opened("table", "t.parquet", b"PAR1\x15\x04PAR1", "?target=y"),
    "open missing tokens": lambda f: fp.data.open("tokens:/no/such.bin?length=4"),
    "open empty tokens": opened("tokens", "t.bin", b"", "?length=4"),
    "open short tokens": opened("tokens", "t.bin", b"\0\0", "?length=4"),
    "open broken npy": opened("tokens", "t.npy", b"\x93NUMPYno", "?length=4"),
    "open tokens of length 0": opened("tokens", "t.bin", b"\0" * 64, "?length=0"),
    "open tokens of length x": opened("tokens", "t.bin", b"\0" * 64, "?length=x"),
    "open missing records": lambda f: fp.data.open("records:/no/such"),
    "open empty records": opened("records", "r.rec"),
    "open text records": opened("records", "r.rec", "no records, but text" * 9),
    "open missing datasets": lambda f: fp.data.open("datasets:/no/such"),
    "open foreign datasets": lambda f: fp.data.open(f"datasets:{f}"),
    "stream of nothing": lambda f: fp.data.stream(None, 2),
    "stream of a number": lambda f: fp.data.stream(3, 2),
    "stream of no examples": lambda f: fp.data.stream((np.ones((0, 3)), np.ones(0)), 2),
    "stream of lengths that differ": lambda f: fp.data.stream((np.ones(3), np.ones(4)), 2),
    "stream batch 0": lambda f: fp.data.stream((X, X), 0),
    "stream batch 1.5": lambda f: fp.data.stream((X, X), 1.5),
    "stream batch too large": lambda f: fp.data.stream((X, X), 9),
    "stream epochs 0": lambda f: fp.data.stream((X, X), 2, epochs=0),
    "stream epochs and steps": lambda f: fp.data.stream((X, X), 2, epochs=1, steps=-1),
    "stream process 3 of 2": lambda f: fp.data.stream((X, X), 2, process=3, processes=2),
    "stream processes 0": lambda f: fp.data.stream((X, X), 2, processes=0),
    "stream map of 3": lambda f: fp.data.stream((X, X), 2, map=3),
    "stream prefetch -1": lambda f: fp.data.stream((X, X), 2, prefetch=-1),
    "stream seed text": lambda f: fp.data.stream((X, X), 2, seed="a"),
    "stream position text": lambda f: fp.data.stream((X, X), 2, position="a"),
    "stream position of others": lambda f: fp.data.stream((X, X), 2, position={"a": 1}),
    "fit no step": lambda f: next(fp.fit(3, state(), [(X, X)])),
    "fit a model": lambda f: next(fp.fit(MODEL, state(), [(X, X)])),
    "fit no state": lambda f: next(fp.fit(step(), None, [(X, X)])),
    "fit params for state": lambda f: next(fp.fit(step(), state().params, [(X, X)])),
    "fit no batches": lambda f: next(fp.fit(step(), state(), 3)),
    "fit checkpoints text": lambda f: next(fp.fit(step(), state(), [(X, X)], "folder")),
    "fit callbacks 3": lambda f: next(fp.fit(step(), state(), [(X, X)], None, 3)),
    "fit callbacks of 3": lambda f: next(fp.fit(step(), state(), [(X, X)], None, [3])),
    "fit batch of one array": lambda f: next(fp.fit(step(), state(), [X])),
    "fit batch of other width": lambda f: next(fp.fit(step(), state(), [(X[:, :1], X)])),
    "checkpoints in 3": lambda f: fp.Checkpoints(3),
    "checkpoints in None": lambda f: fp.Checkpoints(None),
    "checkpoints in a file": lambda f: fp.Checkpoints(file(f, "x")).restore(state()),
    "checkpoints every 0": lambda f: fp.Checkpoints(f / "c", every=0),
    "checkpoints every text": lambda f: fp.Checkpoints(f / "c", every="2"),
    "checkpoints seconds -1": lambda f: fp.Checkpoints(f / "c", seconds=-1),
    "checkpoints seconds text": lambda f: fp.Checkpoints(f / "c", seconds="1"),
    "checkpoints keep 0": lambda f: fp.Checkpoints(f / "c", keep=0),
    "checkpoints about a list": lambda f: fp.Checkpoints(f / "c", about=[1]),
    "shard on no mesh": lambda f: fp.shard(state(), None, fp.placement.data_parallel()),
    "shard on a device": lambda f: fp.shard(state(), jax.devices(), fp.placement.data_parallel()),
    "shard by no placement": lambda f: fp.shard(state(), mesh(), "data"),
    "shard by a function": lambda f: fp.shard(state(), mesh(), fp.placement.data_parallel),
    "shard on a missing axis": lambda f: fp.shard(state(), mesh(), fp.placement.data_parallel("x")),
    "shard a row that fits none": lambda f: fp.shard(
        state(), mesh(), place(rows=(("[9].w", jax.P("data")),))
    ),
    "shard a row of many axes": lambda f: fp.shard(
        state(), mesh(), place(rows=((".b", jax.P(None, None, "data")),))
    ),
    "shard a batch of numbers": lambda f: fp.shard_batch(3, mesh(), fp.placement.data_parallel()),
    "placement rows text": lambda f: place(rows="w"),
    "placement rows of one": lambda f: place(rows=(("w",),)),
    "placement batch text": lambda f: place(batch="data"),
    "placement spread text": lambda f: place(spread="data"),
    "data_parallel 3": lambda f: fp.placement.data_parallel(3),
    "fully_sharded None": lambda f: fp.placement.fully_sharded(None),
    "sequence_parallel 1.5": lambda f: fp.placement.sequence_parallel(1.5),
    "tensor_parallel text": lambda f: fp.placement.tensor_parallel("model"),
    "tensor_parallel class": lambda f: fp.placement.tensor_parallel(fp.Dense),
    "layout of nothing": lambda f: fp.placement.layout(None),
    "program into a folder": lambda f: fp.save_program(f, MODEL, state().params, X),
    "program into no folder": lambda f: fp.save_program(f / "a" / "b", MODEL, state().params, X),
    "program into 3": lambda f: fp.save_program(3, MODEL, state().params, X),
    "program of no model": lambda f: fp.save_program(f / "p", 3, state().params, X),
    "program of no params": lambda f: fp.save_program(f / "p", MODEL, None, X),
    "program of no example": lambda f: fp.save_program(f / "p", MODEL, state().params, "x"),
    "program of another width": lambda f: fp.save_program(f / "p", MODEL, state().params, X[:, :1]),
    "program missing": lambda f: fp.load_program(f / "no"),
    "program folder": lambda f: fp.load_program(f),
    "program empty": lambda f: fp.load_program(file(f, "p")),
    "program text": lambda f: fp.load_program(file(f, "p", "text" * 40)),
    "program 3": lambda f: fp.load_program(3),
    "scaled nothing": lambda f: fp.loss_scaled(None, 2.0),
    "scaled model": lambda f: fp.loss_scaled(MODEL, 2.0),
    "scaled by 0": lambda f: fp.loss_scaled(SCALED, 0),
    "scaled by -1": lambda f: fp.loss_scaled(SCALED, -1.0),
    "scaled by nan": lambda f: fp.loss_scaled(SCALED, float("nan")),
    "scaled by text": lambda f: fp.loss_scaled(SCALED, "2"),
    "scaled by an array": lambda f: fp.loss_scaled(SCALED, jnp.ones(2)),
    "scaled twice clipped": lambda f: fp.loss_scaled(fp.clip_by_norm(SCALED, 1.0), 2.0),
    "with_loss_scale of text": lambda f: fp.with_loss_scale("sgd"),
    "with_loss_scale 0": lambda f: fp.with_loss_scale(optax.sgd(0.1), scale=0),
    "with_loss_scale period 0": lambda f: fp.with_loss_scale(optax.sgd(0.1), period=0),
    "loss_scale of a state without": lambda f: fp.loss_scale(state()),
}
OURS = (TypeError, ValueError, DataError, CheckpointError, LayerError)


@pytest.mark.parametrize("how", CALLS)
def test_a_call(how, tmp_path):
    with pytest.raises(OURS) as caught:
        CALLS[how](tmp_path)
    said = str(caught.value)
    frames = [Path(entry.path) for entry in caught.traceback]
    assert "funcprop" in frames[-1].parts, (frames[-1], said)  # raised by us, not below us
    assert REMEDY.search(said), said


def test_there_are_many():
    kinds = (COMMANDS, PREDICT, RESUME, OPTIONS, CALLS)
    assert sum(map(len, kinds)) >= 250
