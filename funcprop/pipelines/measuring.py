"""stage_times: what the three parts of a stage's work take, measured."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax

from funcprop.collectors.split import split_backward
from funcprop.doors import door
from funcprop.gradient import partition
from funcprop.layer import Context, Layer, Params
from funcprop.pipelines.schedule import StageTimes


@door
def stage_times(
    layer: Layer, params: Params, x: Any, context: Context = Context(), runs: int = 20
) -> StageTimes:
    """Seconds of forward and of both halves of backward, compiled: medians of `runs`, by turns.

    layer                a stage of a model
    params, x, context   as for the layer's forward
    runs                 how often each is measured, after one run that compiles

    Returns StageTimes of numbers of Python.

    raises  TypeError where layer is no Layer, and what its forward raises

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> stage, x = fp.Dense(3), jnp.arange(8.0).reshape(4, 2)
    >>> times = fp.pipelines.stage_times(stage, stage.init(jax.random.key(0), x), x, runs=3)
    >>> times._fields, min(times) > 0
    (('forward', 'input_half', 'weight_half'), True)
    """
    input_half, weight_half = map(jax.jit, split_backward(layer))
    forward = jax.jit(layer.forward)
    y, residuals = forward(params, x, context)
    dy = partition(y)[0]
    _, kept = input_half(params, residuals, dy)
    programs = (
        (forward, (params, x, context)),
        (input_half, (params, residuals, dy)),
        (weight_half, (params, kept)),
    )
    seconds: list[list[float]] = [[] for _ in programs]
    for number in range(runs + 1):
        for found, (program, arguments) in zip(seconds, programs, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if number:  # the first run compiles
                found.append(time.perf_counter() - start)
    return StageTimes(*map(statistics.median, seconds))
