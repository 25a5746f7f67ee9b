"""K-FAC of a model of Flax or Equinox, as a transformation of optax: Adam's 1,000 steps in 300.

`fp.lift` makes a layer of the model's own apply function, `with_factors` a gradient with Kronecker
factors, `precondition_by_kfac` an optimizer. An MLP learns to name digits, or to draw those of
MNIST again through 16 numbers. Both sides begin with the same parameters and draw batches of one
size; each has the rate that leaves it with the least loss over all training examples. Which were
tried is in docs/guides/any-function.md.

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

EVERY = 20


class Network(nn.Module):
    """An MLP of Flax."""

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for size in self.sizes[:-1]:
            x = nn.tanh(nn.Dense(size)(x))
        return nn.Dense(self.sizes[-1])(x)


def of_flax(x, sizes):
    """-> apply, params."""
    network = Network(sizes)
    return network.apply, network.init(jax.random.key(1), x[:1])


def of_equinox(x, sizes):
    """-> apply, params: the arrays of a model, whose other fields stay behind."""
    layers, key = [], jax.random.key(1)
    for number, pair in enumerate(itertools.pairwise((x.shape[1], *sizes))):
        layers.append(eqx.nn.Linear(*pair, key=jax.random.fold_in(key, number)))
        layers.append(eqx.nn.Lambda(jnp.tanh))
    model = eqx.nn.Sequential(layers[:-1])
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, x: jax.vmap(eqx.combine(params, rest))(x), params


def train(gradient, optimizer, model, loss, params, data, batch_size, steps):
    """The mean loss over all training examples, before the first step and after every 20."""
    (x, y), step = data, fp.train_step(gradient, optimizer)

    @jax.jit
    def some(state, keys):
        def one(state, key):
            rows = jax.random.randint(key, (batch_size,), 0, len(x))
            return step(state, (x[rows], y[rows]))[0], None

        return jax.lax.scan(one, state, keys)[0]

    cost = jax.jit(fp.objective(model, loss))
    state = fp.init_state(model, optimizer, jax.random.key(3), x[:1], params)
    losses = [float(cost(params, data))]
    for keys in jax.random.split(jax.random.key(2), steps).reshape(-1, EVERY):
        state = some(state, keys)
        losses.append(float(cost(state.params, data)))
    return losses


def by_adam(model, loss, params, data, batch_size, rate, steps):
    gradient = fp.backprop(model, loss)
    return train(gradient, optax.adam(rate), model, loss, params, data, batch_size, steps)


def by_kfac(model, loss, params, data, batch_size, rate, damping, longest, steps):
    gradient = with_factors(model, loss)
    batch = jax.tree.map(lambda leaf: leaf[:batch_size], data)
    factors = jax.eval_shape(gradient, params, batch, fp.Context(jax.random.key(0)))[2]
    optimizer = optax.chain(
        precondition_by_kfac(factors, damping=damping, every=5),
        optax.clip_by_global_norm(longest),  # where the approximation is far off
        optax.sgd(rate, momentum=0.9),
    )
    return train(gradient, optimizer, model, loss, params, data, batch_size, steps)


def main(library: str = "flax", folder: str | None = None, slow: int = 1000, fast: int = 300):
    """Trains `slow` steps by Adam and `fast` by K-FAC, and prints the losses side by side."""
    x, y = map(jnp.asarray, (load("digits") if folder is None else load("mnist", folder)).train)
    x = fp.Pixels().forward((), x)[0].reshape(len(x), -1)
    if folder is None:
        data, sizes, loss = (x, y), (64, 32, 10), fp.SoftmaxCrossEntropy()
        batch_size, rate, of_kfac = 200, 0.05, (0.1, 0.003, 1.0)
    else:
        data, sizes, loss = (x, x), (64, 16, 64, x.shape[1]), fp.BinaryCrossEntropy()
        batch_size, rate, of_kfac = 1000, 0.005, (0.1, 0.1, 3.0)
    apply, params = (of_flax if library == "flax" else of_equinox)(x, sizes)
    task = fp.lift(apply, params, x[:1]), loss, params, data, batch_size
    adam, kfac = by_adam(*task, rate, slow), by_kfac(*task, *of_kfac, fast)

    print("step   Adam      K-FAC")
    for number in range(0, len(adam), 5):
        row = (f"{losses[number]:.6f}" for losses in (adam, kfac) if number < len(losses))
        print(f"{number * EVERY:4}  ", "  ".join(row))
    passed = [number * EVERY for number, cost in enumerate(kfac) if cost <= adam[-1]]
    print("K-FAC is where Adam ends", f"after {passed[0]} steps" if passed else "not yet")


if __name__ == "__main__":
    main(*sys.argv[1:])
