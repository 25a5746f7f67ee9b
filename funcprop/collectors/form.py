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
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcprop.layer import Array, widen
from funcprop.sharding import entries, is_spread, out_as

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

    asked: ClassVar[int] = 0  # of two forms, the one with the larger number takes their product

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
        data = [field.name for field in fields(made) if field.name not in meta]
        return jax.tree_util.register_dataclass(made, data_fields=data, meta_fields=list(meta))

    return register


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
                cross = second.inner(first) if second.asked > first.asked else first.inner(second)
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
