"""Weights of one bit: −1 or 1 in both passes, and real numbers that learn behind them.

The derivative of a sign is zero, so nothing would learn. The straight-through estimate of Courbariaux
et al. (2015) takes the gradient of the binary weight for that of the real one, where that lies
within [−1, 1]. It is no derivative, on purpose: `compare` is told of which layer it is one.

    python examples/binarized_weights.py
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.data import load


@dataclass(frozen=True)
class BinaryDense(fp.Layer):
    """z = x sign(w) / √in: no multiplication is left but one a row."""

    features: int

    def init(self, key, x):
        return jax.random.uniform(key, (x.shape[-1], self.features), x.dtype, -0.5, 0.5)

    def weight(self, w):
        return jnp.where(w >= 0, 1, -1).astype(w.dtype)

    def forward(self, w, x, context=fp.Context()):
        return x @ self.weight(w) * len(w) ** -0.5, x

    def backward(self, w, x, dz):
        dz = dz * len(w) ** -0.5
        dw = jnp.where(jnp.abs(w) <= 1, x.T @ dz, 0)  # straight through
        return dz @ self.weight(w).T, dw


def train(layer, data, epochs: int):
    """-> the model, its parameters, and the share of test digits that it knows."""
    x, y = map(jnp.asarray, data.train)
    model = fp.Serial(
        fp.Flatten(), layer(128), fp.LayerNorm(), fp.Tanh(), layer(128), fp.LayerNorm(), fp.Tanh(),
        fp.Dense(10),
    )  # fmt: skip
    optimizer = optax.adam(3e-3)
    one_epoch = fp.epoch(fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer), 64)
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    for _ in range(epochs):
        state, _ = one_epoch(state, (x, y))
    return model, state.params, fp.evaluate(model, state.params, data.test).accuracy


def main(epochs: int = 15) -> None:
    data = load("digits")
    for layer in (fp.Dense, BinaryDense):
        model, params, accuracy = train(layer, data, epochs)
        bits = 32 if layer is fp.Dense else 1
        print(f"{layer.__name__:12} {bits:2} bits a weight: {accuracy:.1%} of the test set")


if __name__ == "__main__":
    main()
