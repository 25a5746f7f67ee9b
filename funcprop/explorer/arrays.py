"""Arrays as a page carries them: little-endian bytes in base64, beside their shape."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

SMALL = 4000  # numbers: up to so many are written as they were computed, in float64


def packed(array: Any, whole: bool = False) -> dict[str, Any]:
    """{"shape", "f8" or "f4"}: float64 where the array is small or `whole`, else float32."""
    array = np.asarray(array, np.float64)
    kind = "f8" if whole or array.size <= SMALL else "f4"
    data = np.ascontiguousarray(array, "<" + kind).tobytes()
    return {"shape": list(array.shape), kind: base64.b64encode(data).decode("ascii")}


def levels(array: Any, scale: int) -> dict[str, Any]:
    """{"shape", "u1", "scale"} of numbers that are k / scale, k from 0 to 255: exactly."""
    array = np.asarray(array, np.float64) * scale
    if not (array == np.clip(np.round(array), 0, 255)).all():
        return packed(array / scale)
    text = base64.b64encode(array.astype(np.uint8).tobytes()).decode("ascii")
    return {"shape": list(array.shape), "u1": text, "scale": scale}


def picture(array: Any) -> dict[str, Any]:
    """{"shape", "i1", "scale"}: numbers as shares of the largest, for maps that are looked at."""
    array = np.asarray(array, np.float64)
    scale = float(np.abs(array).max(initial=0)) or 1.0
    data = np.round(array / scale * 127).astype(np.int8).tobytes()
    return {
        "shape": list(array.shape),
        "i1": base64.b64encode(data).decode("ascii"),
        "scale": scale,
    }


def unpacked(given: dict[str, Any]) -> np.ndarray:
    """The array of `packed`, `levels` or `picture`."""
    kind = next(name for name in ("f8", "f4", "i1", "u1") if name in given)
    flat = np.frombuffer(base64.b64decode(given[kind]), "<" + kind).astype(np.float64)
    factor = {"i1": given.get("scale", 1) / 127, "u1": 1 / given.get("scale", 1)}.get(kind, 1)
    return flat.reshape(given["shape"]) * factor
