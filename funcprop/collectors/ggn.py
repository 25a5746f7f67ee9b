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
from funcprop.doors import door
from funcprop.gradient import Objective, backprop, unpack
from funcprop.layer import Array, Context, Layer, Params


@door
def hessian_vector(
    model: Layer,
    loss: Layer | None,
    params: Params,
    batch: Any,
    v: Params,
    context: Context = Context(),
) -> Params:
    """∂²C v, by `jax.jvp` through `backprop(model, loss)`.

    model, loss  as for `backprop`; `loss=None` says that the model is the whole objective
    batch        (x, target) or (x, target, mask)
    v            a tree like params, of its shapes and dtypes; so is what is returned

    The cost is that of two gradients.

    raises  what `objective` raises, and what `jax.jvp` raises where v is no such tree
    source  Pearlmutter 1994, Fast exact multiplication by the Hessian

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> loss = fp.QuadraticCost()
    >>> batch = x, jnp.ones((4, 2))
    >>> hv = fp.hessian_vector(model, loss, params, batch, params)
    >>> jax.tree.map(jnp.shape, hv)
    Affine(w=(2, 2), b=(2,))
    >>> gv = fp.ggn_vector(model, loss, params, batch, params)
    >>> bool(jnp.allclose(hv.w, gv.w, rtol=1e-4))  # the same for a linear model
    True
    """
    gradient = backprop(model, loss)
    return jax.jvp(lambda params: gradient(params, batch, context)[1], (params,), (v,))[1]


@door
def ggn_vector(
    model: Layer, loss: Layer, params: Params, batch: Any, v: Params, context: Context = Context()
) -> Params:
    """Jᵀ H J v: `jax.jvp` of forward, the loss's own backward for H, the model's for Jᵀ.

    model   its output is the prediction, J its Jacobian in the parameters
    loss    twice differentiable in its prediction; H is its Hessian there
    batch   (x, target) or (x, target, mask)
    v       a tree like params, of its shapes and dtypes; so is what is returned

    Of the loss as it is reduced: with a mean over the examples the mean of their matrices.

    raises  ValueError where the batch is no pair or triple, and what `jax.jvp` raises where v is no
            such tree
    source  Schraudolph 2002, Fast curvature matrix-vector products for second-order gradient
            descent

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> v = jax.tree.map(jnp.ones_like, params)
    >>> gv = fp.ggn_vector(model, fp.SoftmaxCrossEntropy(), params, (x, y), v)
    >>> bool(jnp.allclose(gv.w, 0, atol=1e-5))  # the same added to all logits changes nothing
    True
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


@door
def diag_ggn(
    model: Layer,
    loss: Layer,
    params: Params,
    batch: Any,
    context: Context = Context(),
    method: Literal["exact", "sampled"] = "exact",
    samples: int = 1,
) -> Params:
    """The diagonal of Jᵀ H J, a tree like params (in float32 at least), for a model that treats
    examples apart.

    model, loss  the loss as it is reduced; its Hessian H must have a known root: see `hessian_root`
    batch        (x, target) or (x, target, mask); targets may be integers
    method       exact    a backward pass for every column of the square root of H: as many as the
                          model has outputs
                 sampled  one pass a sample, an unbiased estimate; `context.key` draws it
    samples      how many are averaged, with "sampled": the variance falls as 1 / samples

    raises  ValueError for another method or number of samples, LayerError where a layer mixes the
            examples, no root of the loss's Hessian is known, or "sampled" has no key
    source  Dangel et al. 2020, arXiv:1912.10985 (DiagGGN, DiagGGN-MC); the sample: Martens 2014,
            arXiv:1412.1193

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> diagonal = fp.collectors.diag_ggn(model, fp.QuadraticCost(), params, (x, jnp.ones((4, 2))))
    >>> diagonal.w.tolist()  # mean x² for every output
    [[14.0, 14.0], [21.0, 21.0]]
    """
    if method not in ("exact", "sampled"):
        raise ValueError(f"method is {method!r}, wanted 'exact' or 'sampled'")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples is {samples!r}, wanted a whole number of at least 1")
    if method == "exact" and samples != 1:
        raise ValueError(f"samples is {samples}, and the exact diagonal has none: method='sampled'")
    collected = collect(model, second_moment)
    objective = Objective(collected, loss, has_aux=True)
    (_, aux), (kept, loss_kept) = objective.forward(params, batch, context)
    half = root(loss, loss_kept, aux.prediction, batch[1])

    def moment(cotangent: Array) -> Params:
        return values(collected.backward(params, kept, cotangent)[1])

    if method == "sampled":
        keys = jax.random.split(sampling_key(loss, context), samples)
        if samples == 1:
            return moment(half.sample(keys[0]))
        each = jax.eval_shape(lambda key: moment(half.sample(key)), keys[0])

        def add(total: Params, key: Array) -> tuple[Params, None]:
            return jax.tree.map(jnp.add, total, moment(half.sample(key))), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), each)
        total, _ = jax.lax.scan(add, zeros, keys)
        return jax.tree.map(lambda leaf: leaf / samples, total)
    return sum_over_columns(half, aux.prediction, moment)[0]


def sampling_key(loss: Layer, context: Context) -> Array:
    """A key beside the two that forward has used, for the model and for the loss."""
    return jax.random.split(context.key_for(loss), 3)[2]
