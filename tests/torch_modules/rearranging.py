"""What moves numbers between channels and places, and products of two inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np

import funcprop as fp

from .adapt import Adapt, Unsupported, arguments, channels_last, per_axis


def pixel_shuffle(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    given = arguments("upscale_factor", args, kwargs)
    return fp.PixelShuffle(given["upscale_factor"]), Adapt(channels_last(2), channels_last(2))


def pixel_unshuffle(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    given = arguments("downscale_factor", args, kwargs)
    return fp.PixelUnshuffle(given["downscale_factor"]), Adapt(channels_last(2), channels_last(2))


def channel_shuffle(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    given = arguments("groups", args, kwargs)
    return fp.ChannelShuffle(given["groups"]), Adapt(channels_last(2), channels_last(2))


def fold(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    names = "output_size kernel_size dilation padding stride"
    given = arguments(names, args, kwargs)
    sizes, window, dilation, padding, stride = (
        per_axis(given.get(name, default), 2)
        for name, default in zip(names.split(), (None, None, 1, 0, 1), strict=True)
    )
    pads = tuple((p, p) for p in padding)
    layer = fp.Fold(sizes, window, stride=stride, padding=pads, dilation=dilation)
    rows = zip(sizes, window, dilation, padding, stride, strict=True)
    counts = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in rows)
    taps = int(np.prod(window))

    def unfolded(inputs: Any) -> np.ndarray:
        """[N, C · taps, L] -> [N, *counts, taps · C]."""
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        cut = x.reshape(*x.shape[:-2], -1, taps, x.shape[-1])
        turned = np.swapaxes(cut, -1, -3)  # [..., L, taps, C]
        return turned.reshape(*x.shape[:-2], *counts, -1)

    return layer, Adapt(unfolded, channels_last(2))


def bilinear(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    given = arguments("in1_features in2_features out_features bias", args, kwargs)
    layer = fp.Bilinear(given["out_features"], bias=given.get("bias", True))

    def params(tensors: dict[str, np.ndarray]) -> Any:
        w: Any = tensors["weight"].transpose(1, 2, 0)
        b: Any = tensors.get("bias")
        return fp.layers.Affine(w, b)

    return layer, Adapt(lambda inputs: inputs, lambda y: y, params)


METHODS: dict[str, Any] = {
    "nearest": "nearest",
    "linear": "linear",
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic",
}


def upsample(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    given = arguments("size scale_factor mode align_corners", args, kwargs)
    mode = given.get("mode", "nearest")
    factor: Any = given.get("scale_factor")
    if mode not in METHODS:
        raise Unsupported(f"Upsample has no method {mode}")
    numbers: tuple[Any, ...] = factor if isinstance(factor, tuple) else (factor,)
    if any(n is None or n != int(n) or n < 1 for n in numbers):
        raise Unsupported("Upsample enlarges by whole factors")
    if not isinstance(factor, tuple):
        axes = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}.get(mode)
        if axes is None:
            raise Unsupported("one factor of nearest neighbors is for as many axes as x has")
        numbers = numbers * axes
    layer = fp.Upsample(
        tuple(int(n) for n in numbers),
        method=METHODS[mode],
        align_corners=bool(given.get("align_corners")),
    )
    return layer, Adapt(channels_last(len(numbers)), channels_last(len(numbers)))


TABLE: dict[str, Callable[..., Any]] = {
    "PixelShuffle": pixel_shuffle,
    "PixelUnshuffle": pixel_unshuffle,
    "ChannelShuffle": channel_shuffle,
    "Fold": fold,
    "Bilinear": bilinear,
    "Upsample": upsample,
}
