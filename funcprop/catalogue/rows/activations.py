"""Activations: elementwise ones, those with a slope of their own, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop import layers
from funcprop.catalogue.inputs import Fixed, Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.layer import Array, Layer, Params


def sigma_prime_of_activation(layer: Layer, params: Params, a: Array, da: Array) -> Any:
    """σ′ applied to the activation, as if a were z: a slip of many tutorials."""
    s = jax.nn.sigmoid(a)
    return da * s * (1 - s), ()


def diagonal_softmax(layer: Layer, params: Params, a: Array, da: Array) -> Any:
    """The Jacobian's diagonal alone."""
    return da * a * (1 - a), ()


def elu_for_celu(layer: layers.CELU, params: Params, a: Array, da: Array) -> Any:
    """ELU's derivative, which is right for α = 1 alone."""
    return jnp.where(a > 0, da, da * (a + layer.alpha)), ()


def gate_alone(layer: Layer, params: Params, z: Array, da: Array) -> Any:
    """(z · g)′ taken for g."""
    return da * jax.nn.hard_sigmoid(z), ()


def slope_of_all(layer: layers.PReLU, params: layers.Slope, z: Array, da: Array) -> Any:
    """Σ da · z over all elements."""
    dz, dparams = layer.backward(params, z, da)
    return dz, layers.Slope((da * z).sum(tuple(range(z.ndim - dparams.slope.ndim))))


def elementwise(f: Callable[[Array], Array]) -> Callable[..., Array]:
    """A parameterless function as the plain form of its layer."""
    return lambda params, z, context: f(z)


ACTIVATION = Normal((5, 7), scale=2.0)
IMAGE = Normal((128, 4096))


def activation(name: str, layer: Layer, function: Callable[[Array], Array], **options: Any) -> Row:
    """An activation, and the function that a JAX user calls for it."""
    sizes = {"plain": elementwise(function), "large": (layer, IMAGE)}
    return Row(name, layer, ACTIVATION, **sizes, **options)


ACTIVATIONS = (
    activation(
        "Sigmoid",
        layers.Sigmoid(),
        jax.nn.sigmoid,
        mutants=(Mutant("σ′ applied to the activation", sigma_prime_of_activation),),
    ),
    Row("Sigmoid, saturated", layers.Sigmoid(), Fixed.of([[-800.0, -30, 0, 1e-8, 30, 800]])),
    activation(
        "Tanh",
        layers.Tanh(),
        jnp.tanh,
    ),
    activation(
        "ReLU",
        layers.ReLU(),
        jax.nn.relu,
    ),
    activation(
        "LeakyReLU",
        layers.LeakyReLU(0.1),
        lambda z: jax.nn.leaky_relu(z, 0.1),
    ),
    activation(
        "ELU",
        layers.ELU(1.3),
        lambda z: jax.nn.elu(z, 1.3),
    ),
    activation(
        "SELU",
        layers.SELU(),
        jax.nn.selu,
    ),
    activation(
        "GELU",
        layers.GELU(),
        lambda z: jax.nn.gelu(z, approximate=False),
        promise=("time", "memory"),
    ),
    activation(
        "GELU, approximate",
        layers.GELU(approximate=True),
        jax.nn.gelu,
    ),
    activation(
        "SiLU",
        layers.SiLU(),
        jax.nn.silu,
    ),
    activation(
        "Softplus",
        layers.Softplus(),
        jax.nn.softplus,
        promise=("time",),
    ),
    activation(
        "HardTanh",
        layers.HardTanh(),
        jax.nn.hard_tanh,
    ),
    activation(
        "Softmax",
        layers.Softmax(),
        jax.nn.softmax,
        mutants=(Mutant("the Jacobian's diagonal alone", diagonal_softmax),),
    ),
    activation(
        "LogSoftmax",
        layers.LogSoftmax(),
        jax.nn.log_softmax,
    ),
    Row("LogSoftmax, large logits", layers.LogSoftmax(), Normal((3, 5), scale=30.0)),
    Row("Softmax, another axis", layers.Softmax(axis=-2), Normal((3, 5, 2), scale=2.0)),
    Row("LogSoftmax, another axis", layers.LogSoftmax(axis=-2), Normal((4, 3, 2), scale=2.0)),
    activation("Softmin", layers.Softmin(), lambda z: jax.nn.softmax(-z)),
    Row("Softplus, β", layers.Softplus(beta=0.7, threshold=1.0), ACTIVATION),
    Row("HardTanh, bounds", layers.HardTanh(low=-0.3, high=1.7), ACTIVATION),
    activation("ReLU6", layers.ReLU6(), jax.nn.relu6),
    activation(
        "CELU",
        layers.CELU(1.7),
        lambda z: jax.nn.celu(z, 1.7),
        mutants=(Mutant("a + α for a/α + 1", elu_for_celu),),
    ),
    activation("SquaredReLU", layers.SquaredReLU(), lambda z: jnp.square(jax.nn.relu(z))),
    activation("Threshold", layers.Threshold(0.3, -0.2), lambda z: jnp.where(z > 0.3, z, -0.2)),
    Row("Softsign", layers.Softsign(), ACTIVATION, plain=elementwise(jax.nn.soft_sign)),
    activation("LogSigmoid", layers.LogSigmoid(), jax.nn.log_sigmoid),
    activation("HardSigmoid", layers.HardSigmoid(), jax.nn.hard_sigmoid),
    activation(
        "HardSwish",
        layers.HardSwish(),
        jax.nn.hard_swish,
        mutants=(Mutant("the product rule's second term forgotten", gate_alone),),
    ),
    activation(
        "Mish",
        layers.Mish(),
        jax.nn.mish,
        promise=("time",),
        reason="pays 1.2 times the memory: the gate is kept between the passes",
    ),
    Row("Mish, saturated", layers.Mish(), Fixed.of([[-90.0, -30, 0, 1e-8, 30, 800]])),
    activation("HardShrink", layers.HardShrink(0.4), lambda z: jnp.where(jnp.abs(z) > 0.4, z, 0)),
    activation("Softshrink", layers.Softshrink(0.4), lambda z: z - jnp.clip(z, -0.4, 0.4)),
    activation("TanhShrink", layers.TanhShrink(), lambda z: z - jnp.tanh(z)),
    Row(
        "PReLU",
        layers.PReLU(),
        ACTIVATION,
        plain=lambda params, z, context: jnp.where(z > 0, z, params.slope * z),
        large=(layers.PReLU(), IMAGE),
        mutants=(Mutant("dslope over the other side too", slope_of_all),),
    ),
    Row(
        "PReLU, a slope a feature",
        layers.PReLU(per_feature=True),
        Normal((2, 3, 7)),
        mutants=(Mutant("dslope over the other side too", slope_of_all),),
    ),
    Row(
        "RReLU",
        layers.RReLU(),
        ACTIVATION,
        batched=False,
        reason="draws for a batch at once",
    ),
)
