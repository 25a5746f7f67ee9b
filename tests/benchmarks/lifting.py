"""Norms and clipped gradients of models that were lifted, against their own `jax.grad`.

The four models of models.py, in Flax NNX and in Equinox, 64 examples in float32, GroupNorm in place
of BatchNorm, which mixes examples. In one process, compiled ahead of time, run in turns:

    jax.grad         of the sum of the losses: the measure of all JAX sides
    jax.grad, one number   its squared norm: the gradient is then a temporary
    lift, norms      the 64 squared norms, `fp.lift` and `squared_norms`
    lift, clipped    the clipped sum, `fp.lift` and `clipped`
    vmap             the 64 squared norms by vmap(jax.grad), of the batch and of 8 at a time
    jax-privacy      its clipped gradient, where it is installed, of the batch and of 8 at a time

and, in turns of its own, PyTorch: its gradient, and the clipped gradient of Opacus by hooks and by
ghost clipping, where Opacus is installed and takes the model; its measure is PyTorch's gradient.
Before anything is timed norms and clipped sums are compared with those of vmap(jax.grad).

    python tests/benchmarks/lifting.py [--models mlp,lstm] [--repeats 3] [--seconds 2] [--json FILE]

Temporaries are those of the compiled program, of PyTorch nobody counts them. Outputs are no
temporaries, and XLA works in their buffers: "with outputs" are both, which is what a program takes.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import models
import numpy as np
from lifting_peers import jax_privacy_sides, torch_sides
from models import CHANNELS, CLASSES, EPS, FLAT, assigned, cross_entropy

import funcprop as fp
from funcprop.collectors import clipped, collect, squared_norms, total
from funcprop.costs.cost import machine

BATCH, MICRO, GROUPS = 64, 8, 8
TEXTS = {"VOCABULARY": 4096, "WIDTH": 128, "LENGTH": 128}  # 64 texts as models.py has two are hours
TOLERANCE = 1e-4  # of norms, relative

# --- convnet: GroupNorm where models.py has BatchNorm ---------------------------------------------


def convnet_nnx() -> models.Side:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            pairs = list(itertools.pairwise(CHANNELS))
            self.convs = nnx.List(
                [nnx.Conv(*pair, (3, 3), use_bias=False, rngs=rngs) for pair in pairs]
            )
            self.norms = nnx.List(
                [nnx.GroupNorm(c, GROUPS, epsilon=EPS, rngs=rngs) for c in CHANNELS[1:]]
            )
            self.out = nnx.Linear(FLAT, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = nnx.max_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2))
            return self.out(x.reshape(len(x), -1))

    def assign(m: Any, p: Any) -> None:
        for conv, norm, b in zip(m.convs, m.norms, p["blocks"], strict=True):
            assigned([conv.kernel, norm.scale, norm.bias], [b["w"], b["scale"], b["bias"]])
        assigned([m.out.kernel, m.out.bias], [p["w"], p["b"]])

    return models.nnx_side(Model, assign, lambda m, x, y: cross_entropy(m(x), y).mean())


def convnet_equinox() -> models.Side:
    import equinox as eqx

    class Model(eqx.Module):
        convs: list[Any]
        norms: list[Any]
        pool: Any
        out: Any

        def __init__(self, key: Any) -> None:
            pairs = list(itertools.pairwise(CHANNELS))
            self.convs = [
                eqx.nn.Conv2d(*pair, 3, padding=1, use_bias=False, key=key) for pair in pairs
            ]
            self.norms = [eqx.nn.GroupNorm(GROUPS, c, EPS) for c in CHANNELS[1:]]
            self.pool = eqx.nn.MaxPool2d(2, 2)
            self.out = eqx.nn.Linear(FLAT, CLASSES, key=key)

        def __call__(self, x: Any) -> Any:
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = self.pool(jax.nn.relu(norm(conv(x))))
            return self.out(x.reshape(-1))

    def place(m: Any, p: Any) -> Any:
        pairs = zip(m.convs, m.norms, strict=True)
        leaves = [leaf for conv, norm in pairs for leaf in (conv.weight, norm.weight, norm.bias)]
        values = [
            v for b in p["blocks"] for v in (b["w"].transpose(3, 2, 0, 1), b["scale"], b["bias"])
        ]
        rows = models.channels_first(p["w"]).T
        return [*leaves, m.out.weight, m.out.bias], [*values, rows, p["b"]]

    def loss(model: Any, state: Any, x: Any, y: Any) -> Any:
        return cross_entropy(jax.vmap(model)(jnp.moveaxis(x, -1, 1)), y).mean(), state

    return models.equinox_side(Model, place, loss)


def sides_of(name: str) -> dict[str, Callable[[], models.Side]]:
    if name == "convnet":
        return {"Flax NNX": convnet_nnx, "Equinox": convnet_equinox}
    found = models.WORKLOADS[name].sides
    return {side: found[side] for side in ("Flax NNX", "Equinox")}  # type: ignore[misc]


# --- what is measured -----------------------------------------------------------------------------


def squares(grads: Any) -> Any:
    return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads))


def programs(one: Callable[..., Any], whole: Any, params: Any, batch: Any, bound: float) -> Any:
    """name -> (params, batch) -> what that side computes.

    one    (params, example) -> loss
    whole  (params, batch) -> the sum of the losses
    """
    layer = fp.lift(fp.per_example(one, reduction="sum"), params, batch)
    collected = fp.backprop(collect(layer, squared_norms))

    def norm(params: Any, example: Any) -> Any:
        return squares(jax.grad(one)(params, example))

    def in_parts(params: Any, batch: Any) -> Any:
        return jax.lax.map(lambda example: norm(params, example), batch, batch_size=MICRO)

    found = {
        "jax.grad": jax.grad(whole),
        "jax.grad, one number": lambda params, batch: squares(jax.grad(whole)(params, batch)),
        "lift, norms": lambda params, batch: total(collected(params, batch)[1]),
        "lift, clipped": lambda params, batch: clipped(layer, None, bound)(params, batch)[1],
        "vmap": jax.vmap(norm, (None, 0)),
        f"vmap, {MICRO} at a time": in_parts,
    }
    return found | jax_privacy_sides(one, bound, MICRO)


def compared(name: str, one: Any, results: Any, params: Any, batch: Any, bound: float) -> Any:
    """Raises AssertionError where a side does not compute what vmap(jax.grad) does."""
    norms = np.asarray(results["vmap"])
    for side in ("lift, norms", f"vmap, {MICRO} at a time"):
        np.testing.assert_allclose(results[side], norms, rtol=TOLERANCE, err_msg=f"{name}, {side}")
    factors = jnp.minimum(1, bound / jnp.sqrt(norms))

    def weighted(params: Any) -> Any:
        return factors @ jax.vmap(one, (None, 0))(params, batch)

    wanted = jax.tree.leaves(jax.jit(jax.grad(weighted))(params))
    largest = max(float(jnp.abs(leaf).max()) for leaf in wanted)  # a key's bias has no gradient
    for side, found in results.items():
        if side == "lift, clipped" or side.startswith("jax-privacy"):
            for leaf, right in zip(jax.tree.leaves(found), wanted, strict=True):
                error = float(jnp.abs(leaf - right).max())
                assert error <= TOLERANCE * largest, f"{name}, {side}: {error:.1e} of {largest:.1e}"
    return norms


def turns(sides: dict[str, Callable[[], Any]], repeats: int, seconds: float) -> dict[str, Any]:
    """Seconds of each run of each side, all taking turns."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        end = time.perf_counter() + seconds * len(sides)
        while True:
            for side, run in sides.items():
                begin = time.perf_counter()
                jax.block_until_ready(run())
                times[side].append(time.perf_counter() - begin)
            if time.perf_counter() > end:
                break
    return times


def rows_of(times: dict[str, list[float]], taken: dict[str, tuple[int, int]], first: str) -> Any:
    """The figures of every side, and their ratios to the first's."""
    least, middle = min(times[first]), statistics.median(times[first])
    rows = {}
    for side, runs in times.items():
        row = {
            "minimum": min(runs), "median": statistics.median(runs), "runs": len(runs),
            "time": min(runs) / least, "median time": statistics.median(runs) / middle,
        }  # fmt: skip
        if side in taken:
            row["bytes"], row["bytes with outputs"] = taken[side]
            row["temporaries"] = taken[side][0] / max(1, taken[first][0])
            row["with outputs"] = taken[side][1] / max(1, taken[first][1])
        rows[side] = row
    return rows


def memory(program: Any) -> tuple[int, int]:
    """Bytes of temporaries, and of temporaries and outputs."""
    found = program.memory_analysis()
    own = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.temp_size_in_bytes, found.temp_size_in_bytes + own


def measured(name: str, library: str, side: models.Side, options: Any) -> tuple[Any, Any]:
    """-> the rows of one model in one library, and its squared norms."""
    rng = np.random.default_rng(0)
    workload = models.WORKLOADS[name]
    start, batch = workload.start(rng), jax.tree.map(jnp.asarray, workload.batch(rng))
    params, rest = jax.tree.map(jnp.asarray, side.put(start))

    def one(params: Any, example: Any) -> Any:
        x, y = example
        if side.model is None:  # a batch of one
            return side.loss(params, rest, x[None], y[None])[0]
        x = jnp.moveaxis(x, -1, 0) if name == "convnet" else x
        return cross_entropy(side.model(params)(x), y).mean()

    def whole(params: Any, batch: Any) -> Any:
        return BATCH * side.loss(params, rest, *batch)[0]

    # about half of the examples are clipped
    bound = float(jnp.sqrt(jnp.median(jax.jit(jax.vmap(
        lambda p, e: squares(jax.grad(one)(p, e)), (None, 0)))(params, batch))))  # fmt: skip
    compiled = {}
    for title, function in programs(one, whole, params, batch, bound).items():
        compiled[title] = jax.jit(function).lower(params, batch).compile()
    results = {title: run(params, batch) for title, run in compiled.items()}
    norms = compared(f"{name}, {library}", one, results, params, batch, bound)
    del results
    ready = {title: (lambda run=run: run(params, batch)) for title, run in compiled.items()}
    taken = {title: memory(run) for title, run in compiled.items()}
    rows = rows_of(turns(ready, options.repeats, options.seconds), taken, "jax.grad")
    return rows, norms


def table(name: str, library: str, rows: Any) -> str:
    lines = []
    for side, row in rows.items():
        mb, ratio, whole, both = "–", "–", "–", "–"
        if "bytes" in row:
            mb, ratio = f"{row['bytes'] / 1e6:.1f}", f"{row['temporaries']:.2f}"
            both, whole = f"{row['bytes with outputs'] / 1e6:.1f}", f"{row['with outputs']:.2f}"
        lines.append(
            f"| {name} | {library} | {side} | {row['time']:.2f} | {row['median time']:.2f} "
            f"| {ratio} | {whole} | {1e3 * row['minimum']:.1f} | {mb} | {both} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(models.WORKLOADS), help="with commas between")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each side, a repeat")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    models.IMAGES = models.SEQUENCES = models.TEXTS = BATCH
    for size, value in TEXTS.items():
        setattr(models, size, value)

    versions = [machine()]
    for library in ("flax", "equinox", "torch", "opacus", "jax_privacy"):
        there = importlib.util.find_spec(library) is not None
        version = getattr(__import__(library), "__version__", "") if there else "is not installed"
        versions.append(f"{library} {version}")
    print(", ".join(versions) + "\n")
    print("| model | library | side | time | median time | temporaries | with outputs | ms | MB "
          "| MB with outputs |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    found: dict[str, Any] = {}
    for name in options.models.split(","):
        found[name] = {}
        norms: dict[str, Any] = {}
        for library, make in sides_of(name).items():
            found[name][library], norms[library] = measured(name, library, make(), options)
            print(table(name, library, found[name][library]), flush=True)
        first, second = norms.values()
        np.testing.assert_allclose(first, second, rtol=1e-3, err_msg=f"{name}: the libraries")
        ready, refused = torch_sides(name, first)
        if ready:
            time.sleep(0.05)
            times = turns(ready, options.repeats, options.seconds)
            found[name]["PyTorch"] = rows_of(times, {}, "gradient")
            print(table(name, "PyTorch", found[name]["PyTorch"]), flush=True)
        for side, why in refused.items():
            print(f"| {name} | PyTorch | {side}: {why} | – | – | – | – | – | – | – |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": versions, "models": found}, indent=1))


if __name__ == "__main__":
    main()
