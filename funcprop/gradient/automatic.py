"""A layer by JAX, and a hand-written layer inside JAX: `autodiff` and `as_function`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from funcprop.composites.wrapper import Wrapper
from funcprop.doors import door
from funcprop.gradient.trees import (
    check_gradients,
    combine,
    partition,
    without_float0,
    zeros_where_frozen,
)
from funcprop.layer import Context, Layer, Params, describe
from funcprop.sharding import summed


@dataclass(frozen=True)
class Autodiff(Wrapper):
    """The same forward, with `jax.vjp` as its backward."""

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, AutodiffResiduals]:
        floats, rest = partition((params, x))

        def f(floats: Any) -> tuple[Any, Any]:
            params, x = combine(floats, rest)
            y, residuals = self.layer.forward(params, x, context)
            y_floats, y_rest = partition(y)
            return y_floats, (y_rest, self.layer.statistics(residuals))

        y_floats, pullback, (y_rest, statistics) = jax.vjp(f, floats, has_aux=True)
        return combine(y_floats, y_rest), AutodiffResiduals(pullback, statistics)

    def backward(self, params: Params, residuals: AutodiffResiduals, dy: Any) -> tuple[Any, Params]:
        ((dparams, dx),) = residuals.pullback(dy)
        return dx, dparams

    def statistics(self, residuals: AutodiffResiduals) -> Any:
        return residuals.statistics

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        layer, params = self.layer.inference(params, statistics)
        return Autodiff(layer), params


class AutodiffResiduals(NamedTuple):
    """What Autodiff keeps."""

    pullback: Any  # what jax.vjp returns: a pytree that holds JAX's own residuals
    statistics: Any  # the layer's, which JAX's residuals do not show


@door
def autodiff(layer: Layer) -> Autodiff:
    """The layer with automatic differentiation in place of its backward: for comparison.

    layer   any layer whose forward `jax.vjp` can differentiate

    forward   x -> y, the layer's
    keeps     what `jax.vjp` keeps: JAX's own residuals
    backward  dx, dparams by `jax.vjp`, of the trees, shapes and dtypes of x and params

    raises  what `jax.vjp` raises, where it cannot differentiate the forward

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> layer = fp.autodiff(fp.Tanh())
    >>> y, residuals = layer.forward((), x)
    >>> dx, _ = layer.backward((), residuals, jnp.ones_like(y))
    >>> bool(jnp.allclose(dx, 1 - y * y, atol=1e-6))
    True
    """
    return Autodiff(layer)


@door
def as_function(layer: Layer) -> Callable[..., Any]:
    """f(params, x, context=Context()) -> y, differentiated by the layer's own backward.

    A `jax.custom_vjp` function, so `jax.grad` and libraries built on it use the hand-written
    rule. It has no forward mode.

    params, x   as for the layer's forward
    y           the layer's output; the residuals are JAX's business

    raises  LayerError, when it is differentiated, where dx and dparams do not have the trees,
            shapes and dtypes of x and params, which `custom_vjp` does not check by itself

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> dense = fp.Dense(3)
    >>> params = dense.init(jax.random.key(0), x)
    >>> f = fp.as_function(dense)
    >>> grads = jax.grad(lambda params: f(params, x).sum())(params)
    >>> grads.b.tolist()  # db = Σ dz, over four examples
    [4.0, 4.0, 4.0]
    """

    @jax.custom_vjp
    def function(params: Params, x: Any, context: Context) -> Any:
        return layer.forward(params, x, context)[0]

    def forward(params: Params, x: Any, context: Context) -> tuple[Any, Any]:
        y, residuals = layer.forward(params, x, context)
        # shapes and dtypes of x are all that backward's result is checked against
        return y, (params, residuals, Like(jax.tree.map(jax.typeof, x)))

    def backward(kept: Any, dy: Any) -> tuple[Any, Any, None]:
        params, residuals, like = kept
        dx, dparams = layer.backward(params, residuals, without_float0(dy))
        check_gradients(layer, "dx", dx, like.value)
        check_gradients(layer, "dparams", dparams, params)
        dparams = zeros_where_frozen(dparams, params)
        return summed(dparams, params), summed(dx, like.value), None

    function.defvjp(forward, backward)

    @door
    def named(params: Params, x: Any, context: Context = Context()) -> Any:
        return function(params, x, context)

    named.__name__ = named.__qualname__ = type(layer).__name__
    named.__doc__ = f"y = {describe(layer)} of x, differentiated by its own backward."
    return named


@jax.tree_util.register_pytree_node_class
class Like:
    """Abstract values carried beside residuals: a pytree without leaves."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten(self) -> tuple[tuple, Any]:
        leaves, tree = jax.tree.flatten(self.value)
        return (), (tuple(leaves), tree)

    @classmethod
    def tree_unflatten(cls, static: Any, _: tuple) -> Like:
        leaves, tree = static
        return cls(jax.tree.unflatten(tree, leaves))
