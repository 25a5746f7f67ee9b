"""Two gradient functions (params, batch, context) -> value, grads, compared."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.explanation.explanation import explained_inside
from funcprop.comparison.leaf import Broken, Leaf, broken, with_reason
from funcprop.comparison.programs import cast, generator, measured
from funcprop.comparison.verdict.contract import check_trees
from funcprop.comparison.verdict.inside import localize
from funcprop.comparison.verdict.rules import judge_exact, judge_rounded, judge_slopes
from funcprop.comparison.witnesses.gradients import Grads, frozen_leaves
from funcprop.comparison.witnesses.records import recording
from funcprop.comparison.witnesses.slopes import Slope, along
from funcprop.composites import Parallel, Serial
from funcprop.gradient import Backprop, GradientFunction, unpack, zeros_where_frozen
from funcprop.layer import Array, Context, Layer, Params, is_float, spell
from funcprop.layers import Identity


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
            given = with_reason("", lambda: value_and_grads(target(params, batch, context)))
            if rows := broken("", {"dparams": given["dparams"]}, {"dparams": params}):
                raise Broken(rows)
            wanted = value_and_grads(against(params, batch, context))
            if rows := broken("", {"dparams": wanted["dparams"]}, {"dparams": params}):
                raise TypeError(f"against does not give the gradient of params: {rows[0].rule}")
            for grads in (given, wanted):
                grads["dparams"] = zeros_where_frozen(grads["dparams"], params)
            return given, wanted

        return jax.lax.map(at, points)

    notes, looked = [], None
    if isinstance(target, Backprop):
        moved = jax.tree.map(lambda leaf: leaf[-1], points)
        looked = objective_layer(target, moved, batch, context)
        strict, lenient, *given = looked
        rows, notes = check_trees(strict, None, *given)
        if rows:
            return explained_inside(rows, lenient, *given, key=key), notes
    try:
        rounded, automatic = measured(both, points, batch, context)
        with jax.enable_x64(True):
            wide = [cast(tree, jnp.float64) for tree in (points, batch, context)]
            exact, truth = measured(both, *wide, quick=True)
            slopes = slopes_of_value(target, wide, exact, key)
    except Broken as error:
        return error.rows, notes
    rows = judge_exact("", exact, truth)
    if any(leaf.dtype != jnp.float64 for leaf in jax.tree.leaves(rounded)):
        rows += judge_rounded("", rounded, automatic, truth, floor)
    disagreeing, said = judge_slopes("", slopes)
    if all(row.ok for row in rows):
        rows += disagreeing
    if looked is None or notes:
        return rows, notes + said
    strict, lenient, *given = looked
    inner, notes = localize(strict, *given)
    if any(not row.ok for row in inner):
        inner = explained_inside(inner, lenient, *given, key=key)
    return inner + rows, notes + said


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


def slopes_of_value(
    gradient: GradientFunction, given: list[Any], exact: Grads, key: Array
) -> tuple[Slope, ...]:
    """The slopes of the value that a gradient function returns, at the last point.

    Not at the first: there fresh biases are zero, and what is blank in x lies on a kink.
    """
    points, batch, context = given
    params = jax.tree.map(lambda leaf: leaf[-1], points)

    class Value(Layer):
        def forward(self, params: Params, x: Any, context: Context = Context()) -> Any:
            return value_and_grads(gradient(params, batch, context))["value"], ()

    grads = {"dx": (), "dparams": jax.tree.map(lambda leaf: leaf[-1:], exact["dparams"])}
    one = np.ones((1, *exact["value"].shape[1:]))
    _, dparams = jax.eval_shape(gradient, params, batch, context)
    frozen = frozen_leaves(dparams, params)
    value = Value()
    return along(value, value, params, (), context, one, grads, key, False, frozen=frozen)[0]


def objective_layer(
    target: Backprop, params: Params, batch: Any, context: Context
) -> tuple[Layer, Layer, Params, Any, Context, Any]:
    """What `target` differentiates as one recording layer: -> it, params, x, context and dy.

    First comes one whose leaves record and hold to the contract, then one whose composites record
    too and that records what breaks it.
    """
    model, loss = target.objective.model, target.objective.loss
    x = batch
    if loss is not None:
        x, wanted, context = unpack(batch, context)
        params, x = ((params, ()), ()), (x, wanted)

    def made(lenient: bool) -> Layer:
        layer = recording(model, (), lenient, not lenient)
        if loss is None:
            return layer
        judge = recording(loss, ("loss",), lenient, not lenient)
        return Serial(Parallel(layer, Identity()), judge)

    strict = made(False)
    value = jax.eval_shape(lambda *given: strict.forward(*given)[0], params, x, context)
    return strict, made(True), params, x, context, np.ones(value.shape, value.dtype)


def value_and_grads(result: Any) -> Grads:
    """(value or (value, aux), grads) -> {"value": ..., "dparams": ...}."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"the gradient function returned {spell(result)}, wanted (value, grads): "
            "as jax.value_and_grad does"
        )
    value, grads = result
    return {"value": value[0] if isinstance(value, tuple) else value, "dparams": grads}
