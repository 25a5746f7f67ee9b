"""Whether what is sent back through equations is linear: a `custom_vjp` may send anything.

A gradient of one example is told back through what makes a value of parameters by linearity: a
weighted sum of examples goes through it once. A rule that clips its cotangent, or adds to it, has
to be given that of each example.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.extend.core import primitives as p

from funcprop.lifting.jaxprs import aval, equation, holds, inlined, is_float_type, outputs

CUSTOM = p.custom_vjp_call_p.name
# Linear in all of their operands together, in one of them alone, and in the first.
TOGETHER = {"add", "add_any", "sub", "concatenate", "pad"}
ONE = {"mul", "dot_general", "conv_general_dilated"}
FIRST = {
    "neg", "transpose", "reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy",
    "reduce_sum", "cumsum", "rev", "slice", "dynamic_slice", "gather", "div", "real", "imag",
}  # fmt: skip


def sends_linearly(jaxpr: ClosedJaxpr, eqn: JaxprEqn, fixed: tuple[int, ...] = ()) -> bool:
    """Whether the backward pass of an equation is linear in the cotangents of its outputs.

    fixed   the positions of constants among its operands

    Where that is not seen at once the answer is no: single examples are then dearer, and right.
    """
    if eqn.primitive.name != CUSTOM and not holds(eqn, {CUSTOM}):
        return True
    function = equation(jaxpr, eqn)
    types = [aval(atom) for atom in eqn.invars]
    floats = [i for i, a in enumerate(types) if is_float_type(a) and i not in fixed]
    given = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in types]
    bound = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
             for v in outputs(eqn) if is_float_type(v.aval)]  # fmt: skip

    def back(dys: list[Any], operands: list[Any]) -> Any:
        def of_floats(values: list[Any]) -> list[Any]:
            rows = zip(eqn.invars, operands, strict=True)
            whole = [a.val if isinstance(a, Literal) else value for a, value in rows]
            for i, value in zip(floats, values, strict=True):
                whole[i] = value
            return [y for y in function(*whole) if jnp.issubdtype(y.dtype, jnp.inexact)]

        return jax.vjp(of_floats, [operands[i] for i in floats])[1](dys)[0]

    try:
        found = inlined(jax.make_jaxpr(back)(bound, given))
    except jax.errors.UnexpectedTracerError:  # it closes over what is gone: see `answering`
        return False
    return is_linear(found, len(bound))


def is_linear(jaxpr: ClosedJaxpr, first: int) -> bool:
    """Whether the outputs of a jaxpr are linear in its first inputs together."""
    inputs = jaxpr.jaxpr.invars
    linear: set[Var] = set(inputs[:first])
    zeros: set[Var] = set()

    def is_zero(atom: Any) -> bool:
        return atom in zeros if isinstance(atom, Var) else not np.any(atom.val)

    for eqn in jaxpr.eqns:
        name, given = eqn.primitive.name, eqn.invars
        ours = [isinstance(atom, Var) and atom in linear for atom in given]
        if not any(ours):
            if name in FIRST and is_zero(given[0]):
                zeros |= set(outputs(eqn))
            continue
        if name == "select_n":
            right = not ours[0] and all(map(fits, ours[1:], map(is_zero, given[1:])))
        elif name in TOGETHER:
            right = all(map(fits, ours, map(is_zero, given)))
        else:
            right = (name in ONE and sum(ours) == 1) or (name in FIRST and not any(ours[1:]))
        if not right or not all(is_float_type(var.aval) for var in outputs(eqn)):
            return False
        linear |= set(outputs(eqn))
    return all(fits(isinstance(a, Var) and a in linear, is_zero(a)) for a in jaxpr.jaxpr.outvars)


def fits(ours: bool, zero: bool) -> bool:
    return ours or zero
