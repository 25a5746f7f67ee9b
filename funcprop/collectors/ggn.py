"""Second derivatives through the hand-written backward: products, and the diagonal.

the Hessian               ∂²C: the backward pass, differentiated forwards (Pearlmutter, 1994)
generalized Gauss-Newton  Jᵀ H J, J the model's Jacobian and H the Hessian of the loss in the
                          prediction (Schraudolph, 2002): positive semi-definite where H is
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from funcprop.collectors.collection import collect
from funcprop.collectors.examples import second_moment
from funcprop.collectors.loss_hessian import root, sum_over_columns
from funcprop.collectors.record import values
from funcprop.gradient import Objective, backprop, unpack
from funcprop.layer import Array, Context, Layer, Params


def hessian_vector(
    model: Layer,
    loss: Layer | None,
    params: Params,
    batch: Any,
    v: Params,
    context: Context = Context(),
) -> Params:
    """∂²C v, by `jax.jvp` through `backprop(model, loss)`. v is a tree like params.

    The cost is that of two gradients. `loss=None` says that the model is the whole objective.
    """
    gradient = backprop(model, loss)
    return jax.jvp(lambda params: gradient(params, batch, context)[1], (params,), (v,))[1]


def ggn_vector(
    model: Layer, loss: Layer, params: Params, batch: Any, v: Params, context: Context = Context()
) -> Params:
    """Jᵀ H J v: `jax.jvp` of forward, the loss's own backward for H, the model's for Jᵀ.

    Of the loss as it is reduced: with a mean over the examples the mean of their matrices. For any
    loss that is twice differentiable in its prediction.
    """
    x, target, context = unpack(batch, context)
    model_context, loss_context = context.split(2)

    def slope(prediction: Any) -> Any:
        value, kept = loss.forward((), (prediction, target), loss_context)
        return loss.backward((), kept, jnp.ones_like(value))[0][0]

    def predict(params: Params) -> tuple[Any, Any]:
        return model.forward(params, x, model_context)

    prediction, jv, residuals = jax.jvp(predict, (params,), (v,), has_aux=True)
    hjv = jax.jvp(slope, (prediction,), (jv,))[1]
    return model.backward(params, residuals, hjv)[1]


def diag_ggn(
    model: Layer,
    loss: Layer,
    params: Params,
    batch: Any,
    context: Context = Context(),
    method: Literal["exact", "sampled"] = "exact",
) -> Params:
    """The diagonal of Jᵀ H J, a tree like params (in float32 at least), for a model that treats
    examples apart.

    exact    a backward pass for every column of the square root of H: as many as the model has
             outputs
    sampled  one pass, an unbiased estimate; `context.key` draws it

    Raises LayerError where a layer mixes the examples, or no root of the loss's Hessian is known.
    """
    if method not in ("exact", "sampled"):
        raise ValueError(f"method is {method!r}, wanted 'exact' or 'sampled'")
    collected = collect(model, second_moment)
    objective = Objective(collected, loss, has_aux=True)
    (_, aux), (kept, loss_kept) = objective.forward(params, batch, context)
    half = root(loss, loss_kept, aux.prediction, batch[1])

    def moment(cotangent: Array) -> Params:
        return values(collected.backward(params, kept, cotangent)[1])

    if method == "sampled":
        return moment(half.sample(sampling_key(loss, context)))
    return sum_over_columns(half, aux.prediction, moment)[0]


def sampling_key(loss: Layer, context: Context) -> Array:
    """A key beside the two that forward has used, for the model and for the loss."""
    return jax.random.split(context.key_for(loss), 3)[2]
