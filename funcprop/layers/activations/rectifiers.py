"""Rectifiers: straight above zero, flat or of another slope below.

At a kink the derivative is that of the side where the function is flatter, as PyTorch has it.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.initializers import Constant, Initializer
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    check_cotangent,
    check_input,
    check_number,
    check_params,
    spell,
    widen,
)
from funcprop.layers.activations.activation import Activation


@dataclass(frozen=True)
class ReLU(Activation):
    """a = max(z, 0), elementwise.

    forward   z [...] -> a [...]
    keeps     a: it is positive exactly where z is
    backward  dz = da · [a > 0], so relu′(0) = 0
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Nair and Hinton, Rectified linear units improve restricted Boltzmann machines, 2010

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.ReLU().forward((), jnp.array([-1.0, 0.0, 2.0]))
    >>> a
    Array([0., 0., 2.], dtype=float32)
    >>> fp.ReLU().backward((), residuals, jnp.ones(3))[0]
    Array([0., 0., 1.], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jax.nn.relu(z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where(a > 0, da, 0), ()


@dataclass(frozen=True)
class SquaredReLU(Activation):
    """a = max(z, 0)², elementwise.

    forward   z [...] -> a [...]
    keeps     z: the root of a would cost more than z does
    backward  dz = da · 2 max(z, 0)
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    So et al., 2021, arXiv:2109.08668

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.SquaredReLU().forward((), jnp.array([-1.0, 3.0]))
    >>> a
    Array([0., 9.], dtype=float32)
    >>> fp.SquaredReLU().backward((), residuals, jnp.ones(2))[0]
    Array([0., 6.], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jax.nn.relu(z)
        return a * a, z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        return da * (2 * jax.nn.relu(z)), ()


@dataclass(frozen=True)
class Threshold(Activation):
    """a = z where z > threshold, value elsewhere.

    forward   z [...] -> a [...]
    keeps     whether z > threshold: bool [...], one byte an element
    backward  dz = da · [z > threshold]
    dtypes    any float; a and dz have that of z
    raises    LayerError where threshold or value is no number, z is not a float array, or da not
              of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Threshold(1.0, -2.0).forward((), jnp.array([0.5, 3.0]))
    >>> a
    Array([-2.,  3.], dtype=float32)
    >>> fp.Threshold(1.0, -2.0).backward((), residuals, jnp.ones(2))[0]
    Array([0., 1.], dtype=float32)
    """

    threshold: float
    value: float

    def __post_init__(self) -> None:
        check_number(self, "threshold", self.threshold, -1e30)
        check_number(self, "value", self.value, -1e30)

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        above = z > self.threshold
        return jnp.where(above, z, self.value), above

    def backward(self, params: tuple, above: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, above.shape, da.dtype)
        return jnp.where(above, da, 0), ()


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """a = z where z > 0, slope · z elsewhere.

    forward   z [...] -> a [...]
    keeps     a: for slope ≥ 0 it is positive exactly where z is
    backward  dz = da · (1 where a > 0, slope elsewhere)
    dtypes    any float; a and dz have that of z
    raises    LayerError where slope is negative, z is not a float array, or da not of the shape and
              dtype of a
    source    Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models,
              2013

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.LeakyReLU(0.5).forward((), jnp.array([-2.0, 2.0]))
    >>> a
    Array([-1.,  2.], dtype=float32)
    >>> fp.LeakyReLU(0.5).backward((), residuals, jnp.ones(2))[0]
    Array([0.5, 1. ], dtype=float32)
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        check_number(self, "slope", self.slope, 0)

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jnp.where(z > 0, z, self.slope * z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where(a > 0, da, self.slope * da), ()


class Slope(NamedTuple):
    """The parameter of PReLU.

    slope  [], one for all elements, or [features]
    """

    slope: Array


@dataclass(frozen=True)
class PReLU(Layer):
    """a = z where z > 0, slope · z elsewhere, with a slope that is learned.

    One slope for all, or with `per_feature` one a feature, of the last axis.

    forward   z [..., features] -> a [..., features]
    keeps     z: a slope that is learned may be negative, and then a does not tell the side
    backward  dz = da · (1 where z > 0, slope elsewhere)    dslope = Σ da · z where z ≤ 0
    dtypes    any float, one for z and slope; a and all gradients have it, sums are made in float32
              at least
    raises    LayerError where z is not a float array (with features, where each has a slope),
              params is no Slope that fits, or da has not the shape and dtype of a
    source    He, Zhang, Ren and Sun, 2015, arXiv:1502.01852

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, z = fp.PReLU(), jnp.array([-2.0, 2.0])
    >>> params = layer.init(jax.random.key(0), z)
    >>> a, residuals = layer.forward(params, z)
    >>> a
    Array([-0.5,  2. ], dtype=float32)
    >>> layer.backward(params, residuals, jnp.ones(2))
    (Array([0.25, 1.  ], dtype=float32), Slope(slope=Array(-2., dtype=float32)))
    """

    _: KW_ONLY
    per_feature: bool = False
    slope_init: Initializer = Constant(0.25)

    def init(self, key: Array, x: Any) -> Slope:
        check_input(self, x, rank=int(self.per_feature))
        shape = x.shape[-1:] if self.per_feature else ()
        return Slope(self.slope_init(key, shape, x.dtype))

    def forward(self, params: Slope, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z, rank=int(self.per_feature))
        check_params(self, params, Slope, z)
        if params.slope.shape != (z.shape[-1:] if self.per_feature else ()):
            raise LayerError(
                self,
                f"slope is {spell(params.slope)} and z is {spell(z)}: wanted one number"
                f"{' a feature' if self.per_feature else ''}",
            )
        return jnp.where(z > 0, z, params.slope * z), z

    def backward(self, params: Slope, z: Array, da: Array) -> tuple[Array, Slope]:
        check_cotangent(self, da, z.shape, z.dtype)
        dz = jnp.where(z > 0, da, params.slope * da)
        leading = tuple(range(z.ndim - params.slope.ndim))
        dslope = jnp.where(z > 0, 0, widen(da) * widen(z)).sum(leading)
        return dz, Slope(dslope.astype(params.slope.dtype))


@dataclass(frozen=True)
class RReLU(Layer):
    """a = z where z > 0, r · z elsewhere, with a slope r ~ U(low, high) drawn for each element.

    Needs `context.key`; a batch draws other numbers than its examples would one at a time.
    `fp.inference` replaces it by the leaky ReLU of the mean slope.

    forward   z [...] -> a [...]
    keeps     the factor of each element, 1 or r
    backward  dz = da · factor
    dtypes    any float; a and dz have that of z; what is drawn has float32
    raises    LayerError where not 0 ≤ low ≤ high, z is not a float array, there is no key, or da
              has not the shape and dtype of a
    source    Xu, Wang, Chen and Li, 2015, arXiv:1505.00853

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, context = fp.RReLU(), fp.Context(key=jax.random.key(0))
    >>> a, factor = layer.forward((), jnp.array([-1.0, 2.0]), context)
    >>> bool(-1 / 3 < a[0] < -1 / 8), factor[1]
    (True, Array(1., dtype=float32))
    >>> fp.inference(layer, ())
    (LeakyReLU(0.22916666666666666), ())
    """

    _: KW_ONLY
    low: float = 1 / 8
    high: float = 1 / 3

    def __post_init__(self) -> None:
        check_number(self, "low", self.low, 0)
        check_number(self, "high", self.high, self.low)

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        # of [0, 1) the draw is exact: one of [low, high) would be rounded at the compiler's will
        share = jax.random.uniform(context.key_for(self), z.shape, jnp.float32).astype(z.dtype)
        factor = jnp.where(z > 0, 1, self.low + (self.high - self.low) * share)
        return factor * z, factor

    def backward(self, params: tuple, factor: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, factor.shape, factor.dtype)
        return factor * da, ()

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        return LeakyReLU((self.low + self.high) / 2), ()
