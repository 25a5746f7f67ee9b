"""A function as JAX sees it: its equations, one at a time, with the calls that stand between."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jax.extend.core import primitives as p

from funcprop.sharding import varies, varying

# Where an equation that is nothing but a call keeps what it calls.
INLINED = {p.jit_p.name: "jaxpr", p.call_p.name: "call_jaxpr", p.closed_call_p.name: "call_jaxpr"}
# What JAX does not map over examples, by what it does map: see `grouped_product`.
RAGGED = "ragged_dot_general"
# Of which JAX has the gradient of one example, mapped, and not that of what is mapped, where the
# sparse side stands on the right.
NOT_OF_A_BATCH = {"bcoo_dot_general"}
REMAT = p.remat_p.name
SCAN = p.scan_p.name
RULES = {p.custom_jvp_call_p.name, p.custom_vjp_call_p.name}


def closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """The jaxpr with the constants it reads, of which an open one in an equation has none."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, [])


def equation(jaxpr: ClosedJaxpr, eqn: JaxprEqn) -> Callable[..., list[Any]]:
    """The function of one equation's operands, literals among them, -> `outputs(eqn)`."""
    atoms: list[Any] = [Var(a.aval) if isinstance(a, Literal) else a for a in eqn.invars]
    inputs = list(dict.fromkeys(atoms))
    alone = jaxpr.jaxpr.replace(
        constvars=[], invars=inputs, outvars=outputs(eqn), eqns=[eqn.replace(invars=atoms)]
    )
    run = jaxpr_as_fun(ClosedJaxpr(alone, []))

    def function(*operands: Any) -> list[Any]:
        found = dict(zip(atoms, operands, strict=True))
        given = [found[var] for var in inputs]
        # traced for one device, nothing in it says that constants vary inside of a shard_map
        return run(*(given if typed(atoms) else varying(given, *operands)))

    return function


def typed(atoms: list[Any]) -> bool:
    """Whether the types of these operands tell over which axes of a shard_map they vary: what
    reads them was traced inside of it."""
    return bool(varies([atom.aval for atom in atoms]))


def constants_of(jaxpr: ClosedJaxpr) -> list[Any]:
    """What a jaxpr reads besides its inputs, as JAX's arrays: it keeps them as NumPy's, of which a
    derivative rule cannot take the row of a loop's step."""
    return [jnp.asarray(c) if isinstance(c, np.ndarray) else c for c in jaxpr.consts]


def aval(atom: Any) -> Any:
    """The shape and dtype of an operand or output."""
    return atom.aval


def outputs(eqn: JaxprEqn) -> list[Any]:
    """The variables that an equation binds, without those that nobody reads."""
    return [var for var in eqn.outvars if not isinstance(var, DropVar)]


def calls(eqn: JaxprEqn) -> bool:
    """Whether an equation holds other equations, so that its outputs may be of several kinds."""
    values = [part for v in eqn.params.values() for part in (v if isinstance(v, tuple) else (v,))]
    return any(isinstance(value, (Jaxpr, ClosedJaxpr)) or callable(value) for value in values)


def holds(eqn: JaxprEqn, names: set[str]) -> bool:
    """Whether one of these primitives stands inside of an equation."""
    values = [part for v in eqn.params.values() for part in (v if isinstance(v, tuple) else (v,))]
    inner = [closed(v) for v in values if isinstance(v, (Jaxpr, ClosedJaxpr))]
    return any(e.primitive.name in names or holds(e, names) for j in inner for e in j.eqns)


def inlined(jaxpr: ClosedJaxpr, anew: bool = False) -> ClosedJaxpr:
    """The same jaxpr without calls that are nothing but calls: `jit` in `jit`. Loops stay.

    Equations are moved, not traced again. One inside of JAX, which shows no line of a user's, gets
    that of the call.

    anew   with variables of its own, even where there is none
    """
    written_out = {*INLINED, RAGGED}
    if not anew and not any(eqn.primitive.name in written_out for eqn in jaxpr.eqns):
        return jaxpr
    eqns: list[JaxprEqn] = []
    constants: list[tuple[Any, Any]] = []

    def add(called: ClosedJaxpr, atoms: list[Any], caller: Any, stack: Any) -> list[Any]:
        known = dict(zip(called.jaxpr.invars, atoms, strict=True))
        for var, value in zip(called.jaxpr.constvars, called.consts, strict=True):
            known[var] = Var(var.aval)
            constants.append((known[var], value))

        def read(atom: Any) -> Any:
            return atom if isinstance(atom, Literal) else known[atom]

        for eqn in called.eqns:
            name, info = eqn.primitive.name, eqn.source_info
            if caller is not None and not source_info_util.summarize(info).strip():
                info = info.replace(traceback=caller)
            info = info.replace(name_stack=stack + info.name_stack)
            operands = [read(atom) for atom in eqn.invars]
            if name in INLINED:
                inner = closed(eqn.params[INLINED[name]])
            elif name == RAGGED and is_grouped(eqn):
                types = [atom.aval for atom in operands]
                inner = jax.make_jaxpr(functools.partial(grouped_product, eqn))(*types)
            else:
                own = [v if isinstance(v, DropVar) else Var(v.aval) for v in eqn.outvars]
                known.update(zip(eqn.outvars, own, strict=True))
                eqns.append(eqn.replace(invars=operands, outvars=own, source_info=info))
                continue
            found = add(inner, operands, info.traceback, info.name_stack)
            known.update(zip(eqn.outvars, found, strict=True))
        return [read(atom) for atom in called.jaxpr.outvars]

    invars = [Var(var.aval) for var in jaxpr.jaxpr.invars]
    outvars = add(jaxpr, invars, None, source_info_util.NameStack())
    own = [var for var, _ in constants]
    new = jaxpr.jaxpr.replace(constvars=own, invars=invars, outvars=outvars, eqns=eqns)
    return ClosedJaxpr(new, [value for _, value in constants])


def is_grouped(eqn: JaxprEqn) -> bool:
    """Whether a ragged product is that of `lax.ragged_dot`: rows in groups, a matrix for each."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    return (
        tuple(numbers.lhs_ragged_dimensions) == (0,)
        and tuple(numbers.rhs_group_dimensions) == (0,)
        and numbers.dot_dimension_numbers == (((1,), (1,)), ((), ()))
        and eqn.params["group_offset"] is None
    )


def grouped_product(eqn: JaxprEqn, x: Any, w: Any, sizes: Any) -> Any:
    """x [N, in], w [G, in, out], sizes [G] -> [N, out]: each row by the matrix of its group.

    JAX has no rule to map a ragged product over examples. As one product it has, with zeros in the
    place of a row in all groups but its own; rows beyond the last group give zeros in both.
    """
    ends = jnp.cumsum(sizes)
    row = jnp.arange(x.shape[0], dtype=ends.dtype)[:, None]
    own = (row >= ends - sizes) & (row < ends)
    wide = jnp.where(own[..., None], x[:, None], jnp.zeros((), x.dtype))
    dtype = eqn.params["preferred_element_type"] or eqn.outvars[0].aval.dtype  # type: ignore
    return jnp.einsum("ngi,gio->no", wide, w, preferred_element_type=dtype)


def scan_parts(eqn: JaxprEqn) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()  # jax 0.12
    return len(consts), len(carry)


def without_unread(jaxpr: ClosedJaxpr, eqn: JaxprEqn, read: set[Any]) -> ClosedJaxpr:
    """What a loop or a checkpoint holds, with zeros for outputs that nobody reads: modules of NNX
    return their parameters from it."""
    kept = scan_parts(eqn)[1] if eqn.primitive.name == SCAN else 0
    unread = [i >= kept and var not in read for i, var in enumerate(eqn.outvars)]
    if not any(unread):
        return jaxpr
    zero = np.zeros((), np.float32)
    atoms = [
        Literal(zero, jax.typeof(zero)) if gone else atom
        for gone, atom in zip(unread, jaxpr.jaxpr.outvars, strict=True)
    ]
    return ClosedJaxpr(jaxpr.jaxpr.replace(outvars=atoms), jaxpr.consts)


def source_of(eqn: JaxprEqn) -> tuple[str, str]:
    """-> the line that made an equation, "model.py:31 (loss)", and its name stack."""
    line = source_info_util.summarize(eqn.source_info)
    return line.rpartition("/")[2], str(eqn.source_info.name_stack)


def is_float_type(aval: Any) -> bool:
    """Whether an abstract value is an array with a gradient, real or complex; keys have none."""
    return hasattr(aval, "dtype") and jnp.issubdtype(aval.dtype, jnp.inexact)


def is_key(value: Any) -> bool:
    """Whether a value is a key of `jax.random`."""
    return jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key)


def over_examples(function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    """`jax.vmap` of a function, also where an equation of it has no rule but one that is written
    out: see `grouped_product`."""

    def mapped(*args: Any) -> Any:
        try:
            return jax.vmap(function, in_axes)(*args)
        except NotImplementedError:
            pass

        def written_out(*args: Any) -> Any:
            jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
            run = jaxpr_as_fun(inlined(jaxpr))
            return jax.tree.structure(shapes).unflatten(run(*jax.tree.leaves(args)))

        return jax.vmap(written_out, in_axes)(*args)

    return mapped
