"""The optimizer inside the backward pass: what a step of training needs, and what it does not.

Twenty-four residual blocks over stacked parameters. Each layer is updated as soon as its gradient
is there, so that no two blocks' gradients are in memory at once. The losses of both sides agree to
float32's rounding, which training carries along and enlarges: after 20 steps 0.18 on either side.

    python examples/less_memory.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.training import init_update_state, update_step


def main(width: int = 128, depth: int = 24) -> None:
    block = fp.Skip(fp.Serial(fp.LayerNorm(), fp.Dense(width), fp.GELU(), fp.Dense(width)))
    model, loss, optimizer = fp.Repeat(block, depth), fp.MeanSquaredError(), optax.adam(1e-3)
    key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (16, width))
    batch = x, jnp.sin(x)

    sides = {
        "jax.grad, then optax": (
            fp.train_step(jax.value_and_grad(fp.objective(model, loss)), optimizer),
            fp.init_state(model, optimizer, key, x),
        ),
        "updated on the way back": (
            update_step(model, loss, optimizer),
            init_update_state(model, optimizer, key, x),
        ),
    }
    for name, (step, state) in sides.items():
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        memory = compiled.memory_analysis()
        for _ in range(20):
            state, metrics = compiled(state, batch)
        megabytes = memory.temp_size_in_bytes / 1e6 if memory else float("nan")
        print(f"{name:24} {megabytes:5.1f} MB beside the state, loss {metrics.loss:.4f}")


if __name__ == "__main__":
    main()
