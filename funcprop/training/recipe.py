"""A recipe: what is trained on what, and how. Names become layers, losses and optimizers here."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcprop import initializers, layers, losses
from funcprop.gradient import GradientFunction, backprop, objective
from funcprop.layer import Array, Layer
from funcprop.models import MODELS
from funcprop.training.step import clip_by_norm


class RecipeError(ValueError):
    """A recipe cannot be followed: the message names the option, its value and what is wanted."""


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and how. The defaults reach 98 % on the digits in seconds.

    Raises RecipeError for unknown names, with the nearest one, and for impossible numbers.
    """

    model: str = "mlp"
    """The model: mlp (Dense layers with an activation between them)."""

    data: str = "digits"
    """The data: digits (1,797 real 8x8 images, no download), mnist, fashion-mnist, kmnist or
    emnist from --data-dir, or openml:NAME from openml.org."""

    data_dir: Path | None = None
    """The folder of the data's files, plain or gzipped."""

    layers: tuple[int, ...] = (256,)
    """Sizes of the hidden layers, such as 30, or 128 64; no number at all for a linear model."""

    activation: str = "relu"
    """The activation: sigmoid, tanh, relu, leaky-relu, elu, selu, gelu, gelu-tanh, silu, softplus,
    hard-tanh or identity."""

    loss: str = "cross-entropy"
    """The loss: cross-entropy (softmax), binary-cross-entropy (a sigmoid for each class),
    quadratic, mean-squared-error, huber or hinge. With sigmoid activations the three losses of
    a difference see sigmoid outputs; all others see the outputs of the last Dense as they are."""

    optimizer: str = "adam"
    """The optimizer: sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw, nadam, adamax or
    lion."""

    learning_rate: float | None = None
    """The learning rate; without one, the optimizer's own (sgd 0.1, momentum and nesterov 0.01,
    adagrad 0.05, lion 0.0001, the others 0.001)."""

    batch_size: int = 32
    """Examples in a mini-batch."""

    epochs: int = 30
    """Passes over the training examples."""

    init: str | None = None
    """How weights start: glorot, glorot-normal, he, he-uniform, lecun, lecun-uniform, orthogonal
    (biases 0), normal (all N(0, 1)) or scaled-normal (weights N(0, 1/n_in), biases N(0, 1)).
    Without one it fits the activation; sigmoid with quadratic starts normal."""

    weight_decay: float | None = None
    """Share of every weight taken off beside the gradient step, times the learning rate; biases
    are spared. Without one: 0, but adamw 0.0001 and lion 0.001."""

    l2: float = 0.0
    """λ of a penalty λ/2·|w|² on the weights, added to the gradient; biases are spared. Nielsen's
    λ is n times this one."""

    clip_norm: float | None = None
    """The largest norm a gradient may have; longer ones are scaled down."""

    validation: bool = False
    """Hold a validation set out of the training set and watch that one from epoch to epoch; the
    test set is looked at once, at the end."""

    gradient: str = "manual"
    """Who differentiates: manual (the hand-written backward passes) or automatic (jax.grad)."""

    seed: int = 0
    """Where all random numbers come from."""

    def __post_init__(self) -> None:
        choose("model", self.model, MODELS)
        choose("activation", self.activation, ACTIVATIONS)
        choose("loss", self.loss, LOSSES)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("gradient", self.gradient, ("manual", "automatic"))
        if self.init is not None:
            choose("init", self.init, INITS)
        if len(self.layers) > 1000:
            raise RecipeError(f"--layers: {len(self.layers)} hidden layers, wanted at most 1000")
        for size in self.layers:
            whole("layers", size, 1, 100_000)
        whole("batch-size", self.batch_size, 1, 10**9)
        whole("epochs", self.epochs, 1, 10**6)
        whole("seed", self.seed, 0, 2**32 - 1)
        number("learning-rate", self.learning_rate, 0, 1e4, open_below=True)
        number("clip-norm", self.clip_norm, 0, 1e9, open_below=True)
        number("weight-decay", self.weight_decay, 0, 1e3)
        number("l2", self.l2, 0, 1e3)


# --- the tables -----------------------------------------------------------------------------------

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


# --- from names to functions ----------------------------------------------------------------------


def settled(recipe: Recipe) -> Recipe:
    """The recipe with every number and name it leaves open written out."""
    rule = OPTIMIZERS[recipe.optimizer]
    rate, decay, init = recipe.learning_rate, recipe.weight_decay, recipe.init
    if init is None and (recipe.activation, recipe.loss) == ("sigmoid", "quadratic"):
        init = "normal"  # Nielsen's first network
    return dataclasses.replace(
        recipe,
        learning_rate=rule.learning_rate if rate is None else rate,
        weight_decay=rule.weight_decay if decay is None else decay,
        init=init or FITTING.get(recipe.activation, "glorot"),
    )


def build_model(recipe: Recipe, example: tuple[int, ...], classes: int) -> Layer:
    """The model for examples of shape `example`: x [batch, *example] -> [batch, classes]."""
    init = INITS[settled(recipe).init or "glorot"]
    sigmoid_output = recipe.activation == "sigmoid" and recipe.loss in DIFFERENCES
    return MODELS[recipe.model](
        recipe.layers,
        classes,
        activation=ACTIVATIONS[recipe.activation],
        output=layers.Sigmoid() if sigmoid_output else None,
        w_init=init.w,
        b_init=init.b,
        axes=len(example),
    )


def build_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The optax transformation: penalty, direction, decay, learning rate, in this order."""
    full = settled(recipe)
    parts = [OPTIMIZERS[recipe.optimizer].direction()]
    if full.l2:
        parts.insert(0, optax.add_decayed_weights(full.l2, weights))
    if full.weight_decay:
        parts.append(optax.add_decayed_weights(full.weight_decay, weights))
    return optax.chain(*parts, optax.scale_by_learning_rate(full.learning_rate or 0.0))


def weights(params: Any) -> Any:
    """True for the leaves that decay: matrices, not biases or gains."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def build_gradient(recipe: Recipe, model: Layer) -> GradientFunction:
    """(params, batch, context) -> (value, aux), grads: by hand or by JAX, as the recipe says."""
    loss = LOSSES[recipe.loss]
    if recipe.gradient == "manual":
        gradient = backprop(model, loss, has_aux=True)
    else:
        gradient = jax.value_and_grad(objective(model, loss, has_aux=True), has_aux=True)
    return gradient if recipe.clip_norm is None else clip_by_norm(gradient, recipe.clip_norm)


def prepare(recipe: Recipe, x: np.ndarray, y: np.ndarray, classes: int) -> tuple[Array, Array]:
    """(x, target) on the device, the target as the loss wants it: classes [n] or one-hot rows."""
    target = jnp.asarray(y)
    if recipe.loss not in CLASS_LOSSES:
        target = jax.nn.one_hot(target, classes, dtype=jnp.float32)
    return jnp.asarray(x), target


# --- checks ---------------------------------------------------------------------------------------


def choose(option: str, name: str, names: Iterable[str]) -> None:
    """`name` is one of `names`; the error suggests the nearest."""
    names = list(names)
    if name not in names:
        raise RecipeError(
            f"--{option}: unknown {name!r}: {nearest(name, names)}the names are {', '.join(names)}"
        )


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean 'sigmoid'? `, or nothing where no name is near."""
    near = difflib.get_close_matches(str(name).lower().replace("_", "-"), list(names), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def whole(option: str, value: Any, low: int, high: int) -> None:
    """A whole number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RecipeError(f"--{option} is {value!r}, wanted a whole number from {low} to {high}")


def number(option: str, value: Any, low: float, high: float, open_below: bool = False) -> None:
    """None, or a finite number from low (or above it) to high."""
    if value is None:
        return
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high or (open_below and value == low):
        bound = f"above {low:g} and at most {high:g}" if open_below else f"from {low:g} to {high:g}"
        raise RecipeError(f"--{option} is {value!r}, wanted a number {bound}")
