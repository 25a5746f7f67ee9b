"""The forms that gradients have: as they are, products of rows, and rows of a table."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcprop.collectors.form import Form, by_example, gram, registered, scaled, squares
from funcprop.layer import Array, widen
from funcprop.sharding import entries, fresh, on_each_device, one_each, out_as, total


@registered()
class Full(Form):
    """g_b as they are: for biases and gains, which are small.

    g       [B, *shape], of the parameter's dtype

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> form = fp.collectors.Full(jnp.array([[3.0, 4.0], [0.0, 1.0]]))
    >>> form.squared_norms().tolist(), form.weighted(jnp.array([1.0, 2.0])).tolist()
    ([25.0, 1.0], [3.0, 6.0])
    """

    g: Array  # [B, *shape]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.g.shape[1:]

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.g.dtype

    def materialize(self) -> Array:
        return self.g

    def weighted(self, c: Array) -> Array:
        return scaled(c, widen(self.g)).sum(0).astype(self.dtype)

    def folded(self) -> Form:
        return Full(widen(self.g).sum(0).astype(self.dtype))


@registered("turned")
class Outer(Form):
    """g_b = Σ_n a_n δ_nᵀ: a matrix that meets N rows of every example.

    a       [B, N, in], of the parameter's dtype
    d       [B, N, out], δ
    turned  whether a parameter is used transposed: then `a` are the cotangents, and `d` the inputs

    ‖g_b‖² is ‖a‖²‖δ‖² where N = 1, and Σ_nm (a_n·a_m)(δ_n·δ_m) beyond, where that is cheaper than
    g_b itself: N² (in + out) against N · in · out products.

    source  N = 1: Goodfellow 2015, arXiv:1510.01799; beyond: Li et al. 2022, arXiv:2110.05679

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, d = jnp.array([[[3.0, 4.0]]]), jnp.array([[[2.0, 0.0, 1.0]]])  # one example, one row
    >>> form = fp.collectors.Outer(a, d)
    >>> form.shape, form.squared_norms().tolist()
    ((2, 3), [125.0])
    >>> form.materialize().tolist()
    [[[6.0, 0.0, 3.0], [8.0, 0.0, 4.0]]]
    """

    a: Array  # [B, N, in]
    d: Array  # [B, N, out]
    turned: bool = False

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.a.shape[-1], self.d.shape[-1])

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.a.dtype

    @property
    def T(self) -> Form:
        return Outer(self.d, self.a, not self.turned)

    def materialize(self) -> Array:
        return product("bni,bno->bio", self.a, self.d)

    def squared_norms(self) -> Array:
        rows, (wide, high) = self.a.shape[1], self.shape
        if rows == 1:
            return squares(self.a) * squares(self.d)
        if rows * (wide + high) >= wide * high:
            return super().squared_norms()

        def gram(one: Outer) -> Array:
            of_a = product("bni,bmi->bnm", one.a, one.a)
            return (of_a * product("bno,bmo->bnm", one.d, one.d)).sum((1, 2))

        return by_example(gram, 2 * rows * rows, self)

    def gram(self) -> Array:
        if self.a.shape[1] > 1:
            return super().gram()
        return gram(self.a) * gram(self.d)

    def squares_summed(self) -> Array:
        if self.a.shape[1] > 1:

            def add(sums: Array, one: Outer) -> tuple[Array, None]:
                g = product("ni,no->io", one.a, one.d)
                return sums + jnp.square(g), None

            lead = entries(self.a)[0]

            def own(form: Outer) -> Array:
                zeros = fresh(jnp.zeros(self.shape, widen(self.a).dtype), (None, None), form)
                return total(jax.lax.scan(add, zeros, form)[0], lead)

            return on_each_device(own, (self,), (one_each(lead),), (None, None))
        a, d = (jnp.square(widen(part))[:, 0] for part in (self.a, self.d))
        return jnp.matmul(a.T, d, **out_as((None, None), a, d))

    def weighted(self, c: Array) -> Array:
        leading = (0, 1)
        a, d = widen(self.a), scaled(c, widen(self.d))
        out = out_as((None, None), a, d)
        return jnp.tensordot(a, d, (leading, leading), **out).astype(self.dtype)

    def folded(self) -> Form:
        return Outer(*(joined(part) for part in (self.a, self.d)), self.turned)

    def as_rows(self) -> tuple[Array, Array] | None:
        return None if self.turned else (self.a, self.d)


def product(terms: str, a: Array, d: Array, **out: Any) -> Array:
    """An einsum, summed in float32 at least; `out_sharding` where it is needed."""
    return jnp.einsum(terms, a, d, preferred_element_type=widen(a).dtype, **out)


def joined(steps: Array) -> Array:
    """[T, B, N, ...] -> [B, T N, ...]."""
    moved = jnp.moveaxis(steps, 0, 1)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])


@registered("rows")
class Rows(Form):
    """g_b = Σ_n e(id_n) δ_nᵀ: a table, N rows of which an example has read.

    ids     int32 [B, N], `rows` where an id is no row
    d       [B, N, D], δ, of the table's dtype
    rows    how many the table has

    ‖g_b‖² = Σ_nm [id_n = id_m] δ_n·δ_m: a row read twice has the sum of two gradients.

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> form = fp.collectors.Rows(jnp.array([[2, 2]]), jnp.array([[[1.0, 0.0], [1.0, 1.0]]]), 4)
    >>> form.shape, form.squared_norms().tolist()
    ((4, 2), [5.0])
    >>> form.materialize()[0].tolist()
    [[0.0, 0.0], [0.0, 0.0], [2.0, 1.0], [0.0, 0.0]]
    """

    asked: ClassVar[int] = 1
    ids: Array  # int32 [B, N], `rows` where an id is no row
    d: Array  # [B, N, D]
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.rows, self.d.shape[-1])

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.d.dtype

    def materialize(self) -> Array:
        def one(ids: Array, d: Array) -> Array:
            zero = fresh(jnp.zeros(self.shape, widen(d).dtype), (None, None), ids, d)
            return zero.at[ids].add(widen(d), mode="drop").astype(d.dtype)

        return jax.vmap(one)(self.ids, self.d)

    def squared_norms(self) -> Array:
        def gram(one: Rows) -> Array:
            same = (one.ids[:, :, None] == one.ids[:, None]) & (one.ids < self.rows)[:, None]
            return jnp.where(same, product("bno,bmo->bnm", one.d, one.d), 0).sum((1, 2))

        return by_example(gram, 2 * self.ids.shape[1] ** 2, self)

    def inner(self, other: Form) -> Array:
        """⟨Σ e(id_n) δ_nᵀ, h⟩ = Σ_n δ_n · h[id_n]: only these rows of the other are made."""
        known = self.ids < self.rows
        picked = other.picked(jnp.where(known, self.ids, 0))
        if picked is None:
            return super().inner(other)
        return jnp.where(known[..., None], widen(self.d) * widen(picked), 0).sum((1, 2))

    def picked(self, ids: Array) -> Array:
        """Rows of each g_b: ids [B, M] -> [B, M, D]."""
        same = (ids[:, :, None] == self.ids[:, None]).astype(self.d.dtype)
        return product("bmn,bnd->bmd", same, self.d)

    def weighted(self, c: Array) -> Array:
        lead = entries(self.ids)[0]

        def own(ids: Array, d: Array) -> Array:
            zeros = fresh(jnp.zeros(self.shape, d.dtype), (None, None), ids, d)
            sums = zeros.at[ids.reshape(-1)].add(d.reshape(-1, d.shape[-1]), mode="drop")
            return total(sums, lead)

        given = self.ids, scaled(c, widen(self.d))
        sums = on_each_device(own, given, (one_each(lead),) * 2, (None, None))
        return sums.astype(self.dtype)

    def folded(self) -> Form:
        return Rows(joined(self.ids[..., None])[..., 0], joined(self.d), self.rows)
