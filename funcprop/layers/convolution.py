"""Conv: a small linear map of every neighborhood. Images are channels last."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, NamedTuple

import jax

from funcprop.initializers import GlorotUniform, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_choice,
    check_cotangent,
    check_count,
    check_input,
    check_params,
    spell,
)
from funcprop.layers.correlation import Geometry, correlate, input_gradient, kernel_gradient
from funcprop.layers.shape.pad import Pad
from funcprop.sharding import beside, placed

Padding = Literal["SAME", "VALID", "CAUSAL"] | int | tuple[int | tuple[int, int], ...]


class Kernel(NamedTuple):
    """The parameters of a convolution, both of one float dtype.

    w  [*kernel_size, in/groups, out]
    b  [out], or None where the layer has no bias
    """

    w: Array
    b: Array | None


@dataclass(frozen=True)
class Convolution(Layer):
    """What Conv and ConvTranspose share: options, parameters, and how images are flattened."""

    features: int
    kernel_size: tuple[int, ...]
    _: KW_ONLY
    stride: int | tuple[int, ...] = 1
    padding: Padding = "SAME"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    bias: bool = True
    w_init: Initializer = GlorotUniform()
    b_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_count(self, "features", self.features)
        if not isinstance(self.kernel_size, tuple) or not 1 <= len(self.kernel_size) <= 3:
            raise LayerError(
                self,
                f"kernel_size is {self.kernel_size!r}, wanted a tuple of 1 to 3 sizes",
                "its length is the number of spatial axes: kernel_size=(3, 3) for images",
            )
        for size in self.kernel_size:
            check_count(self, "kernel_size", size)
        for name in ("stride", "dilation"):
            for size in self.per_axis(name):
                check_count(self, name, size)
        check_count(self, "groups", self.groups)
        if self.features % self.groups:
            raise LayerError(
                self,
                f"features is {self.features}, which {self.groups} groups do not divide",
                f"write features={self.groups * math.ceil(self.features / self.groups)}",
            )
        self.explicit_padding()

    @property
    def axes(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel_size)

    @property
    def reach(self) -> tuple[int, ...]:
        """From the first tap to the last, in each spatial axis: (k − 1) d + 1."""
        pairs = zip(self.kernel_size, self.per_axis("dilation"), strict=True)
        return tuple((k - 1) * d + 1 for k, d in pairs)

    def per_axis(self, name: str) -> tuple[int, ...]:
        """stride or dilation, one entry a spatial axis."""
        value = getattr(self, name)
        if not isinstance(value, tuple):
            return (value,) * self.axes
        if len(value) != self.axes:
            raise LayerError(
                self,
                f"{name} is {value!r} and kernel_size {self.kernel_size}: the lengths differ",
                f"give {name} one number, or {self.axes}, one a spatial axis",
            )
        return value

    def explicit_padding(self) -> tuple[tuple[int, int], ...] | None:
        """Pairs (before, after), one a spatial axis; None where a word depends on the sizes."""
        if self.padding in self.words():
            return None
        given: Any = self.padding
        value = given if isinstance(given, tuple) else (given,) * self.axes
        pairs = tuple(pad if isinstance(pad, tuple) else (pad, pad) for pad in value)
        numbers = [n for pair in pairs for n in pair]
        if (
            len(pairs) != self.axes
            or any(len(pair) != 2 for pair in pairs)
            or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers)
            or any(n < self.least_padding() for pair in pairs for n in pair)
        ):
            raise LayerError(
                self,
                f"padding is {self.padding!r}, wanted {', '.join(map(repr, self.words()))}, "
                f"a whole number, or one entry a spatial axis",
                f"write padding={((1, 1),) * self.axes}: before and after each spatial axis",
            )
        return pairs

    def words(self) -> tuple[str, ...]:
        """What padding may be besides numbers."""
        return ("SAME", "VALID")

    def least_padding(self) -> float:
        """The smallest explicit padding."""
        return 0

    def init(self, key: Array, x: Any) -> Kernel:
        check_input(self, x, rank=self.axes + 1)
        if x.shape[-1] % self.groups:
            raise LayerError(
                self,
                f"x is {spell(x)}: {self.groups} groups do not divide its {x.shape[-1]} channels",
                "images are channels last: [..., height, width, channels]",
            )
        w_key, b_key = jax.random.split(key)
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        w = self.w_init(w_key, shape, x.dtype)
        return Kernel(w, self.b_init(b_key, (self.features,), x.dtype) if self.bias else None)

    def check(self, params: Kernel, x: Any) -> None:
        """x are images that the parameters fit."""
        check_input(self, x, rank=self.axes + 1)
        check_params(self, params, Kernel, like=x)
        wanted = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        if x.shape[-1] % self.groups or params.w.shape != wanted:
            raise LayerError(
                self,
                f"x is {spell(x)} and w {spell(params.w)}, wanted w of shape "
                "[*kernel_size, in/groups, features]",
                "images are channels last; new parameters are made by layer.init(key, x)",
            )

    def flat(self, x: Array) -> Array:
        """Any leading axes -> one: [N, *sizes, channels]."""
        rest = x.shape[x.ndim - self.axes - 1 :]
        return x.reshape(math.prod(x.shape[: x.ndim - self.axes - 1]), *rest)

    def sizes(self, x: Array) -> tuple[int, ...]:
        """The spatial sizes."""
        return x.shape[x.ndim - self.axes - 1 : -1]


@dataclass(frozen=True)
class Conv(Convolution):
    """z[o] = Σₜ x[s·o + d·t − p] w[t] + b: 1-, 2- or 3-D, by the length of `kernel_size`.

    A correlation, as in Flax and PyTorch: the kernel is not flipped. `padding` is "SAME" (output
    size ⌈n / stride⌉, the odd zero at the end, as in Flax), "VALID" (none), "CAUSAL" (1-D: output t
    sees no input beyond t) or zeros per axis: 1, (1, 2), ((0, 1), (2, 2)). Channels are cut into
    `groups` that do not mix; `groups` equal to the channels of x is a depthwise convolution.
    `padding_mode` is what stands in the padding, by the names of `fp.Pad`: "constant" zeros,
    "edge", "reflect" or "wrap" what x holds.

    forward   x [..., *sizes, in] -> z [..., *out, features]
    keeps     x: dw is its correlation with dz
    backward  dx[i] = Σₜ dz[o] w[t]ᵀ where s·o + d·t − p = i; of what was copied into the padding,
              added to where it was copied from
              dw[t] = Σ_o x[s·o + d·t − p]ᵀ dz[o]    db = Σ dz
    dtypes    any float, one for x, w and b; z and all gradients have it
    raises    LayerError where a size, a stride or a padding cannot be, groups do not divide the
              channels, x is not a float array [..., *sizes, in] or smaller than the kernel or than
              what is copied from it, params is no Kernel of its channels and dtype, or dz has not
              the shape and dtype of z
    source    Nielsen, Neural Networks and Deep Learning, chapter 6; the sizes: Dumoulin and Visin,
              2016, arXiv:1603.07285

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.Conv(16, (3, 3), stride=2), jax.ShapeDtypeStruct((8, 28, 28, 1), jnp.float32)
    >>> params = layer.init(jax.random.key(0), x)
    >>> z, residuals = jax.eval_shape(layer.forward, params, x)
    >>> params.w.shape, z.shape
    ((3, 3, 1, 16), (8, 14, 14, 16))
    """

    _: KW_ONLY
    padding_mode: Literal["constant", "edge", "reflect", "wrap"] = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding_mode in ("zeros", "replicate", "circular"):
            word = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}[self.padding_mode]
            raise LayerError(
                self,
                f"padding_mode is {self.padding_mode!r}, PyTorch's word for {word!r}",
                f"write padding_mode={word!r}",
            )
        check_choice(
            self, "padding_mode", self.padding_mode, ("constant", "edge", "reflect", "wrap")
        )

    def forward(
        self, params: Kernel, x: Array, context: Context = Context()
    ) -> tuple[Array, Array]:
        self.check(params, x)
        seen, geometry = self.framed(x)
        z = correlate(self.flat(seen), params.w, geometry)
        z = z.reshape(x.shape[: x.ndim - self.axes - 1] + z.shape[1:])
        return (z if params.b is None else z + beside(params.b, z)), x

    def backward(self, params: Kernel, x: Array, dz: Array) -> tuple[Array, Kernel]:
        seen, geometry = self.framed(x)
        out = geometry.output_sizes(self.sizes(seen), self.kernel_size)
        leading = x.shape[: x.ndim - self.axes - 1]
        check_cotangent(self, dz, (*leading, *out, self.features), x.dtype)
        flat = self.flat(dz)
        dx = input_gradient(params.w, flat, geometry, self.sizes(seen)).reshape(seen.shape)
        dw = kernel_gradient(self.flat(seen), flat, geometry, self.kernel_size)
        db = None if params.b is None else dz.sum(tuple(range(dz.ndim - 1)))
        return self._unframed(dx, x), placed(Kernel(dw, db), params)

    def words(self) -> tuple[str, ...]:
        return ("SAME", "VALID", "CAUSAL") if self.axes == 1 else ("SAME", "VALID")

    def framed(self, x: Array) -> tuple[Array, Geometry]:
        """What the kernel slides over, x with what is copied around it, and where its taps fall."""
        geometry = self._geometry(x)
        if self.padding_mode == "constant":
            return x, geometry
        seen, _ = self._frame(geometry).forward((), x)
        return seen, replace(geometry, padding=((0, 0),) * self.axes)

    def _unframed(self, dseen: Array, x: Array) -> Array:
        """The transpose of `framed`."""
        if self.padding_mode == "constant":
            return dseen
        return self._frame(self._geometry(x)).backward((), (), dseen)[0]

    def _frame(self, geometry: Geometry) -> Pad:
        return Pad((*geometry.padding, (0, 0)), mode=self.padding_mode)

    def _geometry(self, x: Array) -> Geometry:
        """Where the taps fall on x. Raises LayerError where x is too small for one output."""
        stride, dilation = self.per_axis("stride"), self.per_axis("dilation")
        padding = self.explicit_padding()
        if padding is None and self.padding == "SAME":
            axes = zip(self.sizes(x), self.reach, stride, strict=True)
            total = [max((math.ceil(n / s) - 1) * s + r - n, 0) for n, r, s in axes]
            padding = tuple((pad // 2, pad - pad // 2) for pad in total)
        elif padding is None and self.padding == "CAUSAL":
            padding = tuple((reach - 1, 0) for reach in self.reach)
        elif padding is None:
            padding = ((0, 0),) * self.axes
        geometry = Geometry(stride, dilation, padding, self.groups)
        if min(geometry.output_sizes(self.sizes(x), self.kernel_size)) < 1:
            raise LayerError(
                self,
                f"x is {spell(x)}: its sizes {self.sizes(x)} with padding {padding} are smaller "
                f"than the kernel's reach {self.reach}",
                'give larger images, or padding="SAME"',
            )
        return geometry
