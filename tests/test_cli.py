"""The command line, in process but for what only a process can show."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

import funcprop.cli as cli
from funcprop.cli.errors import complain
from funcprop.cli.job.recipe import Recipe
from funcprop.layers import Sigmoid

# Linear and differentiated by jax.grad: the cheapest run that does everything else
QUICK = (
    *("train", "--layers", "--gradient", "automatic", "--init", "glorot"),
    *("--optimizer", "sgd", "--batch-size", "100", "--epochs", "2"),
)
FILES = {"config.json", "metrics.jsonl", "curves.png", "params.safetensors", "checkpoints"}


@pytest.fixture
def run(capsys):
    def run(*words):
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of a run with the hand-written gradient, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: printed.append(*words))
        words = ("train", "--layers", "9", "--epochs", "4", "--seed", "3", "--out", str(folder))
        assert cli.main(words) == 0
    return folder, "\n".join(map(str, printed))


def refused(result, code, *words):
    """One line on standard error that holds the words, nothing on standard output after it."""
    given, _, err = result
    assert given == code
    assert err.startswith("funcprop: ") and err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_told_in_one_line(capsys):
    with pytest.raises(OSError) as caught, open("/dev/full", "w") as file:
        file.write("x")
    complain(caught.value, 2)
    assert "No space left on device): free it, or give another" in capsys.readouterr().err


# --- train and predict ----------------------------------------------------------------------------


def test_train_prints_the_model_the_gradient_check_the_epochs_and_the_accuracy(trained):
    _, out = trained
    lines = out.splitlines()
    assert lines[0] == "digits: 1,437 training + 360 test examples [8, 8, 1], 10 classes"
    assert lines[1].startswith("685 parameters in 2.74 kB")
    assert any(re.match(r"2 +Dense\(9\) +\[32, 9\] +585 ", line) for line in lines)
    assert any(re.match(r"in all +685 ", line) for line in lines)
    assert any("adam at learning rate 0.001" in line and "seed 3" in line for line in lines)
    assert any(re.match(r"Gradient: by hand, agrees with jax.grad in \d+", line) for line in lines)
    epochs = [line for line in lines if line.startswith("Epoch")]
    pattern = r"Epoch (\d): (\d+) / 360   loss [\d.]+   [\d.e-]+ s"
    assert [re.fullmatch(pattern, line)[1] for line in epochs] == ["0", "1", "2", "3"]
    assert re.fullmatch(r"Test accuracy: [\d.]+ % \(\d+ / 360\)", lines[-1])
    assert "\x1b" not in out


def test_train_writes_the_configuration_the_history_the_curves_and_the_parameters(trained):
    folder, out = trained
    assert {path.name for path in folder.iterdir()} == FILES
    config = json.loads((folder / "config.json").read_text())
    assert config["layers"] == [9] and config["seed"] == 3
    assert config["learning_rate"] == 0.001 and config["init"] == "he"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert row["examples"] == 1437 and row["seconds"] > 0 and row["loss"] > 0
        assert row["accuracy"] == row["right"] / row["of"]
    assert rows[3]["loss"] < rows[0]["loss"]
    assert f"({rows[-1]['right']} / 360)" in out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_predict_reports_the_accuracy_of_the_training_to_the_digit(trained, run):
    folder, out = trained
    assert run("predict", folder) == (0, out.splitlines()[-1] + "\n", "")


def test_pictures_are_drawn_where_they_are_asked_for(run, tmp_path):
    out = tmp_path / "plane"
    words = ("--data", "moons", "--layers", "4", "--epochs", "1", "--plots")
    refused(run("train", *words), 2, "--plots writes into the folder of --out")
    code, printed, err = run("train", *words, "--validation", "--out", out)
    assert (code, err) == (0, "")
    assert printed.startswith("moons: 300 training + 100 validation + 100 test examples [2]")
    drawn = {path.name for path in out.iterdir()} - FILES
    wanted = "boundary confusion costs deltas noise norms"
    assert drawn == {f"{name}.png" for name in wanted.split()}
    (out / "confusion.png").unlink()
    code, printed, err = run("predict", out, "--plots")
    assert (code, err) == (0, "") and "confusion.png, boundary.png" in printed
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_predict_names_what_does_not_fit(trained, run, tmp_path):
    folder, _ = trained
    refused(run("predict", tmp_path / "none"), 2, "config.json cannot be read")
    refused(run("predict", folder, "--data", "mnits"), 2, "did you mean 'mnist'")
    refused(run("predict", folder, "--data", "mnist"), 2, "mnist needs a folder")
    copy = tmp_path / "copy"
    copy.mkdir()
    refused(run("predict", copy), 2, "config.json cannot be read")
    config = json.loads((folder / "config.json").read_text())
    for text, words in (
        ("{", "is no JSON"),
        ("[]", "is no configuration"),
        (json.dumps(config | {"loss": "qadratic"}), "did you mean 'quadratic'"),
        (json.dumps({**config, "example": [28, 28, 1]}), "has examples [8, 8, 1]"),
    ):
        (copy / "config.json").write_text(text)
        refused(run("predict", copy), 2, words)
    (copy / "config.json").write_text(json.dumps(config))
    refused(run("predict", copy), 2, "params.safetensors cannot be read")
    (copy / "params.safetensors").write_bytes((folder / "params.safetensors").read_bytes()[:-7])
    refused(run("predict", copy), 2, "is no complete safetensors file")
    (copy / "params.safetensors").write_bytes((folder / "params.safetensors").read_bytes())
    (copy / "config.json").write_text(json.dumps(config | {"layers": [8]}))
    refused(run("predict", copy), 2, "params.2.w is float32[64, 9], wanted float32[64, 8]")


TINY_GPT = (
    *("train", "--model", "gpt", "--length", "8", "--width", "8", "--depth", "1", "--heads", "2"),
    *("--epochs", "2", "--learning-rate", "0.01"),
)


def test_text_is_learned_and_continued(run, tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_bytes(b"abcdefghijklmnopqrstuvwxyz\n" * 60)
    code, printed, err = run(*TINY_GPT, "--data", f"text:{text}", "--validation", "--out", out)
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    held = "162 training + 20 validation + 20 test windows of 8 bytes"
    assert lines[0] == f"text:{text}: {held}"
    assert any(re.match(r"Gradient: by hand, agrees with jax.grad in \d+", line) for line in lines)
    assert any(re.match(r"Epoch 1: \d+ / 160   loss ", line) for line in lines)
    pattern = r"Test accuracy: [\d.]+ % \(\d+ / 160\), ([\d.]+) bits per byte"
    assert float(re.fullmatch(pattern, lines[-1])[1]) < 8
    config = json.loads((out / "config.json").read_text())
    assert config["length"] == 8 and config["layers"] is None and config["classes"] == 256
    code, again, err = run("predict", out)
    assert (code, err) == (0, "")
    assert again.splitlines()[0] == lines[-1]
    assert "--- given" in again and "--- continued" in again and "\x1b" not in again
    refused(run("predict", out, "--data", "digits"), 2, "gpt cannot read digits")
    short = tmp_path / "short.txt"
    short.write_bytes(b"too short")
    refused(run("predict", out, "--data", f"text:{short}"), 2, "has 9 bytes, wanted at least 17")


def test_a_convolutional_network_is_trained_and_read_back(run, tmp_path):
    words = ("train", "--model", "convnet", "--width", "2", "--dropout", "0.1", "--epochs", "1")
    code, printed, err = run(*words, "--out", tmp_path, "--plots")
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert any(re.match(r"10 +Dropout\(0.1\) +\[32, 8\] +0 ", line) for line in lines)
    assert any(re.match(r"Gradient: by hand, agrees with jax.grad in \d+", line) for line in lines)
    assert json.loads((tmp_path / "config.json").read_text())["width"] == 2
    assert {"filters.png", "wrong.png"} <= {path.name for path in tmp_path.iterdir()}
    assert run("predict", tmp_path) == (0, lines[-1] + "\n", "")


def test_bytes_that_are_no_text_are_shown_as_escapes():
    assert cli.predict.readable([104, 195, 188, 10, 255, 27]) == "hü\n\\xff\\x1b"


def test_a_folder_is_never_silently_overwritten(trained, run, tmp_path):
    folder, _ = trained
    before = (folder / "metrics.jsonl").read_text()
    refused(run(*QUICK, "--out", folder), 2, "exists and is not empty", "--overwrite")
    assert (folder / "metrics.jsonl").read_text() == before
    (tmp_path / "file").touch()
    refused(run(*QUICK, "--out", tmp_path / "file"), 2, "is a file, wanted a folder")
    refused(run(*QUICK, "--out", tmp_path / "file" / "x"), 2, "is a file, wanted a folder")
    refused(run(*QUICK, "--out", "/proc/x"), 2, "--out: /proc cannot be written", "another folder")


def test_overwrite_replaces_the_files_of_a_run_and_no_others(run, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("old\n")
    (tmp_path / "notes.txt").write_text("mine")
    code, out, err = run(*QUICK, "--validation", "--out", tmp_path, "--overwrite")
    assert (code, err) == (0, "")
    assert "1,077 training + 360 validation + 360 test" in out
    assert "Gradient: automatic, by jax.grad" in out
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_without_out_nothing_is_written(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*QUICK)[0] == 0
    assert not list(tmp_path.iterdir())


# --- runs that end early --------------------------------------------------------------------------


def test_a_wrong_backward_stops_before_training_and_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Sigmoid, "backward", lambda self, params, a, da: (da * a, ()))
    out = tmp_path / "run"
    # a size of its own: nothing compiled for it before the backward was changed, or after
    words = ("--layers", "11", "--activation", "sigmoid", "--out", out)
    result = run("train", *words)
    refused(result, 1, "the hand-written gradient is wrong in", "Sigmoid: dx")
    assert "Epoch" not in result[1] and not out.exists()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_reached(run, tmp_path):
    words = (*QUICK[:-1], "9", "--loss", "mean-squared-error")
    result = run(*words, "--learning-rate", "4000", "--batch-size", "700", "--out", tmp_path)
    refused(result, 1, "became", "smaller learning rate", "of 9 epochs kept in")
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == int(re.search(r"\((\d) of 9 epochs", result[2])[1])
    assert all("NaN" not in row and "Infinity" not in row for row in rows)
    code, out, err = run("predict", tmp_path)
    assert (code, err) == (0, "") and out.startswith("Test accuracy")


def test_ctrl_c_keeps_what_was_reached(run, tmp_path, monkeypatch):
    append, seen = cli.job.follow.append_metrics, []

    def interrupted(folder, record):
        append(folder, record)
        seen.append(record)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.job.follow, "append_metrics", interrupted)
    result = run(*QUICK[:-1], "9", "--out", tmp_path)
    refused(result, 130, "interrupted after 3 of 9 epochs kept in")
    assert {path.name for path in tmp_path.iterdir()} == FILES
    right = seen[-1].right
    assert f"({right} / 360)" in run("predict", tmp_path)[1]


def test_ctrl_c_before_training_is_one_line(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.job.job, "load", interrupted)
    refused(run("train"), 130, "interrupted")


@pytest.fixture
def interruptible():
    """A shell's background jobs ignore Ctrl-C, and so would the children of this process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_a_process_with_its_files_written(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for part in ("train", "t10k"):  # read without scikit-learn, whose import takes a second
        images = bytes([0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(range(80))
        (data / f"{part}-images-idx3-ubyte").write_bytes(images)
        labels = bytes([0, 0, 8, 1, 0, 0, 0, 20]) + bytes(range(10)) * 2
        (data / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    words = [sys.executable, "-m", "funcprop.cli", *QUICK[:-3], "10", "--epochs", "900000"]
    words += ["--data", "mnist", "--data-dir", str(data), "--out", str(out)]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"},
    ) as process:
        try:
            for line in process.stdout:
                if line.startswith("Epoch 2:"):
                    break
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.startswith("funcprop: interrupted after") and err.count("\n") == 1
    assert {path.name for path in out.iterdir()} == FILES
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) >= 3


# --- bad usage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ("no command was given", "train, predict, summary, compare")),
        ("trian", ("unknown command 'trian'", "did you mean 'train'")),
        ("train --layrs 3", ("unknown option '--layrs'", "did you mean '--layers'")),
        ("predict --out x", ("unknown option '--out'", "funcprop predict --help")),
        ("train --layers x", ("--layers", "x")),
        ("train --layers 30.5", ("--layers", "30.5")),
        ("train --layers 30 -1", ("--layers is -1", "wanted a whole number")),
        ("train --layers 0", ("--layers is 0",)),
        ("train --learning-rate", ("--learning-rate",)),
        ("train --learning-rate abc", ("--learning-rate", "abc")),
        ("train --learning-rate -1", ("--learning-rate is -1.0", "above 0")),
        ("train --learning-rate nan", ("--learning-rate is nan",)),
        ("train --learning-rate 1e30", ("--learning-rate is 1e+30", "at most 10000")),
        ("train --batch-size 0", ("--batch-size is 0",)),
        ("train --batch-size 2000", ("--batch-size is 2000", "1437 training examples")),
        ("train --epochs 0", ("--epochs is 0",)),
        ("train --epochs 1e3", ("--epochs", "1e3")),
        ("train --seed -1", ("--seed is -1",)),
        ("train --clip-norm 0", ("--clip-norm is 0",)),
        ("train --weight-decay -1", ("--weight-decay is -1",)),
        ("train --l2 inf", ("--l2 is inf",)),
        ("train --model mpl", ("did you mean 'mlp'",)),
        ("train --activation sigmod", ("did you mean 'sigmoid'",)),
        ("train --loss qudratic", ("did you mean 'quadratic'",)),
        ("train --optimizer adamm", ("did you mean 'adam'",)),
        ("train --init golrot", ("did you mean 'glorot'",)),
        ("train --gradient automatc", ("did you mean 'automatic'",)),
        ("train --data digit", ("did you mean 'digits'",)),
        ("train --data mnist", ("mnist needs a folder",)),
        ("train --model convnett", ("did you mean 'convnet'",)),
        ("train --width x", ("--width", "x")),
        ("train --width 8", ("--width: mlp has no such option; it has --layers, --activation",)),
        ("train --model convnet --layers", ("--layers: convnet has no such option",)),
        ("train --model lstm --activation tanh", ("--activation: lstm has no such option",)),
        ("train --model vit --patch 3", ("patches of 3 × 3 do not fill an image of 8 × 8",)),
        ("train --model vit --heads 5", ("no multiple of heads = 5",)),
        ("train --model gpt", ("gpt cannot read digits", "--model mlp, or --data text:")),
        ("train --model gpt --loss hinge --data text:", ("--loss is 'hinge'",)),
        ("train --data text:", ("mlp cannot read text:, which is text: --model gpt",)),
        ("train --model lstm --data text:", ("lstm cannot read text:", "--model gpt")),
        ("train --model gpt --data text:/no/such", ("text:/no/such cannot be read",)),
        ("train --model gpt --data text", ("did you mean 'text:'",)),
        ("train --model gpt --data text: --length 900000", ("--length is 900000",)),
        ("train --model gpt --data text: --batch-size 9999", ("--batch-size is 9999",)),
        ("train --data mnist --data-dir /no/such", ("/no/such does not exist",)),
        ("train surplus", ("surplus",)),
        ("predict", ("required: folder",)),
        ("compare Desne", ("did you mean 'Dense'",)),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(line, words, run):
    result = run(*line.split())
    refused(result, 2, *words)
    assert result[1] == ""


def test_unreadable_files_are_named(run, tmp_path):
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte").write_bytes(b"nonsense")
    refused(
        run("train", "--data", "mnist", "--data-dir", tmp_path),
        2,
        "train-images-idx3-ubyte is not an IDX file",
    )


def test_a_missing_library_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    refused(run("train"), 2, "needs tyro: pip install 'funcprop[train]'")


def test_a_library_for_writing_is_missed_before_training(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(run(*QUICK, "--out", tmp_path / "x"), 2, "pip install 'funcprop[train]'")


def test_debug_shows_the_traceback(run):
    code, _, err = run("train", "--epochs", "0", "--debug")
    assert code == 2
    assert "Traceback" in err and err.splitlines()[-1].startswith("funcprop: --epochs is 0")


def test_an_unforeseen_error_is_one_line_too(run, monkeypatch):
    def broken(*_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(cli.job.job, "load", broken)
    refused(run("train"), 1, "RuntimeError: two lines", "--debug")


# --- help and compare -----------------------------------------------------------------------------


def test_help_teaches(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for words in ("funcprop train", "funcprop predict", "funcprop compare", "by hand"):
        assert words in out
    code, out, err = run("train", "--help")
    assert (code, err) == (0, "")
    for option in Recipe.__dataclass_fields__:
        assert f"--{option.replace('_', '-')}" in out
    assert "--loss quadratic --optimizer sgd --learning-rate 3" in out


@pytest.mark.parametrize("command", ["predict", "compare"])
def test_help_of_the_others(command, run):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "") and f"funcprop {command}" in out


def test_compare_prints_the_table_and_writes_json(run, tmp_path):
    path = tmp_path / "report.json"
    code, out, err = run("compare", "Sigmoid, saturated", "--json", path)
    assert (code, err) == (0, "")
    assert "Sigmoid, saturated" in out and "ok" in out and "\x1b" not in out
    (row,) = json.loads(path.read_text())
    assert row["name"] == "Sigmoid, saturated" and row["ok"] is True
    refused(run("compare", "Sigmoid", "--json", path), 2, "exists already")


def test_compare_fails_where_a_gradient_is_wrong(run, monkeypatch):
    jax.clear_caches()  # what was compiled with the right backward, and below with the wrong one
    monkeypatch.setattr(Sigmoid, "backward", lambda self, params, a, da: (da * a, ()))
    code, out, err = run("compare", "Sigmoid, saturated")
    jax.clear_caches()
    assert code == 1
    assert "WRONG" in out and "Sigmoid" in out and "dx" in out
    assert err == "funcprop: wrong: Sigmoid, saturated (1 of 1 targets)\n"


# --- a terminal -----------------------------------------------------------------------------------


def test_in_a_terminal_a_bar_moves_below_the_lines(capsys):
    from funcprop.cli.job.progress import progress
    from funcprop.cli.job.run import Record

    with progress(2, terminal=True) as show:
        for number in range(2):
            show(Record(number, 0.5, 0.9, 9, 10, 0.4, 0.9, 0.1, 100))
            time.sleep(0.01)
    assert "Epoch 1: 9 / 10" in capsys.readouterr().out
