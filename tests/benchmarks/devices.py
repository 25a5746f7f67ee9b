"""A step of gpt compiled for 8, 64 and 512 devices, against closed forms; 7B and 70B on paper.

    python -m tests.benchmarks.devices [--devices 8 64 512] [--large]

Prints the tables of docs/scaling.md. Nothing is computed: a program is compiled from shapes alone,
for devices that XLA only pretends to have, a number of them in a process of its own. What devices
tell each other is read from its text (`tests/placement/traffic.py`), memory a device from
`memory_analysis()`. --large compiles steps of the 7B model instead.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

import funcprop as fp
from funcprop import placement
from tests.placement.traffic import collectives

WIDTH, DEPTH, HEADS, VOCABULARY, LENGTH = 512, 4, 8, 512, 512
INNER = 4  # devices along the axis of features, or of positions, beside that of examples
WAYS = ("data", "full", "tensor", "sequence", "full, tensor")
# depth, width and heads of Llama 2 (Touvron et al., 2023, arXiv:2307.09288), in the block of GPT-2
LARGE = {"7B": (32, 4096, 32), "70B": (80, 8192, 64)}
CONTEXT, TOKENS = 4096, 32000
OPTIMIZER = optax.adam(1e-3)
GB = 1e9


# --- one step -------------------------------------------------------------------------------------


def axes_of(way: str, devices: int) -> dict[str, int]:
    """The mesh: its axes with their sizes."""
    if way == "sequence":
        return {"data": devices // INNER, "sequence": INNER}
    if "tensor" in way:
        return {"data": devices // INNER, "model": INNER}
    return {"data": devices}


def placement_of(way: str, objective: fp.Layer) -> placement.Placement:
    """How it lies."""
    if way == "data":
        return placement.data_parallel()
    if way == "full":
        return placement.fully_sharded()
    if way == "sequence":
        return placement.data_parallel() | placement.sequence_parallel()
    outer = placement.data_parallel() if way == "tensor" else placement.fully_sharded()
    return outer | placement.tensor_parallel(objective)


def gpt(depth: int, width: int, heads: int, vocabulary: int, length: int, low=False, remat=False):
    """The objective; its blocks computed in bfloat16, and again in the backward pass, if asked."""
    model = fp.gpt(vocabulary, length, width=width, depth=depth, heads=heads, fused=False)
    if low or remat:
        (both,) = model.layers
        backbone, head = both.layers
        *before, repeat, norm = backbone.layers
        (block,) = repeat.layers
        block = fp.Remat(block) if remat else block
        block = fp.Cast(block, "bfloat16") if low else block
        backbone = fp.Serial(*before, fp.Repeat(block, depth), norm)
        model = fp.Tied(fp.Serial(backbone, head), model.pairs)
    return fp.models.gpt_objective(model)


def shapes(objective: fp.Layer, batch: Any, update: bool = False) -> Any:
    """The state before the first step, as shapes."""
    init = fp.training.init_update_state if update else fp.init_state
    return jax.eval_shape(lambda key: init(objective, OPTIMIZER, key, batch), jax.random.key(0))


def laid(objective: fp.Layer, tokens: tuple[int, int], mesh: Any, where: Any, update: bool = False):
    """(state, batch) as shapes that know where they lie."""
    ids = jax.ShapeDtypeStruct(tokens, jnp.int32, sharding=NamedSharding(mesh, where.batch))
    state = shapes(objective, (ids, ids), update)
    lies = placement.shardings(state, mesh, where)
    state = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), state, lies
    )
    return state, (ids, ids)


def held(tree: Any) -> int:
    """Bytes of a tree on one device, by the types of its leaves."""

    def of(leaf: Any) -> int:
        where = getattr(leaf, "sharding", None)
        spread = where is not None and not where.mesh.empty
        shape = where.shard_shape(leaf.shape) if spread else leaf.shape
        return leaf.dtype.itemsize * math.prod(shape)

    return sum(of(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf.dtype, "itemsize"))


def compiled(objective, tokens, mesh, where, update=False) -> dict[str, Any]:
    """What is read of a step, of which nothing is computed."""
    state, batch = laid(objective, tokens, mesh, where, update)
    step = fp.train_step(fp.backprop(objective), OPTIMIZER)
    if update:
        step = fp.training.update_step(objective, None, OPTIMIZER)
    begin = time.perf_counter()
    program = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    memory = program.memory_analysis()
    told = collectives(program.as_text(), mesh.size)
    times: Counter[str] = Counter()
    for each in told:
        times[each.kind] += each.times
    result = memory.output_size_in_bytes - memory.alias_size_in_bytes
    kept = jax.eval_shape(objective.forward, state.params, batch)[1]
    return {
        "seconds": time.perf_counter() - begin,
        "collectives": dict(times),
        "sent": sum(each.sent for each in told),
        "memory": memory.argument_size_in_bytes + memory.temp_size_in_bytes + result,
        "state": held((state.params, state.opt_state)),
        "gradients": 0 if update else held(state.params),
        "kept": held(kept),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    }


# --- closed forms ---------------------------------------------------------------------------------


def part(n: int) -> float:
    """The share of an array that one of n devices does not have."""
    return (n - 1) / n


def textbook(way: str, devices: int, parameters: int, activation: int) -> float:
    """Bytes that a device sends in a step, as the papers have it; float32.

    parameters  how many
    activation  bytes of [examples a device, T, D]

    data      the gradients summed, 2 (n-1)/n of them
    full      parameters gathered forward and backward and gradients scattered, 3 (n-1)/n
              (Rajbhandari et al., 2020)
    tensor    four sums of an activation a block along m devices (Shoeybi et al., 2019)
    sequence  keys and values gathered and their gradients scattered, four (m-1)/m of an activation
              a block, along m devices

    Besides, in the last two, gradients or parameters along the other axis.
    """
    weights, outer = 4 * parameters, devices // INNER
    if way == "data":
        return 2 * part(devices) * weights
    if way == "full":
        return 3 * part(devices) * weights
    if way == "sequence":
        return 2 * part(devices) * weights + 4 * DEPTH * part(INNER) * activation
    copies = 3 if way == "full, tensor" else 2
    inside = 4 * DEPTH * 2 * part(INNER) * activation
    return copies * part(outer) * weights / INNER + inside


def as_compiled(way: str, devices: int, parameters: int, activation: int) -> float:
    """The same, as XLA for a CPU compiles what the types say: where it differs, and why.

    The table, tied to the output, has two gradients, each summed. No sum is scattered: an
    all-reduce, then a slice. Of queries, keys and values each has its gradient by x summed, six
    sums a block instead of four; so is what the embedding finds, and the table is gathered for the
    logits; gradients of table and positions are whole. Along positions queries are gathered too,
    and for the weight gradients of all three their input, each time, and dy for that of the output;
    these need no sum along that axis. Gradients of blocks are summed along one axis, then along the
    other.
    """
    weights, outer = 4 * parameters, devices // INNER
    table, positions = 4 * VOCABULARY * WIDTH, 4 * LENGTH * WIDTH
    blocks = weights - table - positions
    if way == "data":
        return 2 * part(devices) * (weights + table)
    if way == "full":
        return 4 * part(devices) * weights
    if way == "sequence":
        whole = 4 * 4 * DEPTH * WIDTH * WIDTH
        sums = 2 * part(INNER) * (blocks - whole) + 2 * part(outer) * blocks
        ends = part(devices) * (2 * 2 * table + positions)
        return sums + ends + 7 * DEPTH * part(INNER) * activation
    copies = 4 if way == "full, tensor" else 2
    inside = (6 * DEPTH + 1) * 2 * part(INNER) * activation + part(INNER) * table
    return copies * part(outer) * (blocks / INNER + positions + 2 * table) + inside


# --- tables ---------------------------------------------------------------------------------------


def small(devices: int) -> None:
    """Prints a row for every way, in a process of so many devices."""
    objective = gpt(DEPTH, WIDTH, HEADS, VOCABULARY, LENGTH)
    for way in WAYS:
        axes = axes_of(way, devices)
        mesh = jax.make_mesh(tuple(axes.values()), tuple(axes))
        tokens = (axes["data"], LENGTH)  # an example for every device along the first axis
        found = compiled(objective, tokens, mesh, placement_of(way, objective))
        sizes = (way, devices, found["parameters"], 4 * LENGTH * WIDTH)
        told, sent = found["collectives"], found["sent"]
        wanted = as_compiled(*sizes)
        by_types = found["state"] + found["gradients"] + found["kept"]
        kinds = ", ".join(f"{told[kind]} {kind}" for kind in sorted(told))
        print(
            f"| {devices} | {way} | {' × '.join(map(str, axes.values()))} | {kinds} "
            f"| {textbook(*sizes) / 1e6:.1f} | {wanted / 1e6:.1f} | {sent / 1e6:.1f} "
            f"| {sent / wanted:.2f} "
            f"| {found['memory'] / 1e6:.1f} | {by_types / 1e6:.1f} "
            f"| {found['memory'] / by_types:.2f} | {found['seconds']:.0f} |",
            flush=True,
        )


SIDES = {  # how -> (bfloat16, remat, update in backward)
    "float32": (False, False, False),
    "bfloat16": (True, False, False),
    "bfloat16, remat": (True, True, False),
    "bfloat16, remat, update inside": (True, True, True),
}


def large_on_paper(name: str) -> None:
    """Prints what a step of a large model holds, from its shapes: whole, and on 8, 64 and 512."""
    depth, width, heads = LARGE[name]
    ids = jax.ShapeDtypeStruct((1, CONTEXT), jnp.int32)
    for how, (low, remat, update) in SIDES.items():
        objective = gpt(depth, width, heads, TOKENS, CONTEXT, low, remat)
        params = jax.eval_shape(objective.init, jax.random.key(0), (ids, ids))
        kept = held(jax.eval_shape(objective.forward, params, (ids, ids))[1])
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        weights, moments = 4 * count, 8 * count
        grads = weights // depth if update else weights  # a layer's at a time
        whole = weights + moments + grads
        each = "| ".join(f"{(whole / n + kept) / GB:.1f} " for n in (1, 8, 64, 512))
        print(
            f"| {name} | {how} | {count / 1e9:.2f} | {weights / GB:.1f} | {moments / GB:.1f} "
            f"| {grads / GB:.1f} | {kept / GB:.1f} | {each}|",
            flush=True,
        )


def large_compiled(devices: int) -> None:
    """Prints what the 7B model's step takes on a device, compiled, beside what is on paper."""
    depth, width, heads = LARGE["7B"]
    for how, (low, remat, update) in SIDES.items():
        objective = gpt(depth, width, heads, TOKENS, CONTEXT, low, remat)
        mesh = jax.make_mesh((devices,), ("data",))
        tokens = (devices, CONTEXT)
        found = compiled(objective, tokens, mesh, placement.fully_sharded(), update)
        paper = found["state"] + found["gradients"] + found["kept"]
        print(
            f"| {devices} | {how} | {found['sent'] / GB:.1f} | {found['state'] / GB:.2f} "
            f"| {found['memory'] / GB:.1f} | {paper / GB:.1f} | {found['memory'] / paper:.2f} "
            f"| {found['seconds']:.0f} |",
            flush=True,
        )


HEADS_OF_TABLES = {
    "small": "| devices | placement | mesh | collectives a step | MB sent: textbook "
    "| as compiled | read | ratio | MB held: read | by types | ratio | seconds to compile |",
    "paper": "| model | computed in | 10⁹ parameters | GB parameters | Adam | gradients | kept "
    "| on 1 | 8 | 64 | 512 |",
    "large": "| devices | computed in | GB sent | GB state | GB held | on paper | ratio "
    "| seconds to compile |",
}


def head(name: str) -> None:
    row = HEADS_OF_TABLES[name]
    print(f"\n{row}\n|{'---|' * (row.count('|') - 1)}", flush=True)


def in_a_process(devices: int, part: str) -> None:
    """This file again, where there are so many devices."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    words = ["-m", "tests.benchmarks.devices", "--devices", str(devices), "--part", part]
    subprocess.run([sys.executable, *words], check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="*", default=[8, 64, 512])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--part", choices=["small", "large"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        {"small": small, "large": large_compiled}[given.part](*given.devices)
        return
    name = "large" if given.large else "small"
    head(name)
    for devices in given.devices:
        in_a_process(devices, name)
    if not given.large:
        head("paper")
        for model in LARGE:
            large_on_paper(model)


if __name__ == "__main__":
    main()
