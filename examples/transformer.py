"""A transformer put together from blocks, and asked what its parts did.

Nothing in it is a monolith: attention is a Dense, a parameterless core and a Dense, a block is two
paths around layers. So whatever can be asked of a Dense can be asked inside of attention. The
task: sequences of letters, to be turned around.

    python examples/transformer.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.collectors import records, trace

LETTERS, TIME, WIDTH = 10, 8, 32


def block(width: int, heads: int) -> fp.Serial:
    """Attention, then a small network for each position, both with a path around."""
    return fp.Serial(
        fp.Skip(fp.Serial(fp.LayerNorm(), fp.SelfAttention(width, heads=heads))),
        fp.Skip(fp.Serial(fp.LayerNorm(), fp.Dense(2 * width), fp.GELU(), fp.Dense(width))),
    )


model = fp.Serial(
    fp.Embedding(LETTERS, WIDTH),
    fp.LearnedPositions(TIME),
    fp.Repeat(block(WIDTH, heads=2), 2),
    fp.LayerNorm(),
    fp.Dense(LETTERS),
)
loss = fp.SoftmaxCrossEntropy()


def main(epochs: int = 12) -> None:
    x = jax.random.randint(jax.random.key(0), (2048, TIME), 0, LETTERS)
    test = jax.random.randint(jax.random.key(1), (256, TIME), 0, LETTERS)
    optimizer = optax.adam(3e-3)
    one_epoch = fp.epoch(fp.train_step(fp.backprop(model, loss), optimizer), batch_size=64)
    state = fp.init_state(model, optimizer, jax.random.key(2), x[:1])
    for _ in range(epochs):
        state, _ = one_epoch(state, (x, x[:, ::-1]))
    right = jnp.argmax(model.forward(state.params, test)[0], -1) == test[:, ::-1]
    print(f"{right.mean():.1%} of the letters are where they belong")

    traced = jax.jit(fp.backprop(fp.collect(model, trace), loss))
    found = records(traced(state.params, (test, test[:, ::-1]))[1])
    print("‖dw‖ / ‖w‖ of every layer that has weights, both blocks where they are stacked:")
    for record in found:
        if float(record.value.norms["params"].max()) > 0:
            ratios = jnp.atleast_1d(record.value.ratio)
            print(f"  {record.path:60} {'  '.join(f'{ratio:.1e}' for ratio in ratios)}")


if __name__ == "__main__":
    main()
