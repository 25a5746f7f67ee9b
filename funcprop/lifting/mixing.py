"""Whether a function of a batch treats its examples apart, and which equation does not.

Single examples are asked of the function in batches of one. That is right where the row of an
example depends on that example alone, and not on how many there are: both are tried.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from funcprop.collectors.single_examples import (
    NOT_KNOWN,
    check_rows,
    drawn,
    of_two,
    twice,
    with_changed,
)
from funcprop.collectors.single_examples import outputs as rows_of
from funcprop.layer import Context, Layer, LayerError, Params, is_float, spell
from funcprop.lifting.jaxprs import equation, is_key, outputs, source_of
from funcprop.lifting.uses import Plan

REMEDY = (
    "single examples of such a function have no gradients of their own: take what treats them "
    "apart, as GroupNorm instead of BatchNorm, or BatchNorm with averages; of a loss, write it for "
    "one example and lift fp.per_example(loss, reduction='sum')"
)
TRIED: set[Any] = set()


@dataclass(frozen=True)
class Tried:
    """A lifted function as it is tried: on a batch, and in batches of one."""

    whole: Layer  # asked for the gradient
    apart: Any  # (params, x, context) -> y, by batches of one
    plan: Any  # (params, x, context) -> Plan of the batch


def check_apart(tried: Tried, params: Params, x: Any, context: Context) -> None:
    """Raises LayerError where one example's output depends on another, or on how many there are.

    With the numbers given or, where they are not known, with others; once for each shape.
    """
    leaves, tree = jax.tree.flatten((params, x, context))
    traced = any(isinstance(leaf, NOT_KNOWN) for leaf in leaves)
    shapes = tuple((jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)
    key = (tried.whole, tree, traced, shapes, tried.plan(params, x, context))
    with contextlib.suppress(TypeError):
        if key in TRIED:
            return
    if jax.tree.leaves(x)[0].shape[0] == 0:
        return
    if jax.tree.leaves(x)[0].shape[0] == 1:  # nothing else is there to be moved
        x, context = jax.tree.map(twice, x), of_two(context)
    check_output(tried.whole, params, x, context)
    with jax.ensure_compile_time_eval():
        try:
            check_rows(tried.whole, lambda *given: rows_of(tried.whole, *given), params, x, context)
        except LayerError as error:
            if "mixes examples" not in error.problem:
                raise
            place = where(tried, params, x, context)
            raise LayerError(tried.whole, f"mixes examples{place}", REMEDY) from None
        check_alike(tried, params, x, context)
    with contextlib.suppress(TypeError):
        TRIED.add(key)


def check_output(whole: Layer, params: Params, x: Any, context: Context) -> None:
    """Raises LayerError where the output has not the examples on axis 0."""
    y = jax.eval_shape(lambda *given: whole.forward(*given)[0], params, x, context)
    size = jax.tree.leaves(x)[0].shape[0]
    if any(leaf.shape[:1] != (size,) for leaf in jax.tree.leaves(y)):
        raise LayerError(
            whole,
            f"returns {spell(y)} for a batch of {size}: no example axis in front",
            "return one row an example; of a loss, write it for one example and lift "
            "fp.per_example(loss, reduction='sum')",
        )


def known(tree: Any) -> Any:
    """The numbers, or random ones where they are not known."""
    leaves = jax.tree.leaves(tree)
    return drawn(tree) if any(isinstance(leaf, NOT_KNOWN) for leaf in leaves) else tree


def check_alike(tried: Tried, params: Params, x: Any, context: Context) -> None:
    """Raises LayerError where an example's row is another one in a batch of one."""
    if context.key is not None:
        return  # draws for a batch are no draws for its examples
    params, x, context = known((params, x, context))

    def both(params: Params, x: Any, context: Context) -> Any:
        return tried.whole.forward(params, x, context)[0], tried.apart(params, x, context)

    whole, apart = jax.jit(both)(params, x, context)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(apart), strict=True):
        if not is_float(a):
            continue
        if not near(a, b):
            raise LayerError(
                tried.whole,
                "gives an example another output in a batch of one than in a batch of "
                f"{a.shape[0]}: what it computes depends on how many there are"
                + counted(tried, params, x, context),
                REMEDY,
            )


def near(a: Any, b: Any) -> bool:
    """Whether numbers are the same but for rounding."""
    eps = float(jnp.finfo(a.dtype).eps) if is_float(a) else 0.0
    a, b = (np.asarray(side, np.float64) for side in (a, b))
    largest = np.abs(a[np.isfinite(a)]).max(initial=0)
    return np.allclose(a, b, rtol=0, atol=np.sqrt(eps) * largest, equal_nan=True)


def counted(tried: Tried, params: Params, x: Any, context: Context) -> str:
    """The first equation of which the first example has another row in a batch of one, in words;
    nothing where the function of one is made of other equations."""
    small, one = (jax.tree.map(lambda leaf: leaf[:1], tree) for tree in (x, context))
    plans = tried.plan(params, x, context), tried.plan(params, small, one)
    jaxprs = [plan.jaxpr for plan in plans]
    names = [[eqn.primitive.name for eqn in jaxpr.eqns] for jaxpr in jaxprs]
    if names[0] != names[1]:
        return ""
    sides: list[dict[Any, Any]] = []
    for jaxpr, given in zip(jaxprs, ((x, context), (small, one)), strict=True):
        inputs = tried.whole.inputs(params, *given)  # type: ignore[attr-defined]
        sides.append(dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True)))
        sides[-1] |= zip(jaxpr.jaxpr.invars, inputs, strict=True)
    for pair in zip(*(jaxpr.eqns for jaxpr in jaxprs), strict=True):
        for values, eqn, jaxpr in zip(sides, pair, jaxprs, strict=True):
            operands = [a.val if isinstance(a, Literal) else values[a] for a in eqn.invars]
            values |= zip(outputs(eqn), equation(jaxpr, eqn)(*operands), strict=True)
        for a, b in zip(
            *(map(values.get, outputs(eqn)) for values, eqn in zip(sides, pair, strict=True)),
            strict=True,
        ):
            if is_key(a) or a.ndim != b.ndim or a.shape[1:] != b.shape[1:]:
                continue
            if not near(a[: b.shape[0]], b) if a.ndim else not near(a, b):
                return told_by(pair[0])
    return ""


def where(tried: Tried, params: Params, x: Any, context: Context) -> str:
    """The first equation by which a change of one example reaches the rows of others, in words."""
    params, x, context = known((params, x, context))
    other = jax.tree.map(lambda leaf: with_changed(leaf, 0, 1.0), x)
    plan: Plan = tried.plan(params, x, context)
    size = jax.tree.leaves(x)[0].shape[0]
    jaxpr = plan.jaxpr
    before, after = ({**dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))} for _ in "ab")
    for values, given in ((before, x), (after, other)):
        values |= zip(jaxpr.jaxpr.invars, tried.whole.inputs(params, given, context), strict=True)  # type: ignore

    def spread(var: Any) -> bool:
        """Whether more than one example's share of the numbers has changed."""
        a, b = (np.asarray(jax.random.key_data(v) if is_key(v) else v) for v in
                (before[var], after[var]))  # fmt: skip
        return bool(np.sum(a != b) * size > a.size)

    for eqn in jaxpr.eqns:
        for values in (before, after):
            operands = [a.val if isinstance(a, Literal) else values[a] for a in eqn.invars]
            values |= zip(outputs(eqn), equation(jaxpr, eqn)(*operands), strict=True)
        given = [atom for atom in eqn.invars if not isinstance(atom, Literal)]
        if any(map(spread, outputs(eqn))) and not any(map(spread, given)):
            return told_by(eqn)
    return ""


def told_by(eqn: Any) -> str:
    line, module = source_of(eqn)
    inside = f" in {module}" if module else ""
    return f" by {eqn.primitive.name} at {line}{inside}"
