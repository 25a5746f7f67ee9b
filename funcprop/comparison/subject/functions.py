"""A function, or the two functions of a derivative rule, as a Layer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.subject.once import Once, name_of
from funcprop.gradient import Like, combine, partition, without_float0
from funcprop.layer import Context, Layer, LayerError, Params, Residuals, is_float, spell, two

PROMOTION = functools.partial(jax.numpy_dtype_promotion, "standard")


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
    known: Known | None = None  # what is traced once; None: Python runs whenever it is called

    def __repr__(self) -> str:
        return name_of(self.function)

    def forward(
        self, params: Params, x: tuple[Any, ...], context: Context = Context()
    ) -> tuple[Any, tuple[Any, ...]]:
        return (self.values if self.known is None else self.known.values)(*x), x

    def backward(
        self, params: Params, args: tuple[Any, ...], dy: Any
    ) -> tuple[tuple[Any, ...], Params]:
        return self.passed(args, dy)[1], ()

    def values(self, *args: Any) -> Any:
        """function(*args), as arrays."""
        with PROMOTION():
            y = jax.tree.map(jnp.asarray, self.function(*args))
        return _widened(y, args)

    def passed(self, args: tuple[Any, ...], dy: Any) -> tuple[Any, tuple[Any, ...]]:
        """-> the floats of y where it is differentiated, which are those of a rule's forward, and
        the cotangents."""
        if self.known is not None:
            return self.known.passed(args, dy)
        floats, rest = partition(args)

        def of_floats(floats: Any) -> Any:
            return partition(self.values(*combine(floats, rest)))[0]

        y, pullback = jax.vjp(of_floats, floats)
        with PROMOTION():  # rules are called here
            (dx,) = pullback(dy)
        return y, dx if self.native else _in_float64(dx, args)


class Known(NamedTuple):
    """A Function's `values` and `passed`, each traced once."""

    values: Once
    passed: Once


def remembered(layer: Function) -> Function:
    """The Function, of which Python runs forward and backward once for arguments of some types.

    To differentiate a function takes several times as long as to run it: contract, gradients and
    values share what comes out. It is `function` that is differentiated, and no jaxpr of it: the
    call of a `jax.custom_vjp` function keeps what it met when it was traced, and may not be made
    from a jaxpr a second time.
    """
    return replace(
        layer, known=Known(Once(layer.values, final=True), Once(layer.passed, final=True))
    )


def traced_anew(layer: Layer) -> Layer:
    """A Function that Python runs whenever it is called."""
    if not isinstance(layer, Function):
        return layer
    function = getattr(layer.function, "every_time", layer.function)
    return replace(layer, function=function, known=None)


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
