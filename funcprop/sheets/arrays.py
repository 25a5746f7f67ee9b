"""Arrays in a few characters."""

from __future__ import annotations

from typing import Any

import numpy as np

FEW = 6  # numbers that are shown one by one


def shape_of(array: Any) -> str:
    """[2, 3], and nothing of a number."""
    return str(list(np.shape(array))) if np.shape(array) else ""


def numbers(array: Any) -> str:
    """A few numbers one by one, of more the norm; nothing of what has no values yet."""
    try:
        flat = np.asarray(array, np.float64).ravel()
    except Exception:  # a tracer of `jit`, or a shape alone
        return ""
    if flat.size > FEW:
        return f"‖·‖ {np.linalg.norm(flat):.6g}"
    return " ".join(f"{value:.8g}" for value in flat)
