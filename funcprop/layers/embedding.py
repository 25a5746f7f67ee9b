"""Embedding: integers become vectors. Positions: learned, sinusoidal, rotary."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.initializers import Initializer, Normal
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_count,
    check_input,
    check_number,
    check_params,
    concrete,
    is_integer,
    spell,
    widen,
)
from funcprop.sharding import beside, entries, fresh, on_each_device, out_as, placed, total, whole


class Table(NamedTuple):
    """The parameters of a lookup: one row a word, or a position.

    w  [rows, features], of a float dtype
    """

    w: Array


@dataclass(frozen=True)
class Embedding(Layer):
    """y = w[i]: row i of a table for every integer i.

    An id below 0 or not below `vocabulary` is an error, or NaN where its value is not known yet.

    forward   ids int [...] -> y [..., features]
    keeps     the ids
    backward  dw[i] = Σ dy over all places where id i stood; the ids have no gradient (None)
    dtypes    ids of any integer dtype; w and y float32 after `init`, else any float; sums are made
              in float32 at least
    raises    LayerError where vocabulary or features is no positive whole number, x is not an array
              of integers in range, params is no Table of that size, or dy has not the shape and
              dtype of y
    source    Bengio, Ducharme, Vincent and Jauvin, A neural probabilistic language model, 2003

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, ids = fp.Embedding(vocabulary=4, features=2), jnp.array([1, 3, 3])
    >>> params = layer.init(jax.random.key(0), ids)
    >>> y, residuals = layer.forward(params, ids)
    >>> dx, dparams = layer.backward(params, residuals, jnp.ones((3, 2)))
    >>> y.shape, dx, dparams.w[:, 0].tolist()
    ((3, 2), None, [0.0, 1.0, 0.0, 2.0])
    """

    vocabulary: int
    features: int
    _: KW_ONLY
    w_init: Initializer = Normal(0.02)

    def __post_init__(self) -> None:
        check_count(self, "vocabulary", self.vocabulary)
        check_count(self, "features", self.features)

    def init(self, key: Array, x: Any) -> Table:
        self._check_ids(x)
        return Table(self.w_init(key, (self.vocabulary, self.features), jnp.float32))

    def forward(
        self, params: Table, ids: Array, context: Context = Context()
    ) -> tuple[Array, Array]:
        check_params(self, params, Table)
        self._check_ids(ids)
        if params.w.shape != (self.vocabulary, self.features):
            wanted = f"[{self.vocabulary}, {self.features}]"
            raise LayerError(self, f"w is {spell(params.w)}, wanted {wanted}")
        rows = known_rows(ids, self.vocabulary)
        w = jnp.asarray(params.w)
        where = out_as((*entries(ids), entries(w)[-1]), ids, w)
        return w.at[rows].get(mode="fill", fill_value=jnp.nan, **where), ids

    def backward(self, params: Table, ids: Array, dy: Array) -> tuple[None, Table]:
        check_cotangent(self, dy, (*ids.shape, self.features), params.w.dtype)
        *lead, features = entries(dy)
        dw = on_each_device(
            lambda ids, dy: total(self._summed(ids, dy), *lead),
            (ids, dy),
            (lambda ids: tuple(lead), lambda dy: (*lead, features)),
            (None, features),
        )
        return None, placed(Table(dw.astype(params.w.dtype)), params)

    def _summed(self, ids: Array, dy: Array) -> Array:
        rows, dys = known_rows(ids, self.vocabulary).reshape(-1), dy.reshape(-1, dy.shape[-1])
        return jax.lax.platform_dependent(
            rows,
            widen(dys),
            cpu=lambda rows, dys: sum_by_scatter(rows, dys, self.vocabulary),
            default=lambda rows, dys: (
                sum_by_matmul(rows, dys, self.vocabulary)
                if self.vocabulary <= 512
                else sum_by_sort(rows, dys, self.vocabulary)
            ),
        )

    def _check_ids(self, ids: Any) -> None:
        if not is_integer(ids):
            hint = "give token ids: jnp.asarray(ids, jnp.int32)"
            raise LayerError(self, f"x is {spell(ids)}, wanted an array of integers", hint)
        known = concrete(ids) if not isinstance(ids, jax.ShapeDtypeStruct) else None
        if (
            known is not None
            and known.size
            and not 0 <= known.min() <= known.max() < (self.vocabulary)
        ):
            bad = known.min() if known.min() < 0 else known.max()
            raise LayerError(
                self,
                f"x holds the id {bad}, wanted ids from 0 to {self.vocabulary - 1}",
                "give the tokenizer's vocabulary size: Embedding(vocabulary, features)",
            )


def known_rows(ids: Array, vocabulary: int) -> Array:
    """The ids as int32; those that are no row become `vocabulary`, which is past the last one."""
    valid = (ids >= 0) & (ids < vocabulary if fits(vocabulary, ids.dtype) else True)
    return jnp.where(valid, ids, 0).astype(jnp.int32) + jnp.where(valid, 0, vocabulary).astype(
        jnp.int32
    )


def fits(value: int, dtype: Any) -> bool:
    """Whether an integer dtype can hold the value: uint8 ids never reach a vocabulary of 1000."""
    return value <= jnp.iinfo(dtype).max


def sum_by_scatter(rows: Array, dys: Array, vocabulary: int) -> Array:
    """dw[i] = Σ dys where rows = i, added one after the other: best on a CPU."""
    zeros = fresh(jnp.zeros((vocabulary, dys.shape[-1]), dys.dtype), (None, None), rows, dys)
    return zeros.at[rows].add(dys, mode="drop")


def sum_by_sort(rows: Array, dys: Array, vocabulary: int) -> Array:
    """The same with equal rows brought together first: a GPU's scatter waits for duplicates."""
    order = jnp.argsort(rows)
    return jax.ops.segment_sum(dys[order], rows[order], vocabulary, indices_are_sorted=True)


def sum_by_matmul(rows: Array, dys: Array, vocabulary: int) -> Array:
    """The same as onehotᵀ dys, for small vocabularies on a GPU."""
    onehot = rows[:, None] == jnp.arange(vocabulary, dtype=rows.dtype)
    return jnp.matmul(onehot.astype(dys.dtype).T, dys, precision=jax.lax.Precision.HIGHEST)


@dataclass(frozen=True)
class LearnedPositions(Layer):
    """y = x + w[0:T]: a vector for every position, learned (GPT-2, BERT, ViT).

    forward   x [..., T, D] -> y [..., T, D], T ≤ length
    keeps     nothing
    backward  dx = dy    dw = Σ dy over the leading axes, 0 in the rows from T on
    dtypes    any float, one for x and w; y and all gradients have it
    raises    LayerError where length is no positive whole number, x is not a float array
              [..., T, D] of at most that many positions, or params is no Table of its features and
              dtype
    source    Gehring et al., 2017, arXiv:1705.03122

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.LearnedPositions(16), jnp.zeros((8, 10, 4))
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> params.w.shape, y.shape
    ((16, 4), (8, 10, 4))
    """

    length: int
    _: KW_ONLY
    w_init: Initializer = Normal(0.02)

    def __post_init__(self) -> None:
        check_count(self, "length", self.length)

    def init(self, key: Array, x: Any) -> Table:
        check_input(self, x, rank=2)
        return Table(self.w_init(key, (self.length, x.shape[-1]), x.dtype))

    def forward(self, params: Table, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_params(self, params, Table, like=x)
        check_input(self, x, features=params.w.shape[-1], rank=2)
        if x.shape[-2] > self.length:
            raise LayerError(
                self,
                f"x is {spell(x)}: {x.shape[-2]} positions, of which {self.length} have a vector",
                f"give shorter sequences, or LearnedPositions({x.shape[-2]})",
            )
        return x + beside(params, x).w[: x.shape[-2]], ()

    def backward(self, params: Table, residuals: tuple, dy: Array) -> tuple[Array, Table]:
        check_input(self, dy, features=params.w.shape[-1], rank=2)
        dw = dy.sum(tuple(range(dy.ndim - 2)))
        dw = Table(jnp.pad(dw, ((0, self.length - dy.shape[-2]), (0, 0))))
        return dy, placed(dw, params)


@dataclass(frozen=True)
class SinusoidalPositions(Layer):
    """y = x + e, e[t, 2i] = sin(t / base^(2i/D)), e[t, 2i+1] = cos(the same).

    Vaswani et al. (2017). Any length, nothing to learn.

    forward   x [..., T, D] -> y [..., T, D]
    keeps     nothing
    backward  dx = dy
    dtypes    any float; y and dx have that of x, the waves are computed in float32 at least
    raises    LayerError where base is below 1, or x is not a float array [..., T, D]
    source    Vaswani et al., 2017, arXiv:1706.03762, section 3.5

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.SinusoidalPositions().forward((), jnp.zeros((10, 4)))
    >>> y[0]
    Array([0., 1., 0., 1.], dtype=float32)
    """

    _: KW_ONLY
    base: float = 10000.0

    def __post_init__(self) -> None:
        check_number(self, "base", self.base, 1)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_input(self, x, rank=2)
        length, features = x.shape[-2:]
        cos, sin = waves(self.base, length, features, x.dtype)
        e = jnp.stack([sin, cos], -1).reshape(length, -1)[:, :features]
        return x + e.astype(x.dtype), ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        return dy, ()


@dataclass(frozen=True)
class Rotary(Layer):
    """Each pair of features of a head is turned by an angle that grows with its position t.

    (y₁, y₂) = (x₁ cos θ − x₂ sin θ, x₁ sin θ + x₂ cos θ), θ = t / base^(2i/K) for pair i: the
    product of a query and a key then depends on their distance alone (Su et al., 2021). Pair i is
    (x[i], x[i + K/2]), or (x[2i], x[2i+1]) where `interleaved`, as in the paper.

    forward   x [..., T, heads, K] -> y [..., T, heads, K], K even
    keeps     nothing
    backward  dx = dy turned back, by −θ
    dtypes    any float; y and dx have that of x, the turn is computed in float32 at least
    raises    LayerError where base is below 1, or x is not a float array [..., T, heads, K] with K
              even
    source    Su et al., 2021, arXiv:2104.09864

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.Rotary().forward((), jnp.ones((10, 1, 2)))
    >>> y.shape, y[0, 0]  # the first position is not turned
    ((10, 1, 2), Array([1., 1.], dtype=float32))
    """

    _: KW_ONLY
    base: float = 10000.0
    interleaved: bool = False

    def __post_init__(self) -> None:
        check_number(self, "base", self.base, 1)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_input(self, x, rank=3)
        if x.shape[-1] % 2:
            raise LayerError(self, f"x is {spell(x)}: {x.shape[-1]} features are not pairs")
        return self._turn(x, 1), ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        check_input(self, dy, rank=3)
        return self._turn(dy, -1), ()

    def _turn(self, x: Array, direction: int) -> Array:
        x = whole(x, -1)  # pairs of features are cut apart
        length, _, size = x.shape[-3:]
        cos, sin = (a[:, None] for a in waves(self.base, length, size, x.dtype))
        sin = direction * sin
        wide, axis = widen(x), -1 if self.interleaved else -2
        pairs = wide.reshape(
            *x.shape[:-1], *((size // 2, 2) if self.interleaved else (2, size // 2))
        )
        x1, x2 = (jax.lax.index_in_dim(pairs, i, pairs.ndim + axis, False) for i in (0, 1))
        y = jnp.stack([x1 * cos - x2 * sin, x1 * sin + x2 * cos], axis)
        return y.reshape(x.shape).astype(x.dtype)


def waves(base: float, length: int, features: int, dtype: Any) -> tuple[Array, Array]:
    """cos θ and sin θ, θ[t, i] = t / base^(2i/features): [length, features/2], at least float32."""
    wide = jnp.float32 if dtype.itemsize < 4 else dtype
    frequency = base ** -(np.arange(0, features, 2) / features)  # float64, whatever x is
    angle = jnp.arange(length, dtype=wide)[:, None] * jnp.asarray(frequency, wide)
    return jnp.cos(angle), jnp.sin(angle)
