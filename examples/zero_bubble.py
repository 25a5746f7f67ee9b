"""A pipeline of four stages whose backward passes come in two halves.

A stage of a pipeline owes the one before it dx, and as long as that is not there the other waits.
Nobody waits for dparams. A backward pass written by hand returns the two side by side, so it can be
taken apart: first the half that is waited for, and the other half where the stage would be idle.

The halves of one stage are compiled and measured here. The pipeline is simulated with what they
take, in the order of the usual schedule (1F1B) and of two zero-bubble schedules.
"""

import jax

import funcprop as fp

STAGES, MICROBATCHES, WIDTH = 4, 8, 128

block = fp.Skip(
    fp.Serial(fp.LayerNorm(), fp.Dense(4 * WIDTH), fp.GELU(approximate=True), fp.Dense(WIDTH))
)
stage = fp.Serial(block, block)


def megaflops(function, *arguments) -> float:
    costs = jax.jit(function).lower(*arguments).compile().cost_analysis() or {}
    return costs["flops"] / 1e6


def main() -> None:
    x = jax.random.normal(jax.random.key(0), (256, WIDTH))
    params = stage.init(jax.random.key(1), x)
    y, residuals = stage.forward(params, x)
    dy = jax.random.normal(jax.random.key(2), y.shape)

    input_half, weight_half = fp.split_backward(stage)
    _, kept = input_half(params, residuals, dy)
    print(f"forward      {megaflops(stage.forward, params, x):6.1f} Mflop")
    print(f"backward     {megaflops(stage.backward, params, residuals, dy):6.1f}")
    print(f"input half   {megaflops(input_half, params, residuals, dy):6.1f}")
    print(f"weight half  {megaflops(weight_half, params, kept):6.1f}")

    from_forward = sum(leaf.nbytes for leaf in jax.tree.leaves(residuals))
    between = fp.collectors.bytes_between(stage, params, x)
    print(f"kept from forward to backward {from_forward / 1e6:.1f} MB, between the halves", end=" ")
    print(f"{between / 1e6:.1f} MB")

    times = fp.pipelines.stage_times(stage, params, x)
    f, b, w = (1e3 * seconds for seconds in times)
    print(f"measured: F {f:.2f} ms, B {b:.2f} ms, W {w:.2f} ms")

    for name in ("1F1B", "ZB-H1", "ZB-H2"):
        timeline = fp.pipelines.simulate_pipeline(name, [times] * STAGES, MICROBATCHES)
        held = max(timeline.peak_memory(from_forward, between)) / 1e6
        print(f"\n{name}: {timeline.bubble_fraction:.0%} idle, ", end="")
        print(f"{1e3 * timeline.cost:.1f} ms a step, {held:.0f} MB on the fullest stage")
        print(timeline)


if __name__ == "__main__":
    main()
