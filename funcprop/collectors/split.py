"""The backward pass in two: first what the layer below waits for, later what the parameters need.

Backward is linear in dy and returns two things, and only one of them is urgent: a pipeline's stage
before this one waits for dx, while nobody waits for dparams until the step's end. Zero-bubble
schedules (Qi et al., 2023) fill idle time with the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import lax

from funcprop.collectors.separate import Apart, Untied
from funcprop.composites import (
    Cast,
    Composite,
    OverTime,
    Repeat,
    ReversibleRepeat,
    RewiredParams,
    Tied,
    Wrapper,
)
from funcprop.composites.cast import CastResiduals, Precision, cast
from funcprop.doors import door
from funcprop.gradient import partition
from funcprop.layer import Context, Layer, Params, Residuals, inside, spell, two


class Kept(NamedTuple):
    """What a layer with parameters leaves for the weight half."""

    residuals: Residuals  # those of its own forward
    dy: Any  # what arrived at it: the weight half need not send anything through the layers above


class Done(NamedTuple):
    """What a layer leaves whose gradients are there already."""

    dparams: Params


@dataclass(frozen=True)
class InputHalf:
    """(params, residuals, dy) -> dx, kept. A frozen value: compiled functions are reused."""

    layer: Layer

    def __call__(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        return two(self.layer, "backward", deferred(self.layer).backward(params, residuals, dy))


@dataclass(frozen=True)
class WeightHalf:
    """(params, kept) -> dparams. A frozen value: compiled functions are reused."""

    layer: Layer

    def __call__(self, params: Params, kept: Any) -> Params:
        return gradients(self.layer, params, kept)


class SplitBackward(NamedTuple):
    """Two pure functions that are `backward` together: frozen values.

    input_half   (params, residuals, dy) -> dx, kept
    weight_half  (params, kept) -> dparams

    >>> import funcprop as fp
    >>> halves = fp.split_backward(fp.Dense(3))
    >>> halves.input_half == fp.split_backward(fp.Dense(3)).input_half  # jit compiles it once
    True
    """

    input_half: InputHalf
    weight_half: WeightHalf


@door
def split_backward(layer: Layer) -> SplitBackward:
    """`layer.backward` as two functions, each of which compiles to its own part of it.

    input_half   (params, residuals, dy) -> dx, kept    residuals: those of the layer's forward
    weight_half  (params, kept) -> dparams              those of `layer.backward`

    It is the compiler that leaves out the other part: call both under `jax.jit`. `kept` holds the
    residuals and the dy of every layer with matrices, in loops stacked on axis 0. Gradients of
    vectors (a norm's gain and bias) are sums, made at once: they are smaller than what they are
    made of. `Remat` and the reversible composites run forward again in the input half, and what
    their children keep then lives until the weight half.

    What dx and dparams of a single layer have in common is computed in both halves: nothing in
    Dense and Conv, but a recurrent layer walks back through time twice.

    raises  TypeError where layer is no Layer
    source  Qi et al. 2023, Zero bubble pipeline parallelism, arXiv:2401.10241

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> input_half, weight_half = fp.split_backward(model)
    >>> dy, residuals = model.forward(params, x)
    >>> dx, kept = input_half(params, residuals, dy)
    >>> dx.shape, jax.tree.map(jnp.shape, weight_half(params, kept))
    ((4, 2), (Affine(w=(2, 3), b=(3,)), (), Affine(w=(3, 2), b=(2,))))
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"split_backward wants a layer, and was given {spell(layer)}")
    return SplitBackward(InputHalf(layer), WeightHalf(layer))


@door
def bytes_between(layer: Layer, params: Params, x: Any, context: Context = Context()) -> int:
    """The bytes of `kept`, which live from the input half to the weight half.

    params, x, context   as for the layer's forward, as arrays or ShapeDtypeStructs

    Of shapes alone: nothing is computed. An array that several layers keep counts for each.

    raises  what the layer's forward raises

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Dense(3), jax.ShapeDtypeStruct((4, 2), jnp.float32)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> fp.collectors.bytes_between(model, params, x)  # x [4, 2] and dz [4, 3] in float32
    80
    """

    def kept(params: Params, x: Any, context: Context) -> Any:
        y, residuals = layer.forward(params, x, context)
        return InputHalf(layer)(params, residuals, partition(y)[0])[1]

    leaves = jax.tree.leaves(jax.eval_shape(kept, params, x, context))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


# --- the input half: the model itself, with other things in the second slot of backward -----------


@dataclass(frozen=True)
class Deferred(Wrapper):
    """`layer`, whose backward leaves what dparams need in place of dparams.

    forward   x -> y, the layer's
    keeps     what the layer keeps
    backward  dx, and Kept(residuals, dy)
              Done(dparams) where the parameters are vectors, () where there are none
    """

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        dx, dparams = two(self.layer, "backward", self.layer.backward(params, residuals, dy))
        if not jax.tree.leaves(params):
            return dx, ()
        if all(leaf.ndim < 2 for leaf in jax.tree.leaves(params)):
            return dx, Done(dparams)
        return dx, Kept(residuals, dy)  # nobody uses dparams: the compiler leaves them out


class Uncast(Cast):
    """`Cast` with what its child leaves as it is: in the child's precision."""

    def backward(self, params: Params, residuals: CastResiduals, dy: Any) -> tuple[Any, Any]:
        (p,) = self.entries("params", params)
        with inside(self, 0):
            dx, kept = self.layers[0].backward(self._down(p), residuals.layer, self._down(dy))
        return cast(dx, residuals.precision.name), (kept,)


def deferred(layer: Layer) -> Layer:
    """The layer with every leaf Deferred.

    Composites pass up what stands in the second slot; those that sum or cast it are exchanged.
    """
    if not isinstance(layer, Composite):
        return Deferred(layer)
    children = tuple(map(deferred, layer.layers))
    if isinstance(layer, Tied):
        return Untied(*children, pairs=layer.pairs)
    if isinstance(layer, OverTime):
        return OverTime(*children, shared=Apart())
    if isinstance(layer, Cast):
        return Uncast(*children, dtype=layer.dtype)
    return layer.rebuild(children)


# --- the weight half: every leaf by itself --------------------------------------------------------


@dataclass(frozen=True)
class Ready(Layer):
    """The weight half of `layer` as a layer: `residuals` is what the input half kept.

    Inside `Tied` and `Cast` it leaves to them what they do with their child's dparams.

    backward  dparams; nothing arrives, and nothing is sent back
    """

    layer: Layer

    def backward(self, params: Params, residuals: Any, dy: Any) -> tuple[Any, Params]:
        return (), gradients(self.layer, params, residuals)


def gradients(layer: Layer, params: Params, kept: Any) -> Params:
    """dparams from what the input half kept."""
    if not jax.tree.leaves(params):
        return params
    if isinstance(kept, Done):
        return kept.dparams
    if isinstance(kept, Kept):
        return two(layer, "backward", layer.backward(params, *kept))[1]
    assert isinstance(layer, Composite)
    if isinstance(layer, (Repeat, ReversibleRepeat)):
        return lax.map(lambda each: gradients_each(layer, *each), (params, kept))
    if isinstance(layer, OverTime):
        (child,), (p,), (steps,) = layer.layers, params, kept
        return (layer.shared.steps(layer, lambda step: ((), gradients(child, p, step)), steps)[1],)
    if isinstance(layer, Tied):
        return layer.rebuild((Ready(*layer.layers),)).backward(params, kept[0], ())[1]
    if isinstance(layer, Cast):
        residuals = CastResiduals(kept[0], Precision(layer.dtype))
        return layer.rebuild((Ready(*layer.layers),)).backward(params, residuals, ())[1]
    if isinstance(kept, RewiredParams):  # of a composite that goes other ways back
        own = gradients_each(layer, params.params, kept.params)
        return RewiredParams(own, kept.feedback)
    return gradients_each(layer, params, kept)


def gradients_each(layer: Composite, params: Params, kept: Any) -> Params:
    """dparams of every child."""
    found = []
    for position, child in enumerate(layer.layers):
        with inside(layer, position):
            found.append(gradients(child, params[position], kept[position]))
    return tuple(found)
