"""Cast: compute in one precision, remember parameters and gradients in another."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.composites.composite import Composite
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    inside,
    is_float,
    spell,
)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Precision:
    """A dtype that backward needs: a residual without arrays."""

    name: str


class CastResiduals(NamedTuple):
    """What Cast keeps."""

    layer: Residuals  # what the layer keeps, in the low precision
    precision: Precision  # the dtype of x, which dx has too


@dataclass(frozen=True, init=False, repr=False)
class Cast(Composite):
    """y = f(x) computed in `dtype`, for parameters and inputs of another: mixed precision.

    What goes in is cast, what comes out has the dtype that came in, so that nothing around sees a
    difference. Gradients of float32 parameters are float32, summed up in the precision that f
    gives its sums. Integer leaves pass unchanged.

    forward   x -> y, any trees, for example [..., in] -> [..., out]: params and x are cast to
              `dtype`, y back to the dtype of x (of the parameters, where x holds no floats)
    keeps     what f keeps, in `dtype`
    backward  dy is cast to `dtype`, dx and dparams back to what x and params are
    dtypes    any float, one for all floats of x and one for those of the parameters
    raises    LayerError where dtype is none of bfloat16, float16, float32, float64, where x or the
              parameters hold several, or where neither holds any; f's own errors, with their place
              in the model
    source    Micikevicius et al., 2017, arXiv:1710.03740

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Cast(fp.Dense(3), "bfloat16"), jax.ShapeDtypeStruct((8, 4), jnp.float32)
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = jax.eval_shape(model.forward, params, x)
    >>> print(params[0].w.dtype, y.dtype, residuals.layer.dtype)
    float32 float32 bfloat16
    """

    dtype: str
    converts: ClassVar[bool] = True

    def __init__(self, layer: Layer, dtype: Any = "bfloat16") -> None:
        object.__setattr__(self, "dtype", str(dtype))
        with contextlib.suppress(TypeError):  # answered below, like a dtype that is not a float
            object.__setattr__(self, "dtype", jnp.dtype(dtype).name)
        super().__init__(layer)
        if self.dtype not in ("bfloat16", "float16", "float32", "float64"):
            raise LayerError(
                self,
                f"dtype is {dtype!r}, wanted a floating-point dtype",
                "write Cast(layer, 'bfloat16')",
            )

    def __repr__(self) -> str:
        words = [repr(self.layers[0])]
        if self.dtype != "bfloat16":
            words.append(f"dtype={self.dtype!r}")
        return f"Cast({', '.join(words)})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return Cast(*layers, dtype=self.dtype)

    def init(self, key: Array, x: Any) -> Params:
        return self.init_each(key, (x,))  # in the dtype of x: the parameters are the precise ones

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, CastResiduals]:
        (p,) = self.entries("params", params)
        came = self._precision("x", x) or self._precision("params", p)
        if came is None:
            raise LayerError(self, f"x is {spell(x)} and there are no parameters: nothing to cast")
        with inside(self, 0):
            y, kept = self.layers[0].forward(self._down(p), self._down(x), context)
        return cast(y, came), CastResiduals(kept, Precision(came))

    def backward(self, params: Params, residuals: CastResiduals, dy: Any) -> tuple[Any, Params]:
        (p,) = self.entries("params", params)
        with inside(self, 0):
            dx, dp = self.layers[0].backward(self._down(p), residuals.layer, self._down(dy))
        dparams = (dp,) if self.shared.raw else self.from_children(params, (dp,))
        return cast(dx, residuals.precision.name), dparams

    def to_children(self, params: Params) -> Params:
        return tuple(map(self._down, self.entries("params", params)))

    def from_children(self, params: Params, dparams: Params) -> Params:
        held = self._precision("params", params)
        return dparams if held is None else cast(dparams, held)

    def statistics(self, residuals: CastResiduals) -> Any:
        return super().statistics((residuals.layer,))

    def _down(self, tree: Any) -> Any:
        return cast(tree, self.dtype)

    def _precision(self, name: str, tree: Any) -> str | None:
        """The one dtype of all floats in the tree."""
        dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(tree) if is_float(leaf)})
        if len(dtypes) > 1:
            raise LayerError(
                self,
                f"{name} holds {' and '.join(dtypes)}: the output could have either dtype",
                f"cast {name} to one of them first",
            )
        return dtypes[0] if dtypes else None


def cast(tree: Any, dtype: str) -> Any:
    """The tree with its floats in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_float(leaf) else leaf, tree)
