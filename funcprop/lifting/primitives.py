"""The table of primitives: how a use's gradient of each single example is written.

A row a primitive. A parameter that is read by any other is of the generic kind: exact, and as dear
as `jax.vmap` of `jax.grad`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from funcprop.collectors.form import Form
from funcprop.collectors.forms import Rows
from funcprop.layer import Array
from funcprop.lifting.forms import Blocks, Convolution
from funcprop.lifting.jaxprs import aval


class Axes(NamedTuple):
    """How a parameter is a stack of matrices: its axes, sorted.

    groups  the axes along which matrices are stacked
    ins     the axes that are summed over with x, together the rows of a matrix
    outs    the others, together its columns
    """

    groups: tuple[int, ...]
    ins: tuple[int, ...]
    outs: tuple[int, ...]


@dataclass(frozen=True)
class Primitive:
    """A row of the table.

    name      of the primitive
    position  of the parameter among the operands of an equation, or None where there is no form
    axes      (eqn, position) -> Axes
    form      (eqn, position, operands, dy) -> Form of the matrices [*groups, in, out]: operands
              (without the parameter) and dy are one example's, with an example axis in front
    stacks    whether the forms of steps that each have a slice of the parameter are a form
    """

    name: str
    position: Callable[[JaxprEqn, list[int]], int | None]
    axes: Callable[[JaxprEqn, int], Axes]
    form: Callable[[JaxprEqn, int, tuple[Array, ...], Array], Form]
    stacks: bool = False


TABLE: dict[str, Primitive] = {}


def register(row: Primitive) -> Primitive:
    """Adds a row to the table of primitives, or exchanges it.

    row  a `Primitive`: what a parameter's gradient of each single example is, where this operation
         reads it. It holds for functions that are lifted from then on

    Returns the row.

    >>> import funcprop as fp
    >>> from funcprop.lifting.primitives import TABLE
    >>> row = fp.lifting.register(TABLE["dot_general"])  # as it was
    >>> row.name, row.stacks
    ('dot_general', True)
    """
    TABLE[row.name] = row
    return row


def primitive_of(eqn: JaxprEqn, weights: list[int]) -> Primitive | None:
    """The row of an equation, where it has a form for its parameter."""
    row = TABLE.get(eqn.primitive.name)
    if any(jnp.issubdtype(aval(atom).dtype, jnp.complexfloating) for atom in eqn.outvars):
        return None  # norms of complex numbers are no sums of products without a conjugate
    if row is None or len(weights) != 1 or row.position(eqn, weights) is None:
        return None
    return row


def undefined(*_: Any) -> Any:
    raise NotImplementedError("this use has no closed form")


ANY = Primitive("any", undefined, undefined, undefined, stacks=True)
"""Any other use, where what it saw is asked for and no form."""


# --- dot_general ----------------------------------------------------------------------------------


def dot_position(eqn: JaxprEqn, weights: list[int]) -> int | None:
    (position,) = weights
    wide = aval(eqn.invars[position]).dtype
    return position if aval(eqn.outvars[0]).dtype == wide else None


def dot_sides(eqn: JaxprEqn, position: int) -> tuple[Any, Any, Any, Any, tuple[int, ...], Any]:
    """-> the contracted and batched axes of the parameter, those of the data, the data's others."""
    (contract, batch) = eqn.params["dimension_numbers"]
    # contracted axes in the order of the parameter's: it is then a matrix as it lies
    pairs = sorted(zip(contract[position], contract[1 - position], strict=True))
    ins, seen = tuple(zip(*pairs, strict=True)) or ((), ())
    own, other = (ins, batch[position]), (seen, batch[1 - position])
    rank, data = aval(eqn.invars[position]).ndim, aval(eqn.invars[1 - position]).ndim
    free = tuple(i for i in range(rank) if i not in (*own[0], *own[1]))
    rest = tuple(i for i in range(data) if i not in (*other[0], *other[1]))
    return own[0], own[1], free, other[0], other[1], rest


def dot_axes(eqn: JaxprEqn, position: int) -> Axes:
    contract, batch, free, *_ = dot_sides(eqn, position)
    return Axes(tuple(batch), tuple(contract), free)


def dot_form(eqn: JaxprEqn, position: int, operands: tuple[Array, ...], dy: Array) -> Form:
    """y = Σ_contracted w · x, batched: a group's gradient of an example is aᵀδ."""
    _, batch, free, contracted, batched, rest = dot_sides(eqn, position)
    (x,) = operands
    size = x.shape[0]
    groups = tuple(x.shape[1 + i] for i in batched)
    x = x.transpose(0, *(1 + i for i in (*batched, *rest, *contracted)))
    split = 1 + len(batched) + len(rest)
    rows_in_all, wide = math.prod(x.shape[1 + len(batched) : split]), math.prod(x.shape[split:])
    a = x.reshape(size, *groups, rows_in_all, wide)
    # the output: batched axes, then those of the left side, then those of the right
    many, few = len(rest), len(free)
    start = 1 + len(batch)
    first, second = (few, many) if position == 0 else (many, few)
    left = tuple(range(start, start + first))
    right = tuple(range(start + first, start + first + second))
    rows, outs = (right, left) if position == 0 else (left, right)
    moved = dy.transpose(0, *range(1, start), *rows, *outs)
    high = math.prod(moved.shape[start + many :])
    d = moved.reshape(size, *groups, rows_in_all, high)
    return Blocks.of(a, d)


register(Primitive("dot_general", dot_position, dot_axes, dot_form, stacks=True))


# --- gather: rows of a table ----------------------------------------------------------------------


def gather_position(eqn: JaxprEqn, weights: list[int]) -> int | None:
    """Rows of a table: w[ids], or jnp.take(w, ids, axis=0)."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, ids, y = (aval(atom).shape for atom in (*eqn.invars, eqn.outvars[0]))
    whole = sizes[1:] == shape[1:] and sizes[0] == 1
    offsets = tuple(range(len(ids) - 1, len(y)))
    rows = (
        weights == [0]
        and len(shape) >= 2
        and numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and numbers.operand_batching_dims == ()
        and tuple(numbers.offset_dims) == offsets
    )
    return 0 if rows and whole else None


def gather_axes(eqn: JaxprEqn, position: int) -> Axes:
    return Axes((), (0,), tuple(range(1, aval(eqn.invars[0]).ndim)))


def gather_form(eqn: JaxprEqn, position: int, operands: tuple[Array, ...], dy: Array) -> Form:
    rows = aval(eqn.invars[0]).shape[0]
    (ids,) = operands
    size = ids.shape[0]
    ids = ids.reshape(size, math.prod(ids.shape[1:])).astype(jnp.int32)
    if eqn.params["mode"] == lax.GatherScatterMode.CLIP:
        ids = jnp.clip(ids, 0, rows - 1)
    else:  # what is no row gets nothing
        ids = jnp.where((ids < 0) | (ids >= rows), rows, ids)
    return Rows(ids, dy.reshape(size, ids.shape[1], -1), rows)  # type: ignore[call-arg]


register(Primitive("gather", gather_position, gather_axes, gather_form))


# --- convolutions ---------------------------------------------------------------------------------


def conv_position(eqn: JaxprEqn, weights: list[int]) -> int | None:
    y, kernel = aval(eqn.outvars[0]), aval(eqn.invars[1])
    form = y.dtype == kernel.dtype and y.size > 0 and eqn.params["batch_group_count"] == 1
    return 1 if weights == [1] and form else None


def conv_axes(eqn: JaxprEqn, position: int) -> Axes:
    """The kernel as [window, in, groups · out], [groups] being a part of its output axis."""
    _, spec, _ = eqn.params["dimension_numbers"]
    return Axes((), (*spec[2:], spec[1]), (spec[0],))


def conv_form(eqn: JaxprEqn, position: int, operands: tuple[Array, ...], dy: Array) -> Form:
    (x,) = operands
    p = eqn.params
    lhs, kernel, out = p["dimension_numbers"]
    shape = aval(eqn.invars[1]).shape
    # as [examples, images, window, channels], however the function has them
    x = x.transpose(0, *(1 + i for i in (lhs[0], *lhs[2:], lhs[1])))
    d = dy.transpose(0, *(1 + i for i in (out[0], *out[2:], out[1])))
    geometry = (
        p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"],
        tuple(shape[i] for i in kernel[2:]), p["feature_group_count"],
    )  # fmt: skip
    return Convolution(x, d, geometry)  # type: ignore[call-arg]


register(Primitive("conv_general_dilated", conv_position, conv_axes, conv_form))
