"""Uses of parameters as functions whose backward pass sends into taps what it sees.

What neither data nor a parameter has a part in is a constant, and is not differentiated: a
`jax.custom_vjp` has no derivative with respect to what it closes over, as the coefficients of a
solver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import is_float
from funcprop.lifting.uses import Use
from funcprop.sharding import varying


def coded(value: Any) -> Any:
    """A number as floats, since a cotangent has no integers: exact, in halves of 16 bits."""
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return value
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jnp.zeros((), jnp.float32)
    wide = value.astype(jnp.int32)
    return jnp.stack([wide >> 16, wide & 0xFFFF], -1).astype(jnp.float32)


def decoded(code: Any, like: Any) -> Any:
    if jnp.issubdtype(like.dtype, jnp.inexact):
        return code
    high, low = (code[..., i].astype(jnp.int32) for i in range(2))
    return ((high << 16) | low).astype(like.dtype)


@jax.custom_vjp
def passed(value: Any, tap: Any) -> Any:
    """The value, whose cotangent is sent into the tap as well."""
    return value


passed.defvjp(lambda value, tap: (value, None), lambda _, d: (d, d))


def dealt(roles: list[int], values: Any) -> tuple[list[Any], ...]:
    """The values with role 0, those with 1, and those with 2."""
    rows = list(zip(roles, values, strict=True))
    return tuple([value for own, value in rows if own == role] for role in range(3))


def together(roles: list[int], *parts: Any) -> list[Any]:
    """The inverse."""
    given = [iter(part) for part in parts]
    return [next(given[role]) for role in roles]


def closed_use(use: Use, weight: Any, operands: list[Any], tap: Any) -> list[Any]:
    """The equation, whose parameter is a constant; into a tap it sends its operands."""
    roles = [2 if i in use.fixed else 1 for i in use.data]

    def plain(weight: Any, operands: list[Any]) -> Any:
        given = iter(operands)
        places = range(len(use.eqn.invars))
        return use.function(*(weight if i == use.position else next(given) for i in places))

    if tap is None:
        return plain(weight, operands)

    @jax.custom_vjp
    def function(weight: Any, operands: list[Any], tap: Any) -> Any:
        return plain(weight, operands)

    def forward(weight: Any, operands: list[Any], tap: Any) -> Any:
        _, data, fixed = dealt(roles, operands)
        y, pullback = jax.vjp(lambda own: plain(weight, together(roles, (), own, fixed)), data)
        return y, (pullback, operands, weight)

    def backward(kept: Any, dy: Any) -> Any:
        pullback, operands, weight = kept
        nothing = jax.tree.map(jnp.zeros_like, weight)
        ddata = together(roles, (), pullback(dy)[0], [None] * len(operands))
        return nothing, ddata, list(map(coded, operands))

    function.defvjp(forward, backward)
    return function(weight, operands, tap)


def generic_use(
    function: Callable[..., list[Any]],
    roles: list[int],
    operands: list[Any],
    taps: Any,
    spread: bool = False,
) -> list[Any]:
    """Any function, which sends the gradients of the operands of role 0 into the taps.

    roles    0 of what is made of parameters, 1 of data, 2 of what is not differentiated
    spread   whether an output may be made of parameters alone: it gets a zero of the taps, without
             which `jax.vmap` would take it for the same in all examples, and add their cotangents
    """

    def plain(*parts: list[Any]) -> list[Any]:
        return function(*together(roles, *parts))

    def apart(ys: list[Any], taps: list[Any]) -> list[Any]:
        if not spread:
            return ys
        zero: Any = sum(tap.ravel()[:1].sum().real * 0 for tap in taps)
        return [y + zero.astype(y.dtype) if is_float(y) else y for y in ys]

    @jax.custom_vjp
    def use(weights: list[Any], data: list[Any], fixed: list[Any], taps: list[Any]) -> list[Any]:
        return apart(plain(weights, data, fixed), taps)

    def forward(weights: list[Any], data: list[Any], fixed: list[Any], taps: list[Any]) -> Any:
        y, pullback = jax.vjp(lambda *own: plain(*own, fixed), weights, data)
        return apart(y, taps), (pullback, weights)

    def backward(kept: Any, dy: Any) -> Any:
        pullback, weights = kept
        gradients, ddata = pullback(dy)
        return [jnp.zeros_like(w) for w in weights], ddata, None, gradients

    use.defvjp(forward, backward)
    # of what varies over devices the gradient is that of each, and no sum yet
    return use(*dealt(roles, varying(operands, *operands)), taps)
