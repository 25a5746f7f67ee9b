"""Whether a function of a batch treats its examples apart, and where it does not."""

from __future__ import annotations

from typing import Any

from funcprop.layer import Context, Params


def check_apart(lifted: Any, params: Params, x: Any, context: Context) -> None:
    """Raises LayerError where one example's output depends on another."""
