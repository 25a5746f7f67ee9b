"""What frames images and sequences."""

from collections.abc import Callable
from typing import Any

import funcprop as fp

from .adapt import Adapt, arguments, channels_last, per_axis


def pad(mode: Any, axes: int) -> Callable[..., Any]:
    def translate(args, kwargs):
        given = arguments("padding value", args, kwargs)
        flat = per_axis(given["padding"], 2 * axes)  # before and after, the last axis first
        widths = tuple((flat[2 * i], flat[2 * i + 1]) for i in reversed(range(axes)))
        layer = fp.Pad((*widths, (0, 0)), mode=mode, value=float(given.get("value", 0)))
        return layer, Adapt(channels_last(axes), channels_last(axes))

    return translate


KINDS = {
    "Zero": "constant",
    "Constant": "constant",
    "Reflection": "reflect",
    "Replication": "edge",
    "Circular": "wrap",
}
TABLE = {f"{name}Pad{axes}d": pad(mode, axes) for name, mode in KINDS.items() for axes in (1, 2, 3)}
