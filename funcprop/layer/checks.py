"""Checks: shapes, trees and dtypes everywhere, values wherever the data is concrete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.arguments import is_array
from funcprop.layer.contract import Layer, Params
from funcprop.layer.errors import LayerError, spell


def is_float(value: Any) -> bool:
    """Whether the value is an array of real floating-point numbers."""
    return is_array(value) and jnp.issubdtype(jnp.result_type(value), jnp.floating)


def is_integer(value: Any) -> bool:
    """Whether the value is an array of integers."""
    return is_array(value) and jnp.issubdtype(jnp.result_type(value), jnp.integer)


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None under jit, vmap or any other trace."""
    try:
        return np.asarray(value)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        return None


def check_input(layer: Layer, x: Any, *, features: int | None = None, rank: int = 0) -> None:
    """x is a float array of at least `rank` axes, the last of size `features` where given."""
    if not is_float(x):
        hint = "write jnp.asarray(x, jnp.float32)"
        raise LayerError(layer, f"x is {spell(x)}, wanted an array of floats", hint)
    if x.ndim < rank:
        axes = getattr(layer, "axes", None)
        hint = (
            f"axes={axes} counts those of one example: write {type(layer).__name__}"
            f"(axes={max(x.ndim - 1, 1)}) for such x, or axes={max(x.ndim - 1, 1)} where a model "
            "takes it, as mlp(..., axes=1) for a table"
        )
        remedy = hint if isinstance(axes, int) and axes > 1 else ""
        raise LayerError(layer, f"x is {spell(x)}, wanted at least {rank} axes", remedy)
    if features is not None and x.shape[-1] != features:
        raise LayerError(
            layer,
            f"x is {spell(x)}: its last axis has {x.shape[-1]} features, the parameters {features}",
            f"give x of shape [..., {features}], or make new parameters: layer.init(key, x)",
        )


def check_params(layer: Layer, params: Params, kind: type, like: Any = None) -> None:
    """params is a `kind` whose arrays have the dtype of `like`."""
    if not isinstance(params, kind):
        raise LayerError(
            layer,
            f"params is {spell(params)}, wanted {kind.__name__}",
            "make them with layer.init(key, x); a composite's are a tuple, one entry per child",
        )
    for name, leaf in zip(getattr(params, "_fields", ()), params, strict=False):
        if leaf is not None and not is_array(leaf):
            hint = f"write params._replace({name}=jnp.asarray(...))"
            raise LayerError(layer, f"{name} is {spell(leaf)}, wanted an array", hint)
        if like is not None and leaf is not None and leaf.dtype != like.dtype:
            raise LayerError(
                layer,
                f"{name} is {spell(leaf)} and x is {spell(like)}: the dtypes differ",
                f"cast one of them: x.astype({str(leaf.dtype)!r})",
            )


def check_cotangent(layer: Layer, dy: Any, shape: Sequence[int], dtype: Any) -> None:
    """dy has exactly the shape and dtype of the output: broadcasting would hide a mistake."""
    given = (dy.shape, dy.dtype) if is_array(dy) else None
    if given != (tuple(shape), dtype):
        wanted = spell(jax.ShapeDtypeStruct(tuple(shape), dtype))
        raise LayerError(layer, f"dy is {spell(dy)}, the output is {wanted}: they must agree")


def check_number(layer: Layer, name: str, value: float, low: float, high: float = np.inf) -> None:
    """low <= value < high, for a configuration field."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high:
        raise LayerError(layer, f"{name} is {value!r}, wanted a number in [{low}, {high})")


def check_rate(layer: Layer, rate: float) -> None:
    """A probability: of what is dropped, all too."""
    if isinstance(rate, bool) or rate != 1:
        check_number(layer, "rate", rate, 0, 1)


def check_count(layer: Layer, name: str, value: Any, low: int = 1) -> None:
    """A whole number of at least `low`, for a configuration field."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise LayerError(layer, f"{name} is {value!r}, wanted a whole number of at least {low}")


def check_choice(layer: Layer, name: str, value: Any, choices: Sequence[Any]) -> None:
    """One of a few words, for a configuration field."""
    if value not in choices:
        raise LayerError(
            layer, f"{name} is {value!r}, wanted one of {', '.join(map(repr, choices))}"
        )
