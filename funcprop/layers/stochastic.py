"""Stochastic layers: noise that prediction does without."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    Params,
    check_cotangent,
    check_count,
    check_input,
    check_number,
    check_rate,
)
from funcprop.layers.shape import Identity


@dataclass(frozen=True)
class Dropout(Layer):
    """y = x · kept / (1 − rate): each element is dropped with probability `rate`.

    Needs `context.key`; a batch draws other numbers than its examples would one at a time.
    `fp.inference` replaces it by the identity.

    forward   x [...] -> y [...]
    keeps     kept: bool [...], one byte an element (None at rate 0, where nothing is drawn)
    backward  dx = dy · kept / (1 − rate)
    dtypes    any float; y and dx have that of x
    raises    LayerError where rate is not in [0, 1], x is not a float array, there is no key, or dy
              has not the shape of y
    source    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, 2014, Journal of Machine
              Learning Research 15

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, context = fp.Dropout(0.5), fp.Context(key=jax.random.key(0))
    >>> y, kept = layer.forward((), jnp.ones(100), context)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    >>> fp.inference(layer, ())
    (Identity(), ())
    """

    rate: float

    def __post_init__(self) -> None:
        check_rate(self, self.rate)

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Array, Array | None]:
        check_input(self, x)
        if self.rate == 0:
            return x, None
        kept = jax.random.bernoulli(context.key_for(self), jnp.float32(1 - self.rate), x.shape)
        return self._masked(x, kept), kept

    def backward(self, params: tuple, kept: Array | None, dy: Array) -> tuple[Array, tuple]:
        if kept is None:
            return dy, ()
        check_cotangent(self, dy, kept.shape, dy.dtype)
        return self._masked(dy, kept), ()

    def _masked(self, x: Array, kept: Array) -> Array:
        if self.rate == 1:
            return jnp.zeros_like(x)
        return jnp.where(kept, x / (1 - self.rate), 0)

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        return Identity(), ()


@dataclass(frozen=True)
class SpatialDropout(Dropout):
    """y = x · kept / (1 − rate): whole channels are dropped, with probability `rate` each.

    Neighboring pixels say nearly the same, so dropping them one by one hides little (Tompson et
    al., 2015). The `axes` axes before the last are spatial: 2 for images, 1 for sequences. Needs
    `context.key`; a batch draws other numbers than its examples would one at a time.
    `fp.inference` replaces it by the identity.

    forward   x [..., height, width, channels] -> y, of the same shape
    keeps     kept: bool [..., 1, 1, channels] (None at rate 0, where nothing is drawn)
    backward  dx = dy · kept / (1 − rate)
    dtypes    any float; y and dx have that of x
    raises    LayerError where rate is not in [0, 1] or axes no positive whole number, x is not a
              float array of more than `axes` axes, there is no key, or dy has not the shape of y
    source    Tompson, Goroshin, Jain, LeCun and Bregler, 2015, arXiv:1411.4280

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, context = fp.SpatialDropout(0.1), fp.Context(key=jax.random.key(0))
    >>> x = jax.ShapeDtypeStruct((2, 6, 6, 8), jnp.float32)
    >>> y, kept = jax.eval_shape(layer.forward, (), x, context)
    >>> y.shape, kept.shape
    ((2, 6, 6, 8), (2, 1, 1, 8))
    """

    _: KW_ONLY
    axes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "axes", self.axes)

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Array, Array | None]:
        check_input(self, x, rank=self.axes + 1)
        if self.rate == 0:
            return x, None
        shape = (*x.shape[: -self.axes - 1], *(1,) * self.axes, x.shape[-1])
        kept = jax.random.bernoulli(context.key_for(self), jnp.float32(1 - self.rate), shape)
        return self._masked(x, kept), kept

    def backward(self, params: tuple, kept: Array | None, dy: Array) -> tuple[Array, tuple]:
        if kept is None:
            return dy, ()
        spatial = dy.shape[-self.axes - 1 : -1]
        wanted = (*kept.shape[: -self.axes - 1], *spatial, kept.shape[-1])
        check_cotangent(self, dy, wanted, dy.dtype)
        return self._masked(dy, kept), ()


@dataclass(frozen=True)
class GaussianNoise(Layer):
    """y = x + stddev · ε, ε ~ N(0, 1) for each element.

    Needs `context.key`; a batch draws other numbers than its examples would one at a time.
    `fp.inference` replaces it by the identity.

    forward   x [...] -> y [...]
    keeps     nothing: the noise does not depend on x
    backward  dx = dy
    dtypes    any float; y and dx have that of x, the noise is drawn in float32
    raises    LayerError where stddev is negative, x is not a float array, or there is no key

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.GaussianNoise(0.1), jnp.zeros((2, 3))
    >>> y, _ = layer.forward((), x, fp.Context(key=jax.random.key(0)))
    >>> y.shape, bool((y == x).any())
    ((2, 3), False)
    """

    stddev: float

    def __post_init__(self) -> None:
        check_number(self, "stddev", self.stddev, 0)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_input(self, x)
        if self.stddev == 0:
            return x, ()
        noise = jax.random.normal(context.key_for(self), x.shape, jnp.float32)  # in every dtype
        return x + (self.stddev * noise).astype(x.dtype), ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        return dy, ()

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        return Identity(), ()
