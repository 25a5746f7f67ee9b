"""From a value that is made of parameters back to the parameters: what becomes of its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from funcprop.collectors.form import Form
from funcprop.collectors.forms import Full, Outer
from funcprop.layer import Array
from funcprop.lifting.forms import Told, reshaped
from funcprop.lifting.jaxprs import aval, constants_of, outputs
from funcprop.lifting.uses import Plan, Use
from funcprop.sharding import varying

# What moves numbers about and changes none: on NumPy's views, with n axes of loops in front.
PLACING: dict[str, Callable[[Any, Any, int, tuple[int, ...]], Any]] = {
    "reshape": lambda a, p, n, shape: a.reshape(shape),
    "squeeze": lambda a, p, n, shape: a.reshape(shape),
    "convert_element_type": lambda a, p, n, shape: a,
    "copy": lambda a, p, n, shape: a,
    "transpose": lambda a, p, n, shape: a.transpose(
        *range(n), *(n + axis for axis in p["permutation"])
    ),
    "slice": lambda a, p, n, shape: a[
        (
            *(slice(None),) * n,
            *map(slice, p["start_indices"], p["limit_indices"], p["strides"] or (1,) * a.ndim),
        )
    ],
    "rev": lambda a, p, n, shape: np.flip(a, tuple(n + axis for axis in p["dimensions"])),
    "broadcast_in_dim": lambda a, p, n, shape: a.reshape(shape),
}


def made_of(plan: Plan, var: Any) -> tuple[tuple[Any, ...], Callable[..., Array], Any]:
    """-> the inputs that a value at the top is made of, the function of them, and its jaxpr."""
    jaxpr = plan.jaxpr.jaxpr
    needed, steps = {var}, []
    for eqn in reversed(jaxpr.eqns):
        if needed & set(outputs(eqn)):
            steps.insert(0, eqn)
            needed |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
    inputs = tuple(v for v in jaxpr.invars if v in needed)
    consts = [
        (v, c) for v, c in zip(jaxpr.constvars, plan.jaxpr.consts, strict=True) if v in needed
    ]
    alone = jaxpr.replace(
        constvars=[v for v, _ in consts], invars=list(inputs), outvars=[var], eqns=steps
    )
    made = ClosedJaxpr(alone, [c for _, c in consts])
    own = [v for v, _ in consts]
    given: list[Any] = [*own, *inputs]
    run = jaxpr_as_fun(ClosedJaxpr(alone.replace(constvars=[], invars=given), []))
    return inputs, lambda *given: run(*constants_of(made), *given)[0], made


def followed(chain: tuple[Any, ...], value: Array) -> Array:
    """What a use reads, of the value at the top: with an axis in front for every loop that slices
    it."""
    for kind, step in chain:
        if kind == "equations":
            (value,) = jaxpr_as_fun(step)(value)
        elif kind == "same":
            value = followed(step, value)
        else:
            value = jax.vmap(functools.partial(followed, step))(value)
    return value


def as_matrices(use: Use, value: Array, shape: tuple[int, ...]) -> Array:
    """The value at the top -> the matrices that the use's form speaks of."""
    return arranged(use, followed(use.chain, value), shape)


def arranged(use: Use, value: Any, shape: tuple[int, ...]) -> Any:
    """What the use reads, with its axes sorted; arrays of NumPy and of JAX."""
    axes = use.primitive.axes(use.eqn, use.position)
    first = value.ndim - aval(use.eqn.invars[use.position]).ndim
    order = (*axes.groups, *axes.ins, *axes.outs)
    return value.transpose(*range(first), *(first + axis for axis in order)).reshape(shape)


def view_of(made: Any, use: Use, leaf: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The matrices as a view of the parameter's memory, or None where it is not only moved."""

    def through(jaxpr: ClosedJaxpr, value: np.ndarray, n: int) -> np.ndarray | None:
        values = {jaxpr.jaxpr.invars[0]: value}
        for eqn in jaxpr.eqns:
            place = PLACING.get(eqn.primitive.name)
            given = [atom for atom in eqn.invars if not isinstance(atom, Literal)]
            if place is None or len(given) != 1 or given[0] not in values:
                return None
            before = values[given[0]]
            sizes = (*before.shape[:n], *aval(eqn.outvars[0]).shape)
            if eqn.primitive.name == "broadcast_in_dim" and np.prod(sizes) != before.size:
                return None
            values[eqn.outvars[0]] = place(before, eqn.params, n, sizes)
        return values[jaxpr.jaxpr.outvars[0]]

    def follow(chain: tuple[Any, ...], value: np.ndarray, n: int) -> np.ndarray | None:
        for kind, step in chain:
            if kind == "equations":
                found = through(step, value, n)
            else:
                found = follow(step, value, n + (kind == "stacked"))
            if found is None:
                return None
            value = found
        return value

    if len(made.jaxpr.invars) != 1 or made.jaxpr.constvars:
        return None
    value = through(made, leaf, 0)
    value = None if value is None else follow(use.chain, value, 0)
    return None if value is None else arranged(use, value, shape)


Window = tuple[tuple[int, int], tuple[int, int]]


def window_of(made: Any, use: Use, leaf: Any, shape: tuple[int, ...]) -> tuple[Window | None, str]:
    """Where in a matrix a parameter stands that is put together of several, and how it lies there.

    LSTMs put the weights of their gates together. Found by numbering the parameter's entries.
    """
    if len(shape) != 2 or not unchanged(use.chain) or made.jaxpr.constvars:
        return None, "made"
    values: dict[Any, Any] = {}
    for var in made.jaxpr.invars:
        size = int(np.prod(aval(var).shape))
        numbers = np.arange(size, dtype=np.int32) if var is leaf else np.full(size, -1, np.int32)
        values[var] = numbers.reshape(aval(var).shape)
    for eqn in made.jaxpr.eqns:
        given = [atom for atom in eqn.invars if not isinstance(atom, Literal)]
        sizes = aval(eqn.outvars[0]).shape
        place = PLACING.get(eqn.primitive.name)
        if any(atom not in values for atom in given):
            return None, "made"
        if eqn.primitive.name == "concatenate":
            found = np.concatenate([values[a] for a in given], eqn.params["dimension"])
        elif place is not None and len(given) == 1 and np.prod(sizes) <= values[given[0]].size:
            found = place(values[given[0]], eqn.params, 0, sizes)
        else:
            return None, "made"
        values[eqn.outvars[0]] = found
    numbers = arranged(use, values[made.jaxpr.outvars[0]], shape)
    own = numbers >= 0
    rows, columns = own.any(1), own.any(0)
    if not np.array_equal(own, np.outer(rows, columns)):
        return None, "made"
    window = span(rows), span(columns)
    inside = numbers[slice(*window[0]), slice(*window[1])]
    if own.sum() != inside.size or inside.size != int(np.prod(aval(leaf).shape)):
        return None, "made"
    straight = np.arange(inside.size)
    if np.array_equal(inside.ravel(), straight):
        return window, "same"
    if aval(leaf).ndim == 2 and np.array_equal(inside.T.ravel(), straight):
        return window, "turned"
    return None, "made"


def unchanged(chain: tuple[Any, ...]) -> bool:
    """Whether nothing is done with a value on its way to a use, but to read it at every step."""
    return all(kind == "same" and unchanged(step) for kind, step in chain)


def span(marked: np.ndarray) -> tuple[int, int]:
    """From the first to behind the last."""
    at = np.flatnonzero(marked)
    return (int(at[0]), int(at[-1]) + 1) if at.size else (0, 0)


@functools.lru_cache(maxsize=4096)
def way_back(plan: Plan, use: Use | None, var: Any, leaf: Any, shape: tuple[int, ...]) -> Any:
    """-> the inputs that are read, `back`, how the matrices lie in the parameter ("same", "turned",
    "moved", or "made" where they are a function of it), and which part of them it is, or None."""
    inputs, function, made = made_of(plan, var)
    which = inputs.index(leaf)

    def of_leaf(given: Any, value: Array) -> Array:
        whole = function(*given[:which], value, *given[which + 1 :])
        return whole if use is None else as_matrices(use, whole, shape)

    def back(given: Any, gradient: Array) -> Array:
        given = varying(tuple(given), gradient)
        y, pullback = jax.vjp(functools.partial(of_leaf, given), given[which])
        return pullback(gradient.astype(y.dtype))[0]

    size, window = aval(leaf), None
    if use is None:
        lies = "same" if var is leaf else "made"
    else:
        memory = np.empty(size.shape, np.int8)
        view = view_of(made, use, memory, shape)
        if view is None:
            window, lies = window_of(made, use, leaf, shape)
        elif not np.shares_memory(view, memory) or view.size != memory.size:
            lies = "moved"
        elif view.flags.c_contiguous:
            lies = "same"
        elif view.ndim == 2 == memory.ndim and view.T.flags.c_contiguous:
            lies = "turned"
        else:
            lies = "moved"
    return inputs, back, lies, window


def told(plan: Plan, use: Use | None, var: Any, leaf: Any, values: Any, form: Form) -> Form:
    """A form of the value `var` (of the matrices of a use, or of all of it) -> of a parameter.

    values   of the jaxpr's inputs, by variable
    """
    inputs, back, lies, window = way_back(plan, use, var, leaf, form.shape)
    if window is not None and not isinstance(form, Outer):
        lies = "made"
    elif window is not None:
        rows, columns = (slice(*part) for part in window)
        form = Outer(form.a[..., rows], form.d[..., columns])  # type: ignore[attr-defined, call-arg]
    shape, dtype = aval(leaf).shape, jnp.dtype(aval(leaf).dtype).name
    if lies == "same" and form.shape == shape and form.dtype == dtype:
        return form
    if lies == "same":
        return Told(form, (), (shape, dtype), reshaped((shape, dtype)), True)  # type: ignore
    if lies == "turned" and form.dtype == dtype:
        if form.T.shape == shape:
            return form.T
        return Told(form.T, (), (shape, dtype), reshaped((shape, dtype)), True)  # type: ignore
    given = tuple(values[v] for v in inputs)
    if isinstance(form, Full):  # is there: what is made of it is no larger
        found = jax.vmap(functools.partial(back, given))(form.materialize())
        return Full(found)  # type: ignore[call-arg]
    return Told(form, given, (shape, dtype), back, lies == "moved")  # type: ignore[call-arg]
