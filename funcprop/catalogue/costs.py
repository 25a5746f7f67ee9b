"""What the rows of the catalogue cost, at the sizes where costs are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from funcprop.catalogue.inputs import draw, structs
from funcprop.catalogue.row import Row
from funcprop.comparison.programs import generator
from funcprop.costs.cost import SLOWER, Costs, Profile, machine
from funcprop.costs.measuring import (
    SECONDS,
    Built,
    _costs,
    _fastest,
    built,
    by_hand,
    by_jax,
    one_cotangent,
    without_frozen,
)
from funcprop.gradient import partition
from funcprop.layer import Context, Layer

SAME = 1e-3  # relative norm: float32 sums in another order


def sized(row: Row) -> tuple[Layer, Any, Any]:
    """(layer, x, mask) at the size where the row's costs are compared."""
    layer, x, *mask = row.large or (row.layer, row.x, row.mask)
    return layer, x, mask[0] if mask else None


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
