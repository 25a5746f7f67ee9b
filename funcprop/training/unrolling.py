"""Optimizers that look at the shape of a parameter, and the stacks that `Repeat` makes of many."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import optax

from funcprop.composites import Composite, Rewired, RewiredParams, Wrapper
from funcprop.doors import door
from funcprop.layer import Layer, Params, spell


@door
def per_layer(
    model: Layer, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, which sees every layer of a stack by itself: as in the unrolled model.

    model      that `init_state` is given; under `Repeat` its parameters are stacked on axis 0
    optimizer  of optax: muon, adafactor, lamb, a mask or labels by `ndim`, a norm over a parameter

    In the place of a stack of n layers the optimizer meets a tuple of n trees, and its state holds
    them so: the numbers are those of `Serial(layer, …, layer)`, global norms included, and so is
    the time it takes to compile. Parameters and gradients stay stacked. An optimizer that treats
    every number by itself (sgd, adam, adamw, lion) does not need it. Goes into
    `optax.chain(…)`, and `with_ema(per_layer(model, optimizer), decay)` around it.

    raises  TypeError where model is no Layer; called, LayerError where the parameters are not those
            of the model

    >>> import jax, jax.numpy as jnp, optax.contrib
    >>> import funcprop as fp
    >>> model, x = fp.Repeat(fp.Serial(fp.Dense(4), fp.Tanh()), 3), jnp.ones((2, 4))
    >>> optimizer = fp.per_layer(model, optax.contrib.muon(0.01))
    >>> state = fp.init_state(model, optimizer, jax.random.key(0), x)
    >>> step = jax.jit(fp.train_step(fp.backprop(model, fp.MeanSquaredError()), optimizer))
    >>> state, metrics = step(state, (x, jnp.zeros((2, 4))))
    >>> jax.tree.map(jnp.shape, state.params)
    ((Affine(w=(3, 4, 4), b=(3, 4)), ()),)
    """
    if not isinstance(model, Layer):
        raise TypeError(
            f"per_layer wants the model first, and was given {spell(model)}: "
            "write per_layer(model, optimizer)"
        )

    def init(params: Params) -> Any:
        return () if PROBING.get() else optimizer.init(unstacked(model, params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if PROBING.get():
            return updates, state
        for name in {"value_fn", "obj_fn", "grad_fn"} & extra.keys():
            extra[name] = of_layers(model, name, extra[name])
        if "grad" in extra:
            extra["grad"] = unstacked(model, extra["grad"])
        own = None if params is None else unstacked(model, params)
        more = accepted(optimizer.update, extra)
        changes, state = optimizer.update(unstacked(model, updates), state, own, **more)
        return restacked(model, changes), state

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


PROBING = ContextVar("PROBING", default=False)
"""Whether `check_stacks` is looking: what `per_layer` does is right, and it leaves all as it is."""


def of_layers(model: Layer, name: str, function: Any) -> Any:
    """A function of parameters, for parameters without stacks."""

    @functools.wraps(function)
    def of(params: Params, *args: Any, **others: Any) -> Any:
        found = function(restacked(model, params), *args, **others)
        return unstacked(model, found) if name == "grad_fn" else found

    return of


def unstacked(layer: Layer, tree: Any) -> Any:
    """A tree like the parameters, with a tuple of n trees in the place of a stack of n."""

    def apart(children: tuple[Layer, ...], trees: Any) -> Any:
        length = jax.tree.leaves(trees)[0].shape[0]
        steps = [jax.tree.map(lambda leaf: leaf[i], trees) for i in range(length)]  # noqa: B023
        return tuple(tuple(map(unstacked, children, step)) for step in steps)

    return walked(layer, tree, unstacked, apart)


def restacked(layer: Layer, tree: Any) -> Any:
    """The inverse of `unstacked`."""

    def together(children: tuple[Layer, ...], steps: Any) -> Any:
        trees = [tuple(map(restacked, children, step)) for step in steps]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    return walked(layer, tree, restacked, together)


def walked(layer: Layer, tree: Any, child: Any, stack: Any) -> Any:
    """A tree like the parameters, with child(layer, tree) at each child and stack(children, tree)
    at what is stacked; at the leaves, and what a rewiring owns, as it is."""
    if not jax.tree.leaves(tree):  # frozen, or without parameters
        return tree
    if isinstance(tree, RewiredParams):
        inner = layer.layer if isinstance(layer, Rewired) else layer
        return tree._replace(params=child(inner, tree.params))
    if isinstance(layer, Composite):
        if layer.stacked:
            return stack(layer.layers, tree)
        return layer.gathered(tree, tuple(map(child, layer.layers, layer.spread(tree))))
    if isinstance(layer, Wrapper) and type(layer).own_params is Wrapper.own_params:
        return child(layer.layer, tree)
    return tree


def accepted(update: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments those that an optimizer's `update` takes."""
    # not optax.with_extra_args_support: it keeps them from MultiSteps, and gives sam all
    parameters = inspect.signature(update).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}
