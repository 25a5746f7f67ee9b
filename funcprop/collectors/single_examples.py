"""What a model must not do where a rule speaks of single examples: take a mean, or mix them.

The layers of this library say by their residuals which mix examples. What is written elsewhere
may keep x whole and say nothing, so it is tried: one example is changed, and no other's output may
move.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from funcprop.collectors.rule import Rule
from funcprop.composites import Composite, rewirings
from funcprop.doors import door
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    is_float,
    is_integer,
    spell,
)

# of an example's floats: small, and so large that it leads every maximum, or minimum
CHANGES = (1.0, -1.0, 100.0, -100.0)
NOT_KNOWN = (Tracer, jax.ShapeDtypeStruct)
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

    The first and the last example are changed in turn, and no other row of the output or of dx may
    move by more than rounding. Where the output has no example axis (a loss), only dx is looked
    at. Under `jit`, where values are not known, random numbers of the same shapes and dtypes are
    tried while it is traced. Rules of single examples and `private_gradient` try by themselves
    every layer, composite and loss that is not of this library, once for each shape, unless its
    class says `mixes = False`.

    raises  LayerError where examples are mixed; ValueError where x has no two examples on axis 0

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> x = jnp.array([[1.0, 2.0], [3.0, 5.0], [4.0, 7.0]])
    >>> fp.check_unmixed(fp.Softmax(), (), x)
    >>> norm = fp.BatchNorm()
    >>> try:
    ...     fp.check_unmixed(norm, fp.layers.Gain(jnp.ones(2), jnp.zeros(2)), x)
    ... except fp.LayerError as error:
    ...     print(error)
    BatchNorm(): mixes examples: one was changed, and example 1 moved
      take one that treats examples apart, as GroupNorm instead of BatchNorm
    """
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or () in sizes or (0,) in sizes or (1,) in sizes:
        raise ValueError(
            f"check_unmixed wants at least two examples on axis 0, and x is {spell(x)}: "
            "give the batch that the model is trained on"
        )
    check_rows(model, functools.partial(outputs, model), params, x, context)


def check_rows(layer: Layer, function: Any, params: Params, x: Any, context: Context) -> None:
    """Raises LayerError where a row of function(params, x, context), leaves [B, ...], depends on
    another example. Tried with the numbers given, or, where they are not known, with others."""
    size = jax.tree.leaves(x)[0].shape[0]
    if size == 1:  # nothing else is there to be moved: two examples of the same shape
        x, context = jax.tree.map(twice, x), of_two(context)
    rows = jax.eval_shape(function, params, x, context)
    others = {leaf.shape[:1] for leaf in rows} - {(max(size, 2),)}
    if others:
        raise LayerError(
            layer,
            f"works on {spell(rows)} inside, where x has {max(size, 2)} examples on axis 0",
            "keep the examples on axis 0 of whatever a layer is given, one row each",
        )
    given = params, x, context
    if any(isinstance(leaf, NOT_KNOWN) for leaf in jax.tree.leaves(given)):
        tries = [tuple(drawn(tree, positive) for tree in given) for positive in (False, True)]
    else:
        tries = [given]

    def floats(*given: Any) -> list[Array]:
        return [row for row in function(*given) if is_float(row)]

    run = jax.jit(floats)
    judged = False
    for each in tries:
        try:
            found, known = moved(run, *each)
        except (jax.errors.UnexpectedTracerError, jax.errors.TracerArrayConversionError):
            return  # a child in a loop: its shapes are all we see
        judged = judged or known
        if found is not None:
            raise LayerError(
                layer,
                f"mixes examples: one was changed, and example {found} moved",
                "take one that treats examples apart, as GroupNorm instead of BatchNorm",
            )
    if not judged:
        raise ValueError(
            "no number that comes out is finite, so that nothing can be said of the examples"
        )


TRIED: set[Any] = set()


def check_foreign(
    layer: Layer, params: Params, x: Any, context: Context, inside: Any = None
) -> None:
    """`check_unmixed` of what is not of this library, as it is traced, or with its first batch.

    inside   (params, x, context) -> the leaves to be looked at in the place of y and dx
    """
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if not foreign(layer) or len(sizes) != 1 or () in sizes or (0,) in sizes:
        return
    leaves, tree = jax.tree.flatten((params, x, context))
    traced = any(isinstance(leaf, NOT_KNOWN) for leaf in leaves)
    key = (
        layer,
        inside is None,
        tree,
        traced,
        tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves),
    )
    with contextlib.suppress(TypeError):  # a layer that cannot be hashed is tried every time
        if key in TRIED:
            return
    try:
        with jax.ensure_compile_time_eval():
            check_rows(layer, inside or functools.partial(outputs, layer), params, x, context)
    except LayerError:
        raise
    except Exception as error:
        raise LayerError(
            layer,
            f"could not be tried with random numbers, whether it mixes examples: {error}",
            "try it with its own, fp.check_unmixed(layer, params, x), and say `mixes = False` in "
            "the class",
        ) from error
    with contextlib.suppress(TypeError):
        TRIED.add(key)


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
    """y and dx for a cotangent that depends on no other example; dx alone where y has not the
    examples on axis 0, as that of a loss has not."""
    size = jax.tree.leaves(x)[0].shape[0]
    y, residuals = layer.forward(params, x, context)
    apart = all(leaf.shape[:1] == (size,) for leaf in jax.tree.leaves(y))
    floats = [leaf for leaf in jax.tree.leaves(x) if is_float(leaf)]
    # what changes with an example's x changes its own dy, and no other's
    own = sum((jnp.mean(leaf.reshape(size, -1), 1) for leaf in floats), jnp.zeros(size))

    def cotangent(leaf: Any) -> Any:
        if not is_float(leaf):
            return None
        if not apart:
            return jnp.ones_like(leaf)
        scale = jnp.cos(own).reshape(-1, *[1] * (leaf.ndim - 1))
        ramp = jnp.cos(jnp.arange(math.prod(leaf.shape[1:]))).reshape(1, *leaf.shape[1:])
        return (scale * ramp).astype(leaf.dtype)

    dx = layer.backward(params, residuals, jax.tree.map(cotangent, y))[0]
    found = [*(jax.tree.leaves(y) if apart else ()), *jax.tree.leaves(dx)]
    return [leaf for leaf in found if is_float(leaf)]


def moved(run: Any, params: Params, x: Any, context: Context) -> tuple[int | None, bool]:
    """-> the first example whose row of the results moved when another was changed, and whether
    any number of the results is finite."""
    before = [np.asarray(leaf, np.float64) for leaf in run(params, x, context)]
    eps = max((float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x) if is_float(leaf)),
              default=float(jnp.finfo(jnp.float32).eps))  # fmt: skip
    size = jax.tree.leaves(x)[0].shape[0]
    known = not before or any(np.isfinite(old).any() for old in before)
    for changed in (0, size - 1):
        others = np.arange(size) != changed
        for change in CHANGES:
            other = jax.tree.map(lambda leaf, i=changed, c=change: with_changed(leaf, i, c), x)
            for old, new in zip(before, run(params, other, context), strict=True):
                old, new = old[others], np.asarray(new, np.float64)[others]
                largest = np.abs(old[np.isfinite(old)]).max(initial=0)
                same = np.isclose(new, old, rtol=0, atol=64 * eps * largest, equal_nan=True)
                rows = ~same.reshape(len(same), -1).all(1)
                if rows.any():
                    return int(np.flatnonzero(others)[np.flatnonzero(rows)[0]]), known
    return None, known


def with_changed(leaf: Any, index: int, change: float) -> Array:
    """The leaf with other numbers in one of its examples."""
    values = np.array(leaf)
    if is_float(leaf):
        wide = values.astype(np.float64)
        scale = change * (np.sqrt(np.mean(np.square(wide))) or 1.0)
        noise = np.abs(np.random.default_rng(1).normal(size=wide[index].shape))
        values[index] = (wide[index] + scale * (1 + noise)).astype(values.dtype)
    elif is_integer(leaf):
        different = [row for row in values if (row != values[index]).any()]
        values[index] = different[0] if different else values[index]
    return jnp.asarray(values)


def drawn(tree: Any, positive: bool = False) -> Any:
    """Random numbers of the same shapes and dtypes; zeros and ones for integers."""
    random = np.random.default_rng(0)

    def one(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0, impl=jax.random.key_impl(leaf)), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            values = random.normal(size=leaf.shape)
            return jnp.asarray(np.abs(values) + 0.5 if positive else values).astype(leaf.dtype)
        values = np.arange(math.prod(leaf.shape)).reshape(leaf.shape) % 2
        if leaf.ndim:  # the examples differ, whatever their size
            rows = np.arange(leaf.shape[0]).reshape(-1, *[1] * (leaf.ndim - 1))
            values = (values + rows) % 2
        return jnp.asarray(values).astype(leaf.dtype)

    return jax.tree.map(one, tree)


def twice(leaf: Any) -> Any:
    """The shape of two such examples."""
    return jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype)


def of_two(context: Context) -> Context:
    """The context of two examples, where its mask was one example's."""
    mask = context.mask
    return context if mask is None else replace(context, mask=jnp.repeat(mask, 2, 0))
