"""DirectFeedback: every layer hears the output's error at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcprop.composites import Composite, RewiredParams, Serial
from funcprop.composites.rewired import checked, feedback_key, zeros
from funcprop.initializers import GlorotUniform
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    inside,
    is_float,
    output_shape,
    spell,
    two,
)
from funcprop.rewiring.rewirings import Rewiring
from funcprop.sharding import beside, product_out


@dataclass(frozen=True, init=False, repr=False)
class DirectFeedback(Composite):
    """`Serial` with direct feedback alignment in the place of its chain rule.

    A block is a child with parameters and those without that follow it; what stands before the
    first belongs to the first. Inside a block, which may be a composite, the chain rule holds.
    Each block but the last gets its dy straight from the output, by fixed random weights B of the
    shape [output features, *sizes of an example in the block's output], drawn as w of a Dense layer
    between both would be, in the output's dtype.

    forward   x -> y [..., features], as Serial
    keeps     what the children keep
    backward  dyᵢ = dy Bᵢ for every block i but the last, which gets dy; dx is the first block's
              dB = 0
    dtypes    those of the children; B and the dyᵢ have that of the output

    raises  LayerError where the output or a block's is no array of floats, or their leading axes
            differ
    source  Nøkland 2016, arXiv:1609.01596

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.rewiring.DirectFeedback(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> params = model.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params.feedback)  # from two outputs to three hidden features
    ((2, 3),)
    """

    owns: ClassVar[bool] = True

    @property
    def serial(self) -> Serial:
        """The same layers under the chain rule."""
        return Serial(*self.layers)

    def init(self, key: Array, x: Any) -> RewiredParams:
        params, ys = self.serial.init(key, x), []
        for position, layer in enumerate(self.layers):
            with inside(self, position):
                x = output_shape(layer, params[position], x)
            ys.append(x)
        hidden = [ys[block.stop - 1] for block in blocks(params)[:-1]]
        keys = jax.random.split(feedback_key(key), len(self.layers))
        pairs = zip(keys, hidden, strict=False)
        return RewiredParams(params, tuple(self._weights(key, y, x) for key, y in pairs))

    def forward(
        self, params: RewiredParams, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        return self.serial.forward(checked(self, params).params, x, context)

    def backward(
        self, params: RewiredParams, residuals: Residuals, dy: Any
    ) -> tuple[Any, RewiredParams]:
        own, feedback = checked(self, params)
        own, residuals = self.entries("params", own), self.entries("residuals", residuals)
        dx, dparams = dy, []
        met = beside(feedback, dy)
        dys = [*(jnp.tensordot(dy, b, 1, **product_out(dy, b)) for b in met), dy]
        for block, error in reversed(tuple(zip(blocks(own), dys, strict=True))):
            dx = error
            for position in reversed(block):
                layer = self.layers[position]
                with inside(self, position):
                    given = layer.backward(own[position], residuals[position], dx)
                    dx, dp = two(layer, "backward", given)
                dparams.append(dp)
        return dx, RewiredParams(tuple(reversed(dparams)), zeros(feedback))

    def inference(self, params: RewiredParams, statistics: Any) -> tuple[Layer, Params]:
        return self.serial.inference(checked(self, params).params, statistics)

    def _weights(self, key: Array, hidden: Any, output: Any) -> Array:
        """From the output's features to a hidden block's."""
        batch = output.shape[:-1] if is_float(output) and output.ndim else None
        if batch is None or not is_float(hidden) or hidden.shape[: len(batch)] != batch:
            raise LayerError(
                self,
                f"the output is {spell(output)} and a block's {spell(hidden)}: "
                "wanted [..., features], and hidden arrays that begin with the same axes",
                "give it layers from one batch of arrays to another; put others around it",
            )
        sizes = hidden.shape[len(batch) :]
        shape = (output.shape[-1], math.prod(sizes))
        return GlorotUniform()(key, shape, output.dtype).reshape(shape[0], *sizes)


def blocks(params: tuple[Params, ...]) -> list[range]:
    """The children of each block, by the parameters of all."""
    starts = [0, *[i for i, p in enumerate(params) if jax.tree.leaves(p)][1:]]
    return [range(*pair) for pair in zip(starts, [*starts[1:], len(params)], strict=True)]


def direct_feedback_alignment() -> Rewiring:
    """Every block gets the output's error by fixed random weights: {Serial: ...}, of the model.

    Returns a rewiring: a function from a Serial to a DirectFeedback of its layers.

    raises  LayerError, from `rewire`, for a layer that is no Serial
    source  Nøkland 2016, arXiv:1609.01596

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> fp.rewire(model, {fp.Serial: fp.rewiring.direct_feedback_alignment()})
    DirectFeedback(Dense(3), Tanh(), Dense(2))
    """

    def direct(layer: Composite) -> DirectFeedback:
        if not isinstance(layer, Serial):
            raise LayerError(layer, "is no Serial", "write {Serial: direct_feedback_alignment()}")
        return DirectFeedback(*layer.layers)

    return direct
