"""Epochs and evaluation: a scan over mini-batches that stay on the device."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.doors import door
from funcprop.layer import Array, Layer, Params, is_integer, spell
from funcprop.losses import Loss
from funcprop.training.state import TrainState
from funcprop.training.step import Step


@door
def epoch(step: Step, batch_size: int, shuffle: bool = True, drop_last: bool = False) -> Step:
    """One pass over the data in one dispatch: (state, data) -> state, metrics.

    step        of `train_step` or `update_step`: (state, batch) -> state, metrics
    batch_size  a whole number, at most n
    shuffle     take the examples in a new order in every epoch, drawn by the state's key
    drop_last   leave the last batch out where n does not divide; else it is smaller

    data        a tree of arrays [n, ...], such as (x, target); they stay on the device
    metrics     those of every step, stacked: metrics.loss [steps]

    raises  ValueError for a batch_size below 1; called, for empty data, arrays of different length,
            or a batch larger than the data

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> state = fp.init_state(model, optax.sgd(0.1), jax.random.key(0), x)
    >>> step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optax.sgd(0.1))
    >>> state, metrics = fp.epoch(step, batch_size=2)(state, (x, y))
    >>> int(state.step), metrics.loss.shape
    (2, (2,))
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, wanted a whole number of at least 1")

    @door
    @jax.jit
    def run(state: TrainState, data: Any) -> tuple[TrainState, Any]:
        n = length(data)
        if batch_size > n:
            raise ValueError(f"batch_size is {batch_size}, and the data has {n} examples only")
        order = jnp.arange(n)
        if shuffle:
            order = shuffled(state.key, state.step, n)

        # one pass in random order over the data is cheaper than a gather in every step
        steps = n // batch_size
        whole, rest = order[: steps * batch_size], order[steps * batch_size :]
        batches = jax.tree.map(
            lambda leaf: leaf[whole].reshape(steps, batch_size, *leaf.shape[1:]), data
        )
        state, metrics = jax.lax.scan(step, state, batches)
        if n % batch_size and not drop_last:
            state, last = step(state, jax.tree.map(lambda leaf: leaf[rest], data))
            metrics = jax.tree.map(lambda m, v: jnp.concatenate([m, v[None]]), metrics, last)
        return state, metrics

    return run


def shuffled(key: Array, step: Any, n: int) -> Array:
    """The order of n examples in the epoch that begins at this step.

    ~step: never the number that a step folds into its own key. Sorting by random bits is one round
    of `jax.random.permutation`, which takes two or more to break the rare ties.
    """
    return jnp.argsort(jax.random.bits(jax.random.fold_in(key, ~step), (n,)))


class Evaluation(NamedTuple):
    """How a model does on a data set: plain numbers of Python.

    loss      the mean over the examples, or None where no loss was given
    accuracy  the share of examples whose largest output is their class, or None
    examples  n

    >>> import funcprop as fp
    >>> fp.Evaluation(loss=0.25, accuracy=0.9, examples=360).accuracy
    0.9
    """

    loss: float | None  # the mean over the examples, or None where no loss was given
    accuracy: float | None  # the share of examples whose largest output is their class, or None
    examples: int


@door
def evaluate(
    model: Layer, params: Params, data: Any, loss: Layer | None = None, batch_size: int = 1000
) -> Evaluation:
    """Loss and accuracy over (x, target) with leading axis n, in batches -> Evaluation.

    model, params  those that `inference` returns
    data           (x [n, ...], target): integer classes [n], or one-hot [n, classes]; anything
                   else, or a prediction that is not [n, classes], has no accuracy
    loss           a Loss, summed and divided by n, or by the targets that are not ignored, or their
                   weights; any other scalar layer counts as a mean over the examples; None: no loss
    batch_size     examples at a time

    raises  ValueError for a batch_size below 1, empty data or arrays of different length

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> z = jnp.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    >>> data = z, jnp.array([0, 1, 1, 1])
    >>> found = fp.evaluate(fp.Identity(), (), data, fp.SoftmaxCrossEntropy())
    >>> found.accuracy, found.examples, round(found.loss, 3)
    (0.75, 4, 0.627)
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, wanted a whole number of at least 1")
    n = length(data)

    def cut(start: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[start : start + batch_size], data)

    parts = [_evaluate(model, loss, params, cut(start)) for start in range(0, n, batch_size)]
    values, counts, rights = zip(*jax.device_get(parts), strict=True)
    return Evaluation(
        None if loss is None else float(sum(values)) / float(sum(counts)),
        None if rights[0] is None or NO_CLASSES in rights else int(sum(rights)) / n,
        n,
    )


NO_CLASSES = -1


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(model: Layer, loss: Layer | None, params: Params, part: Any) -> tuple[Any, Any, Any]:
    """-> the sum of the losses, how many they are, and how many classes are right.

    The last is NO_CLASSES where the targets look like classes and are none.
    """
    x, target = part
    prediction, _ = model.forward(params, x)
    value = count = right = None
    if isinstance(loss, Loss):
        each = dataclasses.replace(loss, reduction="none")
        values = each.forward((), (prediction, target))[0]
        value, count = values.sum(), loss.number(values, target)
    elif loss is not None:  # some other scalar: taken for a mean over the examples
        count = length(part)
        value = loss.forward((), (prediction, target))[0] * count
    if getattr(prediction, "ndim", 0) == 2 and prediction.shape[-1] > 1:
        known = ~jnp.isnan(prediction).any(-1)  # the largest of NaN would be class 0
        if is_integer(target) and target.shape == prediction.shape[:1]:
            right = jnp.sum(known & (prediction.argmax(-1) == target))
        elif target.shape == prediction.shape:
            ones = (target == 1).sum(-1) == 1
            one_hot = jnp.all(ones & ((target == 0) | (target == 1)).all(-1))
            hits = jnp.sum(known & (prediction.argmax(-1) == target.argmax(-1)))
            right = jnp.where(one_hot, hits, NO_CLASSES)
    return value, count, right


def length(data: Any) -> int:
    """n of a tree of arrays [n, ...]; the errors of `epoch` and `evaluate`."""
    leaves = jax.tree.leaves(data)
    sizes = {leaf.shape[0] if getattr(leaf, "shape", ()) else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise ValueError(
            f"the data is {spell(data)}, wanted arrays [n, ...] of one length, not empty"
        )
    return sizes.pop() or 0
