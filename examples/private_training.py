"""Training in which a single example leaves little trace: DP-SGD, with its accountant's figure.

Every example's gradient is clipped, in one backward pass, before they are added up; noise hides
what is left of each. The batches are Poisson samples, which is what the accountant assumes, padded
to one shape. What ε is asked for decides how much noise there is.

    python examples/private_training.py            the digits of scikit-learn, in seconds
    python examples/private_training.py FOLDER     MNIST from a folder of IDX files, ε = 3
"""

import sys

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import epsilon, noise_for, poisson_batches, private_gradient
from funcprop.data import load


def network(width: int = 16) -> fp.Serial:
    """A small network with bounded activations, which clipping suits (Papernot et al., 2021)."""
    return fp.Serial(
        fp.Pixels(),
        fp.Conv(width, (5, 5), stride=2),
        fp.Tanh(),
        fp.Conv(2 * width, (4, 4), stride=2),
        fp.Tanh(),
        fp.Flatten(),
        fp.Dense(32),
        fp.Tanh(),
        fp.Dense(10),
    )


def train(data, target_epsilon: float, batch_size: int, epochs: int, rate: float, seed: int = 0):
    """-> accuracy on the test examples, the noise multiplier, and ε at δ = 1e-5."""
    delta, max_norm = 1e-5, 0.1
    x, y = map(jnp.asarray, data.train)
    share, steps = batch_size / len(x), epochs * len(x) // batch_size
    noise = noise_for(target_epsilon, delta, share, steps)

    model, loss = network(), fp.SoftmaxCrossEntropy(reduction="sum")
    optimizer = optax.sgd(rate, momentum=0.9)
    gradient = private_gradient(model, loss, max_norm, noise, batch_size)
    step = jax.jit(fp.train_step(gradient, optimizer), donate_argnums=0)

    state = fp.init_state(model, optimizer, jax.random.key(seed), x[:1])
    room = int(batch_size + 6 * batch_size**0.5)
    for chosen, counts in poisson_batches(seed, len(x), share, room, steps):
        state, _ = step(state, (x[chosen], y[chosen], jnp.asarray(counts)))
    result = fp.evaluate(model, state.params, tuple(map(jnp.asarray, data.test)))
    return result.accuracy, noise, epsilon(noise, share, steps, delta)


def main(folder: str | None = None) -> None:
    if folder is None:
        print("digits:", end=" ")
        found = train(load("digits"), 8.0, batch_size=256, epochs=30, rate=2.0)
    else:
        print("mnist:", end=" ")
        found = train(load("mnist", folder), 3.0, batch_size=1024, epochs=12, rate=4.0)
    accuracy, noise, spent = found
    print(f"{accuracy:.1%} at ε = {spent:.2f}, δ = 1e-05 (noise multiplier {noise:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
