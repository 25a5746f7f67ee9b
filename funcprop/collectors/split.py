"""The backward pass in two: first what the layer below waits for, later what the parameters need.

Backward is linear in dy and returns two things, and only one of them is urgent: a pipeline's stage
before this one waits for dx, while nobody waits for dparams until the step's end. Zero-bubble
schedules (Qi et al., 2023) fill idle time with the second.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import lax

from funcprop.collectors.protocol import Checked, trusted
from funcprop.composites import Composite, RewiredParams, Wrapper
from funcprop.composites.sharing import Raw, Uses
from funcprop.doors import door
from funcprop.gradient import partition
from funcprop.layer import Context, Layer, LayerError, Params, Residuals, inside, spell, two


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


def deferred(layer: Layer) -> Layer:
    """The layer with every leaf Deferred: composites pass up what stands in the second slot."""
    if not isinstance(layer, Composite):
        return Deferred(layer)
    if layer.owns and not trusted(layer):
        raise LayerError(
            layer,
            "has parameters of its own, which the weight half does not see",
            "give them to a layer of their own, among its children",
        )
    rebuilt = layer.rebuild(tuple(map(deferred, layer.layers)))
    assert isinstance(rebuilt, Composite)
    rebuilt = rebuilt.with_shared(Raw())
    return rebuilt if trusted(layer) else Checked(rebuilt, layer)


# --- the weight half: every leaf by itself --------------------------------------------------------


def gradients(layer: Layer, params: Params, kept: Any) -> Params:
    """dparams from what the input half kept."""
    if not jax.tree.leaves(params):
        return params
    if isinstance(kept, Done):
        return kept.dparams
    if isinstance(kept, Kept):
        return two(layer, "backward", layer.backward(params, *kept))[1]
    assert isinstance(layer, Composite)
    if isinstance(kept, RewiredParams):  # of a composite that goes other ways back
        own = gradients_each(layer, params.params, kept.params)
        return RewiredParams(own, kept.feedback)
    given = layer.to_children(params)
    if layer.stacked:
        found = lax.map(lambda each: gradients_each(layer, *each), (given, kept))
    else:
        found = gradients_each(layer, given, kept)
    return layer.from_children(params, found)


def gradients_each(layer: Composite, params: Params, kept: Any) -> Params:
    """dparams of every child, all of its uses joined."""
    found = []
    rows = zip(layer.layers, params, layer.spread(kept), strict=True)
    for position, (child, p, own) in enumerate(rows):
        with inside(layer, position):
            if isinstance(own, Uses):
                each = tuple(gradients(child, p, use) for use in own.each)
                found.append(layer.shared.places(layer, each))
            elif () not in layer.reused or not jax.tree.leaves(p):
                found.append(gradients(child, p, own))
            else:
                step = functools.partial(_step, child, p)
                found.append(layer.shared.steps(layer, step, own)[1])
    return tuple(found)


def _step(layer: Layer, params: Params, kept: Any) -> tuple[Any, Params]:
    return (), gradients(layer, params, kept)
