"""Measures what a gradient costs: programs by hand and of automatic differentiation, in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.comparison.subject.door import subject_of
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.gradients import differentiable
from funcprop.comparison.witnesses.points import cotangents
from funcprop.costs.cost import WAYS, Cost, Costs, Profile, machine
from funcprop.doors import door
from funcprop.gradient import combine, partition
from funcprop.layer import Array, Context, Layer

SAME = 1e-3  # relative norm: float32 sums in another order
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


def one_cotangent(subject: Subject) -> Any:
    """A random cotangent of the layer's output, on the device."""
    dys = cotangents(subject, 1)
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


@door
def measure(
    target: Any,
    *args: Any,
    context: Context | None = None,
    key: Array | None = None,
    against: Any = None,
    seconds: float = SECONDS,
) -> Costs:
    """What a right gradient costs here, by hand and by automatic differentiation.

    target, args      a layer, params, x; a function or a pair (forward, backward) and its
                      arguments; a gradient function, params, batch: as for `compare`
    context, key      as for `compare`
    against           what `compare` holds the target against
    seconds           that each program runs, in turns with the other

    One forward and one backward pass each: time, memory, flops, bytes and compile time. `automatic`
    is missing where `jax.vjp` cannot differentiate the forward. Returns Costs of one Profile, whose
    text is a table.

    raises  ValueError where both gradients differ by more than rounding in the working dtype, since
            the cost of a wrong one proves nothing, and TypeError for what `compare` does not take

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> costs = fp.measure(fp.Tanh(), (), jnp.ones((4, 2)), seconds=0.01)
    >>> costs.profiles[0].name, costs.profiles[0].by_hand.seconds > 0
    ('Tanh()', True)
    """
    subject = subject_of(target, args, context, key, against)
    layer, peer = subject.layer, subject.peer
    arguments = jax.device_put((*subject.given, one_cotangent(subject)))
    functions = {"by_hand": by_hand(layer)}
    if differentiable(peer, *subject.given):
        automatic = by_jax(lambda p, v, c: peer.forward(p, v, c)[0])
        functions["automatic"] = without_frozen(automatic, functions["by_hand"])
    found = built(functions, arguments)
    check_same(subject.words, found, subject.surrogate)
    profile = Profile(subject.words, (), False, **costs_of(found, fastest(found, seconds)))
    return Costs((profile,), machine())


def check_same(name: str, found: Built, gradients_alone: bool = False) -> None:
    """All programs compute one function: a cheaper other function would prove nothing.

    Raises ValueError where an output or a gradient is further off than rounding.
    """
    results = {name: program(*found.arguments) for name, program in found.programs.items()}
    if gradients_alone:
        results = {name: grads for name, (_, grads) in results.items()}
    wanted = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(results["by_hand"])]
    # a gradient may be zero but for rounding, as that of the keys' bias in attention
    least = 1e-4 * max((np.abs(leaf).max(initial=0) for leaf in wanted), default=0)
    for way, result in results.items():
        for given, leaf in zip(jax.tree.leaves(result), wanted, strict=True):
            off = np.linalg.norm(np.asarray(given, np.float64) - leaf)
            size = max(np.linalg.norm(leaf), least * math.sqrt(leaf.size))
            if given.shape != leaf.shape or not off <= SAME * size:
                raise ValueError(
                    f"{name}: the {way} form differs by {off / size:.1e} from the layer at "
                    "this size: they must be one function to be compared"
                )


def fastest(found: Built, seconds: float) -> dict[str, float]:
    names, compiled = list(found.programs), list(found.programs.values())
    return dict(zip(names, timed(compiled, found.arguments, seconds), strict=True))


def costs_of(found: Built, seconds: dict[str, float]) -> dict[str, Any]:
    """The cost of every way to compute it; None where there is none."""
    costs = {
        name: cost_of(program, seconds.get(name, math.nan), found.compiling[name])
        for name, program in found.programs.items()
    }
    return {name: costs.get(name) for name in WAYS}
