"""Networks whose every neuron can be drawn: Dense layers with activations between them."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.composites import Serial
from funcprop.layer import Array, Layer, Params, is_integer
from funcprop.layers import (
    ELU,
    GELU,
    Affine,
    Dense,
    Flatten,
    Identity,
    LeakyReLU,
    Pixels,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from funcprop.losses import (
    BinaryCrossEntropy,
    MeanSquaredError,
    QuadraticCost,
    SoftmaxCrossEntropy,
)

# By the names that the page's own engine knows them under.
ACTIVATIONS: dict[str, Layer] = {
    "identity": Identity(),
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "relu": ReLU(),
    "leaky-relu": LeakyReLU(),
    "elu": ELU(),
    "silu": SiLU(),
    "softplus": Softplus(),
    "gelu": GELU(),
    "gelu-tanh": GELU(approximate=True),
}
LOSSES = {
    "quadratic": QuadraticCost,
    "mean-squared-error": MeanSquaredError,
    "cross-entropy": SoftmaxCrossEntropy,
    "binary-cross-entropy": BinaryCrossEntropy,
}
MOST = 20_000  # parameters: more would neither be seen nor fit the page
WIDEST = 20  # neurons in a layer


class Chain(NamedTuple):
    """A network in pairs of a Dense layer and its activation."""

    before: tuple[Layer, ...]  # what has no parameters and stands in front: Pixels, Flatten
    activations: tuple[str, ...]  # one a Dense layer; "identity" where there is none
    params: tuple[Affine, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.params[0].w.shape[0], *(p.w.shape[1] for p in self.params))

    @property
    def model(self) -> Serial:
        """Dense, activation, Dense, activation, ..."""
        pairs = zip(self.params, self.activations, strict=True)
        return Serial(*(layer for p, name in pairs for layer in (of(p), ACTIVATIONS[name])))


def of(p: Affine) -> Dense:
    return Dense(p.w.shape[1], bias=p.b is not None)


def interleaved(params: tuple[Affine, ...]) -> Params:
    """The parameters of `Chain.model`."""
    return tuple(entry for p in params for entry in (p, ()))


def flat(model: Layer, params: Params) -> list[tuple[Layer, Params]]:
    """The layers of a Serial, those inside of others too, with their parameters."""
    if type(model) is not Serial:
        return [(model, params)]
    pairs = zip(model.layers, params, strict=True)
    return [found for layer, p in pairs for found in flat(layer, p)]


def chain(model: Layer, params: Params, loss: Layer | None) -> Chain | None:
    """The model as a Chain, or None where it is none that the page could compute itself."""
    if loss is None or loss_name(loss) is None:
        return None
    names = {layer: name for name, layer in ACTIVATIONS.items()}
    before: list[Layer] = []
    activations: list[str] = []
    found: list[Affine] = []
    for layer, p in flat(model, params):
        if type(layer) is Dense:
            found.append(p)
            activations.append("identity")
        elif not found and isinstance(layer, (Pixels, Flatten)):
            before.append(layer)
        elif found and activations[-1] == "identity" and layer in names:
            activations[-1] = names[layer]
        else:
            return None
    if not found or sum(leaf.size for leaf in jax.tree.leaves(found)) > MOST:
        return None
    if max(p.w.shape[1] for p in found) > WIDEST:
        return None
    return Chain(tuple(before), tuple(activations), tuple(found))


def loss_name(loss: Layer) -> str | None:
    """The name of a loss without options, or None."""
    for name, kind in LOSSES.items():
        if type(loss) is kind and loss == kind(reduction=loss.reduction):  # type: ignore[attr-defined]
            return name if loss.reduction in ("mean", "sum") else None  # type: ignore[attr-defined]
    return None


def summed(loss: Any) -> Layer:
    """The loss as a sum over the examples: each has its own δ."""
    return dataclasses.replace(loss, reduction="sum")


def inputs(found: Chain, x: Array) -> np.ndarray:
    """x [examples, features], as the first Dense layer sees it."""
    for layer in found.before:
        x, _ = layer.forward((), x)
    return np.asarray(x, np.float64)


def rows(target: Array, classes: int) -> np.ndarray:
    """The target as floats [examples, outputs]: one-hot where it is a class."""
    if is_integer(target):
        return np.eye(classes)[np.asarray(target)]
    return np.asarray(target, np.float64)


def in_float64(tree: Any) -> Any:
    """Floats of a tree in float64, under `jax.enable_x64`."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), tree)
