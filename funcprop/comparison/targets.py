"""What can be compared besides a Layer: a pair (forward, backward), and any function.

Each becomes a Layer without parameters whose x is the tuple of arguments, and gets a peer: another
such Layer, whose forward JAX differentiates for the truth.

Both are judged in float64, for which a function that closes over float32 weights, or returns its
loss in float32, was not written: they run under JAX's standard promotion, and where the arguments
are float64 the output is made so too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.arguments import native
from funcprop.comparison.slopes import Surrogate
from funcprop.comparison.without_rules import count_rules, without_rules
from funcprop.gradient import Like, combine, partition, without_float0
from funcprop.layer import (
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    describe,
    is_float,
    spell,
    two,
)

PROMOTION = functools.partial(jax.numpy_dtype_promotion, "standard")


class Adapted(NamedTuple):
    """What `adapted` makes of a target."""

    layer: Layer  # its backward is on trial
    x: tuple[Any, ...]  # the arguments as arrays
    peer: Layer  # its forward, differentiated by JAX, is the truth


class PairResiduals(NamedTuple):
    """What Pair keeps."""

    kept: Residuals  # what the pair's own forward keeps
    args: Like  # types of the arguments: what the cotangents must look like
    y: Like  # types of the output: where it is an integer, JAX hands backward a float0


@dataclass(frozen=True)
class Pair(Layer):
    """The two functions of a derivative rule, in the convention of `jax.custom_vjp`.

    forward   args -> fwd(*args) = y, residuals
    keeps     what fwd keeps, and the types of the arguments and of y
    backward  dy -> bwd(residuals, dy): a tuple with one cotangent for each argument, where None
              stands for zeros, and for the cotangent of integers. The cotangent of a single
              argument may stand alone.
    """

    fwd: Callable[..., Any]
    bwd: Callable[..., Any]
    native: bool = False  # whether its users call it in float64

    def __repr__(self) -> str:
        return f"({name_of(self.fwd)}, {name_of(self.bwd)})"

    def forward(
        self, params: Params, x: tuple[Any, ...], context: Context = Context()
    ) -> tuple[Any, PairResiduals]:
        with PROMOTION():
            y, kept = two(self, "forward", self.fwd(*x))
        y = jax.tree.map(jnp.asarray, y)
        types = (Like(jax.tree.map(jax.typeof, tree)) for tree in (x, y))
        return _widened(y, x), PairResiduals(kept, *types)

    def backward(
        self, params: Params, residuals: PairResiduals, dy: Any
    ) -> tuple[tuple[Any, ...], Params]:
        kept, args, y = residuals
        with PROMOTION():
            given = self.bwd(kept, jax.tree.map(_of_type, y.value, dy))
        dx = _one_for_each(self, args.value, given)
        return dx if self.native else _in_float64(dx, args.value), ()


@dataclass(frozen=True)
class Function(Layer):
    """A function with whatever derivative rules it contains: its backward is `jax.vjp`.

    forward   args -> function(*args)
    keeps     args: backward differentiates the function anew
    backward  dy -> one cotangent for each argument, as jax.vjp(function, *args) has it
    """

    function: Callable[..., Any]
    native: bool = False  # whether its users call it in float64

    def __repr__(self) -> str:
        return name_of(self.function)

    def forward(
        self, params: Params, x: tuple[Any, ...], context: Context = Context()
    ) -> tuple[Any, tuple[Any, ...]]:
        with PROMOTION():
            y = jax.tree.map(jnp.asarray, self.function(*x))
        return _widened(y, x), x

    def backward(
        self, params: Params, args: tuple[Any, ...], dy: Any
    ) -> tuple[tuple[Any, ...], Params]:
        floats, rest = partition(args)

        def of_floats(floats: Any) -> Any:
            return partition(self.forward((), combine(floats, rest))[0])[0]

        _, pullback = jax.vjp(of_floats, floats)
        with PROMOTION():  # rules are called here
            (dx,) = pullback(dy)
        return dx if self.native else _in_float64(dx, args), ()


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


def surrogate_of(
    layer: Layer, against: Layer, params: Params, x: Any, context: Context
) -> Surrogate:
    """The peer of a layer whose backward is the derivative of another: of the same output."""
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
    return Surrogate(against)


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


def name_of(function: Callable[..., Any]) -> str:
    """`relu`; the name of what a partial is of; the type's name where there is no other."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _first_of(fwd: Callable[..., Any]) -> Callable[..., Any]:
    """y alone of a function that returns y, residuals."""

    def primal(*args: Any) -> Any:
        return fwd(*args)[0]

    primal.__name__ = name_of(fwd)
    return primal


def _widened(y: Any, x: tuple[Any, ...]) -> Any:
    """y with its floats in float64 where x has any."""
    if not any(is_float(leaf) and leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(x)):
        return y
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if is_float(leaf) else leaf, y)


def _of_type(y: Any, dy: Any) -> Any:
    """dy in the dtype of y; the zeros of no size that JAX has for the cotangent of integers."""
    return dy.astype(y.dtype) if is_float(y) else np.zeros(y.shape, jax.dtypes.float0)


def _one_for_each(pair: Pair, args: tuple[Any, ...], given: Any) -> tuple[Any, ...]:
    """What bwd returned as cotangents of all arguments, None only at their integers."""
    if len(args) == 1 and not isinstance(given, (tuple, list)):
        given = (given,)
    if not isinstance(given, (tuple, list)) or len(given) != len(args):
        count = len(given) if isinstance(given, (tuple, list)) else spell(given)
        wanted = ", ".join(_cotangents_of(pair.fwd, args)) + ("," if len(args) == 1 else "")
        raise LayerError(
            pair,
            f"backward returned {count}, wanted {len(args)} cotangents, one for each argument",
            f"end {name_of(pair.bwd)} with: return {wanted}",
        )
    return tuple(_filled(d, arg) for d, arg in zip(without_float0(tuple(given)), args, strict=True))


def _native(args: Sequence[Any]) -> bool:
    """Whether float64 is what the target is used in, and not only where it is judged."""
    wide = [getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(args)]
    return any(wide) and bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]


def _in_float64(dx: Any, args: tuple[Any, ...]) -> Any:
    """Cotangents of float64 arguments made so where a rule casts them to what it was written for.

    Whether they have the dtype of the arguments is judged in the working dtype.
    """

    def one(arg: Any, d: Any) -> Any:
        narrow = is_float(d) and is_float(arg) and arg.dtype == jnp.float64
        return d.astype(jnp.float64) if narrow else d

    try:
        return jax.tree.map(one, args, dx)
    except ValueError:  # another tree: told where trees are checked
        return dx


def _filled(given: Any, like: Any) -> Any:
    """Zeros for floats where `given` has None: so `jax.custom_vjp` reads it."""

    def fill(d: Any, part: Any) -> Any:
        if d is not None:
            return d
        return jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype) if is_float(t) else None, part)

    try:
        return jax.tree.map(fill, given, like, is_leaf=lambda leaf: leaf is None)
    except ValueError:  # another tree: told where trees are checked
        return given


def _cotangents_of(fwd: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """`dx`, `dw`, `None`: what to return for the arguments, in words."""
    try:
        names = list(inspect.signature(fwd).parameters)
    except (TypeError, ValueError):
        names = []
    if len(names) != len(args):
        names = [f"argument{i}" for i in range(len(args))]
    floats = [any(map(is_float, jax.tree.leaves(arg))) for arg in args]
    return [f"d{name}" if known else "None" for name, known in zip(names, floats, strict=True)]


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
