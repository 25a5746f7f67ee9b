"""What can be compared besides a Layer: a pair (forward, backward), and any function.

Each becomes a Layer without parameters whose x is the tuple of arguments, and gets a peer: another
such Layer, whose forward JAX differentiates for the truth.

Both are judged in float64, for which a function that closes over float32 weights, or returns its
loss in float32, was not written: they run under JAX's standard promotion, and where the arguments
are float64 the output is made so too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.arguments import native
from funcprop.comparison.subject.arguments import Arguments, arguments_of, named
from funcprop.comparison.subject.functions import (
    Function,
    Pair,
    remembered,
)
from funcprop.comparison.subject.once import Once, name_of
from funcprop.comparison.subject.without_rules import count_rules, without_rules
from funcprop.gradient import partition
from funcprop.layer import Context, Layer, Params, describe, spell, two


class Adapted(NamedTuple):
    """What `adapted` makes of a target."""

    layer: Layer  # its backward is on trial
    x: tuple[Any, ...]  # the arguments as arrays
    peer: Layer  # its forward, differentiated by JAX, is the truth
    notes: tuple[str, ...] = ()
    fixed: tuple[int, ...] = ()  # positions of arguments that are closed over
    numbers: bool = True  # whether Python's floats are data


def adapted(
    target: Any,
    args: Sequence[Any],
    against: Callable[..., Any] | None = None,
    kwargs: dict[str, Any] | None = None,
) -> Adapted:
    """-> the layer on trial, the arguments as arrays, and the peer that JAX differentiates.

    target   a pair (forward, backward): `forward(*args) -> y, residuals` and
             `backward(residuals, dy) -> cotangents`, one for each argument; or a function of args
    args     example arguments: pytrees; what is no array in them is closed over
    against  a reference for the truth, a function of args; else what the target itself computes.
             Either is differentiated with its custom rules taken out.
    kwargs   further arguments by name

    Raises TypeError for other targets, for a function that JAX cannot differentiate in reverse, and
    where the reference's output has another tree, shape or dtype than the target's.
    """
    pair = isinstance(target, tuple) and len(target) == 2 and all(map(callable, target))
    if pair and kwargs:
        raise TypeError(
            f"{next(iter(kwargs))}= is for functions: close over it in both of the pair"
        )
    if not pair and not callable(target):
        raise TypeError(
            f"target is {spell(target)}, wanted a function or a pair (forward, backward): "
            "write compare(jax.nn.relu, x) or compare((forward, backward), x, w)"
        )
    if against is not None and (not callable(against) or isinstance(against, Layer)):
        raise TypeError(
            f"against is {spell(against)}, wanted a function of the same arguments: "
            "write compare(fused, x, against=plain)"
        )
    fixed = () if pair else fixed_positions(target)
    try:
        found = with_arguments(target, against, *arguments_of(args, kwargs or {}, fixed))
        return found._replace(fixed=fixed)
    except (jax.errors.UnexpectedTracerError, TypeError) as error:
        given = jax.tree.leaves((tuple(args), kwargs))
        if not any(type(leaf) is float for leaf in given):
            raise
        try:  # a number may be an option
            found = arguments_of(args, kwargs or {}, fixed, numbers=False)
            return with_arguments(target, against, *found)._replace(fixed=fixed, numbers=False)
        except Exception:
            raise error from None


def with_arguments(target: Any, against: Any, arguments: Arguments, x: tuple[Any, ...]) -> Adapted:
    """The same, where it is known what of the arguments is x."""
    native = _native(x)
    if isinstance(target, tuple):
        layer: Layer = Pair(*arguments.bound_pair(*target), native=native)
        plain = _first_of(target[0])
    else:
        layer, plain = remembered(Function(arguments.bound(target), native)), target
    reference = arguments.bound(plain if against is None else against)
    peer = Function(Once(without_rules(reference)))
    notes: tuple[str, ...] = ()
    try:
        wanted = _output(peer, x)
    except NotImplementedError as error:
        peer, notes = (
            Function(Once(undifferentiated(reference, error))),
            (str(error).partition(":")[0],),
        )
        wanted = _output(peer, x)
    y = _output(layer, x)
    check_reverse(layer, x, y)
    for what, tree in (("argument", x), ("output", y)):
        if not jax.tree.leaves(partition(tree)[0]):
            raise TypeError(f"no {what} of {layer!r} is a float: there is no gradient to compare")
    if _types(y) != _types(wanted):
        raise TypeError(
            f"{layer!r} returns {_spelled(y)}, and the function it is compared with "
            f"{_spelled(wanted)}: they must agree: "
            "write against=lambda *args: plain(*args).astype(args[0].dtype)"
        )
    return Adapted(layer, x, peer, notes)


# What JAX says of a primitive that has no transpose, in lower case.
NO_REVERSE = ("reverse-mode differentiation does not work", "transpose rule", "transpose of")


def check_reverse(layer: Layer, x: tuple[Any, ...], y: Any) -> None:
    """Raises TypeError for a function that JAX cannot differentiate in reverse, nor any rule."""
    if not isinstance(layer, Function):
        return
    try:
        jax.eval_shape(lambda x, dy: layer.backward((), x, dy)[0], x, partition(y)[0])
    except (ValueError, NotImplementedError) as error:
        told = str(error).partition("\n")[0].partition(". ")[0]
        if any(word in told.lower() for word in NO_REVERSE):
            raise TypeError(
                f"{layer!r} has no reverse mode: jax.vjp raises {type(error).__name__}: {told}: "
                "there is no gradient to compare"
            ) from error
    except Exception:  # a rule that raises: told where the contract is checked
        return


def fixed_positions(target: Any) -> tuple[int, ...]:
    """The `nondiff_argnums` of a custom rule."""
    fixed = getattr(target, "nondiff_argnums", ())
    return tuple(fixed) if isinstance(fixed, (tuple, list)) else ()


def undifferentiated(function: Callable[..., Any], reason: Exception) -> Callable[..., Any]:
    """The function, which JAX refuses to differentiate: finite differences are its truth."""

    @jax.custom_jvp
    def values(*x: Any) -> Any:
        return function(*x)

    @values.defjvp
    def refused(primals: Any, tangents: Any) -> Any:
        raise NotImplementedError(str(reason))

    return named(values, function)


def has_no_rule(layer: Layer, x: Any) -> bool:
    """Whether it is a function without a derivative rule in it: JAX would be compared with JAX."""
    if not isinstance(layer, Function):
        return False
    try:
        return not count_rules(lambda *x: layer.forward((), x)[0], *x)
    except NotImplementedError:  # there is one, and it does not show
        return False


def layer_arguments(
    target: Any, args: tuple[Any, ...], context: Context | None
) -> tuple[Params, Any, Context]:
    """params, x and the context of a layer; params, batch and the context of a gradient."""
    what = "layer, params, x" if isinstance(target, Layer) else "gradient, params, batch"
    if len(args) not in (2, 3) or (len(args) == 3 and context is not None):
        given = "one argument was" if len(args) == 1 else f"{len(args)} arguments were"
        raise TypeError(f"{given} given with it: write compare({what}, context)")
    context = args[2] if len(args) == 3 else context
    context = Context() if context is None else context
    if not isinstance(context, Context):
        raise TypeError(
            f"context is {spell(context)}, wanted a Context: "
            "write compare(layer, params, x, Context(key=jax.random.key(0)))"
        )
    params, x, mask = map(native, (*args[:2], context.mask))
    return params, x, replace(context, mask=mask)


def check_same_output(
    layer: Layer, against: Layer, params: Params, x: Any, context: Context
) -> None:
    """Raises TypeError where another layer has an output of another tree, shape or dtype."""
    outputs = [
        jax.eval_shape(lambda *given, one=one: two(one, "forward", one.forward(*given))[0],
                       params, x, context)
        for one in (layer, against)
    ]  # fmt: skip
    if spell(outputs[0]) != spell(outputs[1]):
        raise TypeError(
            f"{describe(layer)} returns {spell(outputs[0])} and `against`, {describe(against)}, "
            f"{spell(outputs[1])}: they must agree in shape and dtype"
        )


def _output(layer: Layer, x: tuple[Any, ...]) -> Any:
    """Shapes and dtypes of the output."""
    return jax.eval_shape(lambda x: layer.forward((), x)[0], x)


def _first_of(fwd: Callable[..., Any]) -> Callable[..., Any]:
    """y alone of a function that returns y, residuals."""

    def primal(*args: Any) -> Any:
        return fwd(*args)[0]

    primal.__name__ = name_of(fwd)
    return primal


def _native(args: Sequence[Any]) -> bool:
    """Whether float64 is what the target is used in, and not only where it is judged."""
    wide = [getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(args)]
    return any(wide) and bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]


def _types(tree: Any) -> Any:
    """What two outputs must have in common."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _spelled(tree: Any) -> str:
    """`float32[3]`, or a tree of them."""
    return str(jax.tree.map(lambda leaf: spell(leaf), tree)).replace("'", "")
