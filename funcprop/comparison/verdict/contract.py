"""What the contract asks of a layer, before any number is looked at.

Trees, shapes and dtypes of the gradients, in the working dtype and in float64; that forward and
backward are pure; that the residuals hold no parameters. Nothing is computed: all of it shows in
what JAX traces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.leaf import Broken, Leaf, broke, broken, with_reason
from funcprop.comparison.programs import Programs, cast, dtypes
from funcprop.comparison.subject.functions import Function, Known
from funcprop.comparison.subject.gradients import Gradient
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.records import model_of
from funcprop.layer import Context, Layer, Params, two

LEAKED = "backward reads a value that forward left behind: put it into the residuals"


def check_contract(
    subject: Subject, dy: Any, run: Programs | None = None
) -> tuple[list[Leaf], list[str]]:
    """-> rows for what breaks the contract; notes where a model cannot be looked into.

    `run` knows what was found before: of the same dtypes, and whether the layer is pure, which is
    asked in the first of them.
    """
    run = Programs() if run is None else run
    rows, notes = in_each_dtype("trees", check_trees, subject, dy, run)
    return rows or list(run.once("purity", check_purity, subject, dy)), notes


def check_inside(subject: Subject, dy: Any, run: Programs) -> tuple[list[Leaf], list[str]]:
    """The same inside of a target that is looked into where the whole is wrong."""
    return in_each_dtype("inside", looked_into, subject, dy, run)


def in_each_dtype(
    name: str, check: Callable[..., Any], subject: Subject, dy: Any, run: Programs
) -> tuple[list[Leaf], list[str]]:
    """`check(subject, dy)` in the working dtype and in float64, until there are rows."""
    notes: list[str] = []
    for wide in (False, True):
        with jax.enable_x64(wide or jax.config.jax_enable_x64):  # type: ignore[attr-defined]
            here, cotangent = subject, dy
            if wide:
                here, cotangent = subject.in_float64(), cast(dy, jnp.float64)
            rows, said = run.once(f"{name} in {dtypes(here.given)}", check, here, cotangent)
        if rows:
            return rows, []
        notes = said or notes
    return [], list(notes)


def looked_into(subject: Subject, dy: Any) -> tuple[list[Leaf], list[str]]:
    """-> rows for broken trees, shapes and dtypes inside, in the dtypes given."""
    if (inner := subject.inner) is None:
        return [], []
    try:
        given = inner.params, inner.x, inner.context
        traced(model_of(inner), *given, dy if inner.dy is None else inner.dy)
    except Broken as error:
        return error.rows, []
    except Exception as error:  # a composite that looks at the second slot, or a bug
        return [], [f"could not look inside: {type(error).__name__}: {error}"]
    return [], []


def check_trees(subject: Subject, dy: Any) -> tuple[list[Leaf], list[str]]:
    """-> rows for broken trees, shapes and dtypes, outside, and inside where that is looked at
    whatever the whole is; in the dtypes given."""
    always = subject.inner is not None and subject.inner.always
    rows, notes = looked_into(subject, dy) if always else ([], [])
    if rows:
        return rows, []
    name = subject.contracted

    def plain(params: Params, x: Any, context: Context, dy: Any) -> None:
        layer = subject.layer
        _, residuals = layer.forward(params, x, context)
        dx, dparams = with_reason(
            name, lambda: two(layer, "backward", layer.backward(params, residuals, dy))
        )
        if rows := broken(name, {"dx": dx, "dparams": dparams}, {"dx": x, "dparams": params}):
            raise Broken(rows)

    try:
        jax.eval_shape(plain, *subject.given, dy)
    except Broken as error:
        return error.rows, []
    return [], notes


def traced(model: Layer, params: Params, x: Any, context: Context, dy: Any) -> None:
    """Forward and backward, by shapes alone."""

    def both(params: Params, x: Any, context: Context, dy: Any) -> None:
        _, residuals = model.forward(params, x, context)
        model.backward(params, residuals, dy)

    jax.eval_shape(both, params, x, context, dy)


def check_purity(subject: Subject, dy: Any) -> list[Leaf]:
    """Rows where two traces differ, forward keeps parameters, or backward reads what it leaked."""
    layer, name = subject.layer, subject.contracted
    params, x, context = subject.given
    if isinstance(layer, Function) and layer.known is not None:
        return traced_otherwise(layer, layer.known, name, x, dy)
    traced = [jax.make_jaxpr(layer.forward, return_shape=True)(params, x, context) for _ in "12"]
    (forward, (_, residuals)), (again, (_, others)) = traced
    if differ(forward, again):
        return [broke(name, "forward", "forward is not pure: traced twice, it is two functions")]
    if jax.tree.structure(residuals) != jax.tree.structure(others):
        rule = "two forward passes give residuals of different structure: every step would compile"
        return [broke(name, "residuals", rule)]
    own = not isinstance(layer, Gradient)  # a gradient may be the parameters themselves
    if own and (kept := held_params(forward, params, residuals)):
        rule = f"residuals hold {kept}: backward is given params, keep nothing of them"
        return [broke(name, "residuals", rule)]
    try:
        back = [
            with_reason(name, lambda: jax.make_jaxpr(layer.backward)(params, residuals, dy))
            for _ in "12"
        ]
    except Broken as error:
        return error.rows
    if any(map(leaked, back[0].consts)):
        return [broke(name, "backward", LEAKED)]
    if differ(*back):
        return [broke(name, "backward", "backward is not pure: traced twice, it is two functions")]
    return []


def traced_otherwise(layer: Function, known: Known, name: str, x: Any, dy: Any) -> list[Leaf]:
    """The same of a function: what was traced of it once, beside what Python makes of it now."""
    anew = replace(layer, known=None)
    for path, once, method, given in (
        ("forward", known.values, anew.values, x),
        ("backward", known.passed, anew.passed, (x, dy)),
    ):
        try:
            trace = with_reason(name, lambda f=method, given=given: jax.make_jaxpr(f)(*given))
        except Broken as error:
            return error.rows
        if any(map(leaked, trace.consts)):
            return [broke(name, path, LEAKED)]
        if differ(once.jaxpr(*given), trace):
            return [broke(name, path, f"{path} is not pure: traced twice, it is two functions")]
    return []


def differ(one: Any, other: Any) -> bool:
    """Whether two traces are different programs, or the same with different constants in them."""
    texts = [re.sub(r"0x[0-9a-f]+", "", str(trace)) for trace in (one, other)]
    if texts[0] != texts[1] or len(one.consts) != len(other.consts):
        return True
    return any(
        _is_number(a) and not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(one.consts, other.consts, strict=True)
    )


def held_params(forward: Any, params: Params, residuals: Any) -> str:
    """Where in params a leaf stands that forward hands on untouched as a residual; or ''."""
    inputs = dict(
        zip(map(id, forward.jaxpr.invars), jax.tree.leaves_with_path(params), strict=False)
    )
    outputs = forward.jaxpr.outvars[len(forward.jaxpr.outvars) - len(jax.tree.leaves(residuals)) :]
    for variable in outputs:
        if id(variable) in inputs:
            return f"params{jax.tree_util.keystr(inputs[id(variable)][0])}"
    return ""


def leaked(constant: Any) -> bool:
    """Whether a constant of a trace is a value of another one."""
    try:
        np.asarray(constant) if _is_number(constant) else None
    except jax.errors.TracerArrayConversionError:
        return True
    return False


def _is_number(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended)
