"""A loop over batches that survives being stopped, as an iterator over what it reaches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax

from funcprop.doors import door
from funcprop.training.agreement import TURNS, agreed
from funcprop.training.checkpoints import Checkpoints
from funcprop.training.signals import Asked, Stopped, asked_to_stop
from funcprop.training.state import TrainState
from funcprop.training.step import Step

Callback = Callable[[TrainState, Any], Any]


@door
def fit(
    step: Step,
    state: TrainState,
    batches: Iterable[Any],
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callback] = (),
) -> Iterator[tuple[TrainState, Any]]:
    """Train on batch after batch: an iterator over (state, metrics).

    step         (state, batch) -> state, metrics: `jax.jit` of what `train_step` or `update_step`
                 returns, or what `epoch` returns, whose batch is the whole data
    state        of `init_state`, or what `checkpoints.restore` found
    batches      an iterable, such as `fp.data.stream(...)`, or `itertools.repeat(data, epochs)`.
                 Where it has a `position` that is saved too: for `batches.at(position)`
    checkpoints  where states are saved; None: nowhere
    callbacks    functions (state, metrics) -> whatever; one that returns True ends the loop

    With checkpoints, SIGTERM and Ctrl-C are heard between two steps: the state is saved, and
    Stopped, a KeyboardInterrupt, says after which step. They are saved at the end of the loop, too,
    and when it is left. Without, signals do what they always do.

    raises  Stopped; CheckpointError where a state cannot be saved; TypeError at once where step or
            a callback is no function

    >>> import itertools
    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model, optimizer, x = fp.Dense(2), optax.sgd(0.1), jnp.ones((4, 3))
    >>> step = jax.jit(fp.train_step(fp.backprop(model, fp.MeanSquaredError()), optimizer))
    >>> state = fp.init_state(model, optimizer, jax.random.key(0), x)
    >>> for state, metrics in fp.fit(step, state, itertools.repeat((x, jnp.ones((4, 2))), 5)):
    ...     pass
    >>> int(state.step)
    5
    """
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"fit: batches is {batches!r}, wanted an iterable: give fp.data.stream(...)"
        )
    if not isinstance(checkpoints, Checkpoints | None):
        raise TypeError(f"fit: checkpoints is {checkpoints!r}, wanted fp.Checkpoints(folder)")
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise TypeError(f"fit: callbacks is {callbacks!r}, wanted functions in a tuple or a list")
    for name, function in (("step", step), *(("a callback", c) for c in callbacks)):
        if not callable(function):
            raise TypeError(f"fit: {name} is {function!r}, wanted a function of two arguments")
    return _fit(step, state, batches, checkpoints, callbacks)


def _fit(
    step: Step,
    state: TrainState,
    batches: Iterable[Any],
    checkpoints: Checkpoints | None,
    callbacks: Sequence[Callback],
) -> Iterator[tuple[TrainState, Any]]:
    hearing = asked_to_stop() if checkpoints else contextlib.nullcontext(Asked())
    position: Any = NOTHING  # of the batches, as it was after the step that made the state

    def keep() -> None:
        if checkpoints and position is not NOTHING:
            checkpoints.save(state, position)

    turn = 0
    with hearing as asked:
        try:
            for batch in batches:
                state, metrics = step(state, batch)
                position = getattr(batches, "position", None)
                due = checkpoints is not None and checkpoints.due()
                if due:
                    keep()
                turn += 1
                # several processes stop after the same step: all ask, where all can
                if checkpoints and jax.process_count() > 1 and (due or turn % TURNS == 0):
                    asked.signal = int(agreed(asked.signal or 0)) or None
                    stop = asked.signal
                else:
                    stop = asked.signal if jax.process_count() == 1 else None
                if checkpoints and stop is not None:
                    keep()
                    checkpoints.wait()
                    raise Stopped(
                        f"stopped, and saved after step {int(state.step)} in {checkpoints.folder}",
                        asked.signal or 0,
                    )
                ended = [callback(state, metrics) is True for callback in callbacks]
                yield state, metrics
                if any(ended):
                    break
        finally:
            keep()
            if checkpoints:
                checkpoints.wait()


NOTHING = object()
