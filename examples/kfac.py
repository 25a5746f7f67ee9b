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
    """-> optimizer, step. optax and `backprop` as ever."""
    optimizer = optax.sgd(rate, momentum=0.9)
    return optimizer, fp.train_step(fp.backprop(model, loss), optimizer)


def by_kfac(model: fp.Serial, loss: fp.Layer, rate: float, params, batch):
    """-> optimizer, step. The gradient comes with factors, which the optimizer is given."""
    gradient = with_factors(model, loss, fisher="sampled")
    context = fp.Context(jax.random.key(0))
    factors = jax.eval_shape(gradient, params, batch, context)[2]
    optimizer = optax.chain(
        precondition_by_kfac(factors, damping=0.03, every=5), optax.sgd(rate, momentum=0.9)
    )
    return optimizer, fp.train_step(gradient, optimizer)


def train(optimizer, step, params, x, y) -> list[float]:
    """The mean loss over all training digits, before the first step and after every 20."""

    @jax.jit
    def some(state, keys):
        def one(state, key):
            rows = jax.random.choice(key, len(x), (BATCH,), replace=False)
            return step(state, (x[rows], y[rows]))

        return jax.lax.scan(one, state, keys)[0]

    model, loss = network(), fp.SoftmaxCrossEntropy()
    cost = jax.jit(fp.objective(model, loss))
    state = fp.init_state(model, optimizer, jax.random.key(3), x, params)
    losses = [float(cost(params, (x, y)))]
    for keys in jax.random.split(jax.random.key(2), STEPS).reshape(-1, EVERY):
        state = some(state, keys)
        losses.append(float(cost(state.params, (x, y))))
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
