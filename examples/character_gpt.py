"""A GPT that learns a rhyme letter by letter, and then says it.

python examples/character_gpt.py            the house that Jack built, in seconds
python examples/character_gpt.py FILE       any text, byte by byte
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcprop as fp

LENGTH = 32
RHYME = b"""this is the house that jack built
this is the malt that lay in the house that jack built
this is the rat that ate the malt that lay in the house that jack built
this is the cat that killed the rat that ate the malt that lay in the house that jack built
"""


def windows(text: bytes):
    """-> x, y [n, LENGTH]: every window of the text, and the byte that follows each byte."""
    data = np.frombuffer(text, np.uint8).astype(np.int32)
    places = np.arange(len(data) - LENGTH)[:, None] + np.arange(LENGTH)
    return jnp.asarray(data[places]), jnp.asarray(data[places + 1])


def main(file: str | None = None, epochs: int = 40) -> None:
    text = RHYME if file is None else Path(file).read_bytes()
    x, y = windows(text)
    model = fp.gpt(vocabulary=256, length=LENGTH, width=48, depth=2, heads=4)
    optimizer = optax.adam(3e-3)
    step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
    one_epoch = fp.epoch(step, batch_size=32)
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    prompt = jnp.frombuffer(text[:11], jnp.uint8).astype(jnp.int32)
    for number in range(1, epochs + 1):
        state, metrics = one_epoch(state, (x, y))
        if number in (1, epochs // 4, epochs):
            said = fp.generate(model, state.params, prompt, 60, jax.random.key(1), temperature=0)
            written = bytes(said.tolist()).decode("utf-8", "replace")
            print(f"after epoch {number}, {metrics.loss.mean():.2f} nats a byte:")
            print(f"  {(text[:11].decode() + written)!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
