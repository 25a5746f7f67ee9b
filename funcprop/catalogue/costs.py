"""What the rows of the catalogue cost, at the sizes where costs are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from funcprop.catalogue.inputs import draw, structs
from funcprop.catalogue.row import Row
from funcprop.comparison.programs import generator
from funcprop.comparison.subject.door import of_layer
from funcprop.costs.cost import SLOWER, Costs, Profile, machine
from funcprop.costs.measuring import (
    SECONDS,
    Built,
    built,
    by_hand,
    by_jax,
    check_same,
    costs_of,
    fastest,
    one_cotangent,
    without_frozen,
)
from funcprop.gradient import partition
from funcprop.layer import Context, Layer


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
        dy = one_cotangent(of_layer(layer, *given, key))
    functions = {"by_hand": by_hand(layer)}
    if "automatic" in names and row.automatic:
        peer = layer if row.surrogate is None else row.surrogate
        automatic = by_jax(lambda p, v, c: peer.forward(p, v, c)[0])
        functions["automatic"] = without_frozen(automatic, functions["by_hand"])
    if "plain" in names and row.plain is not None:
        functions["plain"] = by_jax(row.plain)
    return built(functions, (*given, dy))


def sizes(row: Row) -> Profile:
    """Memory and flops alone, from the compiled programs: nothing is run.

    Against the plain form, and against the layer's own forward only where there is none.
    """
    peer = "automatic" if row.plain is None else "plain"
    return _profile(row, programs(row, ("by_hand", peer), abstract=True), {})


def profile_row(row: Row, seconds: float = SECONDS) -> Profile:
    """All three costs. A row that looks slower than it may is measured again, for longer."""
    found = programs(row)
    check_same(row.name, found, row.surrogate is not None)
    best = fastest(found, seconds)
    profile = _profile(row, found, best)
    if profile.time > SLOWER:
        again = fastest(found, 3 * seconds)
        profile = _profile(row, found, {name: min(best[name], again[name]) for name in best})
    return profile


def _profile(row: Row, found: Built, seconds: dict[str, float]) -> Profile:
    return Profile(row.name, row.promise, row.large is not None, **costs_of(found, seconds))


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
