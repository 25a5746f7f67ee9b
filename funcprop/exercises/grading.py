"""What a student wrote, in words: right, still blank, or what is wrong with it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.comparison.front import compare
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.report.comparison import Comparison
from funcprop.exercises.own import FileError, Own, own_layer
from funcprop.exercises.table import EXERCISES, SOLVED, Task
from funcprop.layer import Context

# What differentiates by itself: right, and no exercise.
AUTOMATIC = {"grad", "value_and_grad", "vjp", "jvp", "linearize", "jacfwd", "jacrev", "autodiff"}


class Grade(NamedTuple):
    """What is said of a file.

    exercise    which one it is
    ok          whether it is solved
    words       what is said of it: the first line tells all, the others prove it or lead on
    comparison  of its gradients, where they were compared
    """

    exercise: Task
    ok: bool
    words: str
    comparison: Comparison | None = None


def grade(path: Path) -> Grade:
    """The file of an exercise, graded by `compare`. Raises FileError where it is none."""
    own = own_layer(path)
    exercise = exercise_of(own, path)
    given = own_layer(SOLVED / exercise.file)
    own = own._replace(x=given.x, context=given.context)  # graded at numbers that tell apart
    params = own.layer.init(jax.random.key(0), own.x)
    if is_blank(own, params):
        return Grade(
            exercise, False, "still blank: write backward, with the hints that stand in it"
        )
    changed = changed_forward(own, exercise, params)
    if changed:
        return Grade(exercise, False, changed)
    found = compare(own.layer, params, own.x, context=own.context)
    if not found.ok:
        return Grade(exercise, False, "\n".join(wrong(exercise, found)), found)
    called = sorted(AUTOMATIC & called_in_backward(path.read_bytes()))
    if called:
        words = f"right, and not by hand: backward calls {', '.join(called)}"
        return Grade(exercise, False, words, found)
    return Grade(exercise, True, "\n".join(right(exercise, found)), found)


def wrong(exercise: Task, found: Comparison) -> list[str]:
    """Lines on what is wrong: in words, a number that proves it for each gradient, a page."""
    exact = [row for row in found.wrong if row.dtype == "float64"] or found.wrong
    told = dict.fromkeys(exercise.spoken(proof(row)) for row in exact)
    headline = exercise.spoken(found.headline.partition(": ")[2])
    return [headline, *told, f"see docs/derivations/{exercise.page}.md"]


def proof(row: Leaf) -> str:
    """Both values where they differ most; of what has no such place, what was wanted."""
    if row.rule.startswith("contract"):
        said = row.rule.partition(": ")[2]
        return said if row.path == "backward" else f"{row.path}: {said}"
    input_ = f", with {row.at}" if row.at else ""
    return (
        f"{row.path}: by hand {row.by_hand:.6g}, automatic {row.expected:.6g}, "
        f"at {list(row.index)}{input_}"
    )


def right(exercise: Task, found: Comparison) -> list[str]:
    """Lines on how well it agrees, and on what follows it in the list."""
    count = len({row.name for row in found.rows})  # of each there is a row in every dtype
    agree = f"{count} gradient agrees" if count == 1 else f"{count} gradients agree"
    worst = found.headline.partition(" agree ")[2]
    following = EXERCISES[EXERCISES.index(exercise) + 1 :]
    next_ = [f"next: funcprop exercise {task.name}" for task in following[:1]]
    return [f"right: {agree} {worst}", *next_]


def exercise_of(own: Own, path: Path) -> Task:
    """The exercise whose layer the file defines."""
    name = type(own.layer).__name__
    found = next((one for one in EXERCISES if one.layer == name), None)
    if found is None:
        names = ", ".join(one.layer for one in EXERCISES)
        raise FileError(
            f"{path}: {name} is no exercise's layer, which are {names}: "
            f"for one of your own write funcprop compare {path}"
        )
    return found


def is_blank(own: Own, params: Any) -> bool:
    """Whether backward is as it was given."""

    def run(params: Any, x: Any) -> Any:
        y, residuals = own.layer.forward(params, x, own.context or Context())
        return own.layer.backward(params, residuals, y)

    try:
        jax.eval_shape(run, params, own.x)
    except NotImplementedError:
        return True
    except Exception:  # compare says it better
        return False
    return False


def changed_forward(own: Own, exercise: Task, params: Any) -> str:
    """Words where forward is not the one that was given; "" where it is."""
    given = own_layer(SOLVED / exercise.file)
    context = own.context or Context()
    try:
        ours, theirs = (
            jax.tree.map(np.asarray, one.layer.forward(params, given.x, context)[0])
            for one in (given, own)
        )
        same = all(map(np.allclose, jax.tree.leaves(ours), jax.tree.leaves(theirs)))
    except Exception as error:
        return f"forward raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return "" if same else f"forward is not the one of funcprop exercise {exercise.name}: undo that"


def called_in_backward(source: bytes) -> set[str]:
    """The names that backward calls."""
    return {
        name
        for method in ast.walk(ast.parse(source))
        if isinstance(method, ast.FunctionDef) and method.name == "backward"
        for call in ast.walk(method)
        if isinstance(call, ast.Call)
        for name in (getattr(call.func, "attr", getattr(call.func, "id", "")),)
    }
