"""The pytest plugin: gradients as tests, in sessions of its own."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.testing import plugin
from funcprop.testing.assertion import listeners

pytest_plugins = ["pytester"]

LAYERS = '''
from dataclasses import dataclass

import jax.numpy as jnp

import funcprop as fp


@dataclass(frozen=True)
class Right(fp.Tanh):
    pass


@dataclass(frozen=True)
class Slip(fp.Tanh):
    """The square is forgotten."""

    def backward(self, params, a, da):
        return da * (1 - a), ()


class _Private(Slip):
    pass


class OnlyForward(fp.Layer):
    def forward(self, params, x, context=fp.Context()):
        return x, ()
'''
MORE = '''
from dataclasses import dataclass

import funcprop as fp
from funcprop.catalogue.inputs import Classes, Normal
from funcprop.catalogue.row import Row
from own.layers import Slip


@dataclass(frozen=True)
class Wide(fp.Dense):
    """Has no default."""


@dataclass(frozen=True)
class Narrow(fp.Dense):
    """Has no default, and rows."""


ROWS = (
    Row("narrow", Narrow(2), Normal((3, 4))),
    Row("narrow, sequences", Narrow(3), Normal((2, 3, 4))),
)
'''
RIGHT, SLIP = "gradients?own?::own.layers.Right", "gradients?own?::own.layers.Slip"  # for fnmatch
TEST = """
import jax
import jax.numpy as jnp
import funcprop as fp
from own.layers import Right, Slip

X = jnp.asarray([[0.1, 0.2], [0.3, 0.4]])

def test_right():
    fp.assert_gradients(Right(), (), X)

def test_options():
    noise = fp.Serial(Right(), fp.Dropout(0.5))
    context = fp.Context(jax.random.key(1))
    assert fp.assert_gradients(noise, ((), ()), X, context=context, probes=2).ok

def test_slip():
    model = fp.Serial(Right(), Slip())
    fp.assert_gradients(model, ((), ()), X)
"""


@pytest.fixture
def session(pytester, monkeypatch):
    """(arguments) -> the result of pytest in a folder that holds the package `own`."""
    pytester.mkpydir("own")
    (pytester.path / "own" / "layers.py").write_text(LAYERS)
    (pytester.path / "test_own.py").write_text(TEST)
    monkeypatch.syspath_prepend(pytester.path)
    given = ("-p", "funcprop.testing.plugin")

    def run(*arguments, process=False):
        start = pytester.runpytest_subprocess if process else pytester.runpytest_inprocess
        return start(*given, "-p", "no:cacheprovider", *arguments)

    return run


def test_the_function_is_exported_twice():
    assert fp.assert_gradients is plugin.assert_gradients


def test_a_failure_is_the_report_under_the_line_of_the_test(session):
    result = session("test_own.py")
    result.assert_outcomes(passed=2, failed=1)
    lines = result.outlines
    (marked,) = [line for line in lines if line.startswith(">")]
    assert "fp.assert_gradients(model, ((), ()), X)" in marked
    errors = [line for line in lines if line.startswith("E ")]
    assert (
        "GradientError: Serial(Right(), Slip()): wrong gradient in Serial[1] Slip: dx" in errors[0]
    )
    assert any("where" in line and "verdict" in line for line in errors)
    assert any("Serial[1] Slip: dx" in line and "WRONG" in line for line in errors)
    assert not any("compare.py" in line or "assertion.py" in line for line in lines)


def test_a_failure_raises_outside_of_pytest_too():
    class Slip(fp.Tanh):
        def backward(self, params, a, da):
            return da * (1 - a), ()

    with pytest.raises(fp.GradientError, match="Slip: dx") as caught:
        plugin.assert_gradients(Slip(), (), jnp.ones((2, 2)))
    assert isinstance(caught.value, AssertionError) and caught.value.__suppress_context__


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_every_comparison_of_a_session_is_written_as_json(session, pytester, monkeypatch, workers):
    if workers:
        pytest.importorskip("xdist")
        monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles faster
    result = session(
        "test_own.py", "--gradients-json", "found.json", *workers, process=bool(workers)
    )
    result.assert_outcomes(passed=2, failed=1)
    found = json.loads((pytester.path / "found.json").read_text())
    assert {each["test"]: each["ok"] for each in found} == {
        "test_own.py::test_right": True,
        "test_own.py::test_options": True,
        "test_own.py::test_slip": False,
    }
    assert all(each["rows"][0].keys() >= {"name", "relative", "rule"} for each in found)
    result.stdout.fnmatch_lines("gradients: 3 compared, 1 wrong: found.json")


def test_loading_the_plugin_starts_no_device():
    """A conftest.py may still choose XLA's flags: they are read with the first device."""
    flags = "--xla_force_host_platform_device_count=3"
    words = (
        "import os, funcprop.testing.plugin, jax\n"
        f"os.environ['XLA_FLAGS'] = '{flags}'\n"
        "print(jax.device_count('cpu'))"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip() == "3", done.stderr


def test_a_session_leaves_no_listener_behind(session):
    before = len(listeners)
    session("test_own.py", "-k", "right")
    assert len(listeners) == before


def test_a_test_for_every_public_layer_of_a_package(session, pytester):
    (pytester.path / "own" / "more.py").write_text(MORE)
    (pytester.path / "own" / "__main__.py").write_text("raise SystemExit(3)\n")
    result = session(
        "--gradients", "own", "-k", "gradients", "-v", "--gradients-json", "found.json"
    )
    result.assert_outcomes(passed=2, failed=2, deselected=3)
    result.stdout.fnmatch_lines_random(
        [
            f"{RIGHT} PASSED*",
            f"{SLIP} FAILED*",
            "gradients?own?::own.more.Narrow PASSED*",
            "gradients?own?::own.more.Wide FAILED*",
            "Slip: Slip(): wrong gradient in Slip: dx*",
            "no Row in own has a layer of the type Wide, and Wide() raised TypeError*",
            '    EXAMPLE = Row("Wide", Wide(features=...), Normal((4, 6)))',
            "or call it _Wide, if it is only there for other layers to build on",
        ]
    )
    result.stdout.no_fnmatch_line("*Private*")
    result.stdout.no_fnmatch_line("*OnlyForward*")
    result.stdout.no_fnmatch_line("*Traceback*")
    found = json.loads((pytester.path / "found.json").read_text())
    assert [each["test"] for each in found].count("gradients[own]::own.more.Narrow") == 2


def test_packages_that_cannot_be_read_fail(session, pytester):
    (pytester.path / "own" / "lame.py").write_text("import no_such_library\n")
    result = session("--gradients", "own", "--gradients", "onw", "-k", "lame or onw")
    result.assert_outcomes(failed=2, deselected=5)
    result.stdout.fnmatch_lines("--gradients: importing own.lame failed: *no_such_library*")
    result.stdout.fnmatch_lines("--gradients: no module is called 'onw'*")


def test_a_layer_that_plain_inputs_do_not_fit(session, pytester):
    (pytester.path / "own" / "picky.py").write_text(
        "import funcprop as fp\n\n"
        "class Picky(fp.Tanh):\n"
        "    def forward(self, params, z, context=fp.Context()):\n"
        "        raise fp.LayerError(self, 'wanted seven dimensions')\n"
    )
    result = session("--gradients", "own", "-k", "Picky")
    result.assert_outcomes(failed=1, deselected=5)
    result.stdout.fnmatch_lines(
        "no Row in own has a layer of the type Picky, and plain inputs do not fit: *seven*"
    )


# --- the rules that the tests of a project call ---------------------------------------------------

RULES = """
import jax
import jax.numpy as jnp


@jax.custom_vjp
def halved(x):
    return x * x


halved.defvjp(lambda x: (x * x, x), lambda x, dy: (x * dy,))


@jax.custom_jvp
def cube(x):
    return x**3


cube.defjvps(lambda dx, y, x: 3 * x**2 * dx)
"""
LINE = 1 + RULES[: RULES.index("@jax.custom_vjp")].count("\n")
RULES_TEST = """
import jax
import jax.numpy as jnp
import pytest
from own.rules import cube, halved

X = jnp.asarray([0.5, -1.0, 2.0])

def test_right():
    assert cube(X)[2] == 8

def test_in_float64():
    with jax.enable_x64(True):
        assert halved(jnp.asarray([2.0]))[0] == 4

def test_that_leaves_settings_behind():
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_debug_nans", True)
"""
FAILING = """

def test_that_fails():
    assert jax.jit(halved)(X)[0] == 1

@pytest.fixture
def broken():
    raise RuntimeError("no")

def test_that_errs(broken):
    pass

@pytest.mark.skip
def test_that_is_skipped():
    pass

@pytest.mark.xfail
def test_that_is_known_to_fail():
    assert halved(X).sum() == 0
"""


@pytest.fixture
def project(session, pytester):
    """(arguments) -> the result of pytest on tests that call rules; in a process of its own, since
    one of them leaves settings behind."""
    (pytester.path / "own" / "rules.py").write_text(RULES)
    (pytester.path / "test_rules.py").write_text(RULES_TEST)

    def run(*arguments, process=True):
        return session("test_rules.py", *arguments, process=process)

    return run


def table_of(pytester):
    """What --rules-json rules.json wrote: the verdicts by name, and all of it."""
    found = json.loads((pytester.path / "rules.json").read_text())
    return {each["name"]: each["verdict"] for each in found}, found


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_wrong_rules_are_found_and_fail_a_suite_that_passes(project, pytester, workers):
    if workers:
        pytest.importorskip("xdist")
    files = ("--rules-json", "rules.json", "--rules-html", "rules.html")
    result = project("--rules", *files, *workers)
    result.assert_outcomes(passed=3)
    assert result.ret == 1
    verdicts, found = table_of(pytester)
    assert verdicts == {"halved": "WRONG", "cube": "ok"}
    file = str(pytester.path / "own" / "rules.py")
    assert (found[0]["module"], found[0]["file"], found[0]["line"]) == ("own.rules", file, LINE)
    assert "a factor of 1/2" in found[0]["words"]
    result.stdout.fnmatch_lines(
        [
            "*= derivative rules =*",
            "2 derivative rules called: 1 WRONG, 1 ok",
            f"own.rules *halved *own/rules.py:{LINE} *WRONG *",
            "own.rules *cube *own/rules.py:* ok *",
            "halved: wrong gradient in dx *",
        ]
    )
    assert "own/rules.py" in (pytester.path / "rules.html").read_text()


def test_right_rules_leave_the_exit_status_alone(project, pytester):
    result = project("--rules", "-k", "right", process=False)
    result.assert_outcomes(passed=1, deselected=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines("1 derivative rule called: 1 ok")


def test_rules_that_are_skipped(project, pytester):
    result = project("--rules-json", "rules.json", "--rules-skip", "*.halved")
    assert result.ret == 0
    assert table_of(pytester)[0] == {"halved": "left out", "cube": "ok"}


def test_a_suite_fails_in_the_same_tests_as_without(project, pytester):
    with (pytester.path / "test_rules.py").open("a") as file:
        file.write(FAILING)
    wanted = {"passed": 3, "failed": 1, "errors": 1, "skipped": 1, "xfailed": 1}
    for arguments in ((), ("--rules-json", "rules.json", "--rules-skip", "*.cube")):
        result = project(*arguments)
        result.assert_outcomes(**wanted)
        assert result.ret == 1
    verdicts, (found, _) = table_of(pytester)
    assert verdicts == {"halved": "WRONG", "cube": "left out"}
    assert found["calls"] == 3  # in a test that fails too


def test_nothing_is_compared_where_no_test_was_run(project, pytester):
    for arguments in (("-k", "nothing"), ("--collect-only",)):
        result = project("--rules-json", "rules.json", *arguments, process=False)
        result.stdout.no_fnmatch_line("*derivative rule*")
        assert result.ret == (5 if "-k" in arguments else 0)
    result = project("--rules", "--rules-seconds", "0", process=False)
    assert result.ret == 4
    result.stderr.fnmatch_lines("*--rules-seconds is 0.0, wanted more than 0: 20 unless given")


def test_the_plugin_by_its_old_name(project, pytester):
    name = ("-p", "funcprop.comparison.plugin", "-p", "no:cacheprovider")
    result = pytester.runpytest_inprocess(*name, "--rules-json", "rules.json", "-k", "right")
    assert result.ret == 0
    assert table_of(pytester)[0] == {"cube": "ok"}
