"""By hand and by automatic differentiation: two gradients of one signature, step beside step.

`fp.backprop` and `jax.value_and_grad` are interchangeable. Both train the same network here, from
the same start on the same batches, and stay together to float32's rounding.

    python examples/manual_and_automatic.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.data import load


def main(steps: int = 100) -> None:
    x, y = map(jnp.asarray, load("digits").train)
    model, loss, optimizer = fp.mlp((30,), 10), fp.SoftmaxCrossEntropy(), optax.sgd(0.5)
    sides = {
        "by hand": fp.backprop(model, loss),
        "automatic": jax.value_and_grad(fp.objective(model, loss)),
    }
    states = dict.fromkeys(sides, fp.init_state(model, optimizer, jax.random.key(0), x[:1]))
    step = {name: jax.jit(fp.train_step(side, optimizer)) for name, side in sides.items()}

    print("step   by hand   automatic   largest difference of a parameter")
    for number in range(1, steps + 1):
        rows = slice(14 * number - 14, 14 * number)
        losses = {}
        for name in sides:
            states[name], metrics = step[name](states[name], (x[rows], y[rows]))
            losses[name] = float(metrics.loss)
        if number in (1, 2, 10, steps):
            pairs = zip(*(jax.tree.leaves(state.params) for state in states.values()), strict=True)
            off = max(float(jnp.abs(a - b).max()) for a, b in pairs)
            by_hand, automatic = losses.values()
            print(f"{number:4}   {by_hand:.5f}   {automatic:.5f}     {off:.0e}")


if __name__ == "__main__":
    main()
