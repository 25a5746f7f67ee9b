"""K-FAC of a model of Flax or Equinox, as a transformation of optax: Adam's 1,000 steps in 300.

`fp.lift` makes a layer of the model's own apply function, `with_factors` a gradient with Kronecker
factors, `precondition_by_kfac` an optimizer. Both sides begin with the same parameters and draw
batches of one size; each has the rate that left it with the least loss over all training examples,

    Adam    of 0.005, 0.01, 0.02, 0.05, 0.1
    K-FAC   of 0.05, 0.1, 0.2, with a damping of 0.001, 0.003, 0.01 or 0.03; momentum 0.9

constant for the digits, whose loss goes to zero, and falling along a cosine for MNIST.

    python examples/lifted_kfac.py                     an MLP of Flax, the digits of scikit-learn
    python examples/lifted_kfac.py equinox             the same of Equinox
    python examples/lifted_kfac.py flax FOLDER         MNIST from a folder of IDX files
"""

import itertools
import sys

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import precondition_by_kfac, with_factors
from funcprop.data import load

SIZES = 64, 32
EVERY = 20


class Network(nn.Module):
    """An MLP of Flax."""

    @nn.compact
    def __call__(self, x):
        for size in SIZES:
            x = nn.tanh(nn.Dense(size)(x))
        return nn.Dense(10)(x)


def of_flax(x):
    """-> apply, params."""
    network = Network()
    return network.apply, network.init(jax.random.key(1), x[:1])


def of_equinox(x):
    """-> apply, params: the arrays of a model, whose other fields stay behind."""
    pairs = itertools.pairwise((x.shape[1], *SIZES, 10))
    keys = jax.random.split(jax.random.key(1), 3)
    first, second, last = (eqx.nn.Linear(*pair, key=k) for pair, k in zip(pairs, keys, strict=True))
    tanh = eqx.nn.Lambda(jnp.tanh)
    model = eqx.nn.Sequential([first, tanh, second, tanh, last])
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, x: jax.vmap(eqx.combine(params, rest))(x), params


def train(gradient, optimizer, model, params, data, batch_size, steps):
    """The mean loss over all training examples, before the first step and after every 20."""
    (x, y), step = data, fp.train_step(gradient, optimizer)

    @jax.jit
    def some(state, keys):
        def one(state, key):
            rows = jax.random.randint(key, (batch_size,), 0, len(x))
            return step(state, (x[rows], y[rows]))[0], None

        return jax.lax.scan(one, state, keys)[0]

    cost = jax.jit(fp.objective(model, fp.SoftmaxCrossEntropy()))
    state = fp.init_state(model, optimizer, jax.random.key(3), x[:1], params)
    losses = [float(cost(params, data))]
    for keys in jax.random.split(jax.random.key(2), steps).reshape(-1, EVERY):
        state = some(state, keys)
        losses.append(float(cost(state.params, data)))
    return losses


def by_adam(model, params, data, batch_size, rate, steps):
    gradient = fp.backprop(model, fp.SoftmaxCrossEntropy())
    return train(gradient, optax.adam(rate), model, params, data, batch_size, steps)


def by_kfac(model, params, data, batch_size, rate, damping, steps):
    gradient = with_factors(model, fp.SoftmaxCrossEntropy())
    batch = jax.tree.map(lambda leaf: leaf[:batch_size], data)
    factors = jax.eval_shape(gradient, params, batch, fp.Context(jax.random.key(0)))[2]
    optimizer = optax.chain(
        precondition_by_kfac(factors, damping=damping, every=5),
        optax.clip_by_global_norm(1.0),  # where the approximation is far off, a step is too long
        optax.sgd(rate, momentum=0.9),
    )
    return train(gradient, optimizer, model, params, data, batch_size, steps)


def main(library: str = "flax", folder: str | None = None, slow: int = 1000, fast: int = 300):
    """Trains both for `slow` and `fast` steps, and prints the losses side by side."""
    data = load("digits") if folder is None else load("mnist", folder)
    x, y = map(jnp.asarray, data.train)
    x = fp.Pixels().forward((), x)[0].reshape(len(x), -1)
    apply, params = of_flax(x) if library == "flax" else of_equinox(x)
    model = fp.lift(apply, params, x[:1])
    if folder is None:
        batch_size, damping, adams, kfacs = 200, 0.003, 0.05, 0.1
    else:
        batch_size, damping = 3000, 0.01
        adams = optax.cosine_decay_schedule(0.01, slow)
        kfacs = optax.cosine_decay_schedule(0.1, fast)
    adam = by_adam(model, params, (x, y), batch_size, adams, slow)
    kfac = by_kfac(model, params, (x, y), batch_size, kfacs, damping, fast)

    print("step   Adam      K-FAC")
    for number in range(0, len(adam), 5):
        row = (f"{losses[number]:.6f}" for losses in (adam, kfac) if number < len(losses))
        print(f"{number * EVERY:4}  ", "  ".join(row))
    passed = [number * EVERY for number, loss in enumerate(kfac) if loss <= adam[-1]]
    print("K-FAC is where Adam ends", f"after {passed[0]} steps" if passed else "not yet")


if __name__ == "__main__":
    main(*sys.argv[1:])
