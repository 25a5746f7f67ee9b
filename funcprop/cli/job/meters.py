"""What is measured of a run beside its loss: speed and memory, and the norms of its gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.cli.job.build import build_gradient
from funcprop.cli.job.job import Job, summarized
from funcprop.cli.job.run import Record
from funcprop.data import Examples
from funcprop.layer import Context
from funcprop.training.loss_scaling import loss_scale
from funcprop.training.state import TrainState

SIZES = {"cpu": 1024}  # rows of the product that shows the peak; elsewhere LARGE
LARGE, SECONDS = 8192, 0.2


def speed_of(job: Job) -> Callable[[Record], dict[str, float]]:
    """record -> examples a second, bytes of memory, and the share of the machine's peak.

    The peak is that of one large float32 matrix product, measured at the first call, in a third of
    a second. Operations are those that XLA counts in the passes of each layer (`funcprop summary`),
    without loss, optimizer and layers that loop inside.
    """
    counted = [row.flops for row in summarized(job).rows if not math.isnan(row.flops)]
    operations = math.fsum(counted) / job.recipe.batch_size  # of an example
    peak = 0.0

    def speed(record: Record) -> dict[str, float]:
        nonlocal peak
        peak = peak or matmul_peak()
        rate = record.examples / record.seconds
        found = {"examples_per_second": rate, **memory()}
        if operations:
            found |= {"matmul_peak": peak, "share_of_peak": rate * operations / peak}
        return found

    return speed


def matmul_peak() -> float:
    """Operations a second in a float32 matrix product: of those in a fifth of one, the fastest."""
    rows = SIZES.get(jax.default_backend(), LARGE)
    product = jax.jit(jnp.matmul)
    x = jnp.ones((rows, rows), jnp.float32)
    jax.block_until_ready(product(x, x))
    fastest, end = math.inf, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        jax.block_until_ready(product(x, x))
        fastest = min(fastest, time.perf_counter() - begin)
    return 2 * rows**3 / fastest


def memory() -> dict[str, float]:
    """Bytes that the process holds now, and the most that the device held, where they are told."""
    found = {}
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["resident_bytes"] = pages * 4096
    except (OSError, ValueError, IndexError):  # no such file outside Linux
        pass
    told = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in told:
        found["device_bytes"] = told["peak_bytes_in_use"]
    return found


def norms_of(job: Job) -> Callable[[TrainState], dict[str, list[float]]]:
    """state -> of every layer by its path, ‖gradient‖ and ‖update‖ / ‖weights‖ on one mini-batch.

    The mini-batch are the first training examples. One more program: a step that keeps nothing but
    its norms. Those of the blocks of a `Repeat` are of all of them together.
    """
    recipe, train = job.recipe, job.data.train
    batch = job.part(Examples(train.x[: recipe.batch_size], train.y[: recipe.batch_size]))
    context = Context(jax.random.key(recipe.seed))

    @jax.jit
    def norms(state: TrainState, scale: Any) -> Any:
        _, grads = build_gradient(recipe, job.model, scale)(state.params, batch, context)
        updates, _ = job.optimizer.update(grads, state.opt_state, state.params)
        return [squares(tree) for tree in (grads, updates, state.params)]

    def look(state: TrainState) -> dict[str, list[float]]:
        scale = loss_scale(state).scale if recipe.precision == "float16" else None
        found = jax.device_get(norms(state, scale))
        return {
            path: [math.sqrt(found[0][path]), ratio(found[1][path], found[2][path])]
            for path in found[0]
        }

    return look


def squares(tree: Any) -> dict[str, Any]:
    """The sum of squares of every layer's leaves, by the layer's path."""
    found: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path[:-1]) or "model"
        found[name] = found.get(name, 0.0) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    return found


def ratio(update: np.ndarray, weights: np.ndarray) -> float:
    """‖update‖ / ‖weights‖; 0 where neither is, and infinite for zeros that move."""
    if not weights:
        return math.inf if update else 0.0
    return math.sqrt(update / weights)
