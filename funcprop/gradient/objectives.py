"""What training minimizes, and its gradient by hand: `objective` and `backprop`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.doors import door
from funcprop.gradient.functions import Aux
from funcprop.layer import (
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    concrete,
    describe,
    is_float,
    spell,
    two,
)
from funcprop.sharding import summed


@dataclass(frozen=True)
class Objective:
    """(params, batch, context) -> the loss: what `backprop` and `jax.grad` differentiate.

    `loss=None` says that the model is the whole objective: its input is the batch, its output a
    scalar. A frozen value, so that compiled functions are reused.
    """

    model: Layer
    loss: Layer | None = None
    has_aux: bool = False

    @property
    def reduction(self) -> str:
        """What the value is of the examples' losses, where no loss says otherwise a mean."""
        found = reductions(self.loss or self.model)
        return " and ".join(sorted(found)) or "mean"

    @door
    def __call__(self, params: Params, batch: Any, context: Context = Context()) -> Any:
        return self.forward(params, batch, context)[0]

    def forward(self, params: Params, batch: Any, context: Context) -> tuple[Any, Residuals]:
        """-> value or (value, aux), residuals."""
        check_finite(self, batch)
        if self.loss is None:
            given = self.model.forward(params, batch, context)
            value, residuals = two(self.model, "forward", given)
            prediction, statistics = (), self.model.statistics(residuals)
        else:
            x, target, context = unpack(batch, context)
            model_context, loss_context = context.split(2)
            given = self.model.forward(params, x, model_context)
            prediction, kept = two(self.model, "forward", given)
            check = getattr(self.model, "check_examples", None)
            if check is not None:
                check(self.loss, prediction, target, loss_context)
            given = self.loss.forward((), (prediction, target), loss_context)
            value, loss_kept = two(self.loss, "forward", given)
            residuals, statistics = (kept, loss_kept), self.model.statistics(kept)
        if not is_float(value) or value.shape != ():
            raise LayerError(
                self.loss or self.model,
                f"the objective's value is {spell(value)}, wanted a scalar float",
                "end in a loss that reduces: reduction='mean' or 'sum'",
            )
        return ((value, Aux(prediction, statistics)) if self.has_aux else value), residuals

    def backward(self, params: Params, residuals: Residuals, dvalue: Any) -> Params:
        """The cotangent of the value -> dparams, by the hand-written backward passes."""
        if self.loss is None:
            given = self.model.backward(params, residuals, dvalue)
        else:
            kept, loss_kept = residuals
            (dprediction, _), _ = self.loss.backward((), loss_kept, dvalue)
            given = self.model.backward(params, kept, dprediction)
        return two(self.model, "backward", given)[1]


@dataclass(frozen=True)
class Backprop:
    """(params, batch, context) -> value, grads, by the hand-written backward passes."""

    objective: Objective

    @property
    def reduction(self) -> str:
        """That of the objective."""
        return self.objective.reduction

    @door
    def __call__(self, params: Params, batch: Any, context: Context = Context()) -> Any:
        value, residuals = self.objective.forward(params, batch, context)
        one = jnp.ones_like(value[0] if self.objective.has_aux else value)
        grads = self.objective.backward(params, residuals, one)
        return value, grads if collects(self.objective.model) else summed(grads, params)


@door
def objective(model: Layer, loss: Layer | None = None, has_aux: bool = False) -> Objective:
    """The function (params, batch, context=Context()) -> value that training minimizes.

    model, loss  `loss` reads (model's output, target); the batch is (x, target) or
                 (x, target, mask), and the mask goes into the context
    model alone  any layer whose input is the batch and whose output is a scalar
    has_aux      return (value, Aux(prediction, statistics)), as `jax.value_and_grad` expects

    value        [], a float: of the dtype that the loss returns

    raises  TypeError where model or loss is no Layer. Called, ValueError where the batch is no pair
            or triple or a concrete one is not finite, and LayerError where the value is no scalar
            float, or the model collects a rule of single examples and the loss takes a mean

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> goal = fp.objective(model, fp.SoftmaxCrossEntropy())
    >>> goal(params, (x, y)).shape
    ()
    >>> value, grads = jax.jit(jax.value_and_grad(goal))(params, (x, y))  # by JAX
    >>> jax.tree.map(jnp.shape, grads)
    (Affine(w=(2, 3), b=(3,)), (), Affine(w=(3, 2), b=(2,)))
    """
    if loss is not None:
        if hasattr(model, "reduction"):
            raise TypeError(
                f"the model is {describe(model)}, a loss, and the loss {describe(loss)}: "
                "they are exchanged: write backprop(model, loss)"
            )
        check_loss(model, loss)
    return Objective(model, loss, has_aux)


@door
def backprop(model: Layer, loss: Layer | None = None, has_aux: bool = False) -> Backprop:
    """Gradients by hand: (params, batch, context=Context()) -> value, grads.

    The signature of `jax.value_and_grad(objective(model, loss, has_aux), has_aux=has_aux)`.

    value   [], a float; under `has_aux` (value, Aux(prediction, statistics))
    grads   the tree, shapes and dtypes of params; None for what is frozen, and for integers

    raises  what `objective` raises, and LayerError where a layer's backward returns no pair
    source  Rumelhart, Hinton, Williams 1986, Learning representations by back-propagating errors

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.backprop(model, fp.SoftmaxCrossEntropy())
    >>> value, grads = gradient(params, (x, y))
    >>> jax.tree.map(jnp.shape, grads)
    (Affine(w=(2, 3), b=(3,)), (), Affine(w=(3, 2), b=(2,)))
    """
    return Backprop(objective(model, loss, has_aux))


def reductions(layer: Layer) -> set[str]:
    """What the losses in a model make of the examples."""
    found: set[str] = set()
    kind = getattr(layer, "reduction", None)
    if isinstance(kind, str):
        if kind == "mean" and getattr(layer, "weight", None) is not None:
            kind = "mean over the weights of the targets' classes"
        elif kind == "mean" and getattr(layer, "ignore_index", None) is not None:
            kind = "mean over the targets that are not ignored"
        found.add(kind)
    inner = getattr(layer, "layer", None)
    for child in (*getattr(layer, "layers", ()), *((inner,) if isinstance(inner, Layer) else ())):
        found |= reductions(child)
    return found


def check_loss(model: Layer, loss: Layer) -> None:
    """A rule of `collect` may ask for a sum over the examples, wherever in the model it stands."""
    check = getattr(model, "check_loss", None)
    if check is not None:
        check(loss)
    for child in getattr(model, "layers", ()):
        check_loss(child, loss)


def collects(model: Layer) -> bool:
    """Whether backward returns records in place of gradients, anywhere in the model."""
    children = getattr(model, "layers", ())
    return getattr(model, "collects", False) or any(map(collects, children))


def unpack(batch: Any, context: Context) -> tuple[Any, Any, Context]:
    """(x, target) or (x, target, mask) -> x, target, and the context with the mask in it."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise ValueError(
            f"the batch is {spell(batch)}, wanted (x, target) or (x, target, mask): "
            "write gradient(params, (x, target))"
        )
    if len(batch) == 3:
        context = Context(context.key, batch[2])
    return batch[0], batch[1], context


def check_finite(where: Any, tree: Any) -> None:
    """Raise where a concrete array of floats in the tree is not finite."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        known = concrete(leaf) if is_float(leaf) else None
        if known is not None and not np.isfinite(known.astype(np.float64)).all():
            index = tuple(map(int, np.argwhere(~np.isfinite(known.astype(np.float64)))[0]))
            raise ValueError(
                f"the batch{jax.tree_util.keystr(path)} holds {known[index]} at {index}: "
                "wanted finite numbers; clean the data before training"
            )
