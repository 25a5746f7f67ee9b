"""A layer as a module of Flax Linen."""

from __future__ import annotations

import functools
from typing import Any

import jax

from funcprop.doors import door
from funcprop.extras import require
from funcprop.gradient import combine, partition
from funcprop.layer import Context, Layer, LayerError, Params
from funcprop.lifting.modules.places import (
    Given,
    asking_for_a_key,
    averaged,
    check_momentum,
    gathered,
    nested,
    observed_shapes,
    predicted,
    trained,
    typed,
    unknown,
)

KEY = 'module.apply(variables, x, rngs={"dropout": jax.random.key(0)})'


@door
def as_flax(
    layer: Layer,
    *,
    params: Params | None = None,
    deterministic: bool = False,
    momentum: float = 0.9,
    name: str | None = None,
) -> Any:
    """A layer as a module of Flax Linen, differentiated by the layer's own backward.

    layer          any
    params         its parameters, where they exist already: `init` takes them instead of new ones
    deterministic  what a call does that does not say it: True predicts, as `fp.inference` does,
                   without dropout and with running averages
    momentum       the share of the old value that running averages keep
    name           of the module, as for any other of Flax

    Returns a `flax.linen.Module`, to be called as `module(x, mask=None, deterministic=None)`, alone
    or inside of other modules: x [..., in] -> y [..., out], trees where the layer's are. Its
    variables are `params`, in which every array has its path in the layer's own tree, as
    `params["0"]["w"]`; `constants`, of parameters that are integers; and `batch_stats`, running
    averages of what the layer observes, NaN before the first batch, to be made mutable in training.
    A layer that draws random numbers reads the rng "dropout". dtypes are those of
    `layer.init(key, x)`: that of x. It has no forward mode.

    raises  TypeError where layer is none, ModuleNotFoundError without Flax, ValueError for a
            momentum outside [0, 1); the module LayerError where a key, a parameter or an average is
            missing. For Flax NNX write `fp.as_nnx`

    >>> import flax.linen as nn
    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> class Model(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         x = fp.as_flax(fp.Serial(fp.Dense(3), fp.Tanh()), name="hidden")(x)
    ...         return nn.Dense(2)(x)
    >>> variables = Model().init(jax.random.key(0), jnp.ones((8, 4)))
    >>> jax.tree.map(jnp.shape, variables["params"]["hidden"])
    {'0': {'b': (3,), 'w': (4, 3)}}
    """
    check_momentum("as_flax", momentum)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"as_flax: name is {name!r}, wanted a text")
    given = None if params is None else Given(params)
    module = linen_class()
    return module(layer, given, momentum, deterministic=deterministic, name=name)


@functools.cache
def linen_class() -> Any:
    """The class of the modules that `as_flax` makes: Flax is imported when it is asked for."""
    nn = require("flax.linen", "flax")

    class FuncpropLayer(nn.Module):
        """A layer of funcprop: see `funcprop.as_flax`."""

        layer: Layer
        given: Given | None = None
        momentum: float = 0.9
        deterministic: bool = False

        @nn.compact
        def __call__(self, x: Any, *, mask: Any = None, deterministic: bool | None = None) -> Any:
            params = self._params(x)
            if self.deterministic if deterministic is None else deterministic:
                return self._predicted(params, x, mask)
            drawn = self.has_rng("dropout") or self.has_rng("params")
            key = typed(self.make_rng("dropout")) if drawn else None
            with asking_for_a_key(KEY):
                y, seen = trained(self.layer, params, x, Context(key, mask))
            for name, new in nested(seen).items():
                kept = self.variable("batch_stats", name, unknown, new)
                if not self.is_initializing():
                    average = functools.partial(averaged, self.momentum)
                    kept.value = jax.tree.map(average, kept.value, new)
            return y

        def _params(self, x: Any) -> Any:
            """The layer's parameters, each made or found in its place."""
            if self.is_initializing():
                own = self._made(typed(self.make_rng("params")), x)
            else:
                own = jax.eval_shape(self._made, jax.random.key(0), x)
            floats, rest = partition(own)
            found = {name: self._param(name, value) for name, value in nested(floats).items()}
            fixed = {
                name: self.variable("constants", name, lambda value=value: value).value
                for name, value in nested(rest).items()
            }
            floats = gathered(self.layer, "params", found, floats)
            return combine(floats, gathered(self.layer, "constants", fixed, rest))

        def _made(self, key: Any, x: Any) -> Any:
            return self.layer.init(key, x) if self.given is None else self.given.params

        def _param(self, name: str, value: Any) -> Any:
            # of what is there the layer says better than Flax where it does not fit x
            if self.has_variable("params", name):
                value = self.get_variable("params", name)
            return self.param(name, lambda key: value)

        def _predicted(self, params: Any, x: Any, mask: Any) -> Any:
            shapes = observed_shapes(self.layer, params, x, mask)
            kept = {}
            for name, shape in nested(shapes).items():
                if not self.is_initializing() and not self.has_variable("batch_stats", name):
                    raise LayerError(
                        self.layer,
                        "predicts with running averages, and was given none",
                        'write module.apply({"params": params, "batch_stats": averages}, x), or '
                        "predict with fp.as_flax of what fp.inference makes of the layer",
                    )
                kept[name] = self.variable("batch_stats", name, unknown, shape).value
            averages = gathered(self.layer, "batch_stats", kept, shapes)
            return predicted(self.layer, params, x, averages, mask)

    FuncpropLayer.__module__, FuncpropLayer.__qualname__ = __name__, "FuncpropLayer"
    return FuncpropLayer


def __getattr__(name: str) -> Any:
    """The class by its name, so that its modules are pickled."""
    if name == "FuncpropLayer":
        return linen_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
