"""What a comparison measures: gradients by hand, by JAX, and by finite differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import (
    Programs,
    cast,
    dtypes,
    generator,
    named_leaves,
    shapes,
)
from funcprop.comparison.slopes import Slope, along
from funcprop.gradient import autodiff, combine, partition, zeros_where_frozen
from funcprop.layer import Array, Context, Layer, Params, is_float, is_integer

Grads = dict[str, Any]  # {"dx": ..., "dparams": ...}; leaves [probes, ...] where there are probes

SCALES = (1e6, 1e-6)  # of cotangents: backward is linear in dy
COORDINATES = 4096  # finite differences visit every coordinate: more would take too long


class Point(NamedTuple):
    """Where gradients are compared: `name` says how the input differs from what was given."""

    name: str
    x: Any
    context: Context


@dataclass(frozen=True)
class Found:
    """Gradients at one point, NumPy arrays [probes, ...]: by hand, and the truth of the witness."""

    point: Point
    given: Grads
    truth: Grads


@dataclass(frozen=True)
class Evidence:
    """What the witnesses say.

    exact      in float64, at every point
    scaled     the same at the first point, under cotangents of other sizes (`SCALES`)
    rounded    in the working dtype, by hand and automatically; None where that is float64
    slopes     along directions in float64: ⟨gradient, v⟩ and what finite differences, near and
               far, and `jax.jvp` make of it (None where it cannot differentiate the forward)
    moves      those directions, leaves [directions, ...]
    dys        the cotangents of `exact`, in float64
    numerical  the truth comes from finite differences, since JAX cannot differentiate the forward;
               `automatic` is then None
    residuals  what the backward pass reads, as shapes: its size is what a layer keeps
    """

    exact: tuple[Found, ...]
    scaled: tuple[Found, ...]
    rounded: Grads | None
    automatic: Grads | None
    slopes: tuple[Slope, ...]
    moves: Any
    dys: Any
    numerical: bool
    residuals: Any


def cotangents(
    layer: Layer, params: Params, x: Any, context: Context, probes: int, key: Array
) -> Any:
    """Random cotangents of the output, [probes, ...]: N(0, 1) in the output's dtype."""
    y = jax.eval_shape(lambda p, v, c: layer.forward(p, v, c)[0], params, x, context)
    draw = generator(key).normal
    return jax.tree.map(
        lambda leaf: draw(size=(probes, *leaf.shape)).astype(leaf.dtype), partition(y)[0]
    )


def spread(dys: Any, key: Array) -> Any:
    """The cotangents, and three more: one number alone, another one, and of very uneven sizes."""
    random = generator(key)
    leaves, tree = jax.tree.flatten(dys)
    sizes = np.array([math.prod(leaf.shape[1:]) for leaf in leaves])
    ends = np.cumsum(sizes)
    alone = random.integers(ends[-1], size=2) if ends.size and ends[-1] else ()
    added = []
    for leaf, size, end in zip(leaves, sizes, ends, strict=True):
        shape = leaf.shape[1:]
        rows = [(np.arange(end - size, end) == place).reshape(shape) for place in alone]
        rows.append(random.normal(size=shape) * np.exp(2 * random.normal(size=shape)))
        added.append(np.concatenate([leaf, np.stack(rows).astype(leaf.dtype)]))
    return jax.tree.unflatten(tree, added)


def pulled(layer: Layer, params: Params, residuals: Any, dys: Any) -> Grads:
    """The layer's own backward of every cotangent, with zeros for what it freezes."""

    def back(dy: Any) -> Grads:
        dx, dparams = layer.backward(params, residuals, dy)
        return {"dx": dx, "dparams": zeros_where_frozen(dparams, params)}

    return jax.vmap(back)(dys)


def frozen_by(layer: Layer, params: Params, residuals: Any, dy: Any) -> frozenset[str]:
    """The names of the leaves that a layer freezes; by tracing."""
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


def numerical(layer: Layer, params: Params, x: Any, context: Context, dys: Any) -> Grads:
    """The same by central differences of fourth order, coordinate by coordinate, in float64."""
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
        h = 1e-3 * jnp.maximum(usual, jnp.abs(start[i]))
        one, two = start.at[i].add(h), start.at[i].add(2 * h)
        minus_one, minus_two = start.at[i].add(-h), start.at[i].add(-2 * h)
        near, far = value(one) - value(minus_one), value(two) - value(minus_two)
        return (8 * near - far) / (12 * h)

    slopes = jax.lax.map(slope, jnp.arange(start.size), batch_size=64)
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


def is_mask(leaf: Any) -> bool:
    """Whether a leaf is an array of truth values."""
    return getattr(leaf, "dtype", None) == np.dtype(bool)


def points(x: Any, context: Context) -> list[Point]:
    """The input itself, scaled, all zeros, and with ties; masks that hide nothing, some, and all;
    integers moved along their first axis, and another key.

    All of the same shapes and dtypes: no program is compiled for them.
    """

    def changed(change: Callable[[np.ndarray], np.ndarray]) -> Any:
        def one(leaf: Any) -> Any:
            if not is_float(leaf):
                return leaf
            return change(np.asarray(leaf, np.float64)).astype(leaf.dtype)

        return jax.tree.map(one, x)

    def masked(pattern: Callable[[np.ndarray], np.ndarray]) -> tuple[Any, Context]:
        """Every mask seen where `pattern` of the last axis's index is True."""

        def changed(leaf: Any) -> Any:
            if not is_mask(leaf) or not leaf.ndim:
                return leaf
            return pattern(np.sum(np.indices(leaf.shape), axis=0))  # another one in every row

        mask = None if context.mask is None else changed(np.asarray(context.mask))
        return jax.tree.map(changed, x), Context(context.key, mask)

    found = [Point("", x, context)]
    if any(is_float(leaf) for leaf in jax.tree.leaves(x)):
        found += [
            Point("0.02 x", changed(lambda a: 0.02 * a), context),
            Point("30 x", changed(lambda a: 30 * a), context),
            Point("zeros", changed(np.zeros_like), context),
            Point("ties", changed(np.round), context),
        ]
    if any(is_integer(leaf) and leaf.ndim for leaf in jax.tree.leaves(x)):
        moved = jax.tree.map(
            lambda leaf: np.roll(leaf, 1, 0) if is_integer(leaf) and leaf.ndim else leaf, x
        )
        found.append(Point("integers moved", moved, context))
    if context.key is not None:
        other = Context(jax.random.fold_in(context.key, 1), context.mask)
        found.append(Point("another key", x, other))
    masks = [context.mask, *jax.tree.leaves(x)]
    if any(map(is_mask, masks)):
        found += [
            Point("nothing masked", *masked(lambda index: index >= 0)),
            Point("every third masked", *masked(lambda index: index % 3 != 1)),
            Point("all masked", *masked(lambda index: index < 0)),
        ]
    return found


def observe(
    layer: Layer,
    peer: Layer,
    params: Params,
    x: Any,
    context: Context,
    dys: Any,
    key: Array,
    quick: bool = False,
    programs: Programs | None = None,
) -> Evidence:
    """Both rules under all cotangents and at all points, and the slopes of the forward.

    In float64 forward and backward are programs of their own, as they are in use: a backward that
    reads what a forward pass left behind has nothing to read there. `dys` [probes, ...] are in the
    working dtype; in float64 there are one-hot and scaled ones besides. `quick` leaves the
    compiler's optimizations out in the working dtype too. `programs` serve again where they fit.
    """
    run = Programs() if programs is None else programs
    floats = jax.tree.leaves(partition((params, x))[0])
    places, more = points(x, context), spread(dys, key)

    def forward(params: Params, x: Any, context: Context) -> Any:
        return layer.forward(params, x, context)

    def backward(params: Params, residuals: Any, dys: Any) -> Grads:
        return pulled(layer, params, residuals, dys)

    with jax.enable_x64(True):
        wide_params, more = cast(params, jnp.float64), cast(more, jnp.float64)
        wide = [cast((p.x, p.context), jnp.float64) for p in places]
        first = wide_params, *wide[0]

        def attempt() -> None:
            run.prepare("truth", truth_of(peer, True), *first, more, quick=True)

        by_jax = run.once("differentiable", differentiable, peer, *first, attempt)
        truth = truth_of(peer, by_jax)
        if not by_jax:  # finite differences visit every coordinate: once is enough
            places, wide = places[:1], wide[:1]
        passes = [run("forward", forward, wide_params, *each, quick=True) for each in wide]
        kept = [residuals for _, residuals in passes]
        # an input that was changed may be none that the layer takes: it says so by NaN
        taken = [i for i, (y, _) in enumerate(passes) if i == 0 or all_finite(y)]

        def by_hand(residuals: Any, dys: Any) -> Grads:
            return run("backward", backward, wide_params, residuals, dys, quick=True)

        exact = tuple(
            Found(
                places[i],
                by_hand(kept[i], more),
                run("truth", truth, wide_params, *wide[i], more, quick=True),
            )
            for i in taken
        )
        scaled = tuple(
            Found(
                Point(f"{scale:g} dy", x, context),
                by_hand(kept[0], times(scale, more)),
                times(scale, exact[0].truth),
            )
            for scale in SCALES
        )
        one = jax.tree.map(lambda dy: dy[0], more)
        slopes, moves = along(
            layer, peer, wide_params, *wide[0], dys=more, by_hand=exact[0].given, key=key, run=run,
            frozen=run.once("frozen", frozen_by, layer, wide_params, kept[0], one),
        )  # fmt: skip
    found = Evidence(exact, scaled, None, None, slopes, moves, more, not by_jax, shapes(kept[0]))
    if all(leaf.dtype == jnp.float64 for leaf in floats):
        return found

    given = params, x, context, dys
    rounded, automatic = in_working_dtype(layer, peer, by_jax, given, run, quick)
    return replace(found, rounded=rounded, automatic=automatic)


def truth_of(peer: Layer, by_jax: bool) -> Callable[..., Grads]:
    """(params, x, context, dys) -> gradients by `jax.vjp`, or by finite differences."""
    return (
        functools.partial(gradients, autodiff(peer))
        if by_jax
        else functools.partial(numerical, peer)
    )


def in_working_dtype(
    layer: Layer, peer: Layer, by_jax: bool, given: tuple[Any, ...], run: Programs, quick: bool
) -> tuple[Grads, Grads | None]:
    """(params, x, context, dys) -> gradients by hand, and automatically where JAX can."""
    return working_pass(layer, peer, by_jax, given, run, quick)[1:]


def working_pass(
    layer: Layer, peer: Layer, by_jax: bool, given: tuple[Any, ...], run: Programs, quick: bool
) -> tuple[Any, Grads, Grads | None]:
    """-> the floats of the output, and those gradients: by one program, as they are."""

    def both(params: Params, x: Any, context: Context, dys: Any) -> Any:
        y, residuals = layer.forward(params, x, context)
        by_hand = pulled(layer, params, residuals, dys)
        automatic = truth_of(peer, True)(params, x, context, dys) if by_jax else None
        return partition(y)[0], by_hand, automatic

    return run(f"both in {dtypes(given[:2])}", both, *given, quick=quick)


def all_finite(tree: Any) -> bool:
    """Whether every float in it is finite."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if is_float(leaf))


def times(scale: float, tree: Any) -> Any:
    """The leaves, scaled."""
    return jax.tree.map(lambda leaf: scale * leaf, tree)
