"""OverTime: one layer at every step of a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.composites.composite import Composite
from funcprop.composites.sharing import EVERYTHING, Path, Sum
from funcprop.layer import Array, Context, Layer, LayerError, Params, Residuals, inside, spell


@dataclass(frozen=True, init=False, repr=False)
class OverTime(Composite):
    """yₜ = f(xₜ) for every step t of axis −2, with the same parameters.

    Forward computes all steps at once (`jax.vmap`), backward one after the other, so that only one
    step's dparams exist at a time; with few examples a step (16, say) that takes up to half as long
    again as one large matmul. The layer sees a step without the time axis. Each step draws from a
    key of its own. A mask of the shape [..., time] is read step by step; any other is known to all.
    Statistics are averaged over the steps.

    forward   x [..., time, features] -> y [..., time, out]; of a tree, every leaf
    keeps     what the layer keeps of every step, stacked on axis 0
    backward  dx, step by step    dparams = Σₜ dparamsₜ: the parameters were used T times
    dtypes    those of the layer; 16-bit dparams are summed in float32
    raises    LayerError where x or dy is not [..., time, features] with one time in all leaves,
              params is no tuple of one, or the output of a step has no axis; the layer's own
              errors, with their place in the model

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.OverTime(fp.Dense(3)), jax.ShapeDtypeStruct((8, 10, 4), jnp.float32)
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = jax.eval_shape(model.forward, params, x)
    >>> params[0].w.shape, y.shape
    ((4, 3), (8, 10, 3))
    """

    reused: ClassVar[frozenset[Path]] = EVERYTHING

    def __init__(self, layer: Layer, *, shared: Sum = Sum()) -> None:
        object.__setattr__(self, "shared", shared)
        super().__init__(layer)

    def __repr__(self) -> str:
        words = [repr(self.layers[0])]
        if self.shared != Sum():
            words.append(f"shared={self.shared!r}")
        return f"OverTime({', '.join(words)})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return OverTime(*layers, shared=self.shared)

    def init(self, key: Array, x: Any) -> Params:
        self._steps("x", x)
        step = jax.eval_shape(lambda x: jax.tree.map(lambda leaf: leaf[..., 0, :], x), x)
        return self.init_each(key, (step,))

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        (p,) = self.entries("params", params)
        steps = self._steps("x", x)
        keys = None if context.key is None else jax.random.split(context.key, steps)
        mask = context.mask
        masked = mask is not None and mask.shape == jax.tree.leaves(x)[0].shape[:-1]

        def step(x: Any, key: Array | None, mask: Array | None) -> tuple[Any, Residuals]:
            with inside(self, 0):
                y, kept = self.layers[0].forward(p, x, Context(key, mask))
            if any(leaf.ndim == 0 for leaf in jax.tree.leaves(y)):
                raise LayerError(
                    self,
                    f"the output of a step is {spell(y)}: it has no axis to put the time before",
                    "give the layer an output with features [..., out]",
                )
            return y, kept

        axes = (-2, 0, -1 if masked else None)
        return jax.vmap(step, axes, (-2, 0), axis_size=steps)(x, keys, mask)

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        (p,) = self.entries("params", params)

        def step(each: tuple[Residuals, Array]) -> tuple[Any, Params]:
            kept, t = each
            # cut out step by step: a copy of dy with the time first would be as large as dy
            dy_t = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, t, -2, False), dy)
            with inside(self, 0):
                return self.layers[0].backward(p, kept, dy_t)

        steps = jnp.arange(self._steps("dy", dy), dtype=jnp.int32)
        dxs, dp = self.shared.steps(self, step, (residuals, steps))
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -2), dxs), (dp,)

    def statistics(self, residuals: Residuals) -> Any:
        if not jax.tree.leaves(residuals):
            return ()
        found = jax.vmap(self.layers[0].statistics)(residuals)
        found = jax.tree.map(lambda step: step.mean(0), found)
        return (found,) if jax.tree.leaves(found) else ()

    def _steps(self, name: str, x: Any) -> int:
        """The number of steps, of which all leaves have the same."""
        leaves = jax.tree.leaves(x)
        steps = {leaf.shape[-2] if leaf.ndim > 1 else None for leaf in leaves}
        if len(steps) != 1 or None in steps:
            raise LayerError(
                self,
                f"{name} is {spell(x)}, wanted [..., time, features], one time in all",
                "axis -2 is time; a layer for whole sequences needs no OverTime",
            )
        return steps.pop() or 0
