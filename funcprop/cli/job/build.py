"""A recipe made concrete: its model, its gradient, its optimizer and its data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcprop import layers
from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.names import (
    ACTIVATIONS,
    CLASS_LOSSES,
    DEFAULTS,
    DIFFERENCES,
    INITS,
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
)
from funcprop.cli.job.recipe import Recipe, settled
from funcprop.composites import Cast
from funcprop.composites.cast import cast
from funcprop.data import Dataset
from funcprop.gradient import GradientFunction, backprop, objective
from funcprop.layer import Array, Context, Layer, Params
from funcprop.layers import Pixels
from funcprop.losses import SoftmaxCrossEntropy
from funcprop.models import MODELS, from_objective, gpt_objective, to_objective
from funcprop.training.average import ema_params, with_ema
from funcprop.training.loss_scaling import loss_scaled, scaled_step, with_loss_scale
from funcprop.training.state import TrainState
from funcprop.training.step import Step, clip_by_norm, train_step


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


def build_optimizer(recipe: Recipe, steps: int | None = None) -> optax.GradientTransformation:
    """The optax transformation: penalty, direction, decay, learning rate, in this order.

    steps  of the whole run, over which the learning rate may change; None where it shall not
    """
    full = settled(recipe)
    parts = [OPTIMIZERS[recipe.optimizer].direction()]
    if full.l2:
        parts.insert(0, optax.add_decayed_weights(full.l2, weights))
    if full.weight_decay:
        parts.append(optax.add_decayed_weights(full.weight_decay, weights))
    rate = full.learning_rate or 0.0
    if steps is not None and (recipe.schedule != "constant" or recipe.warmup):
        parts.append(optax.scale_by_learning_rate(learning_rate(recipe, rate, steps)))
    else:
        parts.append(optax.scale_by_learning_rate(rate))
    optimizer = optax.chain(*parts)
    if recipe.ema is not None:
        optimizer = with_ema(optimizer, recipe.ema)
    return with_loss_scale(optimizer) if recipe.precision == "float16" else optimizer


def averaged(recipe: Recipe, state: TrainState) -> TrainState:
    """The state to predict with: of the averaged parameters, where the recipe wants an average."""
    return state if recipe.ema is None else state._replace(params=ema_params(state))


def learning_rate(recipe: Recipe, rate: float, steps: int) -> optax.Schedule:
    """step -> the learning rate: from a share of it up in the warmup, and as the schedule says.

    With a warmup of W steps, step t < W has (t + 1) / (W + 1) of the rate, and step W all of it.
    Raises RecipeError where the warmup leaves no step.
    """
    warmup = recipe.warmup
    if warmup >= steps:
        raise RecipeError(f"--warmup is {warmup}, and the run has {steps} steps: wanted fewer")
    falling = SCHEDULES[recipe.schedule](rate, steps - warmup)
    if not warmup:
        return falling
    rising = optax.schedules.linear_schedule(rate / (warmup + 1), rate, warmup)
    return optax.schedules.join_schedules([rising, falling], [warmup])


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
        return gpt_objective(model, label_smoothing=recipe.label_smoothing), None
    loss = LOSSES[recipe.loss]
    if recipe.label_smoothing:
        loss = SoftmaxCrossEntropy(label_smoothing=recipe.label_smoothing)
    return model, loss


def build_gradient(
    recipe: Recipe, model: Layer, scale: Array | float | None = None
) -> GradientFunction:
    """(params, batch, context) -> (value, aux), grads: by hand or by JAX, as the recipe says.

    scale  by which the loss is multiplied for the backward pass, or None
    """
    net, loss = build_objective(recipe, model)
    low = recipe.precision != "float32"
    if low:
        net = Cast(net, recipe.precision)
    if recipe.gradient == "manual":
        gradient = backprop(net, loss, has_aux=True)
    else:
        gradient = jax.value_and_grad(objective(net, loss, has_aux=True), has_aux=True)
    if scale is not None:
        gradient = loss_scaled(gradient, scale)
    if low:
        gradient = of_cast(gradient, images=recipe.model != "gpt")
    if recipe.model == "gpt":
        gradient = of_model(gradient)
    return gradient if recipe.clip_norm is None else clip_by_norm(gradient, recipe.clip_norm)


def build_step(recipe: Recipe, model: Layer, optimizer: optax.GradientTransformation) -> Step:
    """(state, batch) -> state, metrics, as the recipe says."""
    if recipe.precision == "float16":
        return scaled_step(lambda scale: build_gradient(recipe, model, scale), optimizer)
    return train_step(build_gradient(recipe, model), optimizer)


def of_cast(gradient: GradientFunction, images: bool) -> GradientFunction:
    """The gradient of what stands in a `Cast` as one of its own parameters, in their precision."""

    def inside(params: Params, batch: Any, context: Context = Context()) -> Any:
        x, *rest = batch
        if (
            images and x.dtype == jnp.uint8
        ):  # `Cast` casts floats only: bytes have to be some before it
            x, _ = Pixels().forward((), x)
        (value, aux), (grads,) = gradient((params,), (x, *rest), context)
        statistics = cast(aux.statistics[0], "float32") if aux.statistics else ()
        return (value, aux._replace(statistics=statistics)), grads

    return inside


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
