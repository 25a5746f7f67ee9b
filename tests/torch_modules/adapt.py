"""How PyTorch's arrays become ours: parameters, inputs, outputs, and the gradients of all three.

Each is an arrangement of the same numbers, so that one function serves a value and its gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Unsupported(Exception):
    """There is no such layer here, and why."""


def nothing(tensors: dict[str, np.ndarray]) -> tuple:
    """The parameters of a layer that has none."""
    return ()


class Adapt(NamedTuple):
    """
    x       the module's inputs, arrays in PyTorch's arrangement -> our x
    y       the module's output, an array or a tuple of them -> our y
    params  the module's parameters by name -> ours
    dx      the gradients of the inputs -> our dx, where it is more than x of them
    """

    x: Callable[[tuple[np.ndarray, ...]], Any]
    y: Callable[[Any], Any]
    params: Callable[[dict[str, np.ndarray]], Any] = nothing
    dx: Callable[[tuple[np.ndarray, ...]], Any] | None = None


def per_axis(value: Any, axes: int) -> tuple[Any, ...]:
    """PyTorch's one number for all axes, as one an axis."""
    return tuple(value) if isinstance(value, tuple | list) else (value,) * axes


def channels_last(axes: int) -> Callable[[Any], Any]:
    """[N, C, *sizes] or [C, *sizes] -> channels last."""

    def moved(array: Any) -> Any:
        array = array[0] if isinstance(array, tuple) and len(array) == 1 else array
        if isinstance(array, tuple):
            return tuple(map(moved, array))
        return np.moveaxis(array, -axes - 1, -1)

    return moved


def arguments(names: str, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name: `names` are those of the module's constructor, in order."""
    return dict(zip(names.split(), args, strict=False)) | kwargs
