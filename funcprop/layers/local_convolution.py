"""ConvLocal: a convolution whose kernel is another at every place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    LayerError,
    Shape,
    check_cotangent,
    check_input,
    check_params,
    spell,
)
from funcprop.layers.convolution import Convolution
from funcprop.layers.shape.unfold import Unfold
from funcprop.sharding import beside, entries, on_each_device, once, placed, total


class LocalKernel(NamedTuple):
    """The parameters of a local convolution, both of one float dtype.

    w  [*out, *kernel_size, in, features]: a kernel for every place of the output
    b  [*out, features], or None where the layer has no bias
    """

    w: Array
    b: Array | None


@dataclass(frozen=True)
class ConvLocal(Convolution):
    """z[o] = Σₜ x[s·o + d·t − p] w[o, t] + b[o]: a convolution that shares no weights.

    For images that lie always alike, as faces that were aligned. Its parameters are made for the
    sizes of one x, and fit no others. `padding` is "SAME" (output size ⌈n / stride⌉, the odd zero
    at the end, as in Flax), "VALID" (none), or zeros per axis.

    forward   x [..., *sizes, in] -> z [..., *out, features]
    keeps     x: dw is a product of what each place of it sees with dz
    backward  dx[i] = Σₜ dz[o] w[o, t]ᵀ where s·o + d·t − p = i
              dw[o, t] = Σ x[s·o + d·t − p]ᵀ dz[o]    db[o] = Σ dz[o], both over the examples
    dtypes    any float, one for x, w and b; z and all gradients have it
    raises    LayerError where a size, a stride or a padding cannot be, groups is not 1, x is not a
              float array [..., *sizes, in] or smaller than the kernel, params is no LocalKernel of
              its sizes, channels and dtype, or dz has not the shape and dtype of z
    source    Taigman, Yang, Ranzato and Wolf, 2014, DeepFace

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.ConvLocal(4, (3, 3)), jax.ShapeDtypeStruct((8, 5, 6, 2), jnp.float32)
    >>> params = jax.eval_shape(layer.init, jax.random.key(0), x)
    >>> params.w.shape, params.b.shape
    ((5, 6, 3, 3, 2, 4), (5, 6, 4))
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups != 1:
            raise LayerError(
                self,
                f"groups is {self.groups}, and a kernel of every place is of all channels",
                "write a ConvLocal for each of the groups, in fp.Parallel",
            )

    def init(self, key: Array, x: Any) -> LocalKernel:
        out = self._out(x)
        w_key, b_key = jax.random.split(key)
        shape = (*self.kernel_size, x.shape[-1], self.features)
        keys = jax.random.split(w_key, math.prod(out))
        w = jax.vmap(lambda key: self.w_init(key, shape, x.dtype))(keys)
        b = self.b_init(b_key, (*out, self.features), x.dtype) if self.bias else None
        return LocalKernel(w.reshape(*out, *shape), b)

    def forward(
        self, params: LocalKernel, x: Array, context: Context = Context()
    ) -> tuple[Array, Array]:
        out = self._out(x)
        check_params(self, params, LocalKernel, like=x)
        wanted = (*out, *self.kernel_size, x.shape[-1], self.features)
        if params.w.shape != wanted or (
            params.b is not None and params.b.shape != (*out, self.features)
        ):
            raise LayerError(
                self,
                f"x is {spell(x)}, w {spell(params.w)} and b {spell(params.b)}, wanted w of shape "
                f"{wanted}",
                "parameters are made for the sizes of one x: layer.init(key, x)",
            )
        seen, w = self._seen(x), self._matrices(params.w)
        lead, features = once((entries(seen)[0], entries(w)[-1]))
        z = on_each_device(
            lambda seen, w: jnp.einsum("npk,pkf->npf", seen, w),
            (seen, w),
            (lambda _: (lead, None, None), lambda _: (None, None, features)),
            (lead, None, features),
        ).reshape(*x.shape[: x.ndim - self.axes - 1], *out, self.features)
        return (z if params.b is None else z + beside(params.b, z)), x

    def backward(self, params: LocalKernel, x: Array, dz: Array) -> tuple[Array, LocalKernel]:
        out = self._out(x)
        leading = x.shape[: x.ndim - self.axes - 1]
        check_cotangent(self, dz, (*leading, *out, self.features), x.dtype)
        seen, w = self._seen(x), self._matrices(params.w)
        flat = dz.reshape(seen.shape[0], math.prod(out), self.features)
        lead, features = once((entries(seen)[0] or entries(flat)[0], entries(flat)[-1]))
        images, kernels = (lambda _: (lead, None, None)), (lambda _: (None, None, features))
        outputs = (lead, None, features)
        dseen = on_each_device(
            lambda w, dz: total(jnp.einsum("npf,pkf->npk", dz, w), features),
            (w, flat), (kernels, lambda _: outputs), (lead, None, None),
        )  # fmt: skip
        dw = on_each_device(
            lambda seen, dz: total(jnp.einsum("npk,npf->pkf", seen, dz), lead),
            (seen, flat), (images, lambda _: outputs), (None, None, features),
        )  # fmt: skip
        unfold, sizes = self._unfold(), self.flat(x).shape[1:-1]
        rows = dseen.reshape(seen.shape[0], *out, dseen.shape[-1])
        dx, _ = unfold.backward((), Shape(sizes), rows)
        db = None if params.b is None else dz.sum(tuple(range(len(leading))))
        return dx.reshape(x.shape), placed(LocalKernel(dw.reshape(params.w.shape), db), params)

    def _unfold(self) -> Unfold:
        padding = self.explicit_padding()
        return Unfold(
            self.kernel_size,
            stride=self.per_axis("stride"),
            padding=self.padding if padding is None else padding,  # type: ignore[arg-type]
            dilation=self.per_axis("dilation"),
        )

    def _out(self, x: Any) -> tuple[int, ...]:
        """The sizes of z."""
        check_input(self, x, rank=self.axes + 1)
        out = self._unfold()._counts(self.sizes(x))
        if min(out) < 1:
            raise LayerError(
                self,
                f"x is {spell(x)}: its sizes {self.sizes(x)} are smaller than the kernel's reach "
                f"{self.reach}",
                'give larger images, or padding="SAME"',
            )
        return out

    def _seen(self, x: Array) -> Array:
        """[N, places of z, taps · in]."""
        seen, _ = self._unfold().forward((), self.flat(x))
        return seen.reshape(seen.shape[0], math.prod(seen.shape[1:-1]), seen.shape[-1])

    def _matrices(self, w: Array) -> Array:
        """[places of z, taps · in, features]."""
        return w.reshape(math.prod(w.shape[: self.axes]), -1, self.features)
