"""A layer of one's own inside a model of Equinox, its backward by hand; and such a model lifted.

python examples/from_equinox.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import squared_norms, total
from funcprop.data import load


class Network(eqx.Module):
    """A model of Equinox for a batch: its middle is ours, and `jax.grad` uses our backward."""

    first: eqx.nn.Linear
    ours: eqx.Module
    last: eqx.nn.Linear

    def __init__(self, key):
        one, two, three = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(64, 32, key=one)
        layer, x = fp.Serial(fp.LayerNorm(), fp.GELU()), jax.ShapeDtypeStruct((1, 32), jnp.float32)
        self.ours = fp.as_equinox(layer, x, key=two)
        self.last = eqx.nn.Linear(32, 10, key=three)

    def __call__(self, x):
        x = jax.vmap(self.first)(x.reshape(len(x), -1))
        return jax.vmap(self.last)(self.ours(x))


optimizer = optax.adam(3e-3)


@eqx.filter_value_and_grad
def loss(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@eqx.filter_jit
def step(model, state, x, y):
    value, grads = loss(model, x, y)
    updates, state = optimizer.update(grads, state)
    return eqx.apply_updates(model, updates), state, value


def main(epochs: int = 8) -> None:
    data = load("digits")
    x, y = map(jnp.asarray, data.train)
    model = Network(jax.random.key(0))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(epochs):
        for i in range(0, len(x) - 63, 64):
            model, state, value = step(model, state, x[i : i + 64], y[i : i + 64])
    right = jnp.argmax(model(jnp.asarray(data.test.x)), -1) == data.test.y
    print(f"loss {value:.3f}, {right.mean():.1%} of the test set")

    params, rest = eqx.partition(model, eqx.is_inexact_array)
    lifted = fp.lift(lambda params, x: eqx.combine(params, rest)(x), params, x[:64])
    cost = fp.SoftmaxCrossEntropy(reduction="sum")
    _, found = jax.jit(fp.backprop(fp.collect(lifted, squared_norms), cost))(
        params, (x[:64], y[:64])
    )
    norms = total(found)
    hardest, times = int(jnp.argmax(norms)), norms.max() / norms.mean()
    print(f"the hardest of 64 examples is number {hardest}: {times:.0f} times the mean norm²")


if __name__ == "__main__":
    main()
