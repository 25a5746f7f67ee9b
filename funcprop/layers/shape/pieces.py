"""Features cut into pieces and put side by side: Split and Concatenate."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Shape,
    check_cotangent,
    check_count,
    check_input,
    spell,
)
from funcprop.sharding import aligned, whole


@dataclass(frozen=True)
class Split(Layer):
    """The features in consecutive pieces, of the sizes given.

    forward   x [..., Σ sizes] -> (y₁ [..., size₁], …, yₙ [..., sizeₙ])
    keeps     nothing
    backward  dx = the dyᵢ side by side
    dtypes    any float; all pieces and dx have that of x
    raises    LayerError where sizes is no tuple of positive whole numbers, x is not a float array
              with their sum of features, or dy no such tuple of pieces

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> (one, two), _ = fp.Split((1, 3)).forward((), jnp.ones((8, 4)))
    >>> one.shape, two.shape
    ((8, 1), (8, 3))
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.sizes, tuple) or not self.sizes:
            raise LayerError(
                self, f"sizes is {self.sizes!r}, wanted a tuple of sizes", "write Split((2, 3))"
            )
        for size in self.sizes:
            check_count(self, "a size", size)

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[tuple[Array, ...], tuple]:
        check_input(self, x, rank=1)
        if x.shape[-1] != sum(self.sizes):
            raise LayerError(
                self, f"x is {spell(x)}, wanted [..., {sum(self.sizes)}]: the sum of the sizes"
            )
        return taken_apart(x, self.sizes), ()

    def backward(
        self, params: tuple, residuals: tuple, dy: tuple[Array, ...]
    ) -> tuple[Array, tuple]:
        if not isinstance(dy, tuple) or len(dy) != len(self.sizes):
            raise LayerError(self, f"dy is {spell(dy)}, wanted a tuple of {len(self.sizes)}")
        for piece, size in zip(dy, self.sizes, strict=True):
            check_cotangent(self, piece, (*dy[0].shape[:-1], size), dy[0].dtype)
        return jnp.concatenate(aligned(dy), -1), ()


@dataclass(frozen=True)
class Concatenate(Layer):
    """The features of several arrays side by side.

    forward   (x₁ [..., D₁], …, xₙ [..., Dₙ]) -> y [..., Σ Dᵢ]
    keeps     the sizes Dᵢ, in the tree structure
    backward  dxᵢ = its piece of dy
    dtypes    any float, one for all; y and all dxᵢ have it
    raises    LayerError where x is no tuple of float arrays that agree in all axes but the last and
              in dtype, or dy has not as many features as y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, sizes = fp.Concatenate().forward((), (jnp.ones((8, 1)), jnp.ones((8, 3))))
    >>> y.shape
    (8, 4)
    >>> [dx.shape for dx in fp.Concatenate().backward((), sizes, y)[0]]
    [(8, 1), (8, 3)]
    """

    def forward(
        self, params: tuple, x: tuple[Array, ...], context: Context = Context()
    ) -> tuple[Array, Shape]:
        if not isinstance(x, tuple) or not x:
            raise LayerError(self, f"x is {spell(x)}, wanted a tuple of arrays")
        for piece in x:
            check_input(self, piece, rank=1)
            if (piece.shape[:-1], piece.dtype) != (x[0].shape[:-1], x[0].dtype):
                raise LayerError(
                    self,
                    f"x is {spell(x)}: these cannot stand side by side",
                    "all axes but the last, and the dtypes, must agree",
                )
        return jnp.concatenate(aligned(x), -1), Shape(tuple(piece.shape[-1] for piece in x))

    def backward(self, params: tuple, sizes: Shape, dy: Array) -> tuple[tuple[Array, ...], tuple]:
        check_input(self, dy, features=sum(sizes.sizes), rank=1)
        return taken_apart(dy, sizes.sizes), ()


def taken_apart(x: Array, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """Consecutive pieces of the last axis."""
    x, starts = whole(x, -1), [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(x[..., i : i + size] for i, size in zip(starts, sizes, strict=True))
