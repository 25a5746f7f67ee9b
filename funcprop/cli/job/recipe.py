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
from funcprop.data import Dataset
from funcprop.gradient import GradientFunction, backprop, objective
from funcprop.layer import Array, Context, Layer, Params
from funcprop.models import MODELS, from_objective, gpt_objective, to_objective
from funcprop.training.step import clip_by_norm


class RecipeError(ValueError):
    """A recipe cannot be followed: the message names the option, its value and what is wanted."""


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and how. The defaults reach 98 % on the digits in seconds.

    Raises RecipeError for unknown names, with the nearest one, and for impossible numbers.
    """

    model: str = "mlp"
    """The model: mlp (Dense layers with an activation between them); for images convnet, resnet or
    vit; lstm (the rows of an image one after the other); for text gpt."""

    data: str = "digits"
    """The data: digits (1,797 real 8x8 images, no download), mnist, fashion-mnist, kmnist or
    emnist from --data-dir, openml:NAME from openml.org, text:FILE, or text: for the help text of
    Python."""

    data_dir: Path | None = None
    """The folder of the data's files, plain or gzipped."""

    layers: tuple[int, ...] | None = None
    """Of mlp: sizes of the hidden layers, such as 30, or 128 64; no number at all for a linear
    model. Without the option 256."""

    width: int | None = None
    """Of the other models: channels of the first convolution (convnet 32, resnet 16), the state of
    the lstm (128), features of a patch (vit) or of a byte (gpt), 64."""

    depth: int | None = None
    """Blocks of vit (4) and gpt (2), and in each of the three stages of resnet (1)."""

    heads: int | None = None
    """Attention heads of vit and gpt (4), which divide the width."""

    patch: int | None = None
    """Height and width of the patches of vit (2), which divide those of the image."""

    length: int | None = None
    """Bytes that gpt reads at a time (128)."""

    dropout: float | None = None
    """Rate of dropout in convnet (0.5), lstm (0), vit (0) and gpt (0)."""

    activation: str | None = None
    """Of mlp and convnet: sigmoid, tanh, relu (without the option), leaky-relu, elu, selu, gelu,
    gelu-tanh, silu, softplus, hard-tanh or identity."""

    loss: str = "cross-entropy"
    """The loss: cross-entropy (softmax), binary-cross-entropy (a sigmoid for each class),
    quadratic, mean-squared-error, huber or hinge. With sigmoid activations the three losses of
    a difference see sigmoid outputs; all others see the outputs of the last Dense as they are.
    Text has cross-entropy only."""

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
    """How the weights of mlp and convnet start: glorot, glorot-normal, he, he-uniform, lecun,
    lecun-uniform, orthogonal (biases 0), normal (all N(0, 1)) or scaled-normal (weights
    N(0, 1/n_in), biases N(0, 1)). Without one it fits the activation; sigmoid with quadratic
    starts normal."""

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
        if self.activation is not None:
            choose("activation", self.activation, ACTIVATIONS)
        choose("loss", self.loss, LOSSES)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("gradient", self.gradient, ("manual", "automatic"))
        if self.init is not None:
            choose("init", self.init, INITS)
        if self.model == "gpt" and self.loss != "cross-entropy":
            raise RecipeError(
                f"--loss is {self.loss!r}, and gpt is trained with cross-entropy only"
            )
        for option in OPTIONS:
            if getattr(self, option) is not None and option not in DEFAULTS[self.model]:
                names = ", ".join(f"--{name}" for name in DEFAULTS[self.model])
                raise RecipeError(f"--{option}: {self.model} has no such option; it has {names}")
        layers = self.layers or ()
        if len(layers) > 1000:
            raise RecipeError(f"--layers: {len(layers)} hidden layers, wanted at most 1000")
        for size in layers:
            whole("layers", size, 1, 100_000)
        for option in ("width", "depth", "heads", "patch", "length"):
            if getattr(self, option) is not None:
                whole(option, getattr(self, option), 1, 100_000)
        number("dropout", self.dropout, 0, 0.99)
        whole("batch-size", self.batch_size, 1, 10**9)
        whole("epochs", self.epochs, 1, 10**6)
        whole("seed", self.seed, 0, 2**32 - 1)
        number("learning-rate", self.learning_rate, 0, 1e4, open_below=True)
        number("clip-norm", self.clip_norm, 0, 1e9, open_below=True)
        number("weight-decay", self.weight_decay, 0, 1e3)
        number("l2", self.l2, 0, 1e3)


# --- the tables -----------------------------------------------------------------------------------

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
    """The recipe with every number and name it leaves open written out.

    What the model has no use for stays None.
    """
    rule, options = OPTIMIZERS[recipe.optimizer], {}
    for name, default in DEFAULTS[recipe.model].items():
        given = getattr(recipe, name)
        options[name] = default if given is None else given
    if "init" in options and options["init"] is None:
        if (options["activation"], recipe.loss) == ("sigmoid", "quadratic"):
            options["init"] = "normal"  # Nielsen's first network
        else:
            options["init"] = FITTING.get(options["activation"], "glorot")
    rate, decay = recipe.learning_rate, recipe.weight_decay
    return dataclasses.replace(
        recipe,
        learning_rate=rule.learning_rate if rate is None else rate,
        weight_decay=rule.weight_decay if decay is None else decay,
        **options,
    )


def check_data(recipe: Recipe, data: Dataset) -> None:
    """The model can read the data. Raises RecipeError."""
    example, model = list(data.train.x.shape[1:]), recipe.model
    if data.text != (model == "gpt"):
        problem = "is text" if data.text else f"has examples {example} with one class each"
        remedy = "--model gpt" if data.text else "--model mlp, or --data text:"
        raise RecipeError(f"--model: {model} cannot read {data.name}, which {problem}: {remedy}")
    wanted = {"convnet": 3, "resnet": 3, "vit": 3, "lstm": 2}.get(model, 1)
    if len(example) < wanted:
        kind = "images [height, width, channels]" if wanted == 3 else "sequences [time, features]"
        raise RecipeError(
            f"--model: {model} wants {kind}, and {data.name} has examples {example}: --model mlp"
        )


def build_model(recipe: Recipe, example: tuple[int, ...], classes: int) -> Layer:
    """The model for examples of shape `example`: x [batch, *example] -> [batch, classes].

    For text, where an example is [T] tokens: -> logits [batch, T, classes].
    """
    full = settled(recipe)
    options = {name: getattr(full, name) for name in DEFAULTS[recipe.model]}
    if "activation" in options:
        init = INITS[options.pop("init")]
        sigmoid_output = full.activation == "sigmoid" and recipe.loss in DIFFERENCES
        options |= {
            "activation": ACTIVATIONS[options["activation"]],
            "output": layers.Sigmoid() if sigmoid_output else None,
            "w_init": init.w,
            "b_init": init.b,
        }
    if recipe.model in ("mlp", "lstm"):
        options["axes"] = len(example)
    if recipe.model == "vit":
        options["image"] = example[:2]
    options["vocabulary" if recipe.model == "gpt" else "classes"] = classes
    return MODELS[recipe.model](**options)


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
    """True for the leaves that decay: matrices, not biases or gains.

    The name counts too: stacked under `Repeat`, biases have two axes.
    """

    def decays(path: Any, leaf: Any) -> bool:
        return leaf.ndim > 1 and getattr(path[-1], "name", "") not in ("b", "bias", "scale")

    return jax.tree.map_with_path(decays, params)


def build_objective(recipe: Recipe, model: Layer) -> tuple[Layer, Layer | None]:
    """(model, loss), or (the whole objective, None): what `backprop` takes."""
    if recipe.model == "gpt":
        return gpt_objective(model), None
    return model, LOSSES[recipe.loss]


def build_gradient(recipe: Recipe, model: Layer) -> GradientFunction:
    """(params, batch, context) -> (value, aux), grads: by hand or by JAX, as the recipe says."""
    parts = build_objective(recipe, model)
    if recipe.gradient == "manual":
        gradient = backprop(*parts, has_aux=True)
    else:
        gradient = jax.value_and_grad(objective(*parts, has_aux=True), has_aux=True)
    if recipe.model == "gpt":
        gradient = of_model(gradient)
    return gradient if recipe.clip_norm is None else clip_by_norm(gradient, recipe.clip_norm)


def of_model(gradient: GradientFunction) -> GradientFunction:
    """The gradient of `gpt_objective` as one of the model's own parameters."""

    def arranged(params: Params, batch: Any, context: Context = Context()) -> Any:
        value, grads = gradient(to_objective(params), batch, context)
        return value, from_objective(grads)

    return arranged


def prepare(recipe: Recipe, x: np.ndarray, y: np.ndarray, classes: int) -> tuple[Array, Array]:
    """(x, target) on the device, the target as the loss wants it: integers, or one-hot rows."""
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
