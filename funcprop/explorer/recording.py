"""A network in training as plain data: every value, error and gradient that its page shows."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.collectors import collect, records, trace
from funcprop.explorer.arrays import levels, packed
from funcprop.explorer.chain import (
    Chain,
    in_float64,
    inputs,
    interleaved,
    loss_name,
    rows,
    summed,
)
from funcprop.explorer.slips import SLIPS
from funcprop.gradient import backprop, objective
from funcprop.layer import Array, Layer, is_integer
from funcprop.layers import Affine

CURVE = 121  # points of a curve over training
ROOM = 90_000  # numbers that gradients of single examples may take


def spaced(steps: int, snapshots: int) -> list[int]:
    """Steps from 0 to `steps`, closer in the beginning, where most happens."""
    if steps < snapshots:
        return list(range(steps + 1))
    share = np.linspace(0, 1, snapshots) ** 2
    return sorted({int(step) for step in np.round(share * steps)} | {0, 1, steps})


def record(
    found: Chain,
    loss: Layer,
    batch: tuple[Array, Array],
    learning_rate: float,
    steps: int,
    snapshots: int = 41,
    examples: int = 4,
    train_bias: bool = True,
    held_out: tuple[Array, Array] | None = None,
) -> dict[str, Any]:
    """Gradient descent on the batch, and at some of its steps everything there is to see.

    found       the network
    loss        of which `loss_name` knows the name
    batch       x, target: all examples of every step
    examples    how many of the batch are recorded one by one
    held_out    (x, target) whose accuracy is told beside

    Computed in float64. Returns plain data for JSON, arrays as `packed` makes them.
    """
    began = time.perf_counter()
    x, target = inputs(found, batch[0]), np.asarray(batch[1])
    ways = Ways(found, loss, train_bias)
    count = min(examples, len(x))
    at = spaced(steps, fitting(found, snapshots, count))
    fine = sorted({*at, *spaced(steps, CURVE)})
    kept = np.searchsorted(fine, at)
    with jax.enable_x64(True):
        data = (jnp.asarray(x), as_target(target))
        held = None if held_out is None else held_data(found, held_out)
        way = ways.trained(data, learning_rate, fine)
        check_way(way, fine, learning_rate)
        stacked = jax.tree.map(lambda leaf: leaf[kept], way)
        look = jax.jit(lambda p: jax.lax.map(ways.look(data, held, count), p))
        seen = jax.tree.map(np.asarray, look(stacked))
        glance = jax.jit(lambda p: jax.lax.map(ways.glance(data), p))
        curve = jax.tree.map(packed, glance(way))
    worst = apart(seen["manual"], seen["automatic"])
    return {
        "kind": "network",
        "sizes": list(found.sizes),
        "activations": list(found.activations),
        "loss": loss_name(loss),
        "reduction": loss.reduction,  # type: ignore[attr-defined]
        "learningRate": learning_rate,
        "trainBias": train_bias,
        "x": levels(x, 16),
        "y": packed(rows(target, found.sizes[-1])),
        "steps": at,
        "params": layers_of(jax.tree.map(np.asarray, stacked)),
        "manual": layers_of(seen["manual"]),
        "automatic": layers_of(seen["automatic"]),
        "each": {
            "examples": list(range(count)),
            "costs": packed(seen["costs"]),
            **{k: [packed(leaf) for leaf in seen[k]] for k in ("z", "a", "da", "delta")},
            "automatic": layers_of(seen["each"]),
        },
        "cost": packed(seen["cost"]),
        "curve": {"steps": fine, **curve},
        "heldOut": None if held is None else packed(seen["held_out"]),
        "worst": worst,
        "jax": jax.__version__,
        "seconds": time.perf_counter() - began,
        "slips": [dataclasses.asdict(slip) for slip in SLIPS],
    }


def check_way(way: Any, at: list[int], rate: float) -> None:
    """Raises ValueError for the first step after which a parameter is not finite."""
    leaves = [np.asarray(leaf).reshape(len(at), -1) for leaf in jax.tree.leaves(way)]
    finite = np.logical_and.reduce([np.isfinite(leaf).all(1) for leaf in leaves])
    if not finite.all():
        step = at[int(np.argmin(finite))]
        raise ValueError(
            f"the parameters are not finite after step {step}, with a learning rate of {rate:g}: "
            "take a smaller one"
        )


def fitting(found: Chain, snapshots: int, count: int) -> int:
    """How many snapshots there is room for."""
    size = sum(leaf.size for leaf in jax.tree.leaves(found.params))
    return max(2, min(snapshots, ROOM // (size * (count + 3))))


def as_target(target: np.ndarray) -> Array:
    return jnp.asarray(target if is_integer(target) else np.asarray(target, np.float64))


def held_data(found: Chain, held_out: tuple[Array, Array]) -> tuple[Array, Array]:
    return jnp.asarray(inputs(found, held_out[0])), as_target(np.asarray(held_out[1]))


def layers_of(params: Any) -> list[dict[str, Any]]:
    """[{w, b}, ...] of a tree of Affine."""
    return [
        {"w": packed(p.w), "b": None if p.b is None else packed(p.b)}
        for p in params
        if isinstance(p, Affine)
    ]


def apart(manual: Any, automatic: Any) -> float:
    """The largest difference of two gradients, over the largest gradient of its leaf."""
    pairs = zip(jax.tree.leaves(manual), jax.tree.leaves(automatic), strict=True)
    tiny = float(np.finfo(np.float64).tiny)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), tiny)) for a, b in pairs)


def right(prediction: Array, target: Array) -> Array:
    """The share of examples whose largest output is that of the target, or lies on its side."""
    if is_integer(target):
        return jnp.mean(prediction.argmax(-1).astype(target.dtype) == target)
    if target.shape[-1] > 1:
        return jnp.mean(prediction.argmax(-1) == target.argmax(-1))
    return jnp.mean((prediction > 0.5) == (target > 0.5))


@dataclasses.dataclass(frozen=True)
class Ways:
    """What is asked of a network, by hand and of JAX."""

    found: Chain
    loss: Layer
    train_bias: bool

    def trained(self, data: tuple[Array, Array], rate: float, at: list[int]) -> Any:
        """The parameters after each number of steps of gradient descent, stacked."""
        gradient = backprop(self.found.model, self.loss)

        def moved(p: Any, g: Any) -> Any:
            if not isinstance(p, Affine):
                return p
            b = p.b if p.b is None or not self.train_bias else p.b - rate * g.b
            return Affine(p.w - rate * g.w, b)

        def one(_: Any, params: Any) -> Any:
            grads = gradient(params, data)[1]
            return tuple(moved(p, g) for p, g in zip(params, grads, strict=True))

        walk = jax.jit(lambda params, count: jax.lax.fori_loop(0, count, one, params))
        params = interleaved(in_float64(self.found.params))
        reached = [params]
        for before, after in itertools.pairwise(at):
            reached.append(walk(reached[-1], after - before))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *reached)

    def look(
        self, data: tuple[Array, Array], held: tuple[Array, Array] | None, count: int
    ) -> Callable[[Any], dict[str, Any]]:
        """params -> what is seen in them: the batch as a whole, and its first `count` examples."""
        model, loss, single = self.found.model, self.loss, summed(self.loss)
        gradient = backprop(model, loss)
        by_jax = jax.grad(objective(model, loss))
        traced = backprop(collect(model, trace), single)
        goal = objective(model, single)
        few = jax.tree.map(lambda leaf: leaf[:count, None], data)

        def one(params: Any) -> dict[str, Any]:
            cost, manual = gradient(params, data)
            passed = [r.value for r in records(traced(params, data)[1])]
            dense, after = passed[::2], passed[1::2]
            apiece = jax.vmap(jax.value_and_grad(goal), (None, 0))(params, few)
            seen = {
                "cost": cost,
                "manual": manual,
                "automatic": by_jax(params, data),
                "costs": apiece[0],
                "each": apiece[1],
                "z": [r.y[:count] for r in dense],
                "a": [r.y[:count] for r in after],
                "da": [r.dy[:count] for r in after],
                "delta": [r.dy[:count] for r in dense],
            }
            if held is not None:
                prediction, _ = model.forward(params, held[0])
                seen["held_out"] = right(self.decided(prediction), held[1])
            return seen

        return one

    def glance(self, data: tuple[Array, Array]) -> Callable[[Any], dict[str, Any]]:
        """params -> what the curves show: the cost, ‖δ‖ of each Dense layer, how many are right."""
        traced = backprop(collect(self.found.model, trace), summed(self.loss))
        goal = objective(self.found.model, self.loss)

        def one(params: Any) -> dict[str, Any]:
            passed = [r.value for r in records(traced(params, data)[1])]
            sizes = [r.norms["dy"] for r in passed[::2]]
            return {
                "cost": goal(params, data),
                "norms": jnp.stack(sizes) / len(data[0]) ** 0.5,
                "accuracy": right(self.decided(passed[-1].y), data[1]),
            }

        return one

    def decided(self, prediction: Array) -> Array:
        """Logits of a binary cross-entropy as probabilities: they are cut at a half."""
        binary = loss_name(self.loss) == "binary-cross-entropy"
        return jax.nn.sigmoid(prediction) if binary else prediction
