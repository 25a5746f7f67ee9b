"""The blocks of a Fisher, one a parameter, and how they come from rows.

A parameter that is used in several places has the rows of all its uses. If one of them turns it
over (a table that is the output projection as well, a decoder with the encoder's weight) rows of
inputs would stand beside rows of cotangents. There every use has its own A_i ⊗ G_i, and their sum
is made one product again,

    Σ_i A_i ⊗ G_i ≈ (Σ_i A_i tr G_i) ⊗ (Σ_i G_i tr A_i) / Σ_i tr A_i tr G_i

the one whose partial traces are those of the sum. That of one use is that use's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp

from funcprop.collectors.form import Form, registered
from funcprop.collectors.forms import Outer, Rows
from funcprop.layer import Array, widen
from funcprop.sharding import entries, fresh, on_each_device, one_each, out_as, total


@registered()
class Kronecker:
    """A ⊗ G over a weight [..., out], with the bias as its last row where there is one.

    a       [in, in] or [in + 1, in + 1]; [in] where A is diagonal: the rows of a table
    g       [out, out]

    Both in float32 at least; under `Repeat` they are stacked on axis 0.

    source  Martens, Grosse 2015, arXiv:1503.05671

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> block = fp.collectors.Kronecker(a=jnp.eye(3), g=jnp.eye(2))  # of Dense(2) on two features
    >>> block.a.shape, block.g.shape
    ((3, 3), (2, 2))
    """

    a: Array  # [in, in] or [in + 1, in + 1]; [in] where A is diagonal: the rows of a table
    g: Array  # [out, out]


@registered()
class Diagonal:
    """The diagonal of the Fisher over a gain or a bias, Σ_b g_b².

    f       the parameter's shape, in float32 at least

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> block = fp.collectors.Diagonal(jnp.array([3.0, 1.0]))
    >>> fp.collectors.inverses_of(block, damping=1.0).f.tolist()
    [0.25, 0.5]
    """

    f: Array


@registered()
class Eigen:
    """(U_A ⊗ U_G) diag S (U_A ⊗ U_G)ᵀ over a weight: see `ekfac`.

    u_a     [in, in] or [in + 1, in + 1]: the eigenvectors of A, in columns
    u_g     [out, out]: those of G
    s       [in, out] or [in + 1, out]

    All in float32 at least; under `Repeat` they are stacked on axis 0.

    source  George et al. 2018, arXiv:1806.03884

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> block = fp.collectors.Eigen(jnp.eye(2), jnp.eye(2), jnp.array([[3.0, 1.0], [0.0, 7.0]]))
    >>> fp.collectors.inverses_of(block, damping=1.0).s.tolist()
    [[0.25, 0.5], [1.0, 0.125]]
    """

    u_a: Array  # the eigenvectors of A, in columns
    u_g: Array  # those of G
    s: Array  # [in, out]


def is_block(value: Any) -> bool:
    return isinstance(value, (Kronecker, Diagonal, Eigen))


def of_rows(a: Array, d: Array, bias: bool, sharing: Literal["expand", "reduce"]) -> Kronecker:
    """a [B, N, in] and δ [B, N, out] of a weight -> its block."""
    a, d = widen(a), widen(d)
    if sharing == "reduce":
        a, d = a.mean(1, keepdims=True), d.sum(1, keepdims=True)
    a = with_one(a) if bias else a
    a, d = (rows.reshape(-1, rows.shape[-1]) for rows in (a, d))
    return Kronecker(gram(a) / a.shape[0], gram(d))


def gram(rows: Array) -> Array:
    """Σ_n r_n r_nᵀ of rows [N, D], the same on all devices."""
    return jnp.matmul(rows.T, rows, **out_as((None, None), rows))


def with_one(a: Array) -> Array:
    """The input that a bias is multiplied with."""
    return jnp.concatenate([a, jnp.ones_like(a[..., :1])], -1)


def rows_in(form: Any) -> tuple[Array, Array] | None:
    """The rows a [B, N, in] and δ [B, N, out] of a weight, those of all its uses side by side."""
    return form.as_rows() if isinstance(form, Form) else None


def of_table(form: Rows) -> Kronecker:
    """The rows are one-hot: A is the diagonal of how often each was read."""
    ids, d = form.ids.reshape(-1), widen(form.d).reshape(-1, form.shape[-1])
    d = jnp.where((ids < form.rows)[:, None], d, 0)
    lead = entries(ids)[0]

    def counted(ids: Array) -> Array:
        zeros = fresh(jnp.zeros(form.rows, d.dtype), (None,), ids)
        return total(zeros.at[ids].add(1, mode="drop"), lead)

    counts = on_each_device(counted, (ids,), (one_each(lead),), (None,))
    return Kronecker(counts / ids.shape[0], gram(d))


def of_uses(form: Form, sharing: Literal["expand", "reduce"]) -> Any:
    """The block of a parameter that some of its uses turn over; None where one has no rows."""
    uses = getattr(form, "uses", (form,))
    diagonal = any(isinstance(use, Rows) for use in uses)
    blocks = [of_use(use, diagonal, sharing) for use in uses]
    known = [block for block in blocks if block is not None]
    return sum_of(known) if len(known) == len(blocks) else None


def of_use(form: Any, diagonal: bool, sharing: Literal["expand", "reduce"]) -> Any:
    """The block of one use. Of a table A is a diagonal in all uses, and all are expanded."""
    if isinstance(form, Rows):
        return of_table(form)
    if not isinstance(form, Outer):
        return None
    if diagonal:
        a, d = (widen(side).reshape(-1, side.shape[-1]) for side in (form.a, form.d))
        return Kronecker(jnp.square(a).sum(0), gram(d) / d.shape[0])
    if form.turned:
        block = of_rows(form.d, form.a, False, sharing)
        return Kronecker(block.g, block.a)
    return of_rows(form.a, form.d, False, sharing)


def sum_of(blocks: Sequence[Kronecker]) -> Kronecker:
    """Σ_i A_i ⊗ G_i as one product, of the same partial traces."""
    found = [(block.a, block.g) for block in blocks]
    traces = [(a.sum() if a.ndim < g.ndim else jnp.trace(a), jnp.trace(g)) for a, g in found]
    total = functools.reduce(jnp.add, [of_a * of_g for of_a, of_g in traces])
    rows = list(zip(found, traces, strict=True))
    a = functools.reduce(jnp.add, [a * of_g for (a, _), (_, of_g) in rows])
    g = functools.reduce(jnp.add, [g * of_a for (_, g), (of_a, _) in rows])
    return Kronecker(a / jnp.maximum(total, jnp.finfo(g.dtype).tiny), g)
