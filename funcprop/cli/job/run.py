"""A run: epochs with what was seen in them, stopped where the loss is no number any more."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, Layer, Params, is_float, is_integer
from funcprop.losses import SoftmaxCrossEntropy
from funcprop.prediction import inference
from funcprop.training.loop import evaluate, length
from funcprop.training.state import TrainState
from funcprop.training.step import Step

WINDOWS = 64  # of text, evaluated at a time: their logits are in memory
TRY = "take a smaller learning rate, or clip the gradient"


class Record(NamedTuple):
    """What was seen in one epoch."""

    epoch: int  # from 0
    loss: float  # the mean over the training examples, each as it was before its step
    accuracy: float  # right / of
    right: int  # examples classified right after the epoch, or tokens of text foretold
    of: int  # examples or tokens looked at: those of the validation set, or of the test set
    held_out_loss: float  # the mean loss over them
    training_accuracy: float  # after the epoch, of as many training examples
    seconds: float  # the training alone; the first epoch includes compilation
    examples: int  # trained on


class Score(NamedTuple):
    """How many examples a model classifies right, or how many tokens of text it foretells."""

    right: int
    of: int
    loss: float

    @property
    def accuracy(self) -> float:
        return self.right / self.of

    @property
    def bits(self) -> float:
        """The loss in bits, where it is a cross-entropy."""
        return self.loss / math.log(2)


class NonFiniteError(FloatingPointError):
    """The loss or a parameter became infinite or NaN: the message says in which step."""


def score(model: Layer, state: TrainState, data: Any, loss: Layer) -> Score:
    """The model's prediction form over (x, target), target as the loss wants it.

    Where target is integers [n, T] the model is one of text, and `loss` cross-entropy.
    Raises ValueError where there is no accuracy: the model does not give a number for each class.
    """
    predictor, params = inference(model, state.params, state.statistics)
    if is_integer(data[1]) and data[1].ndim == 2:
        return score_text(predictor, params, *data)
    found = evaluate(predictor, params, data, loss)
    if found.accuracy is None or found.loss is None:
        raise ValueError("no accuracy: wanted outputs [n, classes] and at least two classes")
    return Score(round(found.accuracy * found.examples), found.examples, found.loss)


def score_text(model: Layer, params: Params, x: Array, target: Array) -> Score:
    """The model's own logits over windows [n, T] of tokens and what follows each of them."""
    parts = [
        _score_windows(model, params, x[start : start + WINDOWS], target[start : start + WINDOWS])
        for start in range(0, len(x), WINDOWS)
    ]
    losses, rights = zip(*jax.device_get(parts), strict=True)
    return Score(int(sum(rights)), target.size, float(sum(losses)) / target.size)


@functools.partial(jax.jit, static_argnums=0)
def _score_windows(model: Layer, params: Params, x: Array, target: Array) -> tuple[Array, Array]:
    """-> the sum of the losses, and how many tokens are right."""
    logits, _ = model.forward(params, x)
    loss, _ = SoftmaxCrossEntropy(reduction="sum").forward((), (logits, target))
    known = ~jnp.isnan(logits).any(-1)  # the largest of NaN would be token 0
    return loss, jnp.sum(known & (logits.argmax(-1) == target))


def history(
    run: Step,
    state: TrainState,
    data: Any,
    judge: Callable[[TrainState], tuple[Score, Score]],
    epochs: int,
    batch_size: int,
) -> Iterator[tuple[TrainState, Record]]:
    """Epoch after epoch: the state reached, and what was seen on the way.

    run    of `epoch(step, batch_size)`: one dispatch an epoch
    judge  state -> Score on held-out examples, and on training examples

    Raises NonFiniteError instead of yielding a state that is not finite: the last one is still
    with the caller.
    """
    examples = length(data)
    for number in range(epochs):
        start = time.perf_counter()
        state, metrics = run(state, data)
        wait(metrics)
        seconds = time.perf_counter() - start
        losses = np.asarray(metrics.loss, np.float64)
        check_finite(losses, state, number)
        # the last batch may be smaller, and counts for as much less
        sizes = np.full(len(losses), batch_size)
        sizes[-1] = examples - batch_size * (len(losses) - 1)
        found, training = judge(state)
        if not np.isfinite(found.loss):
            raise NonFiniteError(f"the held-out loss became {found.loss} in epoch {number}: {TRY}")
        seen = (found.accuracy, found.right, found.of, found.loss, training.accuracy)
        loss = float(np.average(losses, weights=sizes))
        yield state, Record(number, loss, *seen, seconds, examples)


def wait(tree: Any) -> None:
    """Until the arrays are there; unlike `block_until_ready`, Ctrl-C is heard meanwhile."""
    for leaf in jax.tree.leaves(tree):
        while not leaf.is_ready():
            time.sleep(0.001)


def check_finite(losses: np.ndarray, state: TrainState, number: int) -> None:
    """Raise NonFiniteError for the first step whose loss, or for a parameter, is not finite."""
    wrong = np.flatnonzero(~np.isfinite(losses))
    if wrong.size:
        raise NonFiniteError(
            f"the loss became {losses[wrong[0]]} in epoch {number}, step {wrong[0]}: {TRY}"
        )
    for path, leaf in jax.tree.leaves_with_path(state.params):
        if is_float(leaf) and not np.isfinite(np.asarray(leaf)).all():
            place = jax.tree_util.keystr(path, simple=True, separator=".")
            raise NonFiniteError(f"params.{place} became infinite or NaN in epoch {number}: {TRY}")
