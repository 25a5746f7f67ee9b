"""Private training of a Flax model: its own loss, lifted, and clipped example by example.

The program of `private_training.py` for a network that another library has written. `fp.lift`
takes the loss of one example as it stands; the gradient of DP-SGD comes from one backward pass.
What training carries is one value, so a run that was stopped goes on where its checkpoint stands:
the same batches, the same noise, the same parameters.

    python examples/flax_private.py                     the digits of scikit-learn, in seconds
    python examples/flax_private.py FOLDER              MNIST from a folder of IDX files, ε = 3
    python examples/flax_private.py FOLDER CHECKPOINT   the same, saved every epoch, and resumed
"""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import epsilon, noise_for, poisson_batches
from funcprop.data import load


class Network(nn.Module):
    """A small network with bounded activations, which clipping suits (Papernot et al., 2021)."""

    width: int = 16

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(self.width, (5, 5), strides=2)(x))
        x = nn.tanh(nn.Conv(2 * self.width, (4, 4), strides=2)(x))
        x = nn.tanh(nn.Dense(32)(x.ravel()))
        return nn.Dense(10)(x)


network = Network()


def loss(params, example):
    """Of one example [H, W, 1]; of one that fills up the batch, and does not count, zero."""
    image, label, counts = example
    logits = network.apply(params, image)
    cost = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.where(counts, cost, 0.0)


def plain(state):
    """The state as a checkpoint takes it: a key as its numbers."""
    return state._replace(key=jax.random.key_data(state.key))


def resumed(file: Path, start):
    """The state that was saved, or the first one where none was."""
    if not file.exists():
        return start
    state, _ = fp.load_checkpoint(file, plain(start))
    return state._replace(key=jax.random.wrap_key_data(state.key))


def train(x, y, noise: float, batch_size: int, steps: int, rate: float, seed: int = 0,
          file: Path | None = None, until: int | None = None):  # fmt: skip
    """-> the state after `steps` steps, or after `until` of them; saved in a file, once an epoch
    and at the end, from which the next call goes on."""
    share, room = batch_size / len(x), int(batch_size + 6 * batch_size**0.5)
    params = network.init(jax.random.key(seed), x[0])
    batch = x[:room], y[:room], jnp.ones(room, bool)
    lifted = fp.lift(fp.per_example(loss, reduction="sum"), params, batch)

    optimizer = optax.sgd(rate, momentum=0.9)
    gradient = fp.private_gradient(lifted, None, 0.1, noise, batch_size)
    step = jax.jit(fp.train_step(gradient, optimizer))
    state = fp.init_state(lifted, optimizer, jax.random.key(seed + 1), batch, params)
    if file is not None:
        state = resumed(file, state)
    done, until = int(state.step), steps if until is None else until
    batches = poisson_batches(seed, len(x), share, room, steps, start=done)
    for number, (chosen, counts) in zip(range(done + 1, until + 1), batches, strict=False):
        state, _ = step(state, (x[chosen], y[chosen], jnp.asarray(counts)))
        if file is not None and (number == until or number % (len(x) // batch_size) == 0):
            fp.save_checkpoint(file, plain(state))
    return state


def accuracy(params, x, y) -> float:
    predict = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))
    right = [jnp.argmax(predict(params, x[i : i + 1000]), -1) == y[i : i + 1000]
             for i in range(0, len(x), 1000)]  # fmt: skip
    return float(jnp.concatenate(right).mean())


def images(part):
    """-> [B, H, W, 1] in [0, 1], and labels."""
    x, y = map(jnp.asarray, part)
    pixels = fp.Pixels()
    return pixels.forward((), x)[0], y


def main(folder: str | None = None, file: str | None = None) -> None:
    if folder is None:
        name, data, target, batch_size, epochs, rate = "digits", load("digits"), 8.0, 256, 30, 2.0
    else:
        name, data, target, batch_size, epochs, rate = (
            "mnist",
            load("mnist", folder),
            3.0,
            1024,
            12,
            4.0,
        )
    x, y = images(data.train)
    delta, share, steps = 1e-5, batch_size / len(x), epochs * len(x) // batch_size
    noise = noise_for(target, delta, share, steps)
    state = train(x, y, noise, batch_size, steps, rate, file=file and Path(file))
    spent = epsilon(noise, share, steps, delta)
    print(f"{name}: {accuracy(state.params, *images(data.test)):.1%} at ε = {spent:.2f}, "
          f"δ = {delta:.0e} (noise multiplier {noise:.2f})")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
