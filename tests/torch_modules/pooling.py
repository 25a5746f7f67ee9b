"""Pooling, unpooling, and what slides kernels over images."""

from collections.abc import Callable
from typing import Any

import numpy as np

import funcprop as fp

from .adapt import Adapt, Unsupported, arguments, channels_last, per_axis


def pairs(padding: Any, axes: int) -> tuple[tuple[int, int], ...]:
    return tuple((p, p) for p in per_axis(padding, axes))


def images(axes: int) -> Adapt:
    return Adapt(channels_last(axes), channels_last(axes))


def max_pool(axes: int) -> Callable[..., Any]:
    def translate(args, kwargs):
        names = "kernel_size stride padding dilation return_indices ceil_mode"
        given = arguments(names, args, kwargs)
        window = per_axis(given["kernel_size"], axes)
        layer = fp.MaxPool(
            window,
            stride=per_axis(given.get("stride") or window, axes),
            padding=pairs(given.get("padding", 0), axes),
            dilation=per_axis(given.get("dilation", 1), axes),
            ceil_mode=given.get("ceil_mode", False),
            return_places=given.get("return_indices", False),
        )
        return layer, images(axes)

    return translate


def max_unpool(axes: int) -> Callable[..., Any]:
    def translate(args, kwargs):
        given = arguments("kernel_size stride padding", args, kwargs)
        window = per_axis(given["kernel_size"], axes)
        layer = fp.MaxUnpool(
            window,
            stride=per_axis(given.get("stride") or window, axes),
            padding=pairs(given.get("padding", 0), axes),
        )
        return layer, images(axes)

    return translate


def avg_pool(axes: int) -> Callable[..., Any]:
    def translate(args, kwargs):
        names = "kernel_size stride padding ceil_mode count_include_pad divisor_override"
        given = arguments(names, args, kwargs)
        window = per_axis(given["kernel_size"], axes)
        layer = fp.AvgPool(
            window,
            stride=per_axis(given.get("stride") or window, axes),
            padding=pairs(given.get("padding", 0), axes),
            ceil_mode=given.get("ceil_mode", False),
            count_include_pad=given.get("count_include_pad", True),
            divisor=given.get("divisor_override"),
        )
        return layer, images(axes)

    return translate


def lp_pool(axes: int) -> Callable[..., Any]:
    def translate(args, kwargs):
        given = arguments("norm_type kernel_size stride ceil_mode", args, kwargs)
        window = per_axis(given["kernel_size"], axes)
        layer = fp.LPPool(
            window,
            given["norm_type"],
            stride=per_axis(given.get("stride") or window, axes),
            ceil_mode=given.get("ceil_mode", False),
        )
        return layer, images(axes)

    return translate


def adaptive(kind: type, axes: int) -> Callable[..., Any]:
    def translate(args, kwargs):
        given = arguments("output_size return_indices", args, kwargs)
        sizes = per_axis(given["output_size"], axes)
        options = {"return_places": True} if given.get("return_indices") else {}
        return kind(sizes, **options), images(axes)

    return translate


def fractional(axes: int) -> Callable[..., Any]:
    def translate(args, kwargs):
        names = "kernel_size output_size output_ratio return_indices _random_samples"
        given = arguments(names, args, kwargs)
        drawn = given.get("_random_samples")
        if drawn is None:
            raise Unsupported("the regions are drawn by another generator")
        size = given.get("output_size")
        layer = fp.FractionalMaxPool(
            per_axis(given["kernel_size"], axes),
            per_axis(given.get("output_ratio") if size is None else size, axes),
            return_places=given.get("return_indices", False),
        )
        # in two dimensions PyTorch's first sample is of the width
        samples = np.asarray(drawn)[..., ::-1] if axes == 2 else np.asarray(drawn)
        last = channels_last(axes)

        def with_samples(inputs, samples=samples):
            x = last(inputs)
            return x, samples if x.ndim == axes + 2 else samples[0]

        return layer, Adapt(
            with_samples, last, dx=lambda grads: with_samples(grads, np.zeros_like(samples))
        )

    return translate


def kernel(tensors: dict[str, np.ndarray], turned: bool, groups: int) -> fp.layers.Kernel:
    """[out, in/groups, *taps], or [in, out/groups, *taps] of a transposed one, as ours."""
    w: Any = tensors["weight"]
    b: Any = tensors.get("bias")
    if turned:
        parts = [np.swapaxes(part, 0, 1) for part in np.split(w, groups)]
        w = np.concatenate(parts, 0)  # [out, in/groups, *taps]
    w = np.moveaxis(w, (1, 0), (-2, -1))
    return fp.layers.Kernel(w, b)


MODES: dict[str, Any] = {
    "zeros": "constant",
    "replicate": "edge",
    "reflect": "reflect",
    "circular": "wrap",
}


def conv(axes: int, lazy: bool = False) -> Callable[..., Any]:
    def translate(args, kwargs):
        names = "in_channels out_channels kernel_size stride padding dilation groups bias"
        names = f"{names} padding_mode".removeprefix("in_channels " if lazy else "")
        given = arguments(names, args, kwargs)
        padding: Any = given.get("padding", 0)
        padding = padding.upper() if isinstance(padding, str) else pairs(padding, axes)
        groups = given.get("groups", 1)
        layer = fp.Conv(
            given["out_channels"],
            per_axis(given["kernel_size"], axes),
            stride=per_axis(given.get("stride", 1), axes),
            padding=padding,
            dilation=per_axis(given.get("dilation", 1), axes),
            groups=groups,
            bias=given.get("bias", True),
            padding_mode=MODES[given.get("padding_mode", "zeros")],
        )
        last = channels_last(axes)
        return layer, Adapt(last, last, lambda tensors: kernel(tensors, False, groups))

    return translate


def conv_transpose(axes: int, lazy: bool = False) -> Callable[..., Any]:
    def translate(args, kwargs):
        names = "in_channels out_channels kernel_size stride padding output_padding groups bias"
        names = f"{names} dilation padding_mode".removeprefix("in_channels " if lazy else "")
        given = arguments(names, args, kwargs)
        groups = given.get("groups", 1)
        low = per_axis(given.get("padding", 0), axes)
        more = per_axis(given.get("output_padding", 0), axes)
        layer = fp.ConvTranspose(
            given["out_channels"],
            per_axis(given["kernel_size"], axes),
            stride=per_axis(given.get("stride", 1), axes),
            padding=tuple((p, p - q) for p, q in zip(low, more, strict=True)),
            dilation=per_axis(given.get("dilation", 1), axes),
            groups=groups,
            bias=given.get("bias", True),
        )
        last = channels_last(axes)
        return layer, Adapt(last, last, lambda tensors: kernel(tensors, True, groups))

    return translate


TABLE: dict[str, Callable[..., Any]] = {}
for number in (1, 2, 3):
    TABLE |= {
        f"MaxPool{number}d": max_pool(number),
        f"MaxUnpool{number}d": max_unpool(number),
        f"AvgPool{number}d": avg_pool(number),
        f"LPPool{number}d": lp_pool(number),
        f"AdaptiveAvgPool{number}d": adaptive(fp.AdaptiveAvgPool, number),
        f"AdaptiveMaxPool{number}d": adaptive(fp.AdaptiveMaxPool, number),
        f"FractionalMaxPool{number}d": fractional(number),
        f"Conv{number}d": conv(number),
        f"LazyConv{number}d": conv(number, lazy=True),
        f"ConvTranspose{number}d": conv_transpose(number),
        f"LazyConvTranspose{number}d": conv_transpose(number, lazy=True),
    }
