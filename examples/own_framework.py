"""Your own framework in an evening: a new layer written, checked and trained.

The task is NAND: two inputs, one output that is 0 only where both inputs are 1. The new layer is
a softsign, a = z / (1 + |z|), whose derivative is 1 / (1 + |z|)² = (1 − |a|)².
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import funcprop as fp


@dataclass(frozen=True)
class Softsign(fp.Layer):
    """a = z / (1 + |z|), and da -> dz = da (1 − |a|)²."""

    def forward(self, params, z, context=fp.Context()):
        a = z / (1 + jnp.abs(z))
        return a, a

    def backward(self, params, a, da):
        return da * (1 - jnp.abs(a)) ** 2, ()


x = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], jnp.float32)
y = jnp.array([[1], [1], [1], [0]], jnp.float32)
model = fp.Serial(fp.Dense(3), Softsign(), fp.Dense(1), fp.Sigmoid())


def main() -> None:
    params = model.init(jax.random.key(0), x)
    fp.compare(model, params, x).raise_if_wrong()  # against jax.vjp, in float64 and float32

    optimizer = optax.sgd(2.0)
    step = jax.jit(fp.train_step(fp.backprop(model, fp.QuadraticCost()), optimizer))
    state = fp.init_state(model, optimizer, jax.random.key(0), x)
    for _ in range(1000):
        state, metrics = step(state, (x, y))

    a, _ = model.forward(state.params, x)
    print(f"cost {metrics.loss:.5f}")
    for row, output in zip(x, a[:, 0], strict=True):
        print(f"{row[0]:.0f} NAND {row[1]:.0f} = {output:.3f}")


if __name__ == "__main__":
    main()
