"""The sides of lifting.py that stand in other libraries: jax-privacy, PyTorch, Opacus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def jax_privacy_sides(one: Callable[..., Any], bound: float, micro: int) -> dict[str, Any]:
    return {}


def torch_sides(name: str, norms: Any) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    return {}, {}
