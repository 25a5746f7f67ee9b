"""What a comparison measures: gradients by hand, by JAX, and by finite differences."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from funcprop.gradient import autodiff, combine, partition
from funcprop.layer import Array, Context, Layer, Params, is_float

Grads = dict[str, Any]  # {"dx": ..., "dparams": ...}; leaves [probes, ...] where there are probes

SMALL = 100_000  # numbers: above, an unoptimised program costs more than its compilation saves
QUICK: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,  # jax 0.10 only
}
COORDINATES = 4096  # finite differences visit every coordinate: more would take too long


@dataclass(frozen=True)
class Evidence:
    """Gradients of all probes as NumPy arrays [probes, ...], in float64 and in the working dtype.

    `numerical` says that the truth comes from finite differences, since JAX cannot differentiate
    the forward; `automatic` is then None. `rounded` is None where float64 is the working dtype.
    """

    exact: Grads
    truth: Grads
    rounded: Grads | None
    automatic: Grads | None
    numerical: bool = False


def cast(tree: Any, dtype: Any) -> Any:
    """Float leaves in `dtype`, as NumPy arrays: nothing is compiled. The others unchanged."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).astype(dtype) if is_float(leaf) else leaf, tree
    )


def generator(key: Array) -> np.random.Generator:
    """Random numbers drawn by NumPy from a JAX key: probes compile nothing."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def cotangents(
    layer: Layer, params: Params, x: Any, context: Context, probes: int, key: Array
) -> Any:
    """Random cotangents of the output, [probes, ...]: N(0, 1) in the output's dtype."""
    y = jax.eval_shape(lambda p, v, c: layer.forward(p, v, c)[0], params, x, context)
    draw = generator(key).normal
    return jax.tree.map(
        lambda leaf: draw(size=(probes, *leaf.shape)).astype(leaf.dtype), partition(y)[0]
    )


def gradients(layer: Layer, params: Params, x: Any, context: Context, dys: Any) -> Grads:
    """One forward, and the layer's own backward of every cotangent."""
    _, residuals = layer.forward(params, x, context)

    def back(dy: Any) -> Grads:
        dx, dparams = layer.backward(params, residuals, dy)
        return {"dx": dx, "dparams": dparams}

    return jax.vmap(back)(dys)


def numerical(layer: Layer, params: Params, x: Any, context: Context, dys: Any) -> Grads:
    """The same by central differences of fourth order, coordinate by coordinate, in float64."""
    floats, rest = partition((params, x))
    start, unravel = jax.flatten_util.ravel_pytree(floats)

    def value(v: Array) -> Array:  # ⟨dy, y⟩ for every probe
        moved_params, moved_x = combine(unravel(v), rest)
        y = layer.forward(moved_params, moved_x, context)[0]
        pairs = zip(jax.tree.leaves(dys), jax.tree.leaves(partition(y)[0]), strict=True)
        return sum(jnp.tensordot(dy, leaf, leaf.ndim) for dy, leaf in pairs)  # type: ignore

    def slope(i: Array) -> Array:
        h = 1e-3 * jnp.maximum(1.0, jnp.abs(start[i]))
        one, two = start.at[i].add(h), start.at[i].add(2 * h)
        minus_one, minus_two = start.at[i].add(-h), start.at[i].add(-2 * h)
        near, far = value(one) - value(minus_one), value(two) - value(minus_two)
        return (8 * near - far) / (12 * h)

    slopes = jax.lax.map(slope, jnp.arange(start.size), batch_size=64)
    dparams, dx = jax.vmap(unravel)(slopes.T)
    return {"dx": dx, "dparams": dparams}


def differentiable(layer: Layer, params: Params, x: Any, context: Context) -> bool:
    """Whether `jax.vjp` can differentiate the forward: it cannot through `lax.while_loop`.

    Raises ValueError where it cannot and there are too many numbers for finite differences.
    """

    def reverse(params: Params, x: Any, context: Context) -> Any:
        y, residuals = autodiff(layer).forward(params, x, context)
        return autodiff(layer).backward(params, residuals, partition(y)[0])

    try:
        jax.eval_shape(reverse, params, x, context)
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


def compiled(function: Callable[..., Any], *arguments: Any, quick: bool = False) -> Any:
    """The results, by a program compiled afresh.

    Never from a cache: a backward that was edited in place would go unseen. `quick` leaves out
    the optimisations that take most of the compile time: for small float64 truths.
    """
    lowered = jax.jit(lambda *given: function(*given)).lower(*arguments)
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(arguments))
    if quick and size <= SMALL and jax.default_backend() == "cpu":
        return lowered.compile(compiler_options=quick_options())(*arguments)
    return lowered.compile()(*arguments)


@functools.cache
def quick_options() -> dict[str, Any]:
    """Those of QUICK that this version of XLA knows."""
    known = {}
    for name, value in QUICK.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
            known[name] = value
    return known


def measured(function: Callable[..., Any], *arguments: Any, quick: bool = False) -> Any:
    """The results of `compiled` as NumPy arrays."""
    return jax.tree.map(np.asarray, compiled(function, *arguments, quick=quick))


def observe(layer: Layer, params: Params, x: Any, context: Context, dys: Any) -> Evidence:
    """Both rules under all cotangents: one program in float64, one in the working dtype."""
    by_jax = differentiable(layer, params, x, context)

    def both(params: Params, x: Any, context: Context, dys: Any) -> tuple[Grads, Grads | None]:
        by_hand = gradients(layer, params, x, context, dys)
        if by_jax:
            return by_hand, gradients(autodiff(layer), params, x, context, dys)
        exact = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(dys))
        return by_hand, numerical(layer, params, x, context, dys) if exact else None

    with jax.enable_x64(True):
        wide = [cast(tree, jnp.float64) for tree in (params, x, context, dys)]
        exact, truth = measured(both, *wide, quick=True)
    assert truth is not None
    if all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(partition((params, x))[0])):
        return Evidence(exact, truth, None, None, not by_jax)
    rounded, automatic = measured(both, params, x, context, dys)
    return Evidence(exact, truth, rounded, automatic, not by_jax)
