"""vit: an image as a sequence of patches."""

from __future__ import annotations

from funcprop.composites import Repeat, Serial
from funcprop.doors import door
from funcprop.layer import LayerError, spell
from funcprop.layers import (
    Conv,
    Dense,
    GlobalAvgPool,
    LayerNorm,
    LearnedPositions,
    Pixels,
    Reshape,
)
from funcprop.models.transformer import transformer_block


@door
def vit(
    classes: int,
    image: tuple[int, int],
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    fused: bool = True,
) -> Serial:
    """A vision transformer: x [batch, H, W, C], floats or bytes -> [batch, classes].

    That of Dosovitskiy et al. (2020), with the mean over the patches in place of a class token: a
    convolution makes a vector of every patch, learned positions are added, `depth` blocks mix
    them.

    image    (H, W)
    patch    height and width of a patch, which divides both
    width    features of a patch; heads divides it
    depth    blocks
    dropout  rate, in the blocks
    fused    one Dense a block for queries, keys and values; False for three, whose columns may lie
             on several devices

    Raises LayerError for sizes and rates that cannot be.

    source  Dosovitskiy et al., 2020, arXiv:2010.11929

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.vit(classes=10, image=(28, 28)), jnp.zeros((8, 28, 28, 1), jnp.uint8)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> jax.eval_shape(model.forward, params, x)[0].shape
    (8, 10)
    """
    if (
        not isinstance(image, tuple)
        or len(image) != 2
        or not all(isinstance(size, int) and size > 0 for size in image)
    ):
        raise TypeError(f"image is {spell(image)}, wanted (height, width): write image=(28, 28)")
    embed = Conv(width, (patch, patch), stride=patch, padding="VALID")
    if image[0] % patch or image[1] % patch:
        raise LayerError(
            embed,
            f"patches of {patch} × {patch} do not fill an image of {image[0]} × {image[1]}",
            "give a patch that divides both, or pad the images",
        )
    patches = (image[0] // patch) * (image[1] // patch)
    return Serial(
        Pixels(),
        embed,
        Reshape((patches, width), axes=3),
        LearnedPositions(patches),
        Repeat(transformer_block(width, heads, dropout, fused=fused), depth),
        LayerNorm(),
        GlobalAvgPool(axes=1),
        Dense(classes),
    )
