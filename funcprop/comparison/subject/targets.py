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
import jax.numpy as jnp
import numpy as np

from funcprop.arguments import native
from funcprop.comparison.subject.functions import Function, Pair, name_of
from funcprop.comparison.subject.without_rules import count_rules, without_rules
from funcprop.gradient import partition
from funcprop.layer import Context, Layer, Params, describe, spell, two


class Adapted(NamedTuple):
    """What `adapted` makes of a target."""

    layer: Layer  # its backward is on trial
    x: tuple[Any, ...]  # the arguments as arrays
    peer: Layer  # its forward, differentiated by JAX, is the truth


def adapted(target: Any, args: Sequence[Any], against: Callable[..., Any] | None = None) -> Adapted:
    """-> the layer on trial, the arguments as arrays, and the peer that JAX differentiates.

    target   a pair (forward, backward): `forward(*args) -> y, residuals` and
             `backward(residuals, dy) -> cotangents`, one for each argument; or a function of args
    args     example arguments: pytrees of what `jnp.asarray` takes
    against  a reference for the truth, a function of args; else what the target itself computes.
             Either is differentiated with its custom rules taken out.

    Raises TypeError for other targets, for arguments that are not arrays, for complex numbers, and
    where the reference's output has another tree, shape or dtype than the target's.
    """
    if isinstance(target, tuple) and len(target) == 2 and all(map(callable, target)):
        layer, plain = Pair(*target, native=_native(args)), _first_of(target[0])
    elif callable(target):
        layer, plain = Function(target, _native(args)), target
    else:
        raise TypeError(
            f"target is {spell(target)}, wanted a function or a pair (forward, backward): "
            "write compare(jax.nn.relu, x) or compare((forward, backward), x, w)"
        )
    if against is not None and (not callable(against) or isinstance(against, Layer)):
        raise TypeError(
            f"against is {spell(against)}, wanted a function of the same arguments: "
            "write compare(fused, x, against=plain)"
        )
    x = arrays(args)
    peer = Function(without_rules(plain if against is None else against))
    y, wanted = _output(layer, x, args), _output(peer, x, args)
    for leaf in jax.tree.leaves(y):
        _check_real(leaf, "the output")
    for what, tree in (("argument", x), ("output", y)):
        if not jax.tree.leaves(partition(tree)[0]):
            raise TypeError(f"no {what} of {layer!r} is a float: there is no gradient to compare")
    if _types(y) != _types(wanted):
        raise TypeError(
            f"{layer!r} returns {_spelled(y)}, and the function it is compared with "
            f"{_spelled(wanted)}: they must agree: "
            "write against=lambda *args: plain(*args).astype(args[0].dtype)"
        )
    return Adapted(layer, x, peer)


def has_no_rule(layer: Layer, x: tuple[Any, ...]) -> bool:
    """Whether it is a function without a derivative rule in it: JAX would be compared with JAX."""
    return isinstance(layer, Function) and not count_rules(layer.function, *x)


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


def arrays(args: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments with every leaf an array. Raises TypeError for leaves that are none."""
    if not args:
        raise TypeError("there are no example arguments: write compare(jax.nn.relu, x)")

    def array(path: Any, leaf: Any) -> Any:
        place = f"args{jax.tree_util.keystr(path)}"
        try:
            leaf = jnp.asarray(leaf)
        except (TypeError, ValueError) as error:
            given = repr(leaf) if isinstance(leaf, str) else spell(leaf)
            raise TypeError(
                f"{place} is {given}, wanted an array: close over what is none, "
                "compare(lambda x: f(x, option), x)"
            ) from error
        _check_real(leaf, place)
        return leaf

    return jax.tree.map_with_path(array, tuple(args))


def _output(layer: Layer, x: tuple[Any, ...], args: Sequence[Any]) -> Any:
    """Shapes and dtypes of the output."""
    try:
        return jax.eval_shape(lambda x: layer.forward((), x)[0], x)
    except (TypeError, ValueError) as error:
        if any(isinstance(leaf, int) for leaf in jax.tree.leaves(args)):
            error.add_note(
                "Python numbers became arrays: close over those that are options, "
                "compare(lambda x: f(x, 1), x)"
            )
        raise


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


def _check_real(leaf: Any, place: str) -> None:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise TypeError(
            f"{place} holds complex numbers, {spell(leaf)}, wanted real ones: "
            "write the function of real and imaginary parts"
        )


def _types(tree: Any) -> Any:
    """What two outputs must have in common."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _spelled(tree: Any) -> str:
    """`float32[3]`, or a tree of them."""
    return str(jax.tree.map(lambda leaf: spell(leaf), tree)).replace("'", "")
