"""K-FAC of a model of Flax or Equinox, as a transformation of optax: 300 steps against Adam's 1,000.

`fp.lift` makes a layer of the model's own apply function, `with_factors` a gradient with Kronecker
factors, `precondition_by_kfac` an optimizer. Both sides start from the same parameters, take the
same batches, and let their rate fall to zero along a cosine; it is the best of

    Adam    0.001, 0.002, 0.005, 0.01, 0.02, 0.05
    K-FAC   0.02, 0.05, 0.1, 0.2, 0.5, with a damping of 0.01, 0.03 or 0.1

    python examples/lifted_kfac.py                 the digits of scikit-learn
    python examples/lifted_kfac.py FOLDER          MNIST from a folder of IDX files
"""

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


class Network(nn.Module):
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
    keys = jax.random.split(jax.random.key(1), 3)
    sizes = x.shape[1], *SIZES, 10
    layers = [eqx.nn.Linear(*pair, key=key) for pair, key in zip(zip(sizes, sizes[1:]), keys)]
    tanh = eqx.nn.Lambda(jnp.tanh)
    model = eqx.nn.Sequential([layers[0], tanh, layers[1], tanh, layers[2]])
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, x: jax.vmap(eqx.combine(params, rest))(x), params


def train(gradient, optimizer, model, params, x, y, batch_size, steps, every=20):
    """The mean loss over all training examples, before the first step and after every 20."""
    step = fp.train_step(gradient, optimizer)

    @jax.jit
    def some(state, keys):
        def one(state, key):
            rows = jax.random.choice(key, len(x), (batch_size,), replace=False)
            return step(state, (x[rows], y[rows]))[0], None

        return jax.lax.scan(one, state, keys)[0]

    cost = jax.jit(fp.objective(model, fp.SoftmaxCrossEntropy()))
    state = fp.init_state(model, optimizer, jax.random.key(3), x[:1], params)
    losses = [float(cost(params, (x, y)))]
    for keys in jax.random.split(jax.random.key(2), steps).reshape(-1, every):
        state = some(state, keys)
        losses.append(float(cost(state.params, (x, y))))
    return losses


def by_adam(model, params, x, y, batch_size, rate, steps):
    gradient = fp.backprop(model, fp.SoftmaxCrossEntropy())
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    return train(gradient, optimizer, model, params, x, y, batch_size, steps)


def by_kfac(model, params, x, y, batch_size, rate, damping, steps):
    gradient = with_factors(model, fp.SoftmaxCrossEntropy())
    batch = x[:batch_size], y[:batch_size]
    factors = jax.eval_shape(gradient, params, batch, fp.Context(jax.random.key(0)))[2]
    optimizer = optax.chain(
        precondition_by_kfac(factors, damping=damping, every=5),
        optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9),
    )
    return train(gradient, optimizer, model, params, x, y, batch_size, steps)
