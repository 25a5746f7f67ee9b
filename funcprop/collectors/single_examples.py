"""What a model must not do where a rule speaks of single examples: take a mean, or mix them.

The layers of this library say by their residuals which mix examples. What is written elsewhere
may keep x whole and say nothing, so it is tried: one example is changed, and no other's output may
move.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.collectors.rule import Rule
from funcprop.composites import Composite, rewirings
from funcprop.doors import door
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    concrete,
    is_float,
    is_integer,
    spell,
)

CHANGES = (1.0, 100.0)  # of an example's floats: small, and so large that it leads every maximum
OURS = ("funcprop", "jax", "jaxlib", "numpy")


def check_summed(loss: Layer, rule: Rule) -> None:
    """The examples' gradients of a mean would be divided by their number, without saying so."""
    if getattr(loss, "reduction", "sum") == "mean":
        raise LayerError(
            loss,
            f"takes a mean, and {rule.name} speaks of each example's own gradient",
            "sum instead: reduction='sum', or summed(model) of funcprop.collectors for a loss "
            "inside; divide by the number of examples afterwards",
        )
    if getattr(loss, "mixes", False) and hasattr(loss, "reduction"):
        raise LayerError(
            loss,
            f"tells the examples of a batch apart, so that each one's loss depends on all, and "
            f"{rule.name} speaks of each example's own gradient",
            "take a loss of single examples; of this one no example has a gradient of its own",
        )


def check_rewirings(layer: Layer, rule: Rule) -> None:
    """What is sent back to an example must not depend on the others in its batch."""
    for rewired in rewirings(layer):
        if rewired.mixes:
            raise LayerError(
                rewired,
                f"sends back to one example what depends on the others, and {rule.name} speaks of "
                "each example's own gradient",
                "limit each number instead: clip_cotangent(max_abs=1.0)",
            )


@door
def summed(model: Layer) -> Layer:
    """The model with a sum for every mean that a loss in it takes: what per-example rules read.

    model   a whole objective, with losses inside of composites

    Returns the model with reduction="sum" where "mean" was; parameters stay what they were.

    >>> import funcprop as fp
    >>> fp.collectors.summed(fp.Serial(fp.Identity(), fp.SoftmaxCrossEntropy()))
    Serial(Identity(), SoftmaxCrossEntropy(reduction='sum'))
    """
    if isinstance(model, Composite):
        return model.rebuild(tuple(map(summed, model.layers)))
    if getattr(model, "reduction", "sum") == "mean":
        return replace(model, reduction="sum")  # type: ignore[type-var]
    return model


# --- tried with numbers ---------------------------------------------------------------------------


@door
def check_unmixed(model: Layer, params: Params, x: Any, context: Context = Context()) -> None:
    """Raises LayerError where one example's output depends on another example of the batch.

    model, params   any layer and its parameters
    x               a tree of arrays [B, ...], the examples on axis 0; B at least 2. Floats are
                    changed by noise, integers exchanged with another example's
    context         key and mask, the same in all runs

    One example is changed, twice, and no other row of the output may move by more than rounding.
    Where the output has no example axis (a loss), the rows of dx are looked at. Under `jit`, where
    values are not known, random numbers of the same shapes and dtypes are tried while it is traced.
    Rules of single examples and `private_gradient` try by themselves every layer, composite and
    loss that is not of this library, unless its class says `mixes = False`.

    raises  LayerError where examples are mixed; ValueError where x has no two examples on axis 0

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> x = jnp.array([[1.0, 2.0], [3.0, 5.0], [4.0, 7.0]])
    >>> fp.check_unmixed(fp.Softmax(), (), x)
    >>> norm = fp.BatchNorm()
    >>> fp.check_unmixed(norm, fp.layers.Gain(jnp.ones(2), jnp.zeros(2)), x)
    Traceback (most recent call last):
        ...
    funcprop.layer.LayerError: BatchNorm(): mixes examples: one was changed, and example 0 moved
      take one that treats examples apart, as GroupNorm instead of BatchNorm
    """
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or () in sizes or (0,) in sizes or (1,) in sizes:
        raise ValueError(
            f"check_unmixed wants at least two examples on axis 0, and x is {spell(x)}: "
            "give the batch that the model is trained on"
        )
    given = params, x, context
    if any(concrete(leaf) is None for leaf in jax.tree.leaves(given)):
        given = tuple(map(drawn, given))
    found = moved(lambda *given: outputs(model, *given), *given)
    if found is not None:
        raise LayerError(
            model,
            f"mixes examples: one was changed, and example {found} moved",
            "take one that treats examples apart, as GroupNorm instead of BatchNorm",
        )


def check_foreign(layer: Layer, params: Params, x: Any, context: Context) -> None:
    """`check_unmixed` of what is not of this library, as it is traced or run."""
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if not foreign(layer) or len(sizes) != 1 or () in sizes or (0,) in sizes:
        return
    given = params, x, context
    if (1,) in sizes:  # nothing else is there to be moved: two examples of the same shape
        given = tuple(map(drawn, (params, jax.tree.map(twice, x), replace(context, mask=None))))
    try:
        with jax.ensure_compile_time_eval():
            check_unmixed(layer, *given)
    except LayerError:
        raise
    except Exception as error:
        raise LayerError(
            layer,
            f"could not be tried with random numbers, whether it mixes examples: {error}",
            "try it with its own, fp.check_unmixed(layer, params, x), and say `mixes = False` in "
            "the class",
        ) from error


def check_loss(loss: Layer, prediction: Any, target: Any, context: Context) -> None:
    """The same of a loss, which adds up its examples: by the rows of its gradient."""
    check_foreign(loss, (), (prediction, target), context)


def foreign(layer: Any) -> bool:
    """Whether it, or a layer or function in it, is not of this library, nor says that it mixes no
    examples."""
    if type(layer).__module__.partition(".")[0] not in OURS:
        return getattr(layer, "mixes", True)
    fields = dataclasses.fields(layer) if dataclasses.is_dataclass(layer) else ()
    for value in (getattr(layer, field.name) for field in fields):
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Layer) and foreign(each):
                return True
            module = getattr(each, "__module__", None) or "jax"
            if callable(each) and module.partition(".")[0] not in OURS:
                return True
    return False


def outputs(layer: Layer, params: Params, x: Any, context: Context) -> list[Array]:
    """The floats of y, or of dx where y has not the examples on axis 0."""
    y, residuals = layer.forward(params, x, context)
    size = jax.tree.leaves(x)[0].shape[0]
    if any(leaf.shape[:1] != (size,) for leaf in jax.tree.leaves(y)):
        y = layer.backward(params, residuals, jax.tree.map(jnp.ones_like, y))[0]
    return [leaf for leaf in jax.tree.leaves(y) if is_float(leaf)]


def moved(function: Callable[..., list[Array]], params: Params, x: Any, context: Context) -> Any:
    """The first example, but the last, whose row of the results moved when the last was changed."""
    run = jax.jit(function)
    before = [np.asarray(leaf, np.float64) for leaf in run(params, x, context)]
    eps = max((float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x) if is_float(leaf)),
              default=float(jnp.finfo(jnp.float32).eps))  # fmt: skip
    for size in CHANGES:
        other = jax.tree.map(lambda leaf, size=size: with_last_changed(leaf, size), x)
        for old, new in zip(before, run(params, other, context), strict=True):
            old, new = old[:-1], np.asarray(new, np.float64)[:-1]
            largest = np.abs(old[np.isfinite(old)]).max(initial=0)
            same = np.isclose(new, old, rtol=0, atol=64 * eps * largest, equal_nan=True)
            rows = ~same.reshape(len(same), -1).all(1)
            if rows.any():
                return int(np.flatnonzero(rows)[0])
    return None


def with_last_changed(leaf: Any, size: float) -> Array:
    """The leaf with other numbers in its last example."""
    values = np.array(leaf)
    if is_float(leaf):
        wide = values.astype(np.float64)
        scale = size * (np.sqrt(np.mean(np.square(wide))) or 1.0)
        noise = scale * np.random.default_rng(1).normal(size=wide[-1].shape)
        values[-1] = (wide[-1] + noise).astype(values.dtype)
    elif is_integer(leaf):
        values[-1] = values[0]
    return jnp.asarray(values)


def drawn(tree: Any) -> Any:
    """Random numbers of the same shapes and dtypes; zeros and ones for integers."""
    random = np.random.default_rng(0)

    def one(leaf: Any) -> Any:
        if is_float(leaf):
            return jnp.asarray(random.normal(size=leaf.shape)).astype(leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0, impl=jax.random.key_impl(leaf)), leaf.shape)
        count = math.prod(leaf.shape)
        return jnp.asarray((np.arange(count) % 2).reshape(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(one, tree)


def twice(leaf: Any) -> Any:
    """The shape of two such examples."""
    return jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype)
