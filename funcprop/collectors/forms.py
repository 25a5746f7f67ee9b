"""The gradients of single examples, in the form in which they are cheapest.

A parameter's gradient is a sum over the examples, g = Σ_b g_b. A form stands for all g_b of one
parameter without holding them: [B, *shape] would be B times the parameters. All arrays in a form
have the example axis first. Rules ask for what they need:

    materialize()     g_b itself, [B, *shape]
    squared_norms()   ‖g_b‖², [B]
    inner(other)      ⟨g_b, h_b⟩, [B], for the uses of one parameter in two places
    gram()            ⟨g_b, g_c⟩ for all pairs, [B, B]
    squares_summed()  Σ_b g_b², elementwise, the parameter's shape
    weighted(c)       Σ_b c_b g_b, the parameter's shape
    folded()          Σ_t of the forms stacked on axis 0: one parameter at many steps
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import Array, widen
from funcprop.sharding import entries, fresh, is_spread, on_each_device, one_each, out_as, total

BUDGET = 1 << 19  # numbers: gradients of so many examples at a time that they fit a cache


class Form:
    """Per-example gradients of one parameter, g_b. Subclasses are registered dataclasses.

    shape     of the parameter
    dtype     of the parameter; sums over many terms are taken in float32 at least

    materialize()      g_b itself, [B, *shape]; products in float32 at least
    squared_norms()    ‖g_b‖², [B]
    inner(other)       ⟨g_b, h_b⟩, [B]
    gram()             ⟨g_b, g_c⟩, [B, B]
    squares_summed()   Σ_b g_b², [*shape]
    weighted(c)        Σ_b c_b g_b, [*shape], c [B]

    raises  NotImplementedError where a subclass does not define `materialize` or `weighted`

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> form = fp.collectors.Full(jnp.array([[3.0, 4.0], [0.0, 1.0]]))  # two examples of a bias [2]
    >>> isinstance(form, fp.collectors.Form), form.shape
    (True, (2,))
    >>> form.gram().tolist()
    [[25.0, 4.0], [4.0, 1.0]]
    """

    shape: tuple[int, ...]  # of the parameter
    dtype: Any

    @property
    def mappable(self) -> bool:
        """Whether every array in it has the example axis."""
        return True

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def T(self) -> Form:
        return Turned(self)

    def materialize(self) -> Array:
        raise NotImplementedError(f"{type(self).__name__} does not define materialize")

    def squared_norms(self) -> Array:
        return by_example(lambda one: squares(one.materialize()), self.numbers, self)

    def inner(self, other: Form) -> Array:
        def product(pair: tuple[Form, Form]) -> Array:
            a, b = (widen(one.materialize()) for one in pair)
            return (a * b).sum(range(1, a.ndim))

        if not (self.mappable and other.mappable):
            return product((self, other))
        return by_example(product, self.numbers + other.numbers, (self, other))

    def gram(self) -> Array:
        return gram(self.materialize())

    def squares_summed(self) -> Array:
        return jnp.square(widen(self.materialize())).sum(0)

    def weighted(self, c: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} does not define weighted")

    def folded(self) -> Form:
        return several(unstacked(self))

    def picked(self, ids: Array) -> Array | None:
        """Rows of each g_b, ids [B, M] -> [B, M, D], where they are cheaper than all of it."""
        return None

    def picked_columns(self, ids: Array) -> Array | None:
        """Columns of each g_b, likewise."""
        return None

    def as_rows(self) -> tuple[Array, Array] | None:
        """The rows a [B, N, in] and δ [B, N, out] of a weight used as a matrix, or None."""
        return None

    @property
    def numbers(self) -> int:
        """How many numbers the gradient of one example has."""
        return math.prod(self.shape)


def is_form(value: Any) -> bool:
    return isinstance(value, Form)


def gram(g: Array) -> Array:
    """g [B, ...] -> ⟨g_b, g_c⟩, [B, B], in float32 at least."""
    flat = widen(g).reshape(g.shape[0], -1)
    return jnp.matmul(flat, flat.T, **out_as((entries(flat)[0], None), flat))


def by_example(function: Callable[[Any], Any], numbers: int, tree: Any) -> Any:
    """function(tree), for as many examples at a time as fit a cache."""
    examples = jax.tree.leaves(tree)[0].shape[0]
    at_once = max(1, BUDGET // max(1, numbers))
    if at_once >= examples or is_spread(tree):  # no loop runs along what is spread
        return function(tree)
    at_once = max(n for n in range(1, at_once + 1) if examples % n == 0)
    parts = jax.tree.map(lambda a: a.reshape(-1, at_once, *a.shape[1:]), tree)
    found = jax.lax.map(function, parts)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)


def squares(g: Array) -> Array:
    """g [B, ...] -> [B], in float32 at least."""
    return jnp.square(widen(g)).sum(range(1, g.ndim))


def scaled(c: Array, values: Array) -> Array:
    """c_b · values_b, in the dtype of the values."""
    return c.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1)) * values


def unstacked(form: Form) -> tuple[Form, ...]:
    """The forms that a loop stacked."""
    steps = jax.tree.leaves(form)[0].shape[0]
    return tuple(jax.tree.map(lambda a, t=t: a[t], form) for t in range(steps))


def registered(*meta: str) -> Callable[[type], type]:
    """A frozen dataclass and pytree whose fields named here are static."""

    def register(cls: type) -> type:
        made = dataclass(frozen=True)(cls)
        data = [name for name in made.__dataclass_fields__ if name not in meta]
        return jax.tree_util.register_dataclass(made, data_fields=data, meta_fields=list(meta))

    return register


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


@registered()
class Turned(Form):
    """The transpose of another form."""

    form: Form

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.form.shape[::-1]

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.form.dtype

    @property
    def T(self) -> Form:
        return self.form

    @property
    def mappable(self) -> bool:
        return self.form.mappable

    def materialize(self) -> Array:
        return self.form.materialize().mT

    def squared_norms(self) -> Array:
        return self.form.squared_norms()

    def weighted(self, c: Array) -> Array:
        return self.form.weighted(c).T

    def folded(self) -> Form:
        return Turned(self.form.folded())

    def picked(self, ids: Array) -> Array | None:
        return self.form.picked_columns(ids)


@registered()
class Several(Form):
    """One parameter used in several places: the sum, with the cross terms of norms.

    ‖Σᵢ gᵢ‖² = Σᵢ ‖gᵢ‖² + 2 Σ_{i<j} ⟨gᵢ, gⱼ⟩
    """

    uses: tuple[Form, ...]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.uses[0].shape

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.uses[0].dtype

    @property
    def T(self) -> Form:
        return several(tuple(use.T for use in self.uses))

    @property
    def mappable(self) -> bool:
        return all(use.mappable for use in self.uses)

    def materialize(self) -> Array:
        return functools.reduce(jnp.add, [use.materialize() for use in self.uses])

    def squared_norms(self) -> Array:
        total = functools.reduce(jnp.add, [use.squared_norms() for use in self.uses])
        for i, first in enumerate(self.uses):
            for second in self.uses[i + 1 :]:
                rows = isinstance(first, Rows) or not isinstance(second, Rows)
                cross = first.inner(second) if rows else second.inner(first)
                total = total + 2 * cross
        return total

    def weighted(self, c: Array) -> Array:
        return functools.reduce(jnp.add, [use.weighted(c) for use in self.uses])

    def folded(self) -> Form:
        return several(tuple(use.folded() for use in self.uses))

    def as_rows(self) -> tuple[Array, Array] | None:
        uses = [use.as_rows() for use in self.uses]
        if any(use is None for use in uses):
            return None
        a, d = (jnp.concatenate(parts, 1) for parts in zip(*uses, strict=True))  # type: ignore[arg-type]
        return a, d


def several(uses: tuple[Form, ...]) -> Form:
    """The sum of forms, without sums inside of it."""
    parts: list[Any] = []
    for use in uses:
        parts += getattr(use, "uses", (use,))
    return parts[0] if len(parts) == 1 else Several(tuple(parts))  # type: ignore[call-arg]
