"""A network for handwritten digits, taught by hand-written backpropagation.

This is the network of Nielsen's first chapter as pure functions: parameters go in, parameters
come out, and nothing is changed in place. Every epoch prints as the original's did: how many test
images are recognized. First comes what `compare` says of the backward pass.

    python examples/network.py            the digits that come with scikit-learn, in seconds
    python examples/network.py FOLDER     MNIST from a folder of IDX files, [784, 30, 10]
"""

import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.data import load
from funcprop.initializers import Normal


def network(sizes: list[int]) -> fp.Serial:
    """[784, 30, 10] -> Pixels, Flatten, Dense(30), Sigmoid, Dense(10), Sigmoid, from N(0, 1)."""
    layers: list[fp.Layer] = [fp.Pixels(), fp.Flatten()]
    for size in sizes[1:]:
        layers += [fp.Dense(size, w_init=Normal(), b_init=Normal()), fp.Sigmoid()]
    return fp.Serial(*layers)


def sgd(
    model: fp.Serial, data, epochs: int, mini_batch_size: int, eta: float, seed: int = 0
) -> Iterator[tuple[fp.TrainState, str]]:
    """Stochastic gradient descent: yields the state and a line to print after every epoch."""
    x, y = map(jnp.asarray, data.train)
    test_x, test_y = map(jnp.asarray, data.test)
    target = jax.nn.one_hot(y, data.classes)

    optimizer = optax.sgd(eta)
    gradient = fp.backprop(model, fp.QuadraticCost())
    one_epoch = fp.epoch(fp.train_step(gradient, optimizer), mini_batch_size)

    state = fp.init_state(model, optimizer, jax.random.key(seed), x[:1])
    for number in range(epochs):
        state, _ = one_epoch(state, (x, target))
        result = fp.evaluate(model, state.params, (test_x, test_y))
        right = round(result.accuracy * result.examples)
        yield state, f"Epoch {number}: {right} / {result.examples}"


def main(folder: str | None = None) -> None:
    if folder is None:
        data, epochs = load("digits"), 30
    else:
        data, epochs = load("mnist", folder), 15
    pixels = data.train.x[0].size
    model = network([pixels, 30, data.classes])

    x = jnp.asarray(data.train.x[:10])
    params = model.init(jax.random.key(1), x)
    print(fp.compare(model, params, x))  # is the backward pass right? then train with it

    for _, line in sgd(model, data, epochs, mini_batch_size=10, eta=3.0):
        print(line)


if __name__ == "__main__":
    main(*sys.argv[1:2])
