"""A layer of one's own inside a model of Flax, its backward by hand; and such a model lifted.

python examples/from_flax.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import squared_norms, total
from funcprop.data import load


class Network(nn.Module):
    """A model of Flax: one of its layers is ours, and `jax.grad` uses our backward for it."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(32)(x.reshape(len(x), -1))
        x = fp.as_flax(fp.Serial(fp.LayerNorm(), fp.GELU()), name="ours")(x)
        return nn.Dense(10)(x)


network, optimizer = Network(), optax.adam(3e-3)


def loss(params, x, y):
    logits = network.apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def step(params, state, x, y):
    value, grads = jax.value_and_grad(loss)(params, x, y)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value


def main(epochs: int = 8) -> None:
    data = load("digits")
    x, y = map(jnp.asarray, data.train)
    params = network.init(jax.random.key(0), x[:1])
    print("ours:", jax.tree.map(jnp.shape, params["params"]["ours"]))
    state = optimizer.init(params)
    for _ in range(epochs):
        for i in range(0, len(x) - 63, 64):
            params, state, value = step(params, state, x[i : i + 64], y[i : i + 64])
    right = jnp.argmax(network.apply(params, data.test.x), -1) == data.test.y
    print(f"loss {value:.3f}, {right.mean():.1%} of the test set")

    # The whole model as a layer of this library: the gradient's norm of every example, in one pass.
    lifted = fp.lift(network.apply, params, x[:64])
    cost = fp.SoftmaxCrossEntropy(reduction="sum")
    _, found = jax.jit(fp.backprop(fp.collect(lifted, squared_norms), cost))(
        params, (x[:64], y[:64])
    )
    norms = total(found)
    hardest, times = int(jnp.argmax(norms)), norms.max() / norms.mean()
    print(f"the hardest of 64 examples is number {hardest}: {times:.0f} times the mean norm²")


if __name__ == "__main__":
    main()
