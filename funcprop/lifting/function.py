"""The function that is lifted: of a batch, or of one example, mapped."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from funcprop.layer import Context, Layer, spell
from funcprop.lifting.jaxprs import over_examples

REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class PerExample:
    """A function of one example, mapped over a batch: what `per_example` makes.

    function   (params, x) -> y, of one example
    reduction  "mean", "sum" or "none": what becomes of the examples' results

    Called with params and xs [B, ...] it returns y [], or [B, ...] where reduction is "none".
    dtypes are those of the function.

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> total = fp.lifting.PerExample(lambda w, x: x @ w, "sum")
    >>> total(jnp.ones(3), jnp.ones((4, 3))).tolist()
    12.0
    """

    function: Callable[..., Any]
    reduction: Literal["mean", "sum", "none"] = "mean"

    def __repr__(self) -> str:
        words = "" if self.reduction == "mean" else f", reduction={self.reduction!r}"
        return f"per_example({named(self.function)}{words})"

    def __call__(self, params: Any, xs: Any, **options: Any) -> Any:
        """params, xs [B, ...], key and mask, if the function takes them -> [], or [B, ...]."""
        key = options.pop("key", None)
        size = jax.tree.leaves(xs)[0].shape[0]
        each = {} if key is None else {"key": jax.random.split(key, size)}
        each |= {name: value for name, value in options.items() if value is not None}

        def one(params: Any, x: Any, given: dict[str, Any]) -> Any:
            return self.function(params, x, **given)

        # given, and not closed over: modules of NNX ask for numbers of their own trace
        ys = over_examples(one, (None, 0, 0))(params, xs, each)
        return reduced(ys, self.reduction)


def reduced(ys: Any, reduction: str) -> Any:
    """[B] -> [], for a mean or a sum; as it is for none."""
    if reduction == "none":
        return ys
    leaves = jax.tree.leaves(ys)
    if len(leaves) != 1 or leaves[0] is not ys or ys.size != len(ys):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), ys)
        raise TypeError(
            f"per_example: the function returns {spell(one)} for one example, wanted a loss, one "
            f"number, since reduction is {reduction!r}: return the loss alone, or write "
            "fp.per_example(function, reduction='none') for a prediction"
        )
    return jnp.mean(ys) if reduction == "mean" else jnp.sum(ys)


def per_example(
    function: Callable[..., Any], reduction: Literal["mean", "sum", "none"] = "mean"
) -> PerExample:
    """A function of one example as one of a batch: what `lift` takes in its place.

    function   (params, x) -> y: a loss [], or any tree with "none"; it may take `key` or `mask` by
               name, and is given its own share of the context's
    reduction  of the losses [B]: "mean", "sum" for what single examples are asked of, or "none",
               where y is a prediction [B, ...]

    Returns (params, xs) -> y, xs [B, ...]: `jax.vmap` of the function, reduced. dtypes are those of
    the function.

    raises  TypeError where function is none, ValueError for another reduction

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> def loss(w, example):
    ...     x, y = example
    ...     return (x @ w - y) ** 2
    >>> x, y, w = jnp.ones((4, 3)), jnp.ones(4), jnp.zeros(3)
    >>> fp.per_example(loss)(w, (x, y)).shape
    ()
    >>> fp.per_example(loss, reduction="none")(w, (x, y)).shape
    (4,)
    """
    check_function("per_example", function)
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, wanted 'mean', 'sum' or 'none'")
    return PerExample(function, reduction)


def check_function(door: str, function: Any) -> None:
    """Raises TypeError for a class, a layer, a module, and whatever cannot be called."""
    own, hint = spell(function), f"write fp.{door}(apply, ...), apply(params, x) -> y"
    if isinstance(function, type):
        own = f"the class {function.__name__}"
    elif isinstance(function, Layer):
        own, hint = repr(function), "it is a layer, and is asked as it is: fp.collect(layer, rule)"
    elif hasattr(function, "apply") and hasattr(function, "init"):  # of Flax or Haiku
        own, hint = f"the model {type(function).__name__}", "write model.apply in its place"
    elif callable(function):
        return
    raise TypeError(f"{door}: function is {own}, wanted a function: {hint}")


def named(function: Any) -> str:
    """A function's name, without an address in memory."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return name.rpartition("<locals>.")[2]


def options_of(function: Any, context: Context) -> dict[str, Any]:
    """What of the context a function takes: `key` and `mask`, by name."""
    inner = function.function if isinstance(function, PerExample) else function
    try:
        taken = inspect.signature(inner).parameters
    except (TypeError, ValueError):
        return {}
    found = {"key": context.key, "mask": context.mask}
    return {name: value for name, value in found.items() if name in taken and value is not None}
