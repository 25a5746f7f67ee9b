"""Measures what a gradient costs: programs by hand and of automatic differentiation, in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from funcprop.comparison.witnesses.gradients import differentiable
from funcprop.comparison.witnesses.points import cotangents
from funcprop.costs.cost import WAYS, Cost, Costs, Profile, machine
from funcprop.gradient import combine, partition
from funcprop.layer import Array, Context, Layer

SECONDS = 0.4  # of each program, in turns with the others


def by_hand(layer: Layer) -> Callable[..., Any]:
    """(params, x, context, dy) -> y, (dparams, dx), by the layer's own backward."""

    def both(params: Any, x: Any, context: Context, dy: Any) -> Any:
        y, residuals = layer.forward(params, x, context)
        dx, dparams = layer.backward(params, residuals, dy)
        return y, (dparams, dx)

    return both


def by_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same by `jax.vjp` of (params, x, context) -> y."""

    def both(params: Any, x: Any, context: Context, dy: Any) -> Any:
        floats, rest = partition((params, x))

        def f(floats: Any) -> Any:
            return partition(function(*combine(floats, rest), context))

        y, pullback, y_rest = jax.vjp(f, floats, has_aux=True)
        return combine(y, y_rest), pullback(dy)[0]

    return both


def without_frozen(automatic: Callable[..., Any], manual: Callable[..., Any]) -> Callable[..., Any]:
    """The first, without the zeros where the second's gradients are None."""

    def both(*given: Any) -> Any:
        y, grads = automatic(*given)
        like = jax.eval_shape(manual, *given)[1]
        return y, jax.tree.map(
            lambda own, leaf: None if own is None else leaf, like, grads,
            is_leaf=lambda own: own is None,
        )  # fmt: skip

    return both


class Built(NamedTuple):
    """Programs by their names, the seconds that each took to compile, and what all of them take."""

    programs: dict[str, Any]
    compiling: dict[str, float]
    arguments: tuple[Any, ...]


def built(functions: dict[str, Callable[..., Any]], arguments: tuple[Any, ...]) -> Built:
    """The functions, compiled for arguments, of which shapes are enough."""
    compiled, seconds = {}, {}
    for name, function in functions.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(function).lower(*arguments).compile()
        seconds[name] = time.perf_counter() - start
    return Built(compiled, seconds, arguments)


def one_cotangent(layer: Layer, given: tuple[Any, Any, Context], key: Array) -> Any:
    """A random cotangent of the layer's output, on the device."""
    dys = cotangents(layer, *given, 1, key)
    return jax.device_put(jax.tree.map(lambda leaf: leaf[0], dys))


def cost_of(program: Any, seconds: float = math.nan, compiling: float = math.nan) -> Cost:
    """What a compiled program takes, with the seconds that were measured."""
    memory, counted = program.memory_analysis(), program.cost_analysis()
    counted = (counted[0] if isinstance(counted, list) else counted) or {}
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    loop = " while(" in program.as_text()
    flops, accessed = (
        math.nan if loop else float(counted.get(name, math.nan))
        for name in ("flops", "bytes accessed")
    )
    return Cost(seconds, total, flops, memory.temp_size_in_bytes, accessed, compiling)


def timed(programs: Sequence[Any], arguments: tuple[Any, ...], seconds: float) -> list[float]:
    """The fastest run of each program, all taking turns until each has had its seconds."""

    def run(program: Any, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(program(*arguments))
        return (time.perf_counter() - start) / calls

    once = [min(run(program, 1) for _ in range(2)) for program in programs]
    # a clock's tick and a Python loop are nothing beside a millisecond
    calls = [max(1, math.ceil(1e-3 / first)) for first in once]
    turns = min(200, max(5, math.ceil(seconds / max(1e-3, *once))))
    for _ in range(turns):
        for i, program in enumerate(programs):
            once[i] = min(once[i], run(program, calls[i]))
    return once


def profile_functions(
    name: str,
    functions: dict[str, Callable[..., Any]],
    arguments: tuple[Any, ...],
    seconds: float = SECONDS,
) -> Costs:
    """What functions of the same arguments cost: `by_hand` and, where it is there, `automatic`."""
    found = built(functions, jax.device_put(arguments))
    profile = Profile(name, (), False, **_costs(found, _fastest(found, seconds)))
    return Costs((profile,), machine())


def profile_layer(
    name: str, layer: Layer, params: Any, x: Any, context: Context, peer: Layer
) -> Costs:
    """What a layer costs at one input, beside `jax.vjp` of its peer's forward, if that exists."""
    given = jax.device_put((params, x, context))
    arguments = *given, one_cotangent(layer, given, jax.random.key(0))
    functions = {"by_hand": by_hand(layer)}
    if differentiable(peer, *given):
        functions["automatic"] = by_jax(lambda p, v, c: peer.forward(p, v, c)[0])
    return profile_functions(name, functions, arguments)


def _fastest(found: Built, seconds: float) -> dict[str, float]:
    names, compiled = list(found.programs), list(found.programs.values())
    return dict(zip(names, timed(compiled, found.arguments, seconds), strict=True))


def _costs(found: Built, seconds: dict[str, float]) -> dict[str, Any]:
    """The cost of every way to compute it; None where there is none."""
    costs = {
        name: cost_of(program, seconds.get(name, math.nan), found.compiling[name])
        for name, program in found.programs.items()
    }
    return {name: costs.get(name) for name in WAYS}
