"""Mazur's 2-2-2 network: its error, its gradients, and the bug that immutable parameters rule out.

The page that made this example famous prints an error of 0.291027924 after one update. The
network it describes reaches 0.291027774: the published code changed the output weights in place
before the hidden layer had read them. Parameters that cannot change make that bug impossible.
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.layers import Affine

model = fp.Serial(fp.Dense(2), fp.Sigmoid(), fp.Dense(2), fp.Sigmoid())


def start() -> tuple:
    """The page's parameters. Its weight matrices have a row per neuron; w is [in, out]."""
    w1 = jnp.array([[0.15, 0.20], [0.25, 0.30]]).T
    w2 = jnp.array([[0.40, 0.45], [0.50, 0.55]]).T
    b1, b2 = jnp.full(2, 0.35), jnp.full(2, 0.60)
    return Affine(w1, b1), (), Affine(w2, b2), ()


def step_weights(params: tuple, dparams: tuple, eta: float) -> tuple:
    """One step of gradient descent that leaves the biases alone, as the page does."""
    return tuple(
        p._replace(w=p.w - eta * dp.w) if isinstance(p, Affine) else p
        for p, dp in zip(params, dparams, strict=True)
    )


def updated_too_early(params: tuple, batch: tuple, eta: float) -> tuple:
    """The page's bug: the hidden layer reads output weights that were already updated."""
    _, dparams = gradient(params, batch)
    early = (*params[:2], *step_weights(params[2:], dparams[2:], eta))
    _, residuals = model.forward(params, batch[0])
    _, loss_residuals = loss.forward((), (model.forward(params, batch[0])[0], batch[1]))
    (da, _), _ = loss.backward((), loss_residuals, jnp.ones((), batch[0].dtype))
    _, wrong = model.backward(early, residuals, da)
    return (*step_weights(params[:2], wrong[:2], eta), *early[2:])


loss = fp.QuadraticCost(reduction="sum")
gradient = fp.backprop(model, loss)


def main() -> None:
    with jax.enable_x64(True):
        batch = (jnp.array([[0.05, 0.10]]), jnp.array([[0.01, 0.99]]))
        params = start()
        error, dparams = gradient(params, batch)
        print(f"E = {error:.16f}")
        print(fp.trace_table(model, loss, params, batch))  # the page's numbers, one by one
        print(f"∂E/∂w2, a row per neuron: {dparams[2].w.T.tolist()}")
        print(f"∂E/∂w1, a row per neuron: {dparams[0].w.T.tolist()}")

        after, _ = gradient(step_weights(params, dparams, 0.5), batch)
        buggy, _ = gradient(updated_too_early(params, batch, 0.5), batch)
        print(f"E after one update      {after:.9f}")
        print(f"with the page's bug     {buggy:.9f}")

        optimizer = optax.sgd(0.5)  # biases too, one a neuron
        step = fp.train_step(gradient, optimizer)
        state = fp.init_state(model, optimizer, jax.random.key(0), batch[0], params)
        state, _ = jax.lax.scan(lambda s, _: step(s, batch), state, length=10_000)
        print(f"E after 10,000, biases trained too: {gradient(state.params, batch)[0]:.6e}")


if __name__ == "__main__":
    main()
