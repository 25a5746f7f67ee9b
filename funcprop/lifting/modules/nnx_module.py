"""A layer as a module of Flax NNX."""

from __future__ import annotations

import functools
from typing import Any

import jax

from funcprop.doors import door
from funcprop.extras import require
from funcprop.layer import Context, Layer, Params, is_float
from funcprop.lifting.modules.places import (
    asking_for_a_key,
    averaged,
    check_momentum,
    draws,
    gathered,
    nested,
    observed_shapes,
    predicted,
    trained,
    typed,
    unknown,
)

KEY = "fp.as_nnx(layer, x, rngs=nnx.Rngs(0)), or module(x, rngs=nnx.Rngs(0))"


@door
def as_nnx(
    layer: Layer,
    x: Any,
    *,
    rngs: Any = None,
    params: Params | None = None,
    momentum: float = 0.9,
) -> Any:
    """A layer as a module of Flax NNX, differentiated by the layer's own backward.

    layer     any
    x         a batch, or ShapeDtypeStructs of one: the sizes of the parameters are read from it
    rngs      `nnx.Rngs`: makes the parameters, and what the layer draws ("dropout")
    params    its parameters, where they exist already: then no new ones are made
    momentum  the share of the old value that running averages keep

    Returns an `nnx.Module`, to be called as `module(x, mask=None, deterministic=None, rngs=None)`:
    x [..., in] -> y [..., out], trees where the layer's are. In `module.params` every array has its
    path in the layer's own tree, as `module.params["0"]["w"]`, an `nnx.Param`, or an `nnx.Variable`
    of integers. `module.batch_stats` are running averages of what the layer observes, NaN before
    the first batch. `module.eval()`, or `deterministic=True`, predicts, as `fp.inference` does,
    without dropout and with the averages. dtypes are those of `layer.init(key, x)`: that of x. It
    has no forward mode.

    raises  TypeError where layer is none or rngs is no nnx.Rngs, ModuleNotFoundError without Flax,
            ValueError for a momentum outside [0, 1), LayerError where a key is missing

    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> x = jnp.ones((8, 4))
    >>> model = fp.as_nnx(fp.Serial(fp.Dense(3), fp.Tanh()), x, rngs=nnx.Rngs(0))
    >>> model.params["0"]["w"].shape, model(x).shape
    ((4, 3), (8, 3))
    >>> nnx.grad(lambda model: model(x).sum())(model)["params"]["0"]["b"].shape
    (3,)
    """
    check_momentum("as_nnx", momentum)
    nnx = require("flax.nnx", "flax")
    if rngs is not None and not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"as_nnx: rngs is {type(rngs).__name__}, wanted nnx.Rngs(0)")
    if params is None:
        if rngs is None:
            raise TypeError("as_nnx: rngs makes the parameters: write as_nnx(layer, x, rngs=rngs)")
        params = layer.init(typed(rngs.params()), x)
    return nnx_class()(layer, x, params, rngs, momentum)


@functools.cache
def nnx_class() -> Any:
    """The class of the modules that `as_nnx` makes: Flax is imported when it is asked for."""
    nnx = require("flax.nnx", "flax")

    def held(tree: Any, kind: Any) -> Any:
        """Nested dictionaries of variables, as NNX holds them."""

        def built(value: Any) -> Any:
            if isinstance(value, dict):
                return nnx.Dict({name: built(inner) for name, inner in value.items()})
            return (kind if is_float(value) else nnx.Variable)(value)

        return built(nested(tree))

    def shaped(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    class FuncpropLayer(nnx.Module):
        """A layer of funcprop: see `funcprop.as_nnx`."""

        def __init__(self, layer: Layer, x: Any, params: Any, rngs: Any, momentum: float) -> None:
            shapes = jax.tree.map(shaped, params)
            seen = observed_shapes(layer, shapes, x)
            self.layer, self.momentum, self.deterministic = layer, momentum, False
            self.params = held(params, nnx.Param)
            # what the trees are, without arrays: NNX splits and merges the variables alone
            self.likes = nnx.static(tuple(map(Shapes, (shapes, seen))))
            self.batch_stats = held(unknown(seen), nnx.BatchStat)
            if rngs is None or not draws(layer, shapes, x):
                self.rngs = nnx.data(None)
            else:
                self.rngs = rngs["dropout"].fork()

        def __call__(
            self,
            x: Any,
            *,
            mask: Any = None,
            deterministic: bool | None = None,
            rngs: Any = None,
        ) -> Any:
            own, seen = (like.tree for like in self.likes)
            params = gathered(self.layer, "params", values(self.params), own)
            if self.deterministic if deterministic is None else deterministic:
                kept = gathered(self.layer, "batch_stats", values(self.batch_stats), seen)
                return predicted(self.layer, params, x, kept, mask)
            source = self.rngs if rngs is None else rngs
            if isinstance(source, nnx.Rngs):
                source = source["dropout"]
            key = source() if isinstance(source, nnx.RngStream) else source
            with asking_for_a_key(KEY):
                y, new = trained(self.layer, params, x, Context(typed(key), mask))
            update(self.batch_stats, nested(new), self.momentum)
            return y

        def set_view(self, deterministic: bool | None = None) -> None:
            """What `nnx.view(model, deterministic=True)` sets."""
            if deterministic is not None:
                self.deterministic = deterministic

    def values(variables: Any) -> Any:
        """The arrays in nested dictionaries of variables."""
        if isinstance(variables, nnx.Variable):
            return variables.get_value()
        return {name: values(inner) for name, inner in variables.items()}

    def update(variables: Any, new: Any, momentum: float) -> None:
        """The running averages after a batch."""
        for name, value in new.items():
            if isinstance(value, dict):
                update(variables[name], value, momentum)
            else:
                kept = variables[name]
                average = averaged(momentum, kept.get_value(), value)
                kept.set_value(jax.lax.stop_gradient(average))

    FuncpropLayer.__module__, FuncpropLayer.__qualname__ = __name__, "FuncpropLayer"
    return FuncpropLayer


class Shapes:
    """A tree of shapes that is compared as a whole: what NNX keeps beside the variables."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        self.same = structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)

    def __repr__(self) -> str:
        return f"Shapes({self.same[0]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shapes) and self.same == other.same

    def __hash__(self) -> int:
        return hash(self.same)


def __getattr__(name: str) -> Any:
    """The class by its name, so that its modules are pickled."""
    if name == "FuncpropLayer":
        return nnx_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
