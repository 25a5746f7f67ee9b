"""resnet: convolutions with batch norm, added to what they read."""

from __future__ import annotations

from funcprop.composites import Branch, Serial, Skip
from funcprop.doors import door
from funcprop.initializers import HeNormal
from funcprop.layer import Layer
from funcprop.layers import BatchNorm, Conv, Dense, GlobalAvgPool, Pixels, ReLU

STAGES = 3  # each with half the height and width and twice the channels of the one before


@door
def resnet(classes: int, width: int = 16, depth: int = 1) -> Serial:
    """A small residual network: x [batch, H, W, C], floats or bytes -> [batch, classes].

    That of He et al. (2015) for CIFAR-10: a convolution, three stages of `depth` blocks, the mean
    over the image, and a Dense. depth=3 is their ResNet-20.

    width  channels of the first stage
    depth  blocks in a stage

    A batch needs at least two images, or the last stage more than one pixel (`BatchNorm`).
    Raises LayerError for sizes that cannot be.

    source  He, Zhang, Ren and Sun, 2015, arXiv:1512.03385, section 4.2

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.resnet(classes=10), jnp.zeros((8, 32, 32, 3), jnp.uint8)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> jax.eval_shape(model.forward, params, x)[0].shape
    (8, 10)
    """
    blocks = [
        residual_block(width * 2**stage, halves=stage > 0 and number == 0)
        for stage in range(STAGES)
        for number in range(depth)
    ]
    return Serial(
        Pixels(),
        *conv(width),
        ReLU(),
        *blocks,
        GlobalAvgPool(),
        Dense(classes),
    )


def residual_block(features: int, halves: bool) -> Serial:
    """ReLU(x + f(x)): [..., H, W, features] -> the same.

    halves  the first block of a stage, [..., H, W, C] -> [..., H/2, W/2, features]: a convolution
            of single pixels takes the place of x in the sum
    """
    f = Serial(*conv(features, 2 if halves else 1), ReLU(), *conv(features))
    if not halves:
        return Serial(Skip(f), ReLU())
    return Serial(Branch(f, Serial(*conv(features, 2, size=1)), combine="sum"), ReLU())


def conv(features: int, stride: int = 1, size: int = 3) -> tuple[Layer, Layer]:
    """A convolution without bias, which batch norm would take away again, and its batch norm."""
    return Conv(features, (size, size), stride=stride, bias=False, w_init=HeNormal()), BatchNorm()
