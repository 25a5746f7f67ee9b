"""Eight networks trained at once: a step is a pure function, so `vmap` makes an ensemble of it.

Each member has its own parameters and its own shuffle. The mean of their predictions is about as
good as one of them; what they give beside it is where they agree, and can be believed.

    python examples/ensemble.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.data import load

MEMBERS = 8


def main(epochs: int = 15) -> None:
    data = load("digits")
    x, y = map(jnp.asarray, data.train)
    test_x, test_y = map(jnp.asarray, data.test)
    model, optimizer = fp.mlp((20,), 10, fp.Tanh()), optax.adam(3e-3)
    keys = jax.random.split(jax.random.key(0), MEMBERS)
    states = jax.vmap(lambda key: fp.init_state(model, optimizer, key, x[:1]))(keys)
    step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
    one_epoch = fp.ensemble(fp.epoch(step, batch_size=64))
    for _ in range(epochs):
        states, _ = one_epoch(states, (x, y))

    logits = jax.vmap(lambda params: model.forward(params, test_x)[0])(states.params)
    votes = jnp.argmax(logits, -1)  # [members, examples]
    alone = (votes == test_y).mean(1)
    together = jnp.argmax(jax.nn.softmax(logits).mean(0), -1)
    agreed = (votes == votes[0]).all(0)
    print("alone   ", "  ".join(f"{share:.1%}" for share in alone))
    print(f"together {(together == test_y).mean():.1%}")
    sure = (together == test_y)[agreed].mean()
    print(f"where all agree, {agreed.mean():.0%} of the images: {sure:.1%}")


if __name__ == "__main__":
    main()
