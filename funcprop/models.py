"""Models by name: compositions of layers, no mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from funcprop.composites import Serial
from funcprop.initializers import GlorotUniform, Initializer, Zeros
from funcprop.layer import Layer
from funcprop.layers import Dense, Flatten, Pixels, Sigmoid


class Builder(Protocol):
    """How every model of the table is called; `axes` is the number of axes of an example."""

    def __call__(
        self,
        layers: Sequence[int],
        classes: int,
        activation: Layer = ...,
        output: Layer | None = ...,
        w_init: Initializer = ...,
        b_init: Initializer = ...,
        axes: int = ...,
    ) -> Layer: ...


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
    """
    hidden = [
        layer
        for size in layers
        for layer in (Dense(size, w_init=w_init, b_init=b_init), activation)
    ]
    last = Dense(classes, w_init=w_init, b_init=b_init)
    return Serial(
        Pixels(), Flatten(axes=axes), *hidden, last, *(() if output is None else (output,))
    )


# What `funcprop train --model NAME` builds: a new model is a function and a line.
MODELS: dict[str, Builder] = {"mlp": mlp}
