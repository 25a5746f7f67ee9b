"""Gradients by hand, by JAX, and by finite differences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import Programs, dtypes, named_leaves
from funcprop.comparison.subject.functions import Function
from funcprop.comparison.subject.subject import Subject
from funcprop.gradient import autodiff, combine, partition, zeros_where_frozen
from funcprop.layer import Array, Context, Layer, Params, is_float

Grads = dict[str, Any]  # {"dx": ..., "dparams": ...}; leaves [probes, ...] where there are probes
STEP = 1e-3  # of finite differences, relative to a number or to a tenth of the root mean square
NO_REVERSE = "Reverse-mode differentiation does not work"  # what JAX says of lax.while_loop
COORDINATES = 4096  # finite differences visit every coordinate: more would take too long


def pulled(layer: Layer, params: Params, residuals: Any, dys: Any) -> Grads:
    """The layer's own backward of every cotangent, with zeros for what it freezes."""

    def back(dy: Any) -> Grads:
        dx, dparams = layer.backward(params, residuals, dy)
        return {"dx": dx, "dparams": zeros_where_frozen(dparams, params)}

    return each(back, dys)


def passed(layer: Layer, params: Params, residuals: Any, dys: Any) -> tuple[Any, Grads]:
    """The same, and before it the value of a function where it is differentiated, by its rules;
    None for a layer, which has no other than its forward's."""
    if not isinstance(layer, Function):
        return None, pulled(layer, params, residuals, dys)
    y, dx = each(lambda dy: layer.passed(residuals, dy), dys)
    return jax.tree.map(lambda leaf: leaf[0], y), {"dx": dx, "dparams": params}


def each(function: Callable[..., Any], stacked: Any) -> Any:
    """The function of every entry [n, ...], as a batch; one by one where it takes none."""
    trees = []

    def leaves(entry: Any) -> list[Any]:  # a sparse matrix with None for indices cannot be mapped
        found, tree = jax.tree.flatten(function(entry))
        trees.append(tree)
        return found

    try:
        found = jax.vmap(leaves)(stacked)
    except (ValueError, TypeError, NotImplementedError) as error:
        if str(error).startswith(NO_REVERSE):
            raise
        found = jax.lax.map(leaves, stacked)  # a primitive without a batching rule
    return trees[-1].unflatten(found)


def frozen_by(layer: Layer, params: Params, residuals: Any, dy: Any) -> frozenset[str]:
    """The names of the leaves that a layer freezes; by tracing, where it has any."""
    if not jax.tree.leaves(params):
        return frozenset()
    return frozen_leaves(jax.eval_shape(layer.backward, params, residuals, dy)[1], params)


def frozen_leaves(dparams: Any, params: Params) -> frozenset[str]:
    """The names of the leaves, as `named_leaves` has them, that have no gradient but None."""
    names = [
        {name for name, _ in named_leaves({"dparams": tree})}
        for tree in (zeros_where_frozen(dparams, params), dparams)
    ]
    return frozenset(names[0] - names[1])


def gradients(layer: Layer, params: Params, x: Any, context: Context, dys: Any) -> Grads:
    """One forward, and the layer's own backward of every cotangent."""
    _, residuals = layer.forward(params, x, context)
    return pulled(layer, params, residuals, dys)


def numerical(
    layer: Layer, params: Params, x: Any, context: Context, dys: Any, rtol: float = 0.0
) -> Grads:
    """The same by central differences of fourth order, coordinate by coordinate, in float64.

    rtol   how exact the forward is, as one that stops at a tolerance: then steps are longer
    """
    relative = max(STEP, 0.5 * rtol**0.25)
    floats, rest = partition((params, x))
    start, unravel = jax.flatten_util.ravel_pytree(floats)

    size = jnp.sqrt(jnp.mean(jnp.square(start)))
    usual = jnp.where(size > 0, 0.1 * size, 1.0)  # steps fit the numbers: 0.01 is not moved by 1

    def value(v: Array) -> Array:  # ⟨dy, y⟩ for every probe
        moved_params, moved_x = combine(unravel(v), rest)
        y = layer.forward(moved_params, moved_x, context)[0]
        pairs = zip(jax.tree.leaves(dys), jax.tree.leaves(partition(y)[0]), strict=True)
        return sum(jnp.tensordot(dy, leaf, leaf.ndim) for dy, leaf in pairs)  # type: ignore

    def slope(i: Array) -> Array:
        h = relative * jnp.maximum(usual, jnp.abs(start[i]))
        # a loop, so that the forward stands in the program once
        steps = jnp.asarray([1.0, -1.0, 2.0, -2.0])
        one, minus_one, two, minus_two = jax.lax.map(lambda t: value(start.at[i].add(t * h)), steps)
        return (8 * (one - minus_one) - (two - minus_two)) / (12 * h)

    places = jnp.arange(start.size)
    try:
        slopes = jax.lax.map(slope, places, batch_size=64)
    except (ValueError, TypeError, NotImplementedError):
        slopes = jax.lax.map(slope, places)
    dparams, dx = jax.vmap(unravel)(slopes.T)
    return {"dx": dx, "dparams": dparams}


def differentiable(
    layer: Layer,
    params: Params,
    x: Any,
    context: Context,
    attempt: Callable[[], Any] | None = None,
) -> bool:
    """Whether `jax.vjp` can differentiate the forward: it cannot through `lax.while_loop`.

    `attempt` tries it, where that is wanted for more than to know; else it is traced.
    Raises ValueError where it cannot and there are too many numbers for finite differences.
    """

    def reverse(params: Params, x: Any, context: Context) -> Any:
        y, residuals = autodiff(layer).forward(params, x, context)
        return autodiff(layer).backward(params, residuals, partition(y)[0])

    try:
        attempt() if attempt else jax.eval_shape(reverse, params, x, context)
    except (ValueError, TypeError, NotImplementedError) as error:
        size = sum(leaf.size for leaf in jax.tree.leaves(partition((params, x))[0]))
        if size > COORDINATES:
            raise ValueError(
                f"jax.vjp cannot differentiate {type(layer).__name__}.forward, and finite "
                f"differences of {size} numbers take too long: compare at a smaller x "
                f"(at most {COORDINATES} numbers in params and x)"
            ) from error
        return False
    return True


def truth_of(peer: Layer, by_jax: bool, rtol: float = 0.0) -> Callable[..., Grads]:
    """(params, x, context, dys) -> gradients by `jax.vjp`, or by finite differences."""
    return (
        functools.partial(gradients, autodiff(peer))
        if by_jax
        else functools.partial(numerical, peer, rtol=rtol)
    )


def working_pass(subject: Subject, dys: Any, run: Programs) -> tuple[Any, Grads]:
    """-> the floats of the output, and the gradients by hand in the working dtype."""
    layer = subject.layer

    def by_hand(params: Params, x: Any, context: Context, dys: Any) -> Any:
        if isinstance(layer, Function):  # its backward makes its value, and keeps x
            return passed(layer, params, x, dys)
        y, residuals = layer.forward(params, x, context)
        return partition(y)[0], pulled(layer, params, residuals, dys)

    name = f"by hand in {dtypes((subject.params, subject.x))}"
    return run(name, by_hand, *subject.given, dys, quick=not run.thorough)


def automatic_pass(subject: Subject, dys: Any, run: Programs) -> Grads:
    """What `jax.vjp` makes of the peer in the working dtype, where JAX can."""
    name = f"automatic in {dtypes((subject.params, subject.x))}"
    truth = truth_of(subject.peer, True)
    return run(name, truth, *subject.given, dys, quick=not run.thorough)


def all_finite(tree: Any) -> bool:
    """Whether every float in it is finite."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if is_float(leaf))
