"""The names in a recipe: activations, losses, initializers and optimizers, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from funcprop import initializers, layers, losses
from funcprop.layer import Layer

# The options that only some models have: for each of its own a model says what stands for None.
OPTIONS = (
    *("layers", "width", "depth", "heads", "patch", "length", "dropout"),
    *("activation", "init"),
)
DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": {"layers": (256,), "activation": "relu", "init": None},
    "convnet": {"width": 32, "dropout": 0.5, "activation": "relu", "init": None},
    "resnet": {"width": 16, "depth": 1},
    "lstm": {"width": 128, "dropout": 0.0},
    "vit": {"patch": 2, "width": 64, "depth": 4, "heads": 4, "dropout": 0.0},
    "gpt": {"length": 128, "width": 64, "depth": 2, "heads": 4, "dropout": 0.0},
}

ACTIVATIONS: dict[str, Layer] = {
    "sigmoid": layers.Sigmoid(),
    "tanh": layers.Tanh(),
    "relu": layers.ReLU(),
    "leaky-relu": layers.LeakyReLU(),
    "elu": layers.ELU(),
    "selu": layers.SELU(),
    "gelu": layers.GELU(),
    "gelu-tanh": layers.GELU(approximate=True),
    "silu": layers.SiLU(),
    "softplus": layers.Softplus(),
    "hard-tanh": layers.HardTanh(),
    "hard-swish": layers.HardSwish(),
    "mish": layers.Mish(),
    "relu6": layers.ReLU6(),
    "squared-relu": layers.SquaredReLU(),
    "identity": layers.Identity(),
}

LOSSES: dict[str, Layer] = {
    "cross-entropy": losses.SoftmaxCrossEntropy(),
    "binary-cross-entropy": losses.BinaryCrossEntropy(),
    "quadratic": losses.QuadraticCost(),
    "mean-squared-error": losses.MeanSquaredError(),
    "huber": losses.Huber(),
    "hinge": losses.Hinge(),
}

# Losses of a − y, which sigmoid networks meet with sigmoid outputs
DIFFERENCES = ("quadratic", "mean-squared-error", "huber")
# Losses whose targets are integer classes; the others want one-hot rows
CLASS_LOSSES = ("cross-entropy", "hinge")


class Init(NamedTuple):
    """How a Dense layer starts."""

    w: initializers.Initializer
    b: initializers.Initializer = initializers.Zeros()


INITS: dict[str, Init] = {
    "glorot": Init(initializers.GlorotUniform()),
    "glorot-normal": Init(initializers.GlorotNormal()),
    "he": Init(initializers.HeNormal()),
    "he-uniform": Init(initializers.HeUniform()),
    "lecun": Init(initializers.LecunNormal()),
    "lecun-uniform": Init(initializers.LecunUniform()),
    "orthogonal": Init(initializers.Orthogonal()),
    "normal": Init(initializers.Normal(), initializers.Normal()),
    "scaled-normal": Init(
        initializers.VarianceScaling(1.0, "fan_in", "normal"), initializers.Normal()
    ),
}

# The init that fits an activation; glorot fits the others
FITTING = {
    "relu": "he",
    "leaky-relu": "he",
    "elu": "he",
    "gelu": "he",
    "gelu-tanh": "he",
    "silu": "he",
    "softplus": "he",
    "selu": "lecun",
}


# What is left of a learning rate that falls for so many steps
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.schedules.constant_schedule(rate),
    "cosine": optax.schedules.cosine_decay_schedule,
    "linear": lambda rate, steps: optax.schedules.linear_schedule(rate, 0.0, steps),
}


class Rule(NamedTuple):
    """An optimizer: the direction it takes, and the numbers it takes where none are given."""

    direction: Callable[[], optax.GradientTransformation]
    learning_rate: float
    weight_decay: float = 0.0


OPTIMIZERS: dict[str, Rule] = {
    "sgd": Rule(optax.identity, 0.1),
    "momentum": Rule(lambda: optax.trace(0.9), 0.01),
    "nesterov": Rule(lambda: optax.trace(0.9, nesterov=True), 0.01),
    "adagrad": Rule(optax.scale_by_rss, 0.05),
    "rmsprop": Rule(optax.scale_by_rms, 1e-3),
    "adam": Rule(optax.scale_by_adam, 1e-3),
    "adamw": Rule(optax.scale_by_adam, 1e-3, 1e-4),
    "nadam": Rule(lambda: optax.scale_by_adam(nesterov=True), 1e-3),
    "adamax": Rule(optax.scale_by_adamax, 1e-3),
    "lion": Rule(optax.scale_by_lion, 1e-4, 1e-3),
}
