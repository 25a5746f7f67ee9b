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
from funcprop.training.loop import evaluate
from funcprop.training.portions import Portions
from funcprop.training.state import TrainState

WINDOWS = 64  # of text, evaluated at a time: their logits are in memory
PORTION = 0.5  # seconds that a signal may have to wait
Average = Callable[[TrainState], TrainState]
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
    speed: dict[str, float] | None = None  # of --speed
    norms: dict[str, list[float]] | None = None  # of --norms: layer -> ‖gradient‖, ‖update‖ / ‖w‖

    def row(self) -> dict[str, Any]:
        """What metrics.jsonl says of it: what was not asked for is not there."""
        return {name: value for name, value in self._asdict().items() if value is not None}


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


class Best(NamedTuple):
    """The epoch with the smallest held-out loss up to now, and what was predicted with then."""

    epoch: Array  # int32 []; -1 before the first has ended
    loss: Array  # float32 []; in which losses are compared, so that a checkpoint holds all of it
    params: Params
    statistics: Any


class Running(NamedTuple):
    """What a checkpoint of a run holds: the state, and the losses of the epoch it is in."""

    state: TrainState
    losses: Array  # float32 [steps of an epoch]; what is to come is not looked at
    best: Best | tuple[()] = ()  # where the run stops early

    @property
    def step(self) -> Array:
        return self.state.step


class Reached(NamedTuple):
    """Where a run stands, between two steps."""

    running: Running
    epoch: int
    done: int  # steps of this epoch
    seconds: float  # that they took
    record: Record | None  # of the epoch before, where this one has not begun

    def shown(self, average: Average, local: Callable[[Any], Any] = lambda t: t) -> TrainState:
        """The state to predict with; local: arrays as they lie -> on one device."""
        state, best = average(self.running.state), self.running.best
        if not best or int(best.epoch) < 0:
            return state
        return state._replace(params=local(best.params), statistics=local(best.statistics))


def beginning(state: TrainState, steps: int, stops_early: bool = False) -> Reached:
    """Before the first of epochs with so many steps."""
    best = Best(jnp.int32(-1), jnp.float32(jnp.inf), state.params, state.statistics)
    return Reached(Running(state, jnp.zeros(steps), best if stops_early else ()), 0, 0, 0.0, None)


def better(
    best: Best | tuple[()],
    epoch: int,
    loss: float,
    state: TrainState,
    lay: Callable[[Any], Any] = lambda best: best,
) -> Best | tuple[()]:
    """The best epoch, now that one more has ended; nothing where none is asked for."""
    if not best or not np.float32(loss) < np.asarray(best.loss):
        return best
    return lay(Best(jnp.int32(epoch), jnp.float32(loss), state.params, state.statistics))


def history(
    parts: Portions,
    start: Reached,
    data: Any,
    judge: Callable[[TrainState], tuple[Score, Score]],
    epochs: int,
    batch_size: int,
    every: int | None = None,
    average: Average = lambda state: state,
    patience: int | None = None,
    lay: Callable[[Any], Any] = lambda best: best,
    agreed: Callable[[float], float] = lambda seconds: seconds,
) -> Iterator[Reached]:
    """What is reached, portion after portion, each of about half a second: a place to stop at.

    parts     of `portions(step, batch_size, data)`, or `streamed`
    data      what `parts.draw` takes
    judge     state -> Score on held-out examples, and on training examples
    every     steps after whose multiples a portion ends
    average   state -> the state to predict with
    patience  epochs without a smaller held-out loss, after which there is no further one
    lay       the best epoch -> the same, as it lies among what is saved
    agreed    seconds of this process -> those that all processes go by

    Raises NonFiniteError instead of yielding a state that is not finite: the last one is still
    with the caller.
    """
    examples, steps = parts.examples, parts.steps
    (state, losses, best), first, done, seconds, _ = start
    most = 1  # steps in a portion; the first one shows how long they take
    for number in range(first, epochs):
        if best and patience is not None and number - int(best.epoch) > patience:
            return
        batches = parts.draw(state.key, np.int32(number * steps), data)
        while done < steps:
            until, before = min(done + most, steps), time.perf_counter()
            if every is not None:
                until = min(until, done + every - (number * steps + done) % every)
            state, losses = parts.run(state, losses, batches, done, until)
            wait(losses)
            took, count = agreed(time.perf_counter() - before), until - done
            check_finite(np.asarray(losses, np.float64)[done:until], state, number, done)
            # the time of the first was that of its compilation
            most = 2 if most == 1 else max(2, min(2 * most, int(PORTION * count / took)))
            done, seconds = until, seconds + took
            if done < steps:
                yield Reached(Running(state, losses, best), number, done, seconds, None)
        # the last batch may be smaller, and counts for as much less
        sizes = np.full(steps, batch_size)
        sizes[-1] = examples - batch_size * (steps - 1)
        shown = average(state)
        found, training = judge(shown)
        if not np.isfinite(found.loss):
            raise NonFiniteError(f"the held-out loss became {found.loss} in epoch {number}: {TRY}")
        seen = (found.accuracy, found.right, found.of, found.loss, training.accuracy)
        loss = float(np.average(np.asarray(losses, np.float64), weights=sizes))
        record = Record(number, loss, *seen, seconds, examples)
        done, seconds = 0, 0.0
        best = better(best, number, found.loss, shown, lay)
        yield Reached(Running(state, losses, best), number + 1, 0, 0.0, record)


def wait(tree: Any) -> None:
    """Until the arrays are there; unlike `block_until_ready`, Ctrl-C is heard meanwhile."""
    for leaf in jax.tree.leaves(tree):
        while not leaf.is_ready():
            time.sleep(0.001)


def check_finite(losses: np.ndarray, state: TrainState, number: int, first: int) -> None:
    """Raise NonFiniteError for the first step whose loss, or for a parameter, is not finite.

    losses  of the steps from `first` on
    """
    wrong = np.flatnonzero(~np.isfinite(losses))
    if wrong.size:
        raise NonFiniteError(
            f"the loss became {losses[wrong[0]]} in epoch {number}, step {first + wrong[0]}: {TRY}"
        )
    for path, leaf in jax.tree.leaves_with_path(state.params):
        if is_float(leaf) and not is_finite(leaf):
            place = jax.tree_util.keystr(path, simple=True, separator=".")
            raise NonFiniteError(f"params.{place} became infinite or NaN in epoch {number}: {TRY}")


def is_finite(leaf: Array) -> bool:
    """Whether all of an array is, also where parts of it lie in other processes."""
    return bool(
        np.isfinite(np.asarray(leaf)).all()
        if leaf.is_fully_addressable
        else jnp.isfinite(leaf).all()
    )
