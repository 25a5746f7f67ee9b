"""Attention with its projections: compositions of Dense around DotProductAttention.

`features` is the size of the result, which is that of the input in a residual stream. Parameters
lie as in the layers: `params[0]` projects to queries, keys and values, `params[-1]` back.

What a mask hides is zero to the Dense layers, which have no mask and whose weight gradients would
make NaN of it: 0 · NaN.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from funcprop.arguments import is_array
from funcprop.blocks.block import Block
from funcprop.composites import Branch, Parallel, Serial
from funcprop.composites.composite import add
from funcprop.initializers import GlorotUniform, Initializer
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    Shape,
    check_count,
    spell,
)
from funcprop.layers.attention import DotProductAttention
from funcprop.layers.dense import Dense
from funcprop.layers.embedding import Rotary
from funcprop.layers.shape import Flatten, Identity, Reshape, Split
from funcprop.layers.steps import visible


class MaskedResiduals(NamedTuple):
    """What Masked keeps."""

    layers: tuple[Residuals, ...]  # what the layers keep
    mask: Array | None  # bool [..., T]: where dx is not 0, where a mask was given


@dataclass(frozen=True, init=False, repr=False)
class Masked(Serial):
    """Layers in series, the first of which sees 0 where `context.mask` hides x.

    forward   x [..., T, D] -> y, the layers'
    keeps     what the layers keep, and the mask
    backward  theirs; dx is 0 where the mask hides x
    """

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, MaskedResiduals]:
        y, kept = super().forward(params, shown(x, context.mask), context)
        return y, MaskedResiduals(kept, context.mask)

    def backward(self, params: Params, residuals: MaskedResiduals, dy: Any) -> tuple[Any, Params]:
        dx, dparams = super().backward(params, residuals.layers, dy)
        return shown(dx, residuals.mask), dparams

    def statistics(self, residuals: MaskedResiduals) -> Any:
        return super().statistics(residuals.layers)


@dataclass(frozen=True, repr=False)
class SelfAttention(Block, Masked):
    """Every position reads the others: Dense to heads, DotProductAttention, Dense back.

    features   size of the output
    heads      number of query heads N
    head_size  K, features / heads unless given
    kv_heads   number of key and value heads M, which divides N; N unless given
    rotary     turn queries and keys by their positions (`Rotary`)
    bias       of both Dense layers
    fused      one Dense makes queries, keys and values side by side, [..., (N + 2M) K]; else each
               has its own, `params[0][:3]`, whose columns may lie on several devices head by head
    causal, window, soft_cap, scale: see DotProductAttention. `context.mask` [..., T] hides
    positions from all others, and from themselves: x is 0 there, whatever it holds, and so is dx.
    y there is the answer to a zero. Layers beside the block (Skip, LayerNorm, Dense) see all of x.

    forward   x [..., T, D] -> y [..., T, features]
    keeps     what the layers keep, and the mask
    backward  theirs; dx is 0 where the mask hides x
    dtypes    any float, one for x and the parameters; y and all gradients have it
    raises    LayerError where features, heads, head_size or kv_heads is no positive whole number,
              heads does not divide features and no head_size is given, or kv_heads does not divide
              heads; the layers' own errors, with their place
    source    Vaswani et al., 2017, arXiv:1706.03762

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.SelfAttention(16, heads=4, causal=True), jnp.zeros((8, 10, 16))
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> y, residuals = jax.eval_shape(model.forward, params, x)
    >>> params[0].w.shape, y.shape
    ((16, 48), (8, 10, 16))
    """

    features: int
    heads: int
    _: KW_ONLY
    head_size: int | None = None
    kv_heads: int | None = None
    causal: bool = False
    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None
    rotary: bool = False
    bias: bool = True
    fused: bool = True
    w_init: Initializer = GlorotUniform()

    def compose(self) -> tuple[Layer, ...]:
        n, m, k = head_sizes(self, self.features, self.heads, self.head_size, self.kv_heads)
        turned = (Rotary(),) if self.rotary else ()
        if self.fused:
            project = (
                Dense((n + 2 * m) * k, bias=self.bias, w_init=self.w_init),
                Split((n * k, m * k, m * k)),
                Parallel(
                    Serial(Reshape((n, k)), *turned),
                    Serial(Reshape((m, k)), *turned),
                    Reshape((m, k)),
                ),
            )
        else:
            queries, keys = (
                Dense(heads * k, bias=self.bias, w_init=self.w_init) for heads in (n, m)
            )
            project = (
                Branch(
                    Serial(queries, Reshape((n, k)), *turned),
                    Serial(keys, Reshape((m, k)), *turned),
                    Serial(keys, Reshape((m, k))),
                ),
            )
        return (
            *project,
            DotProductAttention(
                causal=self.causal, window=self.window, soft_cap=self.soft_cap, scale=self.scale
            ),
            Flatten(axes=2),
            Dense(self.features, bias=self.bias, w_init=self.w_init),
        )

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return Masked(*layers)


@dataclass(frozen=True, repr=False)
class CrossAttention(Block):
    """Every position of xs reads a memory: a decoder its encoder.

    The memory's own mask is the third entry of x: where it hides the memory, that is 0, whatever it
    holds, and so is its gradient. `context.mask` speaks of xs and hides nothing here. The other
    arguments are those of SelfAttention; queries, keys and values have a Dense each,
    `params[1][:3]`.

    forward   (xs [..., T, D], memory [..., S, E]) or (xs, memory, mask bool [..., S])
              -> y [..., T, features]
    keeps     what the layers keep
    backward  theirs; None for the mask
    dtypes    any float, one for xs, memory and the parameters; y and all gradients have it
    raises    LayerError where features, heads, head_size or kv_heads is no positive whole number,
              heads does not divide features and no head_size is given, kv_heads does not divide
              heads, or x is no such tuple; the layers' own errors, with their place
    source    Vaswani et al., 2017, arXiv:1706.03762

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.CrossAttention(16, heads=4), (jnp.zeros((8, 10, 16)), jnp.zeros((8, 7, 24)))
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> y, residuals = jax.eval_shape(model.forward, params, x)
    >>> y.shape
    (8, 10, 16)
    """

    features: int
    heads: int
    _: KW_ONLY
    head_size: int | None = None
    kv_heads: int | None = None
    soft_cap: float | None = None
    scale: float | None = None
    bias: bool = True
    w_init: Initializer = GlorotUniform()

    def compose(self) -> tuple[Layer, ...]:
        n, m, k = head_sizes(self, self.features, self.heads, self.head_size, self.kv_heads)

        def project(heads: int) -> Layer:
            return Serial(Dense(heads * k, bias=self.bias, w_init=self.w_init), Reshape((heads, k)))

        return (
            Recall(),
            Parallel(project(n), project(m), project(m), Identity()),
            DotProductAttention(soft_cap=self.soft_cap, scale=self.scale),
            Flatten(axes=2),
            Dense(self.features, bias=self.bias, w_init=self.w_init),
        )


class RecallResiduals(NamedTuple):
    """What Recall keeps."""

    mask: Array | None  # bool [..., S]: where dmemory is not 0, where a mask was given
    entries: Shape  # (2,) or (3,): whether x had an entry for the mask


@dataclass(frozen=True)
class Recall(Layer):
    """The memory twice, for keys and for values, and its mask, which may be absent.

    forward   (xs, memory) or (xs, memory, mask) -> (xs, memory, memory, mask or None), the memory 0
              where the mask hides it
    keeps     the mask, and whether there was an entry for it, in the tree structure
    backward  dmemory = the sum over both uses, 0 where the mask hides it
    """

    def forward(
        self, params: tuple, x: tuple[Any, ...], context: Context = Context()
    ) -> tuple[tuple[Any, ...], RecallResiduals]:
        if not isinstance(x, tuple) or len(x) not in (2, 3):
            raise LayerError(self, f"x is {spell(x)}, wanted (xs, memory) or (xs, memory, mask)")
        xs, memory, mask = (*x, None)[:3]
        memory = shown(memory, mask)
        return (xs, memory, memory, mask), RecallResiduals(mask, Shape((len(x),)))

    def backward(
        self, params: tuple, residuals: RecallResiduals, dy: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], tuple]:
        dxs, dk, dv, _ = dy
        dmemory = shown(add(self, "the memory's dk and dv", (dk, dv)), residuals.mask)
        return (dxs, dmemory, None)[: residuals.entries.sizes[0]], ()


def shown(x: Any, mask: Any) -> Any:
    """x [..., T, D], 0 where bool [..., T] hides it. The attention refuses another mask."""
    given = getattr(mask, "shape", None), getattr(mask, "dtype", None)
    return visible(x, mask) if is_array(x) and given == (x.shape[:-1], bool) else x


def head_sizes(
    layer: Layer, features: int, heads: int, head_size: int | None, kv_heads: int | None
) -> tuple[int, int, int]:
    """Query heads, key heads and head size, checked."""
    check_count(layer, "features", features)
    check_count(layer, "heads", heads)
    if head_size is None and features % heads:
        raise LayerError(
            layer,
            f"features is {features}, no multiple of heads = {heads}",
            "give head_size: it need not be features / heads",
        )
    size = features // heads if head_size is None else head_size
    check_count(layer, "head_size", size)
    groups = heads if kv_heads is None else kv_heads
    check_count(layer, "kv_heads", groups)
    if heads % groups:
        raise LayerError(layer, f"kv_heads is {groups}, which does not divide heads = {heads}")
    return heads, groups, size
