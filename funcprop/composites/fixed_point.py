"""FixedPoint: a layer defined by an equation, differentiated by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.composites.composite import Composite
from funcprop.composites.repeat import check_like
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    check_count,
    check_number,
    concrete,
    inside,
    is_float,
    spell,
    widen,
)
from funcprop.sharding import alike, entries, fresh


@dataclass(frozen=True, init=False, repr=False)
class FixedPoint(Composite):
    """z* = f(z*, x), the point that f leaves where it is (Bai et al., 2019).

    f reads the tuple (z, x) and returns another z. The iteration z ← f(z, x) starts from zero and
    ends when no element moves by more than `tolerance` · max(1, max |z|); 8 eps of the dtype by
    default. f must contract. Where `max_steps` steps do not end it, forward and backward raise
    LayerError if the numbers are at hand, and return NaN under `jit` and other transformations.

    The steps read one context: the same key and mask each time. A batch ends with its slowest
    example. `jax.grad` cannot differentiate a `while_loop`; this backward needs only f's own.

    forward   x [..., in] -> z* [..., features]; of the shape of x where `features` is None
              (of its first leaf, where x is a tree)
    keeps     what f keeps at z*; nothing of the steps before
    backward  u = dz* + (∂f/∂z)ᵀ u, by the same iteration, from u = dz*
              dx = (∂f/∂x)ᵀ u    dparams = (∂f/∂params)ᵀ u
    dtypes    any float; z* and dx have that of x, distances are measured in float32 at least
    raises    LayerError where features or max_steps is no positive whole number or tolerance
              negative, x holds no floats first, f changes the shape or dtype of z, or the iteration
              does not end and its numbers are known; f's own errors, with their place in the model
    source    Bai, Kolter and Koltun, 2019, arXiv:1909.01377

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> small = fp.initializers.Uniform(0.1)
    >>> f = fp.Serial(fp.Concatenate(), fp.Dense(3, w_init=small), fp.Tanh())
    >>> model, x = fp.FixedPoint(f, features=3), jax.ShapeDtypeStruct((8, 4), jnp.float32)
    >>> params = model.init(jax.random.key(0), x)
    >>> z, residuals = jax.eval_shape(model.forward, params, x)
    >>> z.shape
    (8, 3)
    """

    features: int | None
    tolerance: float | None
    max_steps: int

    def __init__(
        self,
        layer: Layer,
        features: int | None = None,
        *,
        tolerance: float | None = None,
        max_steps: int = 200,
    ) -> None:
        for name, value in (
            ("features", features),
            ("tolerance", tolerance),
            ("max_steps", max_steps),
        ):
            object.__setattr__(self, name, value)
        super().__init__(layer)
        if features is not None:
            check_count(self, "features", features)
        if tolerance is not None:
            check_number(self, "tolerance", tolerance, 0)
        check_count(self, "max_steps", max_steps)

    def __repr__(self) -> str:
        words = [repr(self.layers[0])]
        if self.features is not None:
            words.append(repr(self.features))
        if self.tolerance is not None:
            words.append(f"tolerance={self.tolerance!r}")
        if self.max_steps != 200:
            words.append(f"max_steps={self.max_steps!r}")
        return f"FixedPoint({', '.join(words)})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return FixedPoint(
            *layers, features=self.features, tolerance=self.tolerance, max_steps=self.max_steps
        )

    def init(self, key: Array, x: Any) -> Params:
        return self.init_each(key, ((jax.eval_shape(self._start, x), x),))

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Array, Residuals]:
        (p,) = self.entries("params", params)

        def f(z: Array) -> tuple[Array, Residuals]:
            with inside(self, 0):
                y, kept = self.layers[0].forward(p, (z, x), context)
            check_like(self, "the output of f", y, "z", z)
            return alike(y, z), kept

        z, converged = self._iterate(lambda z: f(z)[0], self._start(x), least=1.0)
        z, kept = f(z)
        return self._told("z = f(z, x)", z, converged), kept

    def backward(self, params: Params, residuals: Residuals, dy: Array) -> tuple[Any, Params]:
        (p,) = self.entries("params", params)

        def pull(u: Array) -> tuple[Array, Any, Params]:
            with inside(self, 0):
                (dz, dx), dp = self.layers[0].backward(p, residuals, u)
            check_like(self, "dz", dz, "dy", u)
            return alike(dz, u), dx, dp

        u, converged = self._iterate(lambda u: dy + pull(u)[0], dy, least=0.0)
        u = self._told("u = dz + (∂f/∂z)ᵀ u", u, converged)
        _, dx, dp = pull(u)
        return dx, (dp,)

    def statistics(self, residuals: Residuals) -> Any:
        return super().statistics((residuals,))

    def _start(self, x: Any) -> Array:
        leaves = jax.tree.leaves(x)
        if not leaves or not is_float(leaves[0]) or leaves[0].ndim == 0:
            raise LayerError(self, f"x is {spell(x)}, wanted floats [..., features]")
        size = leaves[0].shape[-1] if self.features is None else self.features
        zero = jnp.zeros((*leaves[0].shape[:-1], size), leaves[0].dtype)
        return fresh(zero, (*entries(leaves[0])[:-1], None), x)

    def _iterate(
        self, step: Callable[[Array], Array], start: Array, least: float
    ) -> tuple[Array, Array]:
        """The point where `step` stands still, and whether it was found."""
        tolerance = 8 * float(jnp.finfo(start.dtype).eps)
        tolerance = tolerance if self.tolerance is None else self.tolerance

        def moving(state: tuple[Array, Array, Array, Array]) -> Array:
            _, moved, bound, steps = state
            return (moved > bound) & (steps < self.max_steps)

        def advance(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            old, _, _, steps = state
            new = step(old)
            moved = widen(jnp.max(jnp.abs(new - old), initial=0))
            bound = tolerance * jnp.maximum(widen(jnp.max(jnp.abs(new), initial=0)), least)
            return new, moved, bound, steps + 1

        # the first step stands outside, so that what the loop carries has its types from it
        state = advance((start, jnp.zeros(()), jnp.zeros(()), jnp.int32(0)))
        point, moved, bound, _ = lax.while_loop(moving, advance, state)
        return point, moved <= bound

    def _told(self, equation: str, point: Array, converged: Array) -> Array:
        """The point, or an error or NaN where it is none."""
        known = concrete(converged)
        if known is not None and not known:
            raise LayerError(
                self,
                f"{equation} did not come to rest in {self.max_steps} steps",
                "f must contract: start with smaller weights, or raise tolerance or max_steps",
            )
        return jnp.where(converged, point, jnp.nan)
