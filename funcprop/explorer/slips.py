"""Wrong backward passes that a page can plant, and what `compare` says of each.

The mistakes of docs/slips.md. Here they are written as layers; in `web/engine.js` the same slip
has the same name, and the page trains with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import Array, Layer
from funcprop.layers import Affine, Dense, Sigmoid
from funcprop.losses import QuadraticCost


@dataclass(frozen=True)
class SlopeOfTheActivation(Sigmoid):
    """σ′(a) in place of σ′(z)."""

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        s = jax.nn.sigmoid(a)
        return da * s * (1 - s), ()


@dataclass(frozen=True)
class Ascent(Dense):
    """The gradient with the other sign."""

    def backward(self, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
        dx, dparams = super().backward(params, x, dz)
        return dx, jax.tree.map(jnp.negative, dparams)


@dataclass(frozen=True)
class BiasNotSummed(Dense):
    """A row of bias for every example."""

    def backward(self, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
        dx, dparams = super().backward(params, x, dz)
        return dx, dparams._replace(b=dz)


@dataclass(frozen=True)
class NotTransposed(Dense):
    """δ w in place of δ wᵀ."""

    def backward(self, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
        return dz @ params.w, super().backward(params, x, dz)[1]


@dataclass(frozen=True)
class OwnOutput(Dense):
    """The layer's own output in the place of its input."""

    def backward(self, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
        dx, dparams = super().backward(params, x, dz)
        z = x @ params.w if params.b is None else x @ params.w + params.b
        return dx, dparams._replace(w=jnp.tensordot(z, dz, (0, 0)))


@dataclass(frozen=True)
class WrongFactor(QuadraticCost):
    """½‖a − y‖² with the derivative of a mean over the n outputs: 2/n of it."""

    def backward(self, params: tuple, residuals: Any, dy: Array) -> tuple[Any, tuple]:
        (da, dtarget), _ = super().backward(params, residuals, dy)
        factor = 2 / da.shape[-1]
        return (da * factor, dtarget * factor), ()


@dataclass(frozen=True)
class UpdatedTooEarly(Dense):
    """Weights overwritten before the layer below has read them."""

    def backward(self, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
        _, dparams = super().backward(params, x, dz)
        return dz @ (params.w - 0.5 * dparams.w).T, dparams


@dataclass(frozen=True)
class Slip:
    """A slip as a page tells it."""

    name: str
    title: str
    what: str  # what was written, and what belongs there
    needs: str  # where it can be planted: "", "square", "biases" or "quadratic"
    says: str  # what `compare` says of the layer of SLIPPED, which has three units


SLIPPED: dict[str, Layer] = {
    "slope-of-the-activation": SlopeOfTheActivation(),
    "ascent": Ascent(3),
    "bias-not-summed": BiasNotSummed(3),
    "not-transposed": NotTransposed(3),
    "own-output": OwnOutput(3),
    "wrong-factor": WrongFactor(),
    "updated-too-early": UpdatedTooEarly(3),
}

SLIPS = (
    Slip(
        "slope-of-the-activation",
        "σ′ of the activation",
        "The slope is taken at a, where it belongs to z: σ′(a) in place of σ′(z).",
        "",
        "dx: taken at the output in place of the input, as σ′ of the activation",
    ),
    Slip(
        "ascent",
        "Ascent",
        "δ was called “true minus predicted”, coded the other way round, and added: the gradient "
        "has the other sign, and the cost rises.",
        "",
        "dw: sign flipped",
    ),
    Slip(
        "bias-not-summed",
        "A bias gradient that is not summed",
        "∂C/∂b is δ of every example, not its sum: b becomes a row an example, and the network "
        "memorizes them.",
        "biases",
        "db: not summed over axis 0",
    ),
    Slip(
        "not-transposed",
        "A missing transpose",
        "The error goes back by δ w, not δ wᵀ. Where the layer is square no shape tells.",
        "square",
        "dx: w is not transposed",
    ),
    Slip(
        "own-output",
        "The layer's own output",
        "∂C/∂w takes the layer's output in place of its input. Where the layer is square no shape "
        "tells.",
        "square",
        "dw: taken at the output in place of the input, as σ′ of the activation",
    ),
    Slip(
        "wrong-factor",
        "A forgotten factor",
        "The cost is ½‖a − y‖², and its derivative that of a mean over the n outputs: 2/n of it.",
        "quadratic",
        "dx[0]: a factor of 0.6667 = 2/n (n = 3, the last axis of x)",
    ),
    Slip(
        "updated-too-early",
        "Weights updated too early",
        "A layer overwrites its weights before the layer below has read them: the bug behind a "
        "number that was published (0.291027924).",
        "",
        "dx: by weights already updated, with a learning rate of 0.5",
    ),
)
