"""mlp: Dense layers with an activation between them."""

from __future__ import annotations

from collections.abc import Sequence

from funcprop.composites import Serial
from funcprop.doors import door
from funcprop.initializers import GlorotUniform, Initializer, Zeros
from funcprop.layer import Layer
from funcprop.layers import Dense, Flatten, Pixels, Sigmoid


@door
def mlp(
    layers: Sequence[int],
    classes: int,
    activation: Layer = Sigmoid(),
    output: Layer | None = None,
    w_init: Initializer = GlorotUniform(),
    b_init: Initializer = Zeros(),
    axes: int = 3,
) -> Serial:
    """A multilayer perceptron: x [batch, *example], floats or bytes -> [batch, classes].

    layers      sizes of the hidden layers; () is linear (softmax) regression
    activation  after every hidden layer
    output      after the last Dense; None for logits
    axes        how many axes an example has: 3 for images [height, width, channels]

    Raises LayerError for a size that is no positive whole number.

    source  Nielsen, Neural Networks and Deep Learning, chapter 1

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.mlp([30], classes=10)
    Serial(Pixels(), Flatten(), Dense(30), Sigmoid(), Dense(10))
    >>> model, x = fp.mlp([30], classes=10), jnp.zeros((8, 28, 28, 1), jnp.uint8)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> jax.eval_shape(model.forward, params, x)[0].shape
    (8, 10)
    """
    if isinstance(layers, int):
        raise TypeError(
            f"mlp: layers is {layers}, wanted a list of sizes: write mlp([{layers}], ...)"
        )
    hidden = [
        layer
        for size in layers
        for layer in (Dense(size, w_init=w_init, b_init=b_init), activation)
    ]
    last = Dense(classes, w_init=w_init, b_init=b_init)
    return Serial(
        Pixels(), Flatten(axes=axes), *hidden, last, *(() if output is None else (output,))
    )
