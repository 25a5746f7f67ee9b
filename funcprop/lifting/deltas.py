"""Of what the cotangent of a use is the cotangent: of a sum that it enters, of parts of it."""

from __future__ import annotations

from typing import Any

from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from funcprop.lifting.jaxprs import SCAN, outputs
from funcprop.lifting.uses import Delta, Loop, Site


def readers_of(jaxpr: ClosedJaxpr) -> dict[Any, list[Any]]:
    """Which equations read a variable; None for the function's output."""
    found: dict[Any, list[Any]] = {}
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            if not isinstance(atom, Literal):
                found.setdefault(atom, []).append(eqn)
    for atom in jaxpr.jaxpr.outvars:
        if not isinstance(atom, Literal):
            found.setdefault(atom, []).append(None)
    return found


def summed(var: Any, readers: dict[Any, list[Any]]) -> Any:
    """The sum that a value enters and nothing else: its cotangent is that of the value."""
    while True:
        eqns = readers.get(var, [])
        if len(eqns) != 1 or eqns[0] is None or eqns[0].primitive.name != "add":
            return var
        out = eqns[0].outvars[0]
        if (out.aval.shape, out.aval.dtype) != (var.aval.shape, var.aval.dtype):
            return var
        var = out


def parts_of(var: Any, readers: dict[Any, list[Any]]) -> tuple[tuple[Any, ...], int | None]:
    """-> the values that have, put together along an axis, the cotangent of the output of a use."""
    var = summed(var, readers)
    eqns = readers.get(var, [])
    if len(eqns) == 1 and eqns[0] is not None and eqns[0].primitive.name == "split":
        (eqn,) = eqns
        if len(outputs(eqn)) == len(eqn.outvars):
            parts = tuple(summed(part, readers) for part in eqn.outvars)
            return parts, eqn.params["axis"] - var.aval.ndim
    return (var,), None


def deltas_of(site: Site, eqn: JaxprEqn) -> list[Delta]:
    """Those of what is entered, along its loop."""
    if site.inner is None:
        return []
    looped = eqn.primitive.name == SCAN
    around = (Loop(eqn.params["length"], False),) if looped else ()
    return [Delta(None, delta.aval, around + delta.loops) for delta in site.inner.deltas]
