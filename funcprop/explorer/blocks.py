"""Any model as plain data: what each of its layers saw, sent, kept and cost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcprop.collectors import Remembered, collect, records
from funcprop.collectors.tracing import Tracing
from funcprop.costs.cost import machine
from funcprop.costs.measuring import Built, built, cost_of, timed
from funcprop.explorer.arrays import packed
from funcprop.explorer.flow import flow
from funcprop.explorer.maps import maps_of
from funcprop.explorer.recording import spaced
from funcprop.gradient import autodiff, backprop, objective, zeros_where_frozen
from funcprop.layer import Context, Layer, Params, is_float
from funcprop.lifting.lifted import Lifted
from funcprop.lifting.weight import Weight

NORMS = ("x", "y", "dy", "dx", "params", "dparams")
BINS = 31
LINES = 6  # in the drawing of ‖δ‖
States = list[tuple[int, Params]]


@dataclass(frozen=True)
class Watching(Tracing):
    """A trace, the bytes that a layer keeps for its backward pass, and how many parameters it has.

    Residuals that two layers keep, such as an output that is the next one's input, count in both.
    """

    def __call__(
        self, layer: Layer, params: Params, residuals: Remembered, dy: Any
    ) -> tuple[Any, Any]:
        dx, trace = super().__call__(layer, params, residuals, dy)
        own = sum(leaf.size for leaf in jax.tree.leaves(params))
        kept = jnp.float32(size(residuals.residuals))
        return dx, {"trace": trace, "kept": kept, "parameters": jnp.float32(own)}


def size(tree: Any) -> int:
    """Bytes of all arrays in the tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if is_kept(leaf))


def is_kept(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def trained(
    model: Layer,
    loss: Layer | None,
    params: Params,
    batch: Any,
    context: Context,
    optimizer: optax.GradientTransformation,
    steps: int,
    snapshots: int = 13,
) -> States:
    """[(step, parameters)] on the way of an optimizer, which sees this batch again and again."""
    gradient = backprop(model, loss)

    @jax.jit
    def one(carry: Any) -> Any:
        params, state = carry
        grads = zeros_where_frozen(gradient(params, batch, context)[1], params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

    carry = params, optimizer.init(params)
    found, at = [(0, params)], spaced(steps, snapshots)
    for step in range(1, steps + 1):
        carry = one(carry)
        if step in at:
            found.append((step, carry[0]))
    return found


def record_blocks(
    model: Layer,
    loss: Layer | None,
    states: States,
    batch: Any,
    context: Context = Context(),
    costs: bool = True,
) -> dict[str, Any]:
    """What there is to see of a model at each of some states.

    model, loss  as for `backprop`; the batch is theirs
    states       [(step, parameters)]
    costs        measure time and memory too

    Returns plain data for JSON, arrays as `packed` makes them.
    """
    gradient = jax.jit(backprop(collect(model, Watching()), loss))
    values, passes = [], []
    for _, params in states:
        value, found = gradient(params, batch, context)
        values.append(float(value))
        passes.append(in_order([seen for record in records(found) for seen in apiece(record)]))
    programs = gradients_of(model, loss, states[-1][1], batch, context)
    lifted = any(isinstance(seen.layer, Weight) for seen in passes[-1])
    return {
        "kind": "blocks",
        "heading": "Every use of a parameter" if lifted else None,
        "flow": flow_of(model, loss, states[-1][1], batch, context),
        "runs": [
            {
                "name": "by hand",
                "steps": [step for step, _ in states],
                "cost": packed(values),
                "layers": with_lines([block_of(block) for block in zip(*passes, strict=True)]),
            }
        ],
        "costs": costs_of(model, loss, programs) if costs else None,
        "leaves": list(leaves_of(programs)),
    }


def flow_of(
    model: Layer, loss: Layer | None, params: Params, batch: Any, context: Context
) -> list[list[int]] | None:
    """Which use reads which, of a function that was lifted."""
    if not isinstance(model, Lifted):
        return None
    return flow(model, params, batch if loss is None else batch[0], context)


@dataclass(frozen=True)
class Seen:
    """One layer in one pass, on the host."""

    path: str
    layer: Layer
    trace: Any
    kept: int
    parameters: int
    group: tuple[str, int]  # what repeats it, and in which of its steps


def apiece(record: Any) -> Iterator[Seen]:
    """The layer of a record, or under `Repeat` every one of its steps."""
    if record.value is None:  # frozen
        return
    value = jax.tree.map(np.asarray, record.value)
    stacked = record.stacked
    repeat = record.path.partition("Repeat")[0] if stacked else ""
    for index in np.ndindex(*value["trace"].dead.shape[:stacked]):
        own = jax.tree.map(lambda leaf, at=index: leaf[at], value)
        step = int(index[0]) + 1 if stacked else 0
        sizes = int(own["kept"]), int(own["parameters"])
        yield Seen(record.path, record.layer, own["trace"], *sizes, (repeat, step))


def in_order(seen: list[Seen]) -> list[Seen]:
    """All layers of the first step of what is repeated, then those of the second, ..."""
    found: list[Seen] = []
    for (_, repeated), part in itertools.groupby(seen, lambda s: (s.group[0], s.group[1] > 0)):
        layers = list(part)
        found += sorted(layers, key=lambda s: s.group[1]) if repeated else layers
    return found


def with_lines(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers, of which a few that have parameters get a line in the drawing of ‖δ‖."""
    own = [k for k, layer in enumerate(layers) if layer["parameters"] and layer["shape"] != "1"]
    few = {own[int(i)] for i in np.round(np.linspace(0, len(own) - 1, LINES))} if own else set()
    return [
        {**layer, "line": f"{k + 1} {layer['name']}" if k in few else None}
        for k, layer in enumerate(layers)
    ]


def block_of(passes: tuple[Seen, ...]) -> dict[str, Any]:
    """A layer over all states."""
    last = passes[-1]
    words = repr(last.layer)
    return {
        "name": name_of(last.layer),
        "path": last.path,
        "repr": words if len(words) <= 120 else type(last.layer).__name__ + "(…)",
        "shape": shapes(last.trace.y),
        "parameters": last.parameters,
        "kept": last.kept,
        "norms": {k: packed([seen.trace.norms[k] for seen in passes]) for k in NORMS},
        "dead": packed([seen.trace.dead for seen in passes]),
        "saturated": packed([seen.trace.saturated for seen in passes]),
        "histograms": {k: histogram([getattr(s.trace, k) for s in passes]) for k in ("y", "dy")},
        "maps": maps_of(last.layer, last.trace) or None,
        "group": f"block {last.group[1]}" if last.group[1] else None,
        "depth": 1 if last.group[1] else 0,
    }


def name_of(layer: Layer) -> str:
    """Its type; of a use of a lifted function's parameter, the end of the parameter's path."""
    if not isinstance(layer, Weight):
        return type(layer).__name__
    return " ".join(re.findall(r"\w+", layer.path)[-2:])


def shapes(tree: Any) -> str:
    return ", ".join("×".join(map(str, leaf.shape)) or "1" for leaf in jax.tree.leaves(tree))


def histogram(trees: list[Any]) -> dict[str, Any] | None:
    """How often values lie where, between ± the largest."""
    counts, tops = [], []
    for tree in trees:
        leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(tree) if is_float(leaf)]
        if not leaves:
            return None
        flat = np.concatenate(leaves).astype(np.float64)
        top = float(np.abs(flat).max(initial=0)) or 1.0
        tops.append(top)
        counts.append(np.histogram(flat, BINS, (-top, top))[0])
    return {"counts": packed(counts), "tops": packed(tops)}


def gradients_of(
    model: Layer, loss: Layer | None, params: Params, batch: Any, context: Context
) -> Built:
    """The gradient by hand and by jax.grad, compiled; by hand alone where there is no other."""
    arguments = (params, batch, context)
    manual = built({"by hand": backprop(model, loss)}, arguments)
    automatic = jax.value_and_grad(objective(model, loss), allow_int=True)
    try:
        other = built({"automatic": automatic}, arguments)
    except (TypeError, ValueError, NotImplementedError):  # jax.grad knows no derivative of it
        return manual
    return Built(manual.programs | other.programs, {}, arguments)


def leaves_of(found: Built) -> Iterator[dict[str, Any]]:
    """Every parameter's gradient by hand beside jax.grad: norms, and how far they are apart."""
    if "automatic" not in found.programs:
        return
    manual, automatic = (
        dict(jax.tree.leaves_with_path(found.programs[name](*found.arguments)[1]))
        for name in ("by hand", "automatic")
    )
    both = [path for path, leaf in automatic.items() if path in manual and is_float(leaf)]
    norms = {path: float(np.linalg.norm(np.ravel(automatic[path]))) for path in both}
    least = 1e-6 * max(norms.values(), default=0.0) or 1.0
    for path in both:
        own = np.asarray(manual[path], np.float64)
        off = float(np.linalg.norm(own - np.asarray(automatic[path])))
        yield {
            "path": "params" + jax.tree_util.keystr(path),
            "shape": "×".join(map(str, own.shape)) or "1",
            "manual": float(np.linalg.norm(own)),
            "automatic": norms[path],
            "apart": off / max(norms[path], least),
        }


def costs_of(model: Layer, loss: Layer | None, found: Built) -> dict[str, Any]:
    """Time, memory and what is kept, by hand and automatic."""
    seconds = timed(list(found.programs.values()), found.arguments, 0.3)
    forwards = {"by hand": objective(model, loss).forward, "automatic": by_vjp(model, loss)}
    ways = []
    for (name, program), fastest in zip(found.programs.items(), seconds, strict=True):
        cost = cost_of(program)
        kept = size(jax.eval_shape(forwards[name], *found.arguments)[1])
        ways.append(
            {
                "name": name,
                "seconds": fastest,
                "bytes": cost.bytes,
                "temporary": cost.temporary,
                "kept": kept,
            }
        )
    return {"ways": ways, "machine": machine()}


def by_vjp(model: Layer, loss: Layer | None) -> Any:
    """(params, batch, context) -> value, what `jax.vjp` keeps beside the parameters."""
    return objective(autodiff(model), loss if loss is None else autodiff(loss)).forward
