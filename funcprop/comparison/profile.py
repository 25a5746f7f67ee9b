"""Measures what a gradient costs: programs by hand and of automatic differentiation, in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.comparison.costs import SLOWER, WAYS, Cost, Costs, Profile, machine
from funcprop.comparison.inputs import draw, structs
from funcprop.comparison.programs import generator
from funcprop.comparison.row import Row
from funcprop.comparison.truth import cotangents, differentiable
from funcprop.gradient import combine, partition
from funcprop.layer import Array, Context, Layer

SECONDS = 0.4  # of each program, in turns with the others
SAME = 1e-3  # relative norm: float32 sums in another order


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


def sized(row: Row) -> tuple[Layer, Any, Any]:
    """(layer, x, mask) at the size where the row's costs are compared."""
    layer, x, *mask = row.large or (row.layer, row.x, row.mask)
    return layer, x, mask[0] if mask else None


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


def programs(
    row: Row, names: Sequence[str] = ("by_hand", "automatic", "plain"), abstract: bool = False
) -> Built:
    """The named programs that the row has.

    With `abstract` the arguments are shapes: enough for memory and flops, and nothing runs.
    """
    layer, x, mask = sized(row)
    key = jax.random.key(0)
    if abstract:
        value = structs(x, "float32")
        context = Context(key, None if mask is None else structs(mask, "float32"))
        params = jax.eval_shape(layer.init, key, value)
        y = jax.eval_shape(lambda *given: layer.forward(*given)[0], params, value, context)
        given, dy = (params, value, context), partition(y)[0]
    else:
        random = generator(key)
        value = draw(x, random, "float32")
        context = Context(key, None if mask is None else draw(mask, random, "float32"))
        given = jax.jit(layer.init)(key, value), value, context
        dy = one_cotangent(layer, given, key)
    functions = {"by_hand": by_hand(layer)}
    if "automatic" in names and row.automatic:
        peer = layer if row.surrogate is None else row.peer
        automatic = by_jax(lambda p, v, c: peer.forward(p, v, c)[0])
        functions["automatic"] = without_frozen(automatic, functions["by_hand"])
    if "plain" in names and row.plain is not None:
        functions["plain"] = by_jax(row.plain)
    return built(functions, (*given, dy))


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


# --- the catalogue --------------------------------------------------------------------------------


def sizes(row: Row) -> Profile:
    """Memory and flops alone, from the compiled programs: nothing is run.

    Against the plain form, and against the layer's own forward only where there is none.
    """
    peer = "automatic" if row.plain is None else "plain"
    return _profile(row, programs(row, ("by_hand", peer), abstract=True), {})


def profile_row(row: Row, seconds: float = SECONDS) -> Profile:
    """All three costs. A row that looks slower than it may is measured again, for longer."""
    found = programs(row)
    results = {name: program(*found.arguments) for name, program in found.programs.items()}
    check_same(row, results)
    best = _fastest(found, seconds)
    profile = _profile(row, found, best)
    if profile.time > SLOWER:
        again = _fastest(found, 3 * seconds)
        profile = _profile(row, found, {name: min(best[name], again[name]) for name in best})
    return profile


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


def check_same(row: Row, results: dict[str, Any]) -> None:
    """All programs compute one function: a cheaper other function would prove nothing.

    Where a row has a surrogate, of one gradient. Raises ValueError where an output or a gradient
    is further off than rounding.
    """
    if row.surrogate is not None:
        results = {name: grads for name, (_, grads) in results.items()}
    wanted = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(results["by_hand"])]
    # a gradient may be zero but for rounding, as that of the keys' bias in attention
    least = 1e-4 * max((np.abs(leaf).max(initial=0) for leaf in wanted), default=0)
    for name, result in results.items():
        for given, leaf in zip(jax.tree.leaves(result), wanted, strict=True):
            off = np.linalg.norm(np.asarray(given, np.float64) - leaf)
            size = max(np.linalg.norm(leaf), least * math.sqrt(leaf.size))
            if given.shape != leaf.shape or not off <= SAME * size:
                raise ValueError(
                    f"{row.name}: the {name} form differs by {off / size:.1e} from the layer at "
                    "its large size: they must be one function to be compared"
                )


def _profile(row: Row, found: Built, seconds: dict[str, float]) -> Profile:
    return Profile(row.name, row.promise, row.large is not None, **_costs(found, seconds))


def _costs(found: Built, seconds: dict[str, float]) -> dict[str, Any]:
    """The cost of every way to compute it; None where there is none."""
    costs = {
        name: cost_of(program, seconds.get(name, math.nan), found.compiling[name])
        for name, program in found.programs.items()
    }
    return {name: costs.get(name) for name in WAYS}


def profile_rows(
    rows: Sequence[Row], progress: Callable[[Row], None] | None = None, seconds: float = SECONDS
) -> Costs:
    """Every row's cost, in order; `progress` is called after each."""
    profiles = []
    for row in rows:
        profiles.append(profile_row(row, seconds))
        if progress is not None:
            progress(row)
    return Costs(tuple(profiles), machine())
