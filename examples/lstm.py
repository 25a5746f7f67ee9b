"""An LSTM that remembers: was the first number of a sequence positive?

Between question and answer lie twenty steps of noise. What has to come through are twenty Jacobians
of the loop; `trace` shows how much of the last step's error arrives at each of them.

    python examples/lstm.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import records, trace

TIME = 20
model = fp.Serial(fp.LSTM(16), fp.LastStep(), fp.Dense(2))
loss = fp.SoftmaxCrossEntropy()


def arriving(params, batch):
    """‖∂C/∂x‖ at each time: how much the cost would move with what is read there."""
    traced = jax.jit(fp.backprop(fp.collect(model, trace), loss))
    return jnp.linalg.norm(records(traced(params, batch)[1])[0].value.dx, axis=(0, 2))


def main(steps: int = 300) -> None:
    x = jax.random.normal(jax.random.key(0), (512, TIME, 1))
    batch = x, (x[:, 0, 0] > 0).astype(jnp.int32)
    optimizer = optax.adam(1e-2)
    state = fp.init_state(model, optimizer, jax.random.key(1), x)
    before = arriving(state.params, batch)
    step = jax.jit(fp.train_step(fp.backprop(model, loss), optimizer))
    for _ in range(steps):
        state, metrics = step(state, batch)
    after = arriving(state.params, batch)
    accuracy = fp.evaluate(model, state.params, batch).accuracy
    print(f"loss {metrics.loss:.3f}, {accuracy:.1%} remembered")
    for name, sizes in (("before", before), ("after", after)):
        share = sizes[0] / sizes.sum()
        print(f"{name} training, of the error that arrives {share:.1%} is at the first step")


if __name__ == "__main__":
    main()
