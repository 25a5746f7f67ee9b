"""What an optimizer of optax may ask for beside the gradient: its extra arguments."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.gradient import GradientFunction, told
from funcprop.layer import Array, Context, Params
from funcprop.training.state import untouched

VALUES = ("value", "value_fn", "obj_fn", "grad_fn")


def parted(gradient: GradientFunction, found: Any) -> tuple[Any, Any, dict[str, Any]]:
    """-> value, grads, and what comes after them by the names that the function gives it."""
    if not isinstance(found, tuple) or len(found) < 2:
        raise ValueError(
            f"the gradient function returned {type(found).__name__}, wanted value, grads: "
            "backprop(model, loss), or jax.value_and_grad(objective(model, loss))"
        )
    value, grads, *others = found
    names = told(gradient, "extra", ())
    if len(names) != len(others):
        raise ValueError(
            f"the gradient function returned {len(found)} results, of which optax knows value and "
            f"grads, and {len(names)} by name: give the others' names, by which the optimizer gets "
            "them: gradient.extra = ('factors',)"
        )
    return value, grads, dict(zip(names, others, strict=True))


def extra_arguments(
    gradient: GradientFunction,
    params: Params,
    batch: Any,
    context: Context,
    value: Array,
    grads: Any,
    names: tuple[str, ...],
) -> dict[str, Any]:
    """The arguments that transformations of optax take by name, of this batch.

    value, grad  what the gradient function returned
    value_fn     params -> value, for line searches, whose derivative is the gradient function; in
                 optax.contrib.sophia it is called obj_fn
    grad_fn      (params, i) -> grads, for optax.contrib.sam

    All read the trainable parameters, and get those that are frozen from `params`.
    """
    if told(gradient, "private", False):
        return {"grad": grads}

    @jax.custom_jvp
    def value_at(params: Params, batch: Any, context: Context) -> Array:
        found = gradient(params, batch, context)[0]
        return found[0] if isinstance(found, tuple) else found

    @value_at.defjvp
    def _(given: Any, tangents: Any) -> tuple[Array, Array]:
        found, grads = gradient(*given)[:2]
        found = found[0] if isinstance(found, tuple) else found
        slopes = jax.tree.map(
            lambda g, d: None if g is None else jnp.sum(g * d).astype(found.dtype),
            grads, tangents[0], is_leaf=lambda leaf: leaf is None,
        )  # fmt: skip
        return found, sum(jax.tree.leaves(slopes), jnp.zeros_like(found))

    def value_fn(trained: Params, **others: Any) -> Array:
        return value_at(untouched(params, trained), batch, context)

    def grad_fn(trained: Params, i: Any = 0) -> Any:
        return gradient(untouched(params, trained), batch, context)[1]

    # optax's backtracking line search takes no argument that value_fn does not name
    kind = inspect.Parameter
    value_fn.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [kind("trained", kind.POSITIONAL_ONLY)]
        + [kind(name, kind.KEYWORD_ONLY, default=None) for name in ("obj_fn", "grad_fn", *names)]
    )
    return {
        "value": value,
        "grad": grads,
        "value_fn": value_fn,
        "obj_fn": value_fn,
        "grad_fn": grad_fn,
    }


def check_private(gradient: GradientFunction, error: Exception) -> None:
    """Raises ValueError where the optimizer asked a private gradient for what no noise hides."""
    if told(gradient, "private", False) and any(name in str(error) for name in VALUES):
        raise ValueError(
            "the optimizer reads the loss of the batch, which private_gradient does not give it: "
            "no noise hides the examples in it. Take an optimizer that reads gradients alone, such "
            "as optax.adam"
        ) from error
