"""Norms of the examples' gradients, and clipped gradients, against one plain gradient.

    python tests/benchmarks/per_example.py [--models mlp convnet lstm gpt] [--json FILE]

One gradient by hand of a batch of 64 is the measure. Beside it: the 64 norms from one backward
pass; the clipped gradient from one; and what JAX offers, vmap(jax.grad) over the whole batch and
over micro-batches, the fastest size of those tried. Sides take turns in one process; medians.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

import funcprop as fp
from funcprop.collectors import clipped, collect, squared_norms, summed, total

BATCH = 64


def images(classes=10):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(BATCH, 28, 28, 1)), jnp.float32)
    return x, jnp.asarray(random.integers(0, classes, BATCH), jnp.int32)


def tokens(length, vocabulary):
    random = np.random.default_rng(0)
    ids = random.integers(0, vocabulary, (2, BATCH, length))
    return tuple(jnp.asarray(part, jnp.int32) for part in ids)


def language_model(length, vocabulary):
    model = fp.models.gpt_objective(fp.gpt(vocabulary, length, width=128, depth=4, heads=4))
    return summed(model), None, tokens(length, vocabulary)


LOSS = fp.SoftmaxCrossEntropy(reduction="sum")
MODELS = {
    "mlp": lambda: (fp.mlp((512, 512), 10, fp.ReLU()), LOSS, images()),
    "convnet": lambda: (fp.convnet(10, dropout=0.0), LOSS, images()),
    "lstm": lambda: (fp.lstm_classifier(10), LOSS, images()),
    "gpt": lambda: language_model(128, 4096),
    "gpt-long": lambda: language_model(512, 16384),
}


def vmapped(model, loss, size):
    """Norms by JAX: vmap(jax.grad) over `size` examples at a time."""

    def one(params, example):
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        grads = jax.grad(fp.objective(model, loss))(params, batch)
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads))

    def norms(params, batch):
        return jax.lax.map(lambda example: one(params, example), batch, batch_size=size)

    return norms


def programs(model, loss, sizes):
    collected = fp.backprop(collect(model, squared_norms), loss)
    found = {
        "one gradient": fp.backprop(model, loss),
        "norms": lambda params, batch: total(collected(params, batch)[1]),
        "clipped": clipped(model, loss, 1.0),
    }
    for size in sizes:
        name = "vmap(jax.grad)" if size == BATCH else f"vmap(jax.grad), {size} at a time"
        found[name] = vmapped(model, loss, size)
    return found


def measured(model, loss, batch, sizes, seconds):
    params = model.init(jax.random.key(0), batch if loss is None else batch[0])
    compiled, results = {}, {}
    for name, function in programs(model, loss, sizes).items():
        compiled[name] = jax.jit(function).lower(params, batch).compile()
        results[name] = jax.block_until_ready(compiled[name](params, batch))
    for name in results:
        if name.startswith("vmap"):
            np.testing.assert_allclose(results["norms"], results[name], rtol=2e-3)
    times = {name: [] for name in compiled}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, run in compiled.items():
            begin = time.perf_counter()
            jax.block_until_ready(run(params, batch))
            times[name].append(time.perf_counter() - begin)
    return {
        name: {
            "seconds": float(np.median(times[name])),
            "temporary": run.memory_analysis().temp_size_in_bytes,
        }
        for name, run in compiled.items()
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["mlp", "convnet", "lstm", "gpt"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 16, 4])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json")
    options = parser.parse_args()
    report = {}
    for name in options.models:
        report[name] = measured(*MODELS[name](), options.sizes, options.seconds)
        first = report[name]["one gradient"]
        for side, row in report[name].items():
            print(
                f"{name:9} {side:26} {row['seconds'] * 1e3:8.1f} ms "
                f"{row['temporary'] / 1e6:8.1f} MB   time {row['seconds'] / first['seconds']:.2f} "
                f"memory {row['temporary'] / first['temporary']:.2f}",
                flush=True,
            )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"jax": jax.__version__, "models": report}, file, indent=1)


if __name__ == "__main__":
    main()
