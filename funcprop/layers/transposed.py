"""ConvTranspose: the adjoint of Conv, with parameters of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from funcprop.layer import Array, Context, LayerError, check_cotangent, spell
from funcprop.layers.convolution import Convolution, Kernel
from funcprop.layers.correlation import (
    Geometry,
    correlate,
    exchange_channels,
    input_gradient,
    kernel_gradient,
)
from funcprop.sharding import beside, placed, whole


@dataclass(frozen=True)
class ConvTranspose(Convolution):
    """z[s·i + d·t − p] += x[i] w[t], then + b: every input paints a kernel onto the output.

    What is painted spans (n − 1)s + r, with r = (k − 1)d + 1. The output is that, less the padding:

        "SAME"     n·s                    the adjoint of Conv(..., "SAME") over n·s
        "VALID"    (n − 1)s + max(r, s)   the adjoint of Conv(..., "VALID")
        (lo, hi)   (n − 1)s + r − lo − hi  cropped; a negative entry appends zeros instead

    PyTorch's padding=p, output_padding=q is padding=((p, p − q), ...) here, and its weight [in,
    out/groups, *kernel] ours with the axes moved. Flax has the sizes of "SAME" and "VALID" and the
    kernel flipped: w = flip(kernel) over the spatial axes; its explicit padding (a, b) pads the
    spread input and is (r − 1 − a, r − 1 − b) here.

    forward   x [..., *sizes, in] -> z [..., *out, features]
    keeps     x: dw is its correlation with dz
    backward  dx[i] = Σₜ dz[s·i + d·t − p] w[t]ᵀ, a strided Conv of dz
              dw[t] = Σᵢ x[i]ᵀ dz[s·i + d·t − p]    db = Σ dz
    dtypes    any float, one for x, w and b; z and all gradients have it
    raises    LayerError where a size, a stride or a padding cannot be, groups do not divide the
              channels, x is not a float array [..., *sizes, in], the padding leaves no output,
              params is no Kernel of its channels and dtype, or dz has not the shape and dtype of z
    source    Dumoulin and Visin, 2016, arXiv:1603.07285, section 4

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> x = jax.ShapeDtypeStruct((8, 7, 7, 16), jnp.float32)
    >>> layer = fp.ConvTranspose(3, (4, 4), stride=2)
    >>> params = layer.init(jax.random.key(0), x)
    >>> z, residuals = jax.eval_shape(layer.forward, params, x)
    >>> z.shape
    (8, 14, 14, 3)
    """

    def forward(
        self, params: Kernel, x: Array, context: Context = Context()
    ) -> tuple[Array, Array]:
        self.check(params, x)
        geometry, out = self._geometry(x)
        w = exchange_channels(whole(params.w), self.groups)
        z = input_gradient(w, self.flat(x), geometry, out)
        z = z.reshape(x.shape[: x.ndim - self.axes - 1] + z.shape[1:])
        return (z if params.b is None else z + beside(params.b, z)), x

    def backward(self, params: Kernel, x: Array, dz: Array) -> tuple[Array, Kernel]:
        geometry, out = self._geometry(x)
        leading = x.shape[: x.ndim - self.axes - 1]
        check_cotangent(self, dz, (*leading, *out, self.features), x.dtype)
        flat = self.flat(dz)
        w = exchange_channels(whole(params.w), self.groups)
        dx = correlate(flat, w, geometry).reshape(x.shape)
        dw = kernel_gradient(flat, self.flat(x), geometry, self.kernel_size)
        db = None if params.b is None else dz.sum(tuple(range(dz.ndim - 1)))
        return dx, placed(Kernel(exchange_channels(whole(dw), self.groups), db), params)

    def least_padding(self) -> float:
        return -math.inf

    def _geometry(self, x: Array) -> tuple[Geometry, tuple[int, ...]]:
        """The Conv of which this is the adjoint, and the output sizes."""
        stride, dilation = self.per_axis("stride"), self.per_axis("dilation")
        sizes, reach, padding = self.sizes(x), self.reach, self.explicit_padding()
        over = [r - s for r, s in zip(reach, stride, strict=True)]
        if padding is None and self.padding == "SAME":
            low = [max(extra, 0) // 2 for extra in over]
            padding = tuple((lo, extra - lo) for lo, extra in zip(low, over, strict=True))
        elif padding is None:
            padding = tuple((0, min(extra, 0)) for extra in over)
        axes = zip(sizes, reach, stride, padding, strict=True)
        out = tuple((n - 1) * s + r - lo - hi for n, r, s, (lo, hi) in axes)
        if min(out) < 1:
            raise LayerError(
                self,
                f"x is {spell(x)}: padding {padding} leaves an output of sizes {out}",
                "padding crops the output here: give less of it",
            )
        return Geometry(stride, dilation, padding, self.groups), out
