"""Which examples are mislabeled? Their gradients say so.

A network is taught digits of which some have a wrong label. Of every example the norm of its own
gradient is asked for, all of them in one backward pass. Most of the largest are of wrong labels.

    python examples/per_example.py [suspects.png]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcprop as fp
from funcprop.collectors import squared_norms, total
from funcprop.data import load


def spoiled(data, share: float):
    """-> x, labels of which a share is wrong, and which those are."""
    random = np.random.default_rng(0)
    x, y = data.train
    wrong = random.random(len(y)) < share
    other = (y + random.integers(1, 10, len(y))) % 10
    return jnp.asarray(x), jnp.asarray(np.where(wrong, other, y), jnp.int32), wrong


def draw(path: str, x, y, wrong, suspects) -> None:
    """The suspects with the label that each has; a star where it is wrong."""
    from matplotlib.figure import Figure

    words = [f"{y[i]}{' *' if wrong[i] else ''}" for i in suspects]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = fp.plots.images(figure.subplots(), np.asarray(x)[suspects], words, columns=10)
    axes.set_title("the largest gradients, and their labels; * a wrong one", fontsize="medium")
    figure.savefig(path, dpi=150)


def main(picture: str | None = None) -> None:
    data = load("digits")
    x, y, wrong = spoiled(data, 0.05)
    model = fp.mlp((64,), 10, fp.Tanh())
    optimizer = optax.adam(1e-2)

    step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
    one_epoch = fp.epoch(step, 64)
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    for _ in range(3):
        state, _ = one_epoch(state, (x, y))

    loss = fp.SoftmaxCrossEntropy(reduction="sum")
    norms = jax.jit(fp.backprop(fp.collect(model, squared_norms), loss))
    squared = np.asarray(total(norms(state.params, (x, y))[1]))

    count = int(wrong.sum())
    suspects = np.argsort(-squared)[:count]
    print(f"{count} of {len(y)} labels are wrong")
    print(f"{wrong[suspects].sum()} of the {count} largest gradients belong to them")
    if picture:
        draw(picture, x, np.asarray(y), wrong, suspects[:40])


if __name__ == "__main__":
    main(*sys.argv[1:2])
