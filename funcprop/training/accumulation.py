"""The gradient of a batch from parts of it, one at a time, so that memory is that of a part."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcprop.collectors.clipping import AVERAGING, check_not_averaged
from funcprop.doors import door
from funcprop.gradient import GradientFunction, told
from funcprop.layer import Array, Context, widen
from funcprop.sharding import alike, in_parts
from funcprop.training.step import CLIPPED, around


@door
def accumulate(gradient: GradientFunction, parts: int) -> GradientFunction:
    """The gradient of a batch from `parts` equal micro-batches, one at a time.

    gradient  (params, batch, context) -> value, grads, as for `train_step`
    parts     a whole number; every array of the batch is [B, ...], B a multiple of it

    Returns a function of the same signature, whose value and grads are means of those of the parts,
    or sums where the loss is a sum, in the shapes and dtypes of `gradient`; 16-bit ones are added
    in float32. Statistics and further results, such as K-FAC's factors, are means, and
    aux.prediction is (). Memory is that of one part.

    Exact for sums, and for means over examples of equal weight: of a mean with a mask, or with
    ignored targets, the parts would weigh differently. What a gradient function makes of the
    examples it says in its `reduction`; one that says nothing counts as a mean.

    raises  ValueError for parts below 1, a gradient that collects something else, is clipped or
            private, or neither mean nor sum; called, for a batch that does not divide by `parts`,
            or that has a mask under a mean

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.backprop(model, fp.SoftmaxCrossEntropy())
    >>> whole, _ = gradient(params, (x, y))
    >>> parted, _ = fp.accumulate(gradient, 2)(params, (x, y))
    >>> bool(jnp.allclose(whole, parted, rtol=1e-5))
    True
    """
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise ValueError(f"parts is {parts!r}, wanted a whole number of at least 1")

    token = AVERAGING.set(True)
    try:
        check_not_averaged(gradient)
    finally:
        AVERAGING.reset(token)
    model = getattr(told(gradient, "objective", None), "model", None)
    if getattr(model, "rule", None) is not None:
        raise ValueError(f"accumulate adds gradients, and {model!r} collects something else")
    kind = told(gradient, "reduction", "mean")
    names = told(gradient, "extra", ())
    if kind == CLIPPED:
        raise ValueError(
            "accumulate would add gradients that are clipped part by part: write "
            "clip_by_norm(accumulate(gradient, parts), max_norm)"
        )
    if kind not in ("mean", "sum"):
        raise ValueError(
            f"accumulate takes the mean over its parts of a mean, or adds sums, and this is a "
            f"{kind}: give the loss reduction='sum' (with ignored targets, too)"
        )
    if kind == "sum" and names:
        raise ValueError(
            f"accumulate adds the gradients of a sum, to which {' and '.join(names)} do not add "
            "up: give the loss reduction='mean'"
        )

    @door
    def accumulated(params: Any, batch: Any, context: Context = Context()) -> Any:
        masked = context.mask is not None or (isinstance(batch, (tuple, list)) and len(batch) == 3)
        if masked and kind == "mean":
            raise ValueError(
                "accumulate cannot average masked batches, whose parts weigh differently: "
                "give the loss reduction='sum', whose parts are added"
            )

        def cut(leaf: Array) -> Array:
            if getattr(leaf, "ndim", 0) == 0 or leaf.shape[0] == 0 or leaf.shape[0] % parts:
                raise ValueError(
                    f"a batch of shape {jnp.shape(leaf)} does not divide into {parts} equal parts"
                )
            return in_parts(leaf, parts)

        def one(index: Array, given: Any) -> Any:
            part, mask = given
            key = None if context.key is None else jax.random.fold_in(context.key, index)
            token = AVERAGING.set(True)
            try:
                return _without_prediction(gradient(params, part, Context(key, mask)))
            finally:
                AVERAGING.reset(token)

        cuts = jax.tree.map(cut, (batch, context.mask))
        first = jax.eval_shape(one, jnp.int32(0), jax.tree.map(lambda leaf: leaf[0], cuts))
        # 16-bit gradients are added in float32
        zeros = jax.tree.map(lambda leaf: widen(jnp.zeros(leaf.shape, leaf.dtype)), first)
        zeros = alike(zeros, first)

        def add(total: Any, row: Any) -> tuple[Any, None]:
            return jax.tree.map(lambda a, b: a + widen(b), total, one(*row)), None

        total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), cuts))
        value, grads, *more = jax.tree.map(lambda a, b: (a / parts).astype(b.dtype), total, first)
        if kind == "sum":
            grads = jax.tree.map(lambda a, b: a.astype(b.dtype), total[1], first[1])
            value = (total[0][0], value[1]) if isinstance(value, tuple) else total[0]
            value = jax.tree.map(lambda a, b: a.astype(b.dtype), value, first[0])
        return value, grads, *more

    return around(accumulated, gradient)


def _without_prediction(result: Any) -> Any:
    """Micro-batches' predictions are not averaged; statistics are."""
    value, *others = result
    if isinstance(value, tuple):
        value = (value[0], value[1]._replace(prediction=()))
    return value, *others
