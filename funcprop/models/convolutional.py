"""convnet: convolution and pooling twice, then two Dense layers."""

from __future__ import annotations

from funcprop.composites import Serial
from funcprop.doors import door
from funcprop.initializers import HeNormal, Initializer, Zeros
from funcprop.layer import Layer
from funcprop.layers import Conv, Dense, Dropout, Flatten, MaxPool, Pixels, ReLU


@door
def convnet(
    classes: int,
    width: int = 32,
    dropout: float = 0.5,
    activation: Layer = ReLU(),
    output: Layer | None = None,
    w_init: Initializer = HeNormal(),
    b_init: Initializer = Zeros(),
) -> Serial:
    """A small convolutional network: x [batch, H, W, C], floats or bytes -> [batch, classes].

    The plan of LeNet-5 (LeCun et al., 1998) and of the sixth chapter of Nielsen's book, with 3×3
    kernels, rectified units and dropout.

    width       channels of the first convolution; the second has twice, the Dense four times these
    dropout     rate, before the last Dense
    activation  after both convolutions and the first Dense
    output      after the last Dense; None for logits

    H and W are at least 4. Raises LayerError for sizes and rates that cannot be.

    source  LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document
            recognition, 1998; Nielsen, Neural Networks and Deep Learning, chapter 6

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.convnet(classes=10), jnp.zeros((8, 28, 28, 1), jnp.uint8)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> context = fp.Context(key=jax.random.key(1))  # for dropout
    >>> jax.eval_shape(model.forward, params, x, context)[0].shape
    (8, 10)
    """

    def conv(features: int) -> tuple[Layer, ...]:
        layer = Conv(features, (3, 3), w_init=w_init, b_init=b_init)
        return layer, activation, MaxPool((2, 2))

    return Serial(
        Pixels(),
        *conv(width),
        *conv(2 * width),
        Flatten(),
        Dense(4 * width, w_init=w_init, b_init=b_init),
        activation,
        Dropout(dropout),
        Dense(classes, w_init=w_init, b_init=b_init),
        *(() if output is None else (output,)),
    )
