"""Whether an optimizer treats a stack of layers as it would each of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcprop.layer import Array, Layer, Params, describe
from funcprop.training.unrolling import PROBING, accepted, restacked, unstacked, walked


def check_stacks(model: Layer, optimizer: optax.GradientTransformation, params: Params) -> None:
    """Raises ValueError where the optimizer treats a stack of layers otherwise than each of them.

    Two looks. One at what it does, traced and not computed, with the stacks and with one layer of
    each: other operations are other rules. And only where it computes anything but number by number
    (a norm, say), three steps of small stacks, and of their layers. An optimizer that cannot be
    tried so, for want of an argument or of the trees it was made for, is not judged.
    """
    wide = jax.eval_shape(lambda tree: tree, params)
    thin = jax.eval_shape(functools.partial(thinned, model), params)
    axes, fewer = ([jnp.ndim(leaf) for leaf in jax.tree.leaves(tree)] for tree in (wide, thin))
    if axes == fewer:
        return
    token = PROBING.set(True)
    try:
        with jax.numpy_dtype_promotion("standard"):
            found = difference(model, optimizer, wide, thin)
    except Exception:
        return
    finally:
        PROBING.reset(token)
    if found:
        raise ValueError(
            f"the optimizer treats a stack of layers otherwise than it would each layer ({found}), "
            f"and {describe(model)} stacks layers on axis 0: give init_state and train_step "
            "fp.per_layer(model, optimizer)"
        )


def is_waiting(state: Any) -> bool:
    """Whether it is the state of something that updates every few steps."""
    return isinstance(state, (optax.MultiStepsState, optax.ApplyEvery))


def thinned(layer: Layer, tree: Any) -> Any:
    """The parameters with one layer of each stack."""

    def first(children: tuple[Layer, ...], trees: Any) -> Any:
        return tuple(map(thinned, children, jax.tree.map(lambda leaf: leaf[0], trees)))

    return walked(layer, tree, thinned, first)


def difference(
    model: Layer, optimizer: optax.GradientTransformation, wide: Any, thin: Any
) -> str | None:
    """In words, how `optimizer` treats stacks and layers differently."""

    def step(params: Any, grads: Any, state: Any) -> tuple[Any, Any]:
        def value(params: Any, obj_fn: Any = None, grad_fn: Any = None) -> Array:
            return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), jnp.float32(0))

        # the value is a constant, so that there is a norm only where the optimizer takes one
        given = {"value": jnp.float32(2), "grad": grads, "value_fn": value, "obj_fn": value}
        given["grad_fn"] = lambda params, i=0: params
        return optimizer.update(grads, state, params, **accepted(optimizer.update, given))

    def once(params: Any, grads: Any) -> Any:
        return step(params, grads, optimizer.init(params))

    seen, seen_of_one = (
        list(operations(jax.make_jaxpr(once)(tree, tree).jaxpr)) for tree in (wide, thin)
    )
    names = [name for name, _ in seen]
    if names != [name for name, _ in seen_of_one]:
        return "a rule for the number of axes, or for a size?"
    mixing = any(mixes for _, mixes in seen)
    if not mixing or any(name.startswith(("random", "threefry")) for name in names):
        return None

    def state_of(params: Any) -> Any:
        return jax.eval_shape(optimizer.init, params)

    random = np.random.default_rng(0)

    def small(leaf: Any, layer: Any) -> np.ndarray:
        axes = leaf.ndim - layer.ndim
        # few shapes: not jitted, each operation compiles once a process
        shape = (2,) * axes + tuple(min(size, 2) for size in layer.shape)
        return random.normal(size=shape).astype(np.float32)

    start = jax.tree.map(small, wide, thin)
    # what only shows where a norm is exceeded, and in Adam's second step
    waits = any(map(is_waiting, jax.tree.leaves(state_of(thin), is_leaf=is_waiting)))
    scales = (0.01, 100.0) * (8 if waits else 1)  # of those that update every few steps
    each = [jax.tree.map(lambda p, s=s: s * small(p, p), start) for s in scales]
    # op by op the branches of each step would be compiled anew
    run = jax.jit(step) if waits else step

    def trained(change: Any, back: Any) -> list[Any]:
        params, found = change(start), []
        state = optimizer.init(params)
        for grads in each:
            updates, state = run(params, change(grads), state)
            params = jax.tree.map(jnp.add, params, updates)
            found.append(jax.device_get(back(updates)))
        return found

    with jax.ensure_compile_time_eval():
        stacks = trained(lambda tree: jax.tree.map(jnp.asarray, tree), lambda tree: tree)
        layers = trained(functools.partial(unstacked, model), functools.partial(restacked, model))
    for changes, wanted in zip(stacks, layers, strict=True):
        largest = max(float(np.nanmax(np.abs(leaf))) for leaf in jax.tree.leaves(wanted))
        rows = zip(jax.tree.leaves_with_path(changes), jax.tree.leaves(wanted), strict=True)
        for (path, change), want in rows:
            # far above rounding, far below what another norm makes
            allowed = 0.02 * np.abs(want).max() + 1e-5 * largest
            if not np.allclose(change, want, rtol=0, atol=allowed, equal_nan=True):
                return f"a norm over it? at params{jax.tree_util.keystr(path)}"
    return None


SHAPES = {"reshape", "squeeze", "broadcast_in_dim", "transpose", "convert_element_type", "copy"}
MIXING = ("dot", "cum", "sort", "conv_", "rev")  # even where all shapes are the same


def operations(jaxpr: Any) -> Iterator[tuple[str, bool]]:
    """The operations of a traced function, but for those that only change a shape, and whether
    each computes anything but number by number."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        below = [
            getattr(part, "jaxpr", part)
            for value in eqn.params.values()
            for part in (value if isinstance(value, (tuple, list)) else (value,))
            if hasattr(getattr(part, "jaxpr", part), "eqns")
        ]
        into, out = ({v.aval.shape for v in some} - {()} for some in (eqn.invars, eqn.outvars))
        if name not in SHAPES and (into or out):  # numbers alone are counts and indices
            mixes = (into and into != out) or len(into) > 1 or name.startswith(MIXING)
            yield name, bool(mixes) and not below
        for inner in below:
            yield from operations(inner)
