"""`funcprop compare` on targets of one's own, and how it prints."""

import json
import os
import re
import subprocess
import sys

import pytest

import funcprop.cli as cli
from funcprop.cli.errors import UsageError
from funcprop.cli.target import Input, inputs

MODULE = '''
from dataclasses import dataclass

import jax
import jax.numpy as jnp

import funcprop as fp
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Row


@dataclass(frozen=True)
class Slip(fp.Tanh):
    """The square is forgotten."""

    def backward(self, params, a, da):
        return da * (1 - a), ()


right = fp.Serial(fp.Dense(3), fp.Tanh())
wrong = fp.Serial(fp.Dense(3), Slip())
loss = fp.SoftmaxCrossEntropy()
row = Row("tanh of a cube", fp.Tanh(), Normal((2, 3, 4)))
number = 3


def forward(x, w):
    return jnp.sin(x) @ w, (x, w)


def backward(residuals, dy):
    x, w = residuals
    return (dy @ w.T) * jnp.cos(x), jnp.sin(x).T @ dy


def backward_without_cosine(residuals, dy):
    x, w = residuals
    return dy @ w.T, jnp.sin(x).T @ dy


pair = forward, backward
slip = forward, backward_without_cosine


@jax.custom_vjp
def square(x):
    return x**2


square.defvjp(lambda x: (x**2, x), lambda x, dy: (dy * x,))


def cube(x):
    return x**3


def product(x, y):
    return x * y


def refusing(x):
    raise RuntimeError("not this one")


@jax.custom_vjp
def rounded(x, scale):
    return jnp.round(x * scale)


rounded.defvjp(lambda x, s: (jnp.round(x * s), (x, s)),
               lambda kept, dy: (kept[1] * dy, 1.00001 * kept[0] * dy))


@jax.custom_vjp
def once(x):
    return x**3


once.defvjp(lambda x: (x**3, jax.lax.stop_gradient(3 * x * x)), lambda kept, dy: (kept * dy,))


class inner:
    layer = fp.Dense(2)
'''


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """The command line in a folder that holds own.py."""
    (tmp_path / "own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own", raising=False)

    def run(*words):
        code = cli.main(["compare", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    sys.modules.pop("own", None)


def refused(result, *words):
    """Exit code 2 and one line on standard error that holds the words."""
    code, _, err = result
    assert code == 2, result
    assert err.startswith("funcprop: ") and err.count("\n") == 1
    for word in words:
        assert word in err


# --- targets --------------------------------------------------------------------------------------


def test_a_layer_at_an_input_of_your_own(run):
    code, out, err = run("own:right", "--x", "5x4")
    assert (code, err) == (0, "")
    assert "agree with automatic differentiation" in out
    assert "Serial[1] Tanh: dx" in out and "[5, 3]" in out and "float32" in out


def test_a_wrong_layer_is_exit_code_1_and_named(run):
    code, out, err = run("own:wrong", "--x", "5x4")
    assert code == 1 and "WRONG" in out
    assert "wrong gradient in Serial[1] Slip: dx" in out
    assert err == "funcprop: wrong: own:wrong (1 of 1 targets)\n"


def test_several_inputs_are_a_tuple_and_integers_have_a_bound(run):
    code, out, err = run("own:loss", "--x", "5x7", "--x", "int32:5<7")
    assert (code, err) == (0, "") and "dx[0]" in out


def test_a_row_has_its_own_input_and_a_dotted_path_is_followed(run):
    code, out, err = run("own:row")
    assert (code, err) == (0, "") and "[2, 3, 4]" in out
    assert run("own:inner.layer", "--x", "bfloat16:5x4")[0] == 0
    refused(run("own:row", "--x", "4"), "own input: leave --x out")


def test_a_pair_of_functions(run):
    arguments = ("--x", "5x4", "--x", "4x3")
    code, out, err = run("own:pair", *arguments)
    assert (code, err) == (0, "") and "[5, 4]" in out and "[4, 3]" in out
    code, out, err = run("own:slip", *arguments)
    assert code == 1 and "WRONG" in out and "own:slip" in err


def test_a_function_against_its_own_forward_and_against_another(run):
    code, out, _ = run("own:square", "--x", "5")
    assert code == 1 and "WRONG" in out
    code, out, _ = run("own:product", "--x", "5", "--x", "5")
    assert code == 0 and "no jax.custom_vjp or jax.custom_jvp is in it" in out
    peer = ("--against", "own:product")
    assert run("own:product", "--x", "5", "--x", "5", *peer)[0] == 0
    assert run("own:cube", "--x", "5", "--against", "own:cube")[0] == 0
    assert run("own:cube", "--x", "5", "--against", "own:square")[0] == 1


def test_what_is_granted_and_what_is_asked_beside(run):
    line = ["own:rounded", "--x", "5", "--x", "5", "--surrogate", "own:product"]
    assert run(*line)[0] == 1
    code, out, _ = run(*line, "--rtol", "1e-4")
    assert code == 0 and "rtol = 0.0001" in out and "surrogate" in out
    code, out, _ = run(*line, "--ignore", "scale")
    assert code == 0 and "ignore says: dx[1]" in out
    assert run("own:once", "--x", "5")[0] == 0
    code, out, _ = run("own:once", "--x", "5", "--order", "2")
    assert code == 1 and "d²x[0]" in out
    code, out, _ = run("tanh", "--order", "2", "--rtol", "1e-9")
    assert code == 0


def test_targets_beside_rows_of_the_catalogue_are_a_table(run):
    code, out, err = run("sigmoid, SATURATED", "own:right", "own:wrong", "--x", "5x4")
    assert code == 1
    lines = out.splitlines()
    assert lines[0].split() == ["layer", "gradients", "float64", "float32", "verdict"]
    assert lines[1].startswith("Sigmoid, saturated  ") and lines[1].endswith("  ok")
    assert lines[2].startswith("own:right ") and lines[2].endswith("  ok")
    assert lines[3].endswith("WRONG: Serial[1] Slip: dx")
    assert "\nSerial" in out and err == "funcprop: wrong: own:wrong (1 of 3 targets)\n"


# --- reports --------------------------------------------------------------------------------------


def test_json_html_and_profile_are_for_both_kinds(run, tmp_path):
    files = ("--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    code, out, err = run("own:right", "identity", "--x", "5x4", "--profile", *files)
    assert (code, err) == (0, "") and "time / plain" in out
    first, second = json.loads((tmp_path / "a.json").read_text())
    assert (first["name"], second["name"]) == ("own:right", "Identity")
    assert first["ok"] is True and first["cost"]["by_hand"]["seconds"] > 0
    page = (tmp_path / "a.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "own:right" in page and "time / plain" in page
    refused(run("own:right", "--x", "5x4", *files), "--json", "exists already: give another name")
    refused(run("own:row", "--html", tmp_path / "a.html"), "--html", "exists already")
    refused(run("own:row", "--html", tmp_path / "no" / "a.html"), "there is no folder")


def test_the_cost_of_a_function_and_none_of_a_wrong_gradient(run):
    given = ("own:product", "--x", "5", "--x", "5", "--against", "own:product", "--profile")
    code, out, err = run(*given)
    assert (code, err) == (0, "") and "MB accessed" in out and "plain form" in out
    code, out, _ = run("own:wrong", "--x", "5x4", "--profile")
    assert code == 1 and "MB accessed" not in out


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nowhere:layer --x 4", ("no module is called 'nowhere'", "go to the folder")),
        ("own.py:right --x 4", ("'own.py' is no module's name", "as own")),
        ("own: --x 4", ("write module:attribute",)),
        ("own:rihgt --x 4", ("own has no 'rihgt'", "did you mean 'right'")),
        ("own:zzzz --x 4", ("define it in own",)),
        ("own:number --x 4", ("own:number is a int, wanted a layer",)),
        ("own:Slip --x 4", ("is a class", "layer = Slip(...)")),
        ("own:right", ("needs inputs", "--x 8x4")),
        ("own:right --x 8by4", ("--x is '8by4'", "--x 8x4", "'int32:8<10'")),
        ("own:right --x float64:8x4", ("--x is 'float64:8x4'", "bfloat16")),
        ("own:right --x int32:8", ("need a bound", "'int32:8<10'")),
        ("own:right --x 8x4<3", ("takes no bound",)),
        ("own:right --x uint8:8<300", ("from 1 to 256",)),
        ("own:right --x 0x4", ("--x is '0x4'",)),
        ("own:right --x int32:8<10", ("own:right at --x int32:8<10",)),
        ("own:refusing --x 4", ("own:refusing at --x 4", "RuntimeError: not this one")),
        ("own:right --x 5x4 --against own:cube", ("--against is for functions",)),
        ("own:cube --x 5 --against own:number", ("--against: own:number is a int",)),
        ("dense --x 4", ("--x is for module:attribute",)),
        ("dense --against own:cube", ("--against is for module:attribute",)),
        ("own:cube --x 5 --order 3", ("--order is 3, wanted 1 or 2",)),
        ("own:cube --x 5 --rtol 2", ("--rtol is 2, wanted a number from 0 to 1",)),
        ("own:cube --x 5 --ignore y", ("ignore has 'y', wanted some of: x, dx[0]",)),
        ("own:cube --x 5 --against own:cube --surrogate own:cube", ("leave one out",)),
        ("dense --ignore w", ("--ignore is for module:attribute",)),
        ("desne", ("did you mean 'Dense'", "module:attribute")),
    ],
)
def test_a_broken_target_is_exit_code_2_and_one_line(line, words, run):
    refused(run(*line.split()), *words)


def test_a_module_that_cannot_be_imported_is_told_with_its_reason(run, tmp_path):
    (tmp_path / "lame.py").write_text("import no_such_library\n")
    refused(run("lame:x", "--x", "4"), "importing lame failed", "no_such_library", "install it")
    (tmp_path / "torn.py").write_text("x = (\n")
    refused(run("torn:x", "--x", "4"), "importing torn failed", "SyntaxError")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    refused(run("leaving:x", "--x", "4"), "importing leaving failed", "SystemExit: 3")


def test_inputs_are_read_from_words():
    assert inputs(["8x4", "bfloat16:3", "uint8:2x2<256", "bool:5"]) == (
        Input((8, 4)),
        Input((3,), "bfloat16"),
        Input((2, 2), "uint8", 256),
        Input((5,), "bool"),
    )
    with pytest.raises(UsageError, match="quoted"):
        inputs(["int32:8"])


# --- printing -------------------------------------------------------------------------------------


def test_piped_lines_come_as_soon_as_they_are_known(tmp_path):
    (tmp_path / "own.py").write_text(
        "import funcprop as fp\n"
        "from funcprop.catalogue.inputs import Normal\n"
        "from funcprop.catalogue.row import Row\n\n"
        "class Slow(fp.Tanh):\n"
        "    def forward(self, params, z, context=fp.Context()):\n"
        "        input()\n"
        "        return super().forward(params, z, context)\n\n"
        "row = Row('slow', Slow(), Normal((3,)))\n"
    )
    words = [sys.executable, "-m", "funcprop.cli", "compare", "tanh", "own:row"]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    ) as process:
        try:
            assert process.stdout.readline().startswith("layer")
            assert re.match(r"Tanh +\d+ .* ok$", process.stdout.readline())
            assert process.poll() is None  # the second waits for a word that never comes
        finally:
            process.kill()


def test_the_examples_of_help_stand_on_lines_of_their_own(run, capsys):
    for command, examples in (
        ("compare", ("funcprop compare", "funcprop compare dense sigmoid")),
        ("compare", ("funcprop compare my_module:my_layer --x 8x4",)),
        ("predict", ("funcprop predict runs/digits", "funcprop predict runs/gpt --data text:FILE")),
    ):
        assert cli.main([command, "--help"]) == 0
        lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
        assert set(examples) <= set(lines)


# --- the rules that a script calls ----------------------------------------------------------------

SCRIPT = """
import sys

import jax
import jax.numpy as jnp
import mine  # beside the script

assert __name__ == "__main__" and sys.argv == [{name!r}]
print("running")
mine.square(jnp.arange(3.0))
jax.nn.relu(jnp.arange(3.0))
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(name=str(path)))
    yield path
    sys.modules.pop("mine", None)


def test_the_rules_of_a_script(script, capsys):
    arguments, path = list(sys.argv), list(sys.path)
    files = {kind: script.with_suffix(f".{kind}") for kind in ("json", "html")}
    words = [f"--{kind}={file}" for kind, file in files.items()]
    assert cli.main(["compare", "--script", str(script), *words]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("running\n2 derivative rules called: 1 WRONG, 1 ok\n")
    assert re.search(r"^mine +square +\S*mine\.py:\d+ +1 +WRONG +dx 5e-01 ", out, re.MULTILINE)
    assert re.match(r"funcprop: wrong: square at \S*mine\.py:\d+ \(1 of 2 rules\)$", err)
    found = {row["name"]: row for row in json.loads(files["json"].read_text())}
    assert found["square"]["verdict"] == "WRONG" and found["relu"]["verdict"] == "ok"
    assert "square" in files["html"].read_text()
    assert (sys.argv, sys.path) == (arguments, path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("1 / 0", "raised ZeroDivisionError in line 1: division by zero"),
        ("raise SystemExit(3)", "ended with 3"),
        ("raise SystemExit", "called no jax.custom_vjp or jax.custom_jvp function"),
        (
            "import jax; import jax.numpy as jnp; jax.nn.relu(jnp.arange(3))",
            "no rule that {script} called could be judged",
        ),
    ],
)
def test_scripts_without_rules_to_judge(script, capsys, text, words):
    script.write_text(text)
    assert cli.main(["compare", "--script", str(script)]) == 2
    err = capsys.readouterr().err
    assert words.format(script=script) in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--script", "none.py"], "there is no file none.py"),
        (["--script", "none.py", "--x", "3"], "leave --x out"),
        (["dense", "--script", "none.py"], "leave a name out"),
        (["--script", "none.py", "--order", "2"], "leave --order out"),
        (["--script", "none.py", "--seconds", "0"], "--seconds is 0, wanted more than 0"),
    ],
)
def test_words_that_do_not_go_with_a_script(capsys, words, reason):
    assert cli.main(["compare", *words]) == 2
    assert reason in capsys.readouterr().err
