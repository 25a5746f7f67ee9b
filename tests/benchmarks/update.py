"""The optimizer inside the backward pass, against jax.grad and optax under one donated jit.

    python tests/benchmarks/update.py [--width 512 1024] [--batch 64] [--remat] [--json FILE]
    python tests/benchmarks/update.py --equal

24 residual blocks, x + Dense(GELU(Dense(x))), over stacked parameters (`Repeat`) and written out.
Each line: temporaries and milliseconds of a step, and both over those of the first.
With --equal: how far the parameters are from those of jax.grad and optax after 100 steps in
float64, scanned: ‖p - p̂‖ / ‖p‖ of the worst parameter; and how far jax.grad and optax are from
themselves, begun with all parameters times 1 + 1e-15.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.initializers import VarianceScaling
from funcprop.training import init_update_state, update_step

DEPTH = 24
OPTIMIZERS = {"sgd": optax.sgd(0.1), "adam": optax.adam(1e-4)}
# 24 branches add up to the variance of one: at these rates rounding errors do not grow
SMALL = VarianceScaling(1 / DEPTH, "fan_avg", "uniform")


class Checkpointed(fp.Remat):
    """`Remat` whose forward is under jax.checkpoint too: for jax.grad."""

    def forward(self, params, x, context=fp.Context()):
        _, residuals = super().forward(params, x, context)
        run = jax.checkpoint(lambda p, v: self.layers[0].forward(p[0], v, context)[0])
        return run(params, x), residuals


def model(width, unrolled, remat=None):
    block = fp.Skip(
        fp.Serial(fp.Dense(width), fp.GELU(approximate=True), fp.Dense(width, w_init=SMALL))
    )
    block = block if remat is None else remat(block)
    return fp.Serial(*[block] * DEPTH) if unrolled else fp.Repeat(block, DEPTH)


def sides(name, width, batch, unrolled, remat):
    net = model(width, unrolled, fp.Remat if remat else None)
    plain = model(width, unrolled, Checkpointed if remat else None)
    loss, optimizer = fp.MeanSquaredError(), OPTIMIZERS[name]
    dtype = jnp.result_type(float)
    x = jax.random.normal(jax.random.key(1), (batch, width), dtype)
    key, data = jax.random.key(0), (x, jnp.zeros_like(x))
    automatic = fp.train_step(jax.value_and_grad(fp.objective(plain, loss)), optimizer)
    by_hand = fp.train_step(fp.backprop(net, loss), optimizer)
    return {
        "jax.grad + optax": (automatic, lambda: fp.init_state(plain, optimizer, key, x), data),
        "backprop + optax": (by_hand, lambda: fp.init_state(net, optimizer, key, x), data),
        "update inside": (
            update_step(net, loss, optimizer),
            lambda: init_update_state(net, optimizer, key, x),
            data,
        ),
    }


def measured(name, width, batch, unrolled, remat, seconds):
    programs = {}
    for side, (step, start, data) in sides(name, width, batch, unrolled, remat).items():
        state = start()
        compiled = jax.jit(step, donate_argnums=0).lower(state, data).compile()
        programs[side] = [compiled, state, data, []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for row in programs.values():
            compiled, state, data, times = row
            begin = time.perf_counter()
            row[1], _ = jax.block_until_ready(compiled(state, data))
            times.append(time.perf_counter() - begin)
    found = {}
    for side, (compiled, _, _, times) in programs.items():
        memory = compiled.memory_analysis()
        found[side] = {
            "temporary": memory.temp_size_in_bytes,
            "seconds": sorted(times)[len(times) // 4],
        }
    return found


def differences(name, width, batch, steps=100):
    """How far the parameters are from those of jax.grad and optax, the worst ‖p - p̂‖ / ‖p‖.

    For the update inside, and for jax.grad and optax begun a rounding error away.
    """

    def end(step, state, data):
        compiled = jax.jit(step, donate_argnums=0)
        for _ in range(steps):
            state, _ = compiled(state, data)
        return jax.tree.leaves(state.params)

    with jax.enable_x64(True):
        both = sides(name, width, batch, unrolled=False, remat=False)
        step, start, data = both["jax.grad + optax"]
        truth, state = end(step, start(), data), start()
        away = state._replace(params=jax.tree.map(lambda p: p * (1 + 1e-15), state.params))
        step_inside, start_inside, _ = both["update inside"]
        for found in (end(step_inside, start_inside(), data), end(step, away, data)):
            errors = [
                jnp.linalg.norm(p - q) / jnp.linalg.norm(p)
                for p, q in zip(truth, found, strict=True)
            ]
            yield float(max(errors))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--scanned", action="store_true", help="nothing written out")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json")
    parser.add_argument("--equal", action="store_true", help="compare parameters, measure nothing")
    options = parser.parse_args()
    report = []
    for width in options.width:
        for name in OPTIMIZERS:
            if options.equal:
                error, grown = differences(name, width, options.batch)
                print(
                    f"D {width:5} {name:5} inside {error:.1e}   begun 1e-15 away {grown:.1e}",
                    flush=True,
                )
                continue
            for unrolled in (False,) if options.scanned else (False, True):
                found = measured(
                    name, width, options.batch, unrolled, options.remat, options.seconds
                )
                first = found["jax.grad + optax"]
                for side, row in found.items():
                    form = "unrolled" if unrolled else "scanned"
                    memory, took = row["temporary"], row["seconds"]
                    print(
                        f"D {width:5} {name:5} {form:9} {side:17} {memory / 1e6:8.1f} MB "
                        f"{took * 1e3:7.1f} ms   memory {memory / first['temporary']:.2f} "
                        f"time {took / first['seconds']:.2f}",
                        flush=True,
                    )
                    report.append(
                        {"width": width, "optimizer": name, "form": form, "side": side, **row}
                    )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"jax": jax.__version__, "rows": report}, file, indent=1)


if __name__ == "__main__":
    main()
