"""`compare`: a hand-written gradient against automatic differentiation, leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.records import (
    Broken,
    Name,
    checked,
    name_of,
    recording,
    records_in,
)
from funcprop.comparison.report import Comparison
from funcprop.comparison.truth import Grads, cast, cotangents, generator, measured, observe
from funcprop.comparison.verdict import FLOOR, Leaf, broken, judge_exact, judge_rounded
from funcprop.composites import Composite, Parallel, Serial
from funcprop.gradient import Backprop, GradientFunction, partition, unpack
from funcprop.layer import Array, Context, Layer, Params, describe, is_float, spell
from funcprop.layers import Identity


def compare(
    target: Layer | GradientFunction,
    params: Params,
    x: Any,
    context: Context = Context(),
    *,
    probes: int = 5,
    key: Array | None = None,
    against: GradientFunction | None = None,
    floor: float = FLOOR,
) -> Comparison:
    """The hand-written gradient of `target` against automatic differentiation.

    target   a layer: its backward against `jax.vjp` of its forward, under `probes` random
             cotangents; x is its input.
             The parameters are moved a little: fresh zeros and ones would hide mistakes.
             a function made by `backprop`: against `jax.value_and_grad` of its objective, at
             `probes` parameter points near `params`; x is the batch.
             any gradient function (params, batch, context) -> value, grads: against another one
             of the same signature, given as `against`.
    context  key and mask; layers that draw random numbers get the same key on both sides
    key      draws the probes; jax.random.key(0) by default
    floor    errors below this many eps of a leaf's largest gradient count as rounding

    In float64 every leaf must agree to a relative norm of 1e-10. In the working dtype its error
    against that truth may be twice the one automatic differentiation makes there itself. Tree,
    shapes and dtypes must be those the contract asks for. Inside composites every layer is
    checked at the values of the actual pass, so that the report names the deepest wrong one.

    Raises TypeError for targets it cannot compare, and whatever `forward` raises. A wrong
    gradient raises nothing: see `Comparison.ok`.
    """
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes is {probes!r}, wanted a whole number of at least 1")
    if not isinstance(context, Context):
        raise TypeError(
            f"context is {spell(context)}, wanted a Context: "
            "write compare(layer, params, x, Context(key=jax.random.key(0)))"
        )
    key = jax.random.key(0) if key is None else key
    if isinstance(target, Layer):
        if against is not None:
            raise TypeError(
                "a layer is compared with jax.vjp of its own forward, and `against` was given: "
                "leave it out, or compare two gradient functions"
            )
        moved = jax.tree.map(lambda leaf: leaf[1], nearby(params, 2, key))
        rows, notes = compare_layer(target, moved, x, context, probes, key, floor)
        return Comparison(describe(target), tuple(rows), tuple(notes))
    if isinstance(target, type) and issubclass(target, Layer):
        raise TypeError(f"{target.__name__} is a class, wanted a layer: write {target.__name__}()")
    if not callable(target):
        raise TypeError(
            f"target is {spell(target)}, wanted a layer or a gradient function: "
            "write compare(layer, params, x) or compare(backprop(model, loss), params, batch)"
        )
    if against is None:
        if not isinstance(target, Backprop):
            raise TypeError(
                f"{_called(target)} needs another gradient function to be compared with: "
                "write compare(target, params, batch, against=jax.value_and_grad(objective))"
            )
        has_aux = target.objective.has_aux
        against = jax.value_and_grad(target.objective, has_aux=has_aux)
    rows, notes = compare_gradients(target, against, params, x, context, probes, key, floor)
    return Comparison(_called(target), tuple(rows), tuple(notes))


def compare_layer(
    layer: Layer,
    params: Params,
    x: Any,
    context: Context,
    probes: int,
    key: Array,
    floor: float,
) -> tuple[list[Leaf], list[str]]:
    """-> rows and notes for a layer."""
    dys = cotangents(layer, params, x, context, probes, key)
    name, first = name_of(layer, ()), jax.tree.map(lambda leaf: leaf[0], dys)

    def plain(params: Params, x: Any, context: Context, dy: Any) -> None:
        _, residuals = layer.forward(params, x, context)
        with_reason(name, lambda: _whole(layer, name, params, x, residuals, dy))

    rows, notes = contract(layer, plain, params, x, context, first)
    if rows:
        return rows, notes
    if not jax.tree.leaves(partition((params, x))[0]) or not jax.tree.leaves(dys):
        notes.append("no float goes in, or none comes out: only the gradients' trees were checked")
        return rows, notes
    evidence = observe(layer, params, x, context, dys)
    rows = judge_exact(name, evidence.exact, evidence.truth, evidence.numerical)
    if evidence.rounded is not None:
        rows += judge_rounded(name, evidence.rounded, evidence.automatic, evidence.truth, floor)
    if isinstance(layer, Composite) and not notes:
        inner, notes = localise(recording(layer), params, x, context, first)
        if not all(row.ok for row in rows) and all(row.ok for row in inner):
            every, _ = localise(recording(layer, composites=True), params, x, context, first)
            wrong = [row for row in every if not row.ok]
            inner += [row for row in wrong if row.place == wrong[0].place and row.place != name]
        rows = inner + rows
    if evidence.numerical:
        notes.append("jax.vjp cannot differentiate the forward: finite differences are the truth")
    return rows, notes


def compare_gradients(
    target: GradientFunction,
    against: GradientFunction,
    params: Params,
    batch: Any,
    context: Context,
    probes: int,
    key: Array,
    floor: float,
) -> tuple[list[Leaf], list[str]]:
    """-> rows and notes for gradient functions."""
    points = nearby(params, probes, key)

    def both(points: Params, batch: Any, context: Context) -> tuple[Grads, Grads]:
        def at(params: Params) -> tuple[Grads, Grads]:
            given = with_reason("", lambda: _value_and_grads(target(params, batch, context)))
            if rows := broken("", {"dparams": given["dparams"]}, {"dparams": params}):
                raise Broken(rows)
            return given, _value_and_grads(against(params, batch, context))

        return jax.lax.map(at, points)

    inner, notes, inside = [], [], None
    if isinstance(target, Backprop):
        moved = jax.tree.map(lambda leaf: leaf[-1], points)
        inside = _objective_layer(target, moved, batch, context)
        inner, notes = contract(inside[0], None, *inside[1:])
        if inner:
            return inner, notes
    try:
        rounded, automatic = measured(both, points, batch, context)
        with jax.enable_x64(True):
            wide = [cast(tree, jnp.float64) for tree in (points, batch, context)]
            exact, truth = measured(both, *wide, quick=True)
    except Broken as error:
        return error.rows, notes
    rows = judge_exact("", exact, truth)
    if any(leaf.dtype != jnp.float64 for leaf in jax.tree.leaves(rounded)):
        rows += judge_rounded("", rounded, automatic, truth, floor)
    if inside is not None and not notes:
        inner, notes = localise(*inside)
    return inner + rows, notes


def contract(
    layer: Layer, plain: Any, params: Params, x: Any, context: Context, dy: Any
) -> tuple[list[Leaf], list[str]]:
    """-> rows for broken trees, shapes and dtypes, inside and outside; nothing is computed.

    The notes say so where a model cannot be looked into.
    """

    def inside(params: Params, x: Any, context: Context, dy: Any) -> None:
        model = recording(layer) if plain is not None else layer
        _, residuals = model.forward(params, x, context)
        model.backward(params, residuals, dy)

    notes: list[str] = []
    for wide in (False, True):
        with jax.enable_x64(wide or jax.config.jax_enable_x64):  # type: ignore[attr-defined]
            given = (params, x, context, dy)
            if wide:
                given = tuple(cast(tree, jnp.float64) for tree in given)
            try:
                jax.eval_shape(inside, *given)
                if not isinstance(layer, Composite):
                    continue
            except Broken as error:
                return error.rows, []
            except Exception as error:  # a composite that looks at the second slot, or a bug
                notes = [f"could not look inside: {type(error).__name__}: {error}"]
            try:
                if plain is not None:
                    jax.eval_shape(plain, *given)
            except Broken as error:
                return error.rows, []
    return [], notes


def localise(
    model: Layer, params: Params, x: Any, context: Context, dy: Any
) -> tuple[list[Leaf], list[str]]:
    """Rows for every recorded layer at the values of this pass, in float64."""

    def run(params: Params, x: Any, context: Context, dy: Any) -> list[tuple[Name, Grads, Grads]]:
        _, residuals = model.forward(params, x, context)
        _, tree = model.backward(params, residuals, dy)
        return [checked(record) for record in records_in(tree)]

    with jax.enable_x64(True):
        wide = [cast(tree, jnp.float64) for tree in (params, x, context, dy)]
        try:
            found = measured(run, *wide, quick=True)
        except (ValueError, TypeError, NotImplementedError) as error:
            return [], [f"could not look inside: {type(error).__name__}: {error}"]
    rows = []
    for name, given, wanted in found:
        probe = jax.tree.map(lambda leaf: leaf[None], (given, wanted))
        rows += judge_exact(name.place, *probe)
    return rows, []


def nearby(params: Params, probes: int, key: Array) -> Params:
    """[probes, ...]: the parameters themselves, then moved by a twentieth of their size.

    Zeros move by a twentieth of one: what stands behind a layer of zeros would not be seen.
    """
    draw = generator(key).normal

    def moved(leaf: Any) -> Any:
        if not is_float(leaf):
            return jnp.broadcast_to(leaf, (probes, *leaf.shape))
        values = np.broadcast_to(np.asarray(leaf), (probes, *leaf.shape))
        wide = values.astype(np.float64)
        noise = draw(size=wide.shape)
        noise[0] = 0
        size = np.sqrt(np.mean(wide[0] ** 2)) if wide[0].any() else 1.0
        return (wide + 0.05 * size * noise).astype(values.dtype)

    return jax.tree.map(moved, params)


def with_reason(place: str, run: Callable[[], Any]) -> Any:
    """`run()`, with whatever a backward raises told as a broken contract."""
    try:
        return run()
    except Broken:
        raise
    except Exception as error:
        rule = f"contract: backward raised {type(error).__name__}: {error}"
        raise Broken([Leaf(place, "backward", (), "", False, rule)]) from error


def _whole(layer: Layer, name: str, params: Params, x: Any, residuals: Any, dy: Any) -> None:
    dx, dparams = layer.backward(params, residuals, dy)
    if rows := broken(name, {"dx": dx, "dparams": dparams}, {"dx": x, "dparams": params}):
        raise Broken(rows)


def _value_and_grads(result: Any) -> Grads:
    """(value or (value, aux), grads) -> {"value": ..., "dparams": ...}."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"the gradient function returned {spell(result)}, wanted (value, grads): "
            "as jax.value_and_grad does"
        )
    value, grads = result
    return {"value": value[0] if isinstance(value, tuple) else value, "dparams": grads}


def _objective_layer(
    target: Backprop, params: Params, batch: Any, context: Context
) -> tuple[Layer, Params, Any, Context, Any]:
    """What `target` differentiates as one recording layer: -> layer, params, x, context, dy."""
    model, loss = target.objective.model, target.objective.loss
    if loss is None:
        layer, x = recording(model), batch
    else:
        x, wanted, context = unpack(batch, context)
        layer = Serial(Parallel(recording(model), Identity()), recording(loss, ("loss",)))
        params, x = ((params, ()), ()), (x, wanted)
    value = jax.eval_shape(lambda *given: layer.forward(*given)[0], params, x, context)
    return layer, params, x, context, np.ones(value.shape, value.dtype)


def _called(target: Any) -> str:
    """A gradient function in a few words."""
    if isinstance(target, Backprop):
        parts = [target.objective.model, target.objective.loss]
        return f"backprop({', '.join(describe(part) for part in parts if part is not None)})"
    return getattr(target, "__name__", type(target).__name__)
