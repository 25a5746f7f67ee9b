"""A layer as a module of Equinox."""

from __future__ import annotations

import functools
from typing import Any

import jax

from funcprop.doors import door
from funcprop.extras import require
from funcprop.layer import Context, Layer, LayerError, Params
from funcprop.lifting.modules.places import (
    asking_for_a_key,
    averaged,
    check_momentum,
    draws,
    observed_shapes,
    predicted,
    trained,
    typed,
    unknown,
)

KEY = "module(x, key=jax.random.key(0))"
STATE = "y, state = module(x, state)"


@door
def as_equinox(
    layer: Layer,
    x: Any,
    *,
    key: Any = None,
    params: Params | None = None,
    momentum: float = 0.9,
) -> Any:
    """A layer as a module of Equinox, differentiated by the layer's own backward.

    layer     any
    x         a batch, or ShapeDtypeStructs of one: the sizes of the parameters are read from it
    key       makes the parameters
    params    its parameters, where they exist already: then no key is needed
    momentum  the share of the old value that running averages keep

    Returns an `eqx.Module`, to be called as `module(x, key=None, mask=None)`: x [..., in] ->
    y [..., out], trees where the layer's are. Its leaves are the parameters: `module.params` is the
    layer's own tree, as `module.params[0].w`. A layer that draws random numbers wants `key=`. One
    that observes statistics is stateful, as Equinox's own batch norm: it is made by
    `eqx.nn.make_with_state(fp.as_equinox)(layer, x, key=key)`, and called as
    `y, state = module(x, state)`; the averages are NaN before the first batch. Of both kinds
    `eqx.nn.inference_mode(module)` predicts, as `fp.inference` does, without drawing and with the
    averages. dtypes are those of `layer.init(key, x)`: that of x. It has no forward mode.

    raises  TypeError where layer is none or there is neither key nor params, ModuleNotFoundError
            without Equinox, ValueError for a momentum outside [0, 1); the module LayerError where a
            key or the state is missing

    >>> import equinox as eqx
    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> x = jnp.ones((8, 4))
    >>> model = fp.as_equinox(fp.Serial(fp.Dense(3), fp.Tanh()), x, key=jax.random.key(0))
    >>> model.params[0].w.shape, model(x).shape
    ((4, 3), (8, 3))
    >>> eqx.filter_grad(lambda model: model(x).sum())(model).params[0].b.shape
    (3,)
    """
    check_momentum("as_equinox", momentum)
    eqx = require("equinox", "equinox")
    if params is None:
        if key is None:
            raise TypeError("as_equinox: key makes the parameters: write key=jax.random.key(0)")
        params = layer.init(typed(key), x)
    seen = observed_shapes(layer, params, x)
    stateful = len(jax.tree.leaves(seen)) > 0
    index = eqx.nn.StateIndex(unknown(seen)) if stateful else None
    plain, predicting = equinox_classes()
    if stateful or differs(layer, params, x):
        return predicting(layer, params, momentum, index, False)
    return plain(layer, params, momentum, index)


def differs(layer: Layer, params: Params, x: Any) -> bool:
    """Whether a layer that observes nothing computes something else in prediction."""
    found = []
    try:
        jax.eval_shape(lambda p: found.append(layer.inference(p, ())[0]), params)
    except LayerError:  # it is raised again where somebody predicts
        return True
    return draws(layer, params, x) or found != [layer]


@functools.cache
def equinox_classes() -> tuple[Any, Any]:
    """The classes of what `as_equinox` makes: of layers that predict as they train, and of others.

    Equinox is imported when they are asked for. A flag is a leaf of a module, so there is one only
    where it says something: then the leaves of the others are their parameters alone.
    """
    eqx = require("equinox", "equinox")

    class FuncpropLayer(eqx.nn.StatefulLayer):
        """A layer of funcprop: see `funcprop.as_equinox`."""

        layer: Layer = eqx.field(static=True)
        params: Any
        momentum: float = eqx.field(static=True)
        index: Any

        def __call__(self, x: Any, state: Any = None, *, key: Any = None, mask: Any = None) -> Any:
            stateful = self.is_stateful()
            if stateful and state is None:
                make = "eqx.nn.make_with_state(fp.as_equinox)(layer, x, key=key)"
                problem = "observes statistics, and was given no state to keep their averages"
                raise LayerError(self.layer, problem, f"write {STATE}: {make} made both")
            old = state.get(self.index) if stateful else ()
            if getattr(self, "inference", False):
                y = predicted(self.layer, self.params, x, old, mask)
                return (y, state) if stateful else y
            with asking_for_a_key(KEY):
                y, new = trained(self.layer, self.params, x, Context(typed(key), mask))
            if not stateful:
                return y
            new = jax.tree.map(functools.partial(averaged, self.momentum), old, new)
            return y, state.set(self.index, jax.lax.stop_gradient(new))

        def is_stateful(self) -> bool:
            """Whether it is called with a state, as `eqx.nn.Sequential` asks."""
            return self.index is not None

    class FuncpropTrainingLayer(FuncpropLayer):
        """A layer of funcprop that does something else in prediction: see `funcprop.as_equinox`."""

        inference: bool

    for kind in (FuncpropLayer, FuncpropTrainingLayer):
        kind.__module__, kind.__qualname__ = __name__, kind.__name__
    return FuncpropLayer, FuncpropTrainingLayer


def __getattr__(name: str) -> Any:
    """The classes by name, so that their modules are pickled."""
    if name in ("FuncpropLayer", "FuncpropTrainingLayer"):
        return equinox_classes()[name == "FuncpropTrainingLayer"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
