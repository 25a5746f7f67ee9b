"""LayerError: what was given, what was wanted, and where in the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class LayerError(ValueError):
    """Something given to a layer does not fit it.

    layer    the layer
    problem  what is wrong: the shapes and dtypes it got, as float32[8, 784], and those it wanted
    remedy   the line to write instead, or ""
    path     its place in the model, outermost first: ("Serial[2]", "Skip[0]")

    It is a ValueError.

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.Dense(0)
    Traceback (most recent call last):
        ...
    funcprop.layer.errors.LayerError: Dense(0): features is 0, wanted a whole number of at least 1
    >>> try:
    ...     fp.Serial(fp.Tanh(), fp.Softmax()).forward(((), ()), jnp.ones(()))
    ... except fp.LayerError as error:
    ...     print(error)
    Serial[1] Softmax(): x is float32[], wanted at least 1 axes
    """

    def __init__(self, layer: Any, problem: str, remedy: str = "") -> None:
        super().__init__(layer, problem, remedy)
        self.layer, self.problem, self.remedy = layer, problem, remedy
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        # a layer that stands for a part of something says which part
        own = getattr(self.layer, "origin", None) or describe(self.layer)
        place = " ".join((*self.path, own))
        return f"{place}: {self.problem}" + (f"\n  {self.remedy}" if self.remedy else "")


def describe(layer: Any) -> str:
    """The layer in at most 80 characters."""
    words = repr(layer)
    return words if len(words) <= 80 else f"{type(layer).__name__}(...)"


def spell(value: Any) -> str:
    """A value's type, dtype and shape in a few characters: float32[10, 784]."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, (tuple, list)) and len(value) <= 6:
        return f"{type(value).__name__}({', '.join(map(spell, value))})"
    return "None" if value is None else f"a {type(value).__name__}"


@contextlib.contextmanager
def inside(composite: Any, index: int | str) -> Iterator[None]:
    """Errors raised within are told as happening at `Composite[index]`."""
    segment = f"{type(composite).__name__}[{index}]"
    try:
        yield
    except LayerError as error:
        error.path = (segment, *error.path)
        raise
    except Exception as error:
        error.add_note(f"in {segment}")
        raise
