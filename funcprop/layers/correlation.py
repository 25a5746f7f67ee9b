"""Correlation of images with a kernel, and its two adjoints: what convolution layers are made of.

    y[o] = Σₜ x[s·o + d·t − p] w[t]

for the output position o, the tap t, stride s, dilation d and padding p, in every spatial axis. It
is linear in x and in w, so each gradient is one more sum over the same pairs of positions:

    dx[i] = Σₜ dy[o] w[t]ᵀ where s·o + d·t − p = i        dw[t] = Σ_o x[s·o + d·t − p]ᵀ dy[o]

Images are [N, *sizes, channels] with one to three spatial axes, kernels [*taps, in/groups, out].
Each sum has one form for all platforms, a single XLA convolution, and one for CPUs, where XLA runs
grouped, depthwise, three-dimensional and 1 × 1 convolutions slowly, most of all their gradients.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.layer import Array, widen
from funcprop.sharding import Entry, entries, fresh, on_each_device, once, total

# lax.conv_general_dilated wants (image, kernel, output) in letters; for dw the roles are exchanged:
# the channels of x stand where a batch stands, and the batch is what is summed over
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
DW_LAYOUTS = {
    1: ("CWN", "IWO", "WNC"),
    2: ("CHWN", "IHWO", "HWNC"),
    3: ("CDHWN", "IDHWO", "DHWNC"),
}
FEW_CHANNELS = 4  # at or below, dw is faster as matmuls over gathered columns
# From these sizes on, and up to this many taps, dw is faster as a matmul a tap: measured in whole
# steps on two cores, where a convolution runs beside another and a loop does not
MANY_IMAGES, LARGE_IMAGE, WIDE_KERNEL, MANY_TAPS = 32, 196, 512, 25
FEW_COPIES = 4  # depthwise kernels with more outputs a channel are treated as groups


@dataclass(frozen=True)
class Geometry:
    """Where the taps fall: one entry a spatial axis. Negative padding crops."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int = 1

    def output_sizes(self, sizes: Sequence[int], taps: Sequence[int]) -> tuple[int, ...]:
        """Output sizes; not positive where the kernel is larger than the padded image."""
        axes = zip(sizes, taps, self.stride, self.dilation, self.padding, strict=True)
        return tuple((n + lo + hi - (k - 1) * d - 1) // s + 1 for n, k, s, d, (lo, hi) in axes)

    def adjoint(self, sizes: Sequence[int], taps: Sequence[int], out: Sequence[int]) -> Geometry:
        """The correlation of dy, spread by the stride, with the flipped kernel: dx."""
        axes = zip(sizes, taps, out, self.stride, self.dilation, self.padding, strict=True)
        padding = tuple(
            ((k - 1) * d - lo, n - 1 - (o - 1) * s + lo) for n, k, o, s, d, (lo, _) in axes
        )
        return Geometry((1,) * len(padding), self.dilation, padding, self.groups)


# --- the three sums -------------------------------------------------------------------------------


def correlate(x: Array, w: Array, geometry: Geometry) -> Array:
    """x [N, *sizes, in], w [*taps, in/groups, out] -> y [N, *out, out]."""
    lead, channels = _places(x, w, geometry)
    return on_each_device(
        lambda x, w: _correlate(x, w, geometry),
        (x, w),
        (_of_images(lead), _of_kernel(channels)),
        (lead, *(None for _ in geometry.stride), channels),
    )


def input_gradient(w: Array, dy: Array, geometry: Geometry, sizes: tuple[int, ...]) -> Array:
    """w [*taps, in/groups, out], dy [N, *out, out] -> dx [N, *sizes, in]."""
    lead, channels = _places(dy, w, geometry)
    return on_each_device(
        lambda w, dy: total(_input_gradient(w, dy, geometry, sizes), channels),
        (w, dy),
        (_of_kernel(channels), _of_images(lead, channels)),
        (lead, *(None for _ in geometry.stride), None),
    )


def kernel_gradient(x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]) -> Array:
    """x [N, *sizes, in], dy [N, *out, out] -> dw [*taps, in/groups, out]."""
    lead, channels = _places(x, dy, geometry)
    lead = lead or once((entries(dy)[0], channels))[0]
    return on_each_device(
        lambda x, dy: total(_kernel_gradient(x, dy, geometry, taps), lead),
        (x, dy),
        (_of_images(lead), _of_images(lead, channels)),
        (*(None for _ in geometry.stride), None, channels),
    )


def _places(images: Array, outputs: Array, geometry: Geometry) -> tuple[Entry, Entry]:
    """The mesh axes that the images, and those that the output channels are spread over; channels
    of several groups are whole."""
    lead = entries(images)[0]
    return once((lead, entries(outputs)[-1] if geometry.groups == 1 else None))


def _of_images(lead: Entry, channels: Entry = None) -> Callable[[Array], tuple[Entry, ...]]:
    return lambda x: (lead, *(None for _ in x.shape[2:]), channels)


def _of_kernel(channels: Entry) -> Callable[[Array], tuple[Entry, ...]]:
    return lambda w: (*(None for _ in w.shape[1:]), channels)


@partial(jax.jit, static_argnums=2)
def _correlate(x: Array, w: Array, geometry: Geometry) -> Array:
    return lax.platform_dependent(
        x,
        w,
        cpu=lambda x, w: _correlate_cpu(widen(x), widen(w), geometry).astype(x.dtype),
        default=lambda x, w: _correlate_xla(x, w, geometry),
    )


@partial(jax.jit, static_argnums=(2, 3))
def _input_gradient(w: Array, dy: Array, geometry: Geometry, sizes: tuple[int, ...]) -> Array:
    return lax.platform_dependent(
        w,
        dy,
        cpu=lambda w, dy: _dx_cpu(widen(w), widen(dy), geometry, sizes).astype(dy.dtype),
        default=lambda w, dy: _dx_xla(w, dy, geometry, sizes),
    )


@partial(jax.jit, static_argnums=(2, 3))
def _kernel_gradient(x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]) -> Array:
    return lax.platform_dependent(
        x,
        dy,
        cpu=lambda x, dy: _dw_cpu(widen(x), widen(dy), geometry, taps).astype(dy.dtype),
        default=lambda x, dy: _dw_xla(x, dy, geometry, taps),
    )


def patches(x: Array, geometry: Geometry, taps: Sequence[int]) -> Array:
    """What every output position sees: x [N, *sizes, in] -> [N, *out, taps · in].

    `correlate` of one group is a product of these rows with w as a matrix, [taps · in, out].
    """
    out = geometry.output_sizes(x.shape[1:-1], taps)
    windows = [window for _, window in _windows(_pad(x, geometry), geometry, taps, out)]
    return jnp.concatenate(windows, -1)


def exchange_channels(w: Array, groups: int) -> Array:
    """[*taps, in/groups, out] -> [*taps, out/groups, in]: every group's matrix transposed."""
    taps, (c, out) = w.shape[:-2], w.shape[-2:]
    grouped = w.reshape(*taps, c, groups, out // groups)
    return jnp.moveaxis(grouped, -1, -3).swapaxes(-1, -2).reshape(*taps, out // groups, groups * c)


# --- one XLA convolution --------------------------------------------------------------------------


def _correlate_xla(x: Array, w: Array, geometry: Geometry) -> Array:
    return lax.conv_general_dilated(
        x,
        w,
        geometry.stride,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUTS[w.ndim - 2],
        feature_group_count=geometry.groups,
    )


def _dx_xla(w: Array, dy: Array, geometry: Geometry, sizes: tuple[int, ...]) -> Array:
    taps = w.shape[:-2]
    flipped = jnp.flip(exchange_channels(w, geometry.groups), tuple(range(len(taps))))
    adjoint = geometry.adjoint(sizes, taps, dy.shape[1:-1])
    return lax.conv_general_dilated(
        dy,
        flipped,
        adjoint.stride,
        adjoint.padding,
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUTS[len(taps)],
        feature_group_count=geometry.groups,
    )


def _dw_xla(x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]) -> Array:
    # dy is the kernel, and stride and dilation change places
    return lax.conv_general_dilated(
        x,
        dy,
        geometry.dilation,
        _dw_padding(x, dy, geometry, taps),
        rhs_dilation=geometry.stride,
        dimension_numbers=DW_LAYOUTS[len(taps)],
        batch_group_count=geometry.groups,
    )


def _dw_padding(
    x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]
) -> list[tuple[int, int]]:
    """The padding at the end is such that the output has `taps` positions; it crops what no tap of
    the forward pass has reached."""
    axes = zip(x.shape[1:-1], dy.shape[1:-1], taps, *_per_axis(geometry), strict=True)
    return [(lo, (o - 1) * s + (k - 1) * d + 1 - n - lo) for n, o, k, s, d, (lo, _) in axes]


# --- on CPUs: by kind -----------------------------------------------------------------------------


def _correlate_cpu(x: Array, w: Array, geometry: Geometry) -> Array:
    taps, groups = w.shape[:-2], geometry.groups
    if _depthwise(x.shape[-1], w.shape[-1], groups):
        return _shifted(x, w, geometry)
    if groups > 1:
        parts = zip(jnp.split(x, groups, -1), jnp.split(w, groups, -1), strict=True)
        one = replace(geometry, groups=1)
        return jnp.concatenate([_correlate_cpu(xg, wg, one) for xg, wg in parts], -1)
    if _pointwise(taps, geometry):
        return x[_every(geometry.stride)] @ w.reshape(w.shape[-2:])
    if len(taps) == 3:
        flat, out = _without_depth(geometry), geometry.output_sizes(x.shape[1:-1], taps)
        slabs = _slabs(x, geometry, taps[0], out[0])
        y = reduce(add, [_correlate_xla(slab, w[t], flat) for t, slab in enumerate(slabs)])
        return y.reshape(x.shape[0], *out, w.shape[-1])
    return _correlate_xla(x, w, geometry)


def _dx_cpu(w: Array, dy: Array, geometry: Geometry, sizes: tuple[int, ...]) -> Array:
    taps, out, groups = w.shape[:-2], dy.shape[1:-1], geometry.groups
    if _depthwise(w.shape[-2] * groups, w.shape[-1], groups):
        adjoint = geometry.adjoint(sizes, taps, out)
        spread = lax.pad(dy, jnp.zeros((), dy.dtype), _spread_config(geometry.stride))
        flipped = jnp.flip(w, tuple(range(len(taps))))
        copies = w.shape[-1] // groups
        cut = [slice(j, None, copies) for j in range(copies)]
        return reduce(add, [_shifted(spread[..., j], flipped[..., j], adjoint) for j in cut])
    if groups > 1:
        parts = zip(jnp.split(w, groups, -1), jnp.split(dy, groups, -1), strict=True)
        one = replace(geometry, groups=1)
        return jnp.concatenate([_dx_cpu(wg, dyg, one, sizes) for wg, dyg in parts], -1)
    if _pointwise(taps, geometry):
        dx = dy @ w.reshape(w.shape[-2:]).T
        return _place(dx, sizes, geometry.stride, (0,) * len(sizes))
    if len(taps) == 3:
        flat, dy_slabs = _without_depth(geometry), dy.reshape(-1, *dy.shape[2:])
        (s, _, _), (d, _, _), ((lo, _), _, _) = _per_axis(geometry)
        parts = []
        for t in range(taps[0]):
            part = _dx_xla(w[t], dy_slabs, flat, sizes[1:])
            part = part.reshape(dy.shape[0], out[0], *part.shape[1:])
            parts.append(_place(part, sizes[:1], (s,), (t * d - lo,)))
        return reduce(add, parts)
    return _dx_xla(w, dy, geometry, sizes)


def _dw_cpu(x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]) -> Array:
    groups = geometry.groups
    if _depthwise(x.shape[-1], dy.shape[-1], groups):
        return _shifted_dw(x, dy, geometry, taps)
    if groups > 1:
        parts = zip(jnp.split(x, groups, -1), jnp.split(dy, groups, -1), strict=True)
        one = replace(geometry, groups=1)
        return jnp.concatenate([_dw_cpu(xg, dyg, one, taps) for xg, dyg in parts], -1)
    if _pointwise(taps, geometry):
        dw = _matmul_dw(x[_every(geometry.stride)], dy)
        return dw.reshape(*taps, *dw.shape)
    if len(taps) == 3:
        flat, dy_slabs = _without_depth(geometry), dy.reshape(-1, *dy.shape[2:])
        slabs = _slabs(x, geometry, taps[0], dy.shape[1])
        return jnp.stack([_dw_cpu(slab, dy_slabs, flat, taps[1:]) for slab in slabs])
    if x.shape[-1] <= FEW_CHANNELS:
        return _columns_dw(x, dy, geometry, taps)
    if _matmuls_pay(x, dy, geometry, taps):
        return _matmuls_dw(x, dy, geometry, taps)
    return _dw_channels_last(x, dy, geometry, taps)


# --- on CPUs: the parts ---------------------------------------------------------------------------


def _shifted(x: Array, w: Array, geometry: Geometry) -> Array:
    """Depthwise: shifted images times one number a channel, summed in one fused loop."""
    taps, copies = w.shape[:-2], w.shape[-1] // x.shape[-1]
    out, padded = geometry.output_sizes(x.shape[1:-1], taps), _pad(x, geometry)
    if copies > 1:
        padded = jnp.repeat(padded, copies, -1)
    windows = _windows(padded, geometry, taps, out)
    return reduce(add, [window * w[tap][0] for tap, window in windows])


def _shifted_dw(x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]) -> Array:
    """Depthwise: products with shifted images, summed example by example, to fit a cache."""
    out, copies = dy.shape[1:-1], dy.shape[-1] // x.shape[-1]
    axes = tuple(range(len(taps)))

    def add_example(sums: Array, example: tuple[Array, Array]) -> tuple[Array, None]:
        padded, d = example
        if copies > 1:
            padded = jnp.repeat(padded, copies, -1)
        windows = _windows(padded[None], geometry, taps, out)
        return sums + jnp.stack([jnp.sum(window[0] * d, axes) for _, window in windows]), None

    zero = jnp.zeros((len(list(_taps(taps))), dy.shape[-1]), dy.dtype)
    sums, _ = lax.scan(
        add_example, fresh(zero, (None,) * zero.ndim, x, dy), (_pad(x, geometry), dy)
    )
    return sums.reshape(*taps, 1, dy.shape[-1])


def _matmuls_dw(x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]) -> Array:
    """One matmul a tap, over two images at a time, so that what is copied fits a cache."""
    at_once = 2 - x.shape[0] % 2

    def add_images(sums: Array, images: tuple[Array, Array]) -> tuple[Array, None]:
        x, d = images
        windows = _windows(_pad(x, geometry), geometry, taps, d.shape[1:-1])
        return sums + jnp.stack([_matmul_dw(window, d) for _, window in windows]), None

    zero = jnp.zeros((math.prod(taps), x.shape[-1], dy.shape[-1]), dy.dtype)
    pairs = (x.reshape(-1, at_once, *x.shape[1:]), dy.reshape(-1, at_once, *dy.shape[1:]))
    sums, _ = lax.scan(add_images, fresh(zero, (None,) * zero.ndim, x, dy), pairs)
    return sums.reshape(*taps, *sums.shape[1:])


def _dw_channels_last(x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]) -> Array:
    """`_dw_xla` with its axes exchanged beforehand. XLA does so by itself, but never in a loop: in
    the scan of an epoch it would run the convolution ten times slower."""
    dw = lax.conv_general_dilated(
        jnp.swapaxes(x, 0, -1),
        jnp.moveaxis(dy, 0, -2),
        geometry.dilation,
        _dw_padding(x, dy, geometry, taps),
        rhs_dilation=geometry.stride,
        dimension_numbers=LAYOUTS[len(taps)],
    )
    return jnp.moveaxis(dw, 0, -2)


def _columns_dw(x: Array, dy: Array, geometry: Geometry, taps: tuple[int, ...]) -> Array:
    """Few channels, 1- or 2-D: the taps of a row side by side as columns, one matmul a row."""
    (*s, s_last), (*d, d_last), _ = _per_axis(geometry)
    out, padded, shape = dy.shape[1:-1], _pad(x, geometry), (*taps, x.shape[-1], dy.shape[-1])
    starts = [t * d_last for t in range(taps[-1])]
    span = (out[-1] - 1) * s_last + 1
    columns = jnp.concatenate(
        [lax.slice_in_dim(padded, a, a + span, s_last, axis=len(taps)) for a in starts], -1
    )
    if len(taps) == 1:
        return _matmul_dw(columns, dy).reshape(shape)

    def row(t: Array) -> Array:  # a loop, so that only one row of taps is copied at a time
        rows = lax.dynamic_slice_in_dim(columns, t * d[0], (out[0] - 1) * s[0] + 1, axis=1)
        return _matmul_dw(rows[:, :: s[0]], dy)

    return lax.map(row, jnp.arange(taps[0])).reshape(shape)


def _matmul_dw(x: Array, dy: Array) -> Array:
    """Σ x ᵀ dy over everything but the channels."""
    leading = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, dy, (leading, leading))


def _slabs(x: Array, geometry: Geometry, taps: int, out: int) -> list[Array]:
    """For each tap in depth, the slices it meets: [N · out, height, width, channels]."""
    (s, _, _), (d, _, _), (pad, _, _) = _per_axis(geometry)
    padded = _pad(x, replace(geometry, padding=(pad, (0, 0), (0, 0))))
    starts = [t * d for t in range(taps)]
    slabs = [lax.slice_in_dim(padded, a, a + (out - 1) * s + 1, s, axis=1) for a in starts]
    return [slab.reshape(-1, *slab.shape[2:]) for slab in slabs]


def _windows(
    padded: Array, geometry: Geometry, taps: Sequence[int], out: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Every tap, and the padded image as that tap meets it: [N, *out, channels]."""
    for tap in _taps(taps):
        start = [t * d for t, d in zip(tap, geometry.dilation, strict=True)]
        axes = zip(start, out, geometry.stride, strict=True)
        stop = [a + (o - 1) * s + 1 for a, o, s in axes]
        yield (
            tap,
            lax.slice(
                padded,
                (0, *start, 0),
                (padded.shape[0], *stop, padded.shape[-1]),
                (1, *geometry.stride, 1),
            ),
        )


def _taps(taps: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, taps))


def _place(x: Array, sizes: Sequence[int], stride: Sequence[int], start: Sequence[int]) -> Array:
    """x at start, start + stride, ... of zeros of `sizes`: the adjoint of a strided slice."""
    axes = zip(x.shape[1 : 1 + len(sizes)], sizes, stride, start, strict=True)
    config = [(a, n - a - (o - 1) * s - 1, s - 1) for o, n, s, a in axes]
    rest = [(0, 0, 0)] * (x.ndim - 1 - len(config))
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, *rest])


def _pad(x: Array, geometry: Geometry) -> Array:
    config = [(0, 0, 0), *[(lo, hi, 0) for lo, hi in geometry.padding], (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _spread_config(stride: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *[(0, 0, s - 1) for s in stride], (0, 0, 0)]


def _every(stride: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *[slice(None, None, s) for s in stride])


def _per_axis(geometry: Geometry) -> tuple[tuple, tuple, tuple]:
    return geometry.stride, geometry.dilation, geometry.padding


def _without_depth(geometry: Geometry) -> Geometry:
    return Geometry(geometry.stride[1:], geometry.dilation[1:], geometry.padding[1:])


def _pointwise(taps: Sequence[int], geometry: Geometry) -> bool:
    return all(k == 1 for k in taps) and all(pad == (0, 0) for pad in geometry.padding)


def _matmuls_pay(x: Array, dy: Array, geometry: Geometry, taps: Sequence[int]) -> bool:
    return (
        len(taps) == 2
        and math.prod(taps) <= MANY_TAPS
        and geometry.stride == (1, 1)
        and x.shape[0] >= MANY_IMAGES
        and math.prod(dy.shape[1:-1]) >= LARGE_IMAGE
        and x.shape[-1] * dy.shape[-1] >= WIDE_KERNEL
    )


def _depthwise(channels: int, out: int, groups: int) -> bool:
    return channels == groups > 1 and out // groups <= FEW_COPIES
