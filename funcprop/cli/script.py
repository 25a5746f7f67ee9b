"""`funcprop compare --script FILE`: the rules that a program calls, beside automatic
differentiation."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path

from funcprop.cli.errors import FailedRun, UsageError
from funcprop.cli.job.progress import counting
from funcprop.testing.rules import CANNOT, RulesComparison
from funcprop.testing.watching import watch


def rules_of(script: Path, seconds: float) -> RulesComparison:
    """Runs the script as a program of its own, and compares the derivative rules that it called.

    Raises UsageError for a script that is none, that fails or calls no rule, or seconds that are
    not positive.
    """
    if not seconds > 0:
        raise UsageError(f"--seconds is {seconds:g}, wanted more than 0: 20 unless given")
    if not script.is_file():
        raise UsageError(f"--script: there is no file {script}: give the path of a Python script")
    with watch() as rules:
        run_script(script)
    if not rules.rules:
        raise UsageError(
            f"--script: {script} called no jax.custom_vjp or jax.custom_jvp function: "
            "call what is to be compared in it"
        )
    with counting(len(rules.rules)) as advance:
        return rules.compare(seconds, progress=lambda row: advance(row.name))


def run_script(script: Path) -> None:
    """`python script`, in this process. Raises UsageError where it fails."""
    arguments, path = sys.argv, list(sys.path)
    sys.argv, sys.path[0] = [str(script)], str(script.resolve().parent)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            raise UsageError(f"--script: {script} ended with {error.code!r}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        place = next(
            (
                f" in line {frame.lineno}"
                for frame in reversed(traceback.extract_tb(error.__traceback__))
                if Path(frame.filename) == script
            ),
            "",
        )
        reason = str(error).partition("\n\n")[0]
        raise UsageError(
            f"--script: {script} raised {type(error).__name__}{place}: {reason}"
        ) from error
    finally:
        sys.argv, sys.path[:] = arguments, path


def check_judged(found: RulesComparison, script: Path) -> None:
    """Raises FailedRun where a rule is wrong, UsageError where none could be judged."""
    wrong = [f"{row.name} at {row.where}" for row in found.wrong]
    if wrong:
        raise FailedRun(f"wrong: {', '.join(wrong)} ({len(wrong)} of {len(found.rows)} rules)")
    if all(row.verdict == CANNOT for row in found.rows):
        raise UsageError(f"--script: no rule that {script} called could be judged")
