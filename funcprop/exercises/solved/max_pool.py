"""Exercise max-pool: the largest of four neighbors. Write `backward`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import funcprop as fp


def windows(x):
    """[batch, H, W, C] -> [batch, H/2, W/2, C, 4]: the four of each window, row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, channels, 4)


def image(parts):
    """[batch, H/2, W/2, C, 4] -> [batch, H, W, C]: the way back from `windows`."""
    batch, height, width, channels, _ = parts.shape
    x = parts.reshape(batch, height, width, channels, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, 2 * height, 2 * width, channels)


@dataclass(frozen=True)
class MaxPool(fp.Layer):
    """y = the largest of each 2 × 2 window."""

    def forward(self, params, x, context=fp.Context()):
        four = windows(x)
        return four.max(-1), jnp.argmax(four, -1).astype(jnp.int8)

    def backward(self, params, winner, dy):
        """winner [batch, H/2, W/2, C] of 0, 1, 2, 3, dy the same shape -> dx [batch, H, W, C].

        forward  y = the largest of four
        kept     which of the four it was: the first one, where several are as large
        hint 1   only the winner moved y, so it receives all of dy, and the other three nothing
        hint 2   jax.nn.one_hot(winner, 4, dtype=dy.dtype) has a last axis of four; `image` above
                 puts windows back into an image
        """
        return image(jax.nn.one_hot(winner, 4, dtype=dy.dtype) * dy[..., None]), ()


layer = MaxPool()
x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3), jnp.float32)
