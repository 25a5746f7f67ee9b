"""Handwritten digits by K-FAC: curvature collected in the backward pass, step against step.

SGD with momentum and K-FAC train the same network from the same parameters on the same batches,
SGD with the best of the rates 0.03, 0.1, 0.3 and 1.
The backward pass of K-FAC returns two things: the gradient, and two small matrices a layer, from
which optax makes an approximation of the natural gradient. Nothing in the layers knows of it.

    python examples/kfac.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import precondition_by_kfac, with_factors
from funcprop.data import load

STEPS, BATCH, EVERY = 100, 200, 20


def network() -> fp.Serial:
    return fp.Serial(
        fp.Pixels(),
        fp.Flatten(),
        fp.Dense(60),
        fp.Tanh(),
        fp.Dense(30),
        fp.Tanh(),
        fp.Dense(10),
    )


def by_sgd(model: fp.Serial, loss: fp.Layer, rate: float):
    """-> start, step. optax and `backprop` as ever."""
    gradient = fp.backprop(model, loss)
    optimizer = optax.sgd(rate, momentum=0.9)

    def step(params, state, batch, key):
        value, grads = gradient(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return optimizer.init, step


def by_kfac(model: fp.Serial, loss: fp.Layer, rate: float, params, batch):
    """-> start, step. The gradient comes with factors, which the optimizer is given."""
    gradient = with_factors(model, loss, fisher="sampled")
    context = fp.Context(jax.random.key(0))
    factors = jax.eval_shape(gradient, params, batch, context)[2]
    optimizer = optax.chain(
        precondition_by_kfac(factors, damping=0.03, every=5), optax.sgd(rate, momentum=0.9)
    )

    def step(params, state, batch, key):
        value, grads, factors = gradient(params, batch, fp.Context(key))
        updates, state = optimizer.update(grads, state, params, factors=factors)
        return optax.apply_updates(params, updates), state, value

    return optimizer.init, step


def train(start, step, params, x, y) -> list[float]:
    """The mean loss over all training digits, before the first step and after every 20."""

    @jax.jit
    def some(params, state, keys):
        def one(carry, key):
            batch_key, sample_key = jax.random.split(key)
            rows = jax.random.choice(batch_key, len(x), (BATCH,), replace=False)
            params, state, _ = step(*carry, (x[rows], y[rows]), sample_key)
            return (params, state), None

        return jax.lax.scan(one, (params, state), keys)[0]

    cost = jax.jit(fp.objective(network(), fp.SoftmaxCrossEntropy()))
    state, losses = start(params), [float(cost(params, (x, y)))]
    for keys in jax.random.split(jax.random.key(2), STEPS).reshape(-1, EVERY):
        params, state = some(params, state, keys)
        losses.append(float(cost(params, (x, y))))
    return losses


def main() -> None:
    x, y = map(jnp.asarray, load("digits").train)
    model, loss = network(), fp.SoftmaxCrossEntropy()
    params = model.init(jax.random.key(1), x[:1])
    sgd = train(*by_sgd(model, loss, 0.3), params, x, y)
    kfac = train(*by_kfac(model, loss, 0.1, params, (x[:BATCH], y[:BATCH])), params, x, y)
    print("step   SGD      K-FAC")
    for number, (a, b) in enumerate(zip(sgd, kfac, strict=True)):
        print(f"{number * EVERY:4}   {a:.5f}  {b:.5f}")


if __name__ == "__main__":
    main()
