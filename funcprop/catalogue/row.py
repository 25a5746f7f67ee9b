"""A row of the catalogue: a layer in one configuration, and what is promised of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.catalogue.inputs import draw
from funcprop.comparison.programs import generator
from funcprop.comparison.subject.door import of_layer
from funcprop.comparison.subject.subject import Subject
from funcprop.costs.cost import Promise
from funcprop.layer import Array, Context, Layer, Params, is_float


@dataclass(frozen=True)
class Mutant:
    """A wrong backward that a comparison must catch.

    name      what is wrong
    backward  (layer, params, residuals, dy) -> dx, dparams, of which something is wrong

    >>> import funcprop as fp
    >>> wrong = lambda layer, params, a, da: (da * (1 - a), ())
    >>> fp.catalogue.Mutant("a missing square", wrong).name
    'a missing square'
    """

    name: str
    backward: Callable[[Any, Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Row:
    """A layer in one configuration, what to try it on, and what is promised of it.

    layer      the layer
    x          a tree of Specs: its input
    mask       a Spec: its context's mask, or None
    plain      (params, x, context) -> y as a JAX user would write it, or None: then the layer's
               own forward under jax.vjp is the only peer
    large      (layer, x) or (layer, x, mask): the size at which time and memory are compared
    promise    against `plain` at that size: "time", "memory", "enables" (a gradient that automatic
               differentiation lacks) or "parity"
    batched    whether axis 0 of x is an example axis and vmap over it agrees with the batch
    automatic  whether jax.vjp can differentiate the forward
    floor      float32 errors below this many eps of the summed absolute terms count as rounding
    reason     why, where a default was changed
    mutants    wrong backward passes beyond the systematic ones
    surrogate  the layer whose derivative backward is, where it is not that of the layer's forward:
               of the same params and x, with an output of the same shape and dtype

    raises     what the layer's init raises, in `arguments`

    >>> import jax
    >>> import funcprop as fp
    >>> row = fp.catalogue.Row("my tanh", fp.Tanh(), fp.catalogue.Normal((5, 3)))
    >>> params, x, context = row.arguments(jax.random.key(0))
    >>> x.shape
    (5, 3)
    """

    name: str
    layer: Layer
    x: Any
    mask: Any = None
    plain: Callable[..., Any] | None = None
    large: tuple[Any, ...] | None = None
    promise: tuple[Promise, ...] = ("parity",)
    batched: bool = True
    automatic: bool = True
    floor: float = 8.0
    reason: str = ""
    mutants: tuple[Mutant, ...] = ()
    surrogate: Layer | None = None

    @property
    def peer(self) -> Layer:
        """The layer whose forward JAX differentiates for the truth."""
        return self.layer if self.surrogate is None else self.surrogate

    def subject(self, arguments: tuple[Params, Any, Context], key: Array) -> Subject:
        """What is compared, at such arguments."""
        return of_layer(self.layer, *arguments, key, self.surrogate)

    def inputs(self, key: Array, dtype: Any = jnp.float32) -> tuple[Any, Context]:
        """x and a context with a key, drawn from `key`."""
        random = generator(key)
        x = draw(self.x, random, dtype)
        mask = None if self.mask is None else draw(self.mask, random, dtype)
        return x, Context(jax.random.fold_in(key, 1), mask)

    def arguments(
        self, key: Array, dtype: Any = jnp.float32, init: Callable[..., Params] | None = None
    ) -> tuple[Params, Any, Context]:
        """params moved off zero, x and a context, drawn from `key`.

        `init` is the layer's, if need be compiled. Where x has no floats that tell the dtype of
        the parameters, they are in `dtype`.
        """
        x, context = self.inputs(key, dtype)
        params = (init or self.layer.init)(jax.random.fold_in(key, 2), x)
        silent = not any(map(is_float, jax.tree.leaves(x)))
        return off_zero(params, generator(key), dtype if silent else None), x, context


def key_of(context: Context) -> Array:
    """The key that plain forms draw from: every row's context has one."""
    assert context.key is not None
    return context.key


def off_zero(params: Params, random: np.random.Generator, dtype: Any = None) -> Params:
    """Float parameters plus N(0, 0.1²): zeros and ones would hide wrong gradients."""

    def moved(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        wide = np.asarray(leaf, np.float64) + 0.1 * random.normal(size=leaf.shape)
        return jax.device_put(wide.astype(leaf.dtype if dtype is None else dtype))

    return jax.tree.map(moved, params)
