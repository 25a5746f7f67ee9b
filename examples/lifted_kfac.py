"""K-FAC of a model of Flax or Equinox, as a transformation of optax: Adam's 1,000 steps in 300.

`fp.lift` makes a layer of the model's own apply function, `with_factors` a gradient with Kronecker
factors, `precondition_by_kfac` an optimizer. Both sides begin with the same parameters and draw
batches of the same size; each has the best of its rates, constant or falling to zero along a
cosine, by the loss over all training examples at its end.

    Adam    0.002, 0.005, 0.01, 0.02, 0.05, 0.1
    K-FAC   0.02, 0.05, 0.1, 0.2, with a damping of 0.003, 0.01, 0.03 or 0.1; momentum 0.9

    python examples/lifted_kfac.py                 the digits of scikit-learn
    python examples/lifted_kfac.py FOLDER          MNIST from a folder of IDX files
"""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import precondition_by_kfac, with_factors

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
    kfac = precondition_by_kfac(factors, damping=damping, every=5)
    optimizer = optax.chain(kfac, optax.sgd(rate, momentum=0.9))
    return train(gradient, optimizer, model, params, data, batch_size, steps)
