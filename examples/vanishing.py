"""Why the first of seven layers does not learn: ‖δ‖ of each, while the network is trained.

Seven hidden layers of 30 units learn handwritten digits by plain gradient descent, with sigmoids,
with tanh and with ReLU, from the same seed. After every epoch one backward pass with the rule
`trace` says what error each layer received, δ = ∂C/∂z: its norm, averaged over 200 digits.

A sigmoid's slope is at most 1/4, so each layer passes down about a quarter of what it got.

    python examples/vanishing.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import records, trace
from funcprop.data import load

LAYERS, EPOCHS = 7, 20
ACTIVATIONS = {"sigmoid": fp.Sigmoid(), "tanh": fp.Tanh(), "ReLU": fp.ReLU()}
RATES = {"sigmoid": 0.1, "tanh": 0.1, "ReLU": 0.1}


def deltas(model: fp.Layer):
    """(params, batch) -> [layers], the mean over the examples of ‖δ‖ of each hidden layer."""
    traced = fp.backprop(fp.collect(model, trace), fp.SoftmaxCrossEntropy(reduction="sum"))

    def sizes(params, batch):
        _, found = traced(params, batch)
        dense = [record.value for record in records(found) if record.path.endswith("Dense")]
        return jnp.stack([jnp.linalg.norm(one.dy, axis=-1).mean() for one in dense[:-1]])

    return jax.jit(sizes)


def train(name: str, data, epochs: int = EPOCHS):
    """-> ‖δ‖ [epochs + 1, layers], and the share of training digits it knows in the end."""
    x, y = map(jnp.asarray, data.train)
    model = fp.mlp((30,) * LAYERS, data.classes, ACTIVATIONS[name])
    optimizer = optax.sgd(RATES[name])
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    one_epoch = fp.epoch(fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer), 20)
    sizes, some = deltas(model), (x[:200], y[:200])
    seen = [sizes(state.params, some)]
    for _ in range(epochs):
        state, _ = one_epoch(state, (x, y))
        seen.append(sizes(state.params, some))
    return jnp.stack(seen), fp.evaluate(model, state.params, data.train).accuracy


def main(epochs: int = EPOCHS) -> None:
    data = load("digits")
    print("‖δ‖ of the seven hidden layers, before training; learned: digits known after it")
    for name in ACTIVATIONS:
        seen, accuracy = train(name, data, epochs)
        words = "  ".join(f"{size:.2g}" for size in seen[0])
        factor = (seen[0, -1] / seen[0, 0]) ** (1 / (LAYERS - 1))
        print(f"{name:8} {words}   a factor of {factor:.1f} a layer   learned {accuracy:.0%}")


if __name__ == "__main__":
    main()
