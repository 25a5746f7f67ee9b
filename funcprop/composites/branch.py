"""Parallel: a tuple, each entry through its own layer. Branch: several layers on one input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from funcprop.composites.composite import Composite, add
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    Shape,
    check_choice,
    check_cotangent,
    is_float,
    spell,
)
from funcprop.sharding import aligned, whole


@dataclass(frozen=True, init=False, repr=False)
class Parallel(Composite):
    """(y₁, …, yₙ) = (f₁(x₁), …, fₙ(xₙ)).

    forward   x: a tuple, one entry a child, any trees -> y: a tuple
    keeps     what the children keep
    backward  dx: a tuple, entry by entry; None for integer entries
    dtypes    those of the children
    raises    LayerError where x, dy, params or residuals is no tuple with one entry a child; a
              child's own errors, with its place in the model

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Parallel(fp.Dense(3), fp.Identity())
    >>> x = jnp.ones((8, 4)), jnp.arange(8)
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x)
    >>> y[0].shape, y[1].shape
    ((8, 3), (8,))
    """

    def init(self, key: Array, x: tuple[Any, ...]) -> Params:
        return self.init_each(key, self.entries("x", x))

    def forward(
        self, params: Params, x: tuple[Any, ...], context: Context = Context()
    ) -> tuple[tuple[Any, ...], Residuals]:
        return self.forward_each(params, self.entries("x", x), context)

    def backward(
        self, params: Params, residuals: Residuals, dy: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], Params]:
        return self.backward_each(params, residuals, self.entries("dy", dy))


class BranchResiduals(NamedTuple):
    """What Branch keeps."""

    children: tuple[Residuals, ...]  # what each child keeps
    sizes: Shape | None  # features of each output, to take a concatenation apart


@dataclass(frozen=True, init=False, repr=False)
class Branch(Composite):
    """Every child reads the same x; `combine` says what becomes of their outputs.

    forward   x, any tree -> (y₁, …, yₙ), or their sum [..., out], or their concatenation along the
              features [..., Σ outᵢ]
    keeps     what the children keep; for "concatenate" also their feature sizes
    backward  dx = Σᵢ dxᵢ: x was used n times, so its gradients add
    dtypes    any float for all that is added or concatenated, one for each; else those of the
              children
    raises    LayerError where there is no child or combine is unknown, params or residuals have not
              one entry a child, outputs or their dx do not fit each other, or dy not y; a child's
              own errors, with its place in the model

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Branch(fp.Tanh(), fp.Identity(), combine="concatenate"), jnp.zeros((1, 2))
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x)
    >>> model.backward(params, residuals, jnp.ones((1, 4)))[0]
    Array([[2., 2.]], dtype=float32)
    """

    combine: Literal["tuple", "sum", "concatenate"]

    def __init__(
        self, *layers: Layer, combine: Literal["tuple", "sum", "concatenate"] = "tuple"
    ) -> None:
        object.__setattr__(self, "combine", combine)
        super().__init__(*layers)
        check_choice(self, "combine", combine, ("tuple", "sum", "concatenate"))
        if not layers:
            raise LayerError(self, "has no layers", "give at least one: Branch(Dense(3))")

    def __repr__(self) -> str:
        words = [*map(repr, self.layers)]
        if self.combine != "tuple":
            words.append(f"combine={self.combine!r}")
        return f"Branch({', '.join(words)})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return Branch(*layers, combine=self.combine)

    def init(self, key: Array, x: Any) -> Params:
        return self.init_each(key, (x,) * len(self.layers))

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, BranchResiduals]:
        ys, kept = self.forward_each(params, (x,) * len(self.layers), context)
        if self.combine == "tuple":
            return ys, BranchResiduals(kept, None)
        if self.combine == "sum":
            return add(self, "the outputs", ys), BranchResiduals(kept, None)
        for y in ys:
            if not is_float(y) or y.shape[:-1] != ys[0].shape[:-1] or y.dtype != ys[0].dtype:
                raise LayerError(
                    self,
                    f"the outputs {spell(ys)} cannot be concatenated along the last axis",
                    "all axes but the last, and the dtypes, must agree",
                )
        sizes = Shape(tuple(y.shape[-1] for y in ys))
        return jnp.concatenate(aligned(ys), -1), BranchResiduals(kept, sizes)

    def backward(self, params: Params, residuals: BranchResiduals, dy: Any) -> tuple[Array, Params]:
        if self.combine == "tuple":
            dys = self.entries("dy", dy)
        elif self.combine == "sum":
            dys = (dy,) * len(self.layers)
        else:
            assert residuals.sizes is not None
            sizes = residuals.sizes.sizes
            check_cotangent(self, dy, (*dy.shape[:-1], sum(sizes)), dy.dtype)
            dy, starts = whole(dy, -1), [sum(sizes[:i]) for i in range(len(sizes))]
            dys = tuple(
                dy[..., start : start + size] for start, size in zip(starts, sizes, strict=True)
            )
        dxs, dparams = self.backward_each(params, residuals.children, dys)
        return add(self, "the branches' dx", dxs), dparams

    def statistics(self, residuals: BranchResiduals) -> Any:
        return super().statistics(residuals.children)
