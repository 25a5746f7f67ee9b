"""Weights of one bit: −1 or 1 in both passes, and real numbers that learn behind them.

The derivative of a sign is zero, so nothing would learn. The straight-through estimate takes the
gradient of the binary weight for that of the real one, where that lies within [−1, 1] (Courbariaux
et al., 2015). `fp.Binarize` is that for activations; here it stands in the way of the weights.

    python examples/binarized_weights.py
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.data import load
from funcprop.layers import Affine

BIT = fp.Binarize()


@dataclass(frozen=True)
class BinaryDense(fp.Layer):
    """z = x sign(w): a Dense whose weights pass through Binarize first."""

    features: int

    def init(self, key, x):
        return jax.random.uniform(key, (x.shape[-1], self.features), x.dtype, -0.5, 0.5)

    def forward(self, w, x, context=fp.Context()):
        bits, within = BIT.forward((), w)
        z, x = fp.Dense(self.features, bias=False).forward(Affine(bits, None), x)
        return z, (x, bits, within)

    def backward(self, w, residuals, dz):
        x, bits, within = residuals
        dx, dbits = fp.Dense(self.features, bias=False).backward(Affine(bits, None), x, dz)
        dw, _ = BIT.backward((), within, dbits.w)  # straight through, not beyond ±1
        return dx, dw


def train(layer, data, epochs: int) -> float:
    """-> the share of test digits that a network of such layers knows."""
    x, y = map(jnp.asarray, data.train)
    hidden = [part for _ in range(2) for part in (layer(128), fp.LayerNorm(), fp.Tanh())]
    model = fp.Serial(fp.Flatten(), *hidden, fp.Dense(10))
    optimizer = optax.adam(3e-3)
    one_epoch = fp.epoch(fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer), 64)
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    for _ in range(epochs):
        state, _ = one_epoch(state, (x, y))
    return fp.evaluate(model, state.params, data.test).accuracy


def main(epochs: int = 15) -> None:
    w = jax.random.normal(jax.random.key(0), (4, 3))
    print("a derivative:", fp.compare(BIT, (), w).ok)  # it is none, on purpose
    print("HardTanh's:  ", fp.compare(BIT, (), w, against=fp.HardTanh()).ok)
    data = load("digits")
    for layer, bits in ((fp.Dense, 32), (BinaryDense, 1)):
        print(f"{bits:2} bits a hidden weight: {train(layer, data, epochs):.1%} of the test set")


if __name__ == "__main__":
    main()
