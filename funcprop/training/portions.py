"""An epoch that can be left after any step, and gone on with to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.layer import Array
from funcprop.training.loop import length, shuffled
from funcprop.training.state import TrainState
from funcprop.training.step import Step


class Portions(NamedTuple):
    """The parts of an epoch of `steps` steps, each one compiled program whatever is asked of it.

    examples  that an epoch has
    draw     (key, first, data) -> batches: the data in the order of the epoch that begins at step
             `first`, as `epoch` draws it
    run      (state, losses, batches, start, until) -> state, losses: the steps from `start` on,
             with the loss of each in its place among losses [steps]
    """

    steps: int
    examples: int
    draw: Callable[[Array, Any, Any], Any]
    run: Callable[[TrainState, Array, Any, int, int], tuple[TrainState, Array]]


def portions(
    step: Step, batch_size: int, data: Any, lay: Callable[[Any], Any] = lambda batches: batches
) -> Portions:
    """The portions of epochs over the data, a tree of arrays [n, ...].

    lay  batches [whole, batch_size, ...] -> the same, in a compiled program, as they shall lie
    """
    n = length(data)
    whole, rest = divmod(n, batch_size)

    @jax.jit
    def draw(key: Array, first: Any, data: Any) -> Any:
        order = shuffled(key, first, n)
        cut = whole * batch_size
        batches = jax.tree.map(
            lambda leaf: leaf[order[:cut]].reshape(whole, batch_size, *leaf.shape[1:]), data
        )
        return lay(batches), jax.tree.map(lambda leaf: leaf[order[cut:]], data)

    @jax.jit
    def several(
        state: TrainState, losses: Array, batches: Any, start: Any, until: Any
    ) -> tuple[TrainState, Array]:
        def body(i: Array, carried: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, losses = carried
            batch = jax.tree.map(lambda leaf: leaf[i], batches)
            state, metrics = step(state, batch)
            return state, losses.at[i].set(metrics.loss.astype(losses.dtype))

        # bounds that the compiler does not know: it makes the same of every portion
        return jax.lax.fori_loop(start, until, body, (state, losses))

    @jax.jit
    def last(state: TrainState, losses: Array, few: Any) -> tuple[TrainState, Array]:
        state, metrics = step(state, few)
        return state, losses.at[whole].set(metrics.loss.astype(losses.dtype))

    def run(
        state: TrainState, losses: Array, batches: Any, start: int, until: int
    ) -> tuple[TrainState, Array]:
        many, few = batches
        if start < whole:
            end = np.int32(min(until, whole))  # of NumPy: the same to every process
            state, losses = several(state, losses, many, np.int32(start), end)
        if until > whole:
            state, losses = last(state, losses, few)
        return state, losses

    return Portions(whole + bool(rest), n, draw, run)
