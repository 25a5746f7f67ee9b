"""Images changed at random: pure functions of a key and a batch, for `jit` and `stream`'s map."""

import jax
import jax.numpy as jnp

from funcprop.data.dataset import DataError


def crop(key: jax.Array, x: jax.Array, padding: int = 4) -> jax.Array:
    """Each image moved by up to `padding` pixels along both axes, zeros where nothing comes from.

    x        [B, H, W, C] of any dtype -> the same
    padding  a number of Python, at least 0: pixels added at each border before H × W are cut out
             again, at one of (2 padding + 1)² places, each as likely

    raises  DataError for another shape or padding
    source  He et al. 2016, Deep residual learning for image recognition, section 4.2

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> x = jnp.ones((2, 3, 3, 1))
    >>> fp.data.crop(jax.random.key(0), x, padding=1).shape
    (2, 3, 3, 1)
    """
    _check_images("crop", x)
    _check_pixels("crop", "padding", padding)
    b, h, w, c = x.shape
    border = (padding, padding)
    padded = jnp.pad(x, ((0, 0), border, border, (0, 0)))
    places = jax.random.randint(key, (b, 2), 0, 2 * padding + 1)

    def cut(image: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (place[0], place[1], 0), (h, w, c))

    return jax.vmap(cut)(padded, places)


def flip(key: jax.Array, x: jax.Array, rate: float = 0.5) -> jax.Array:
    """Each image mirrored, left for right, with probability `rate`.

    x     [B, H, W, C] of any dtype -> the same
    rate  0 to 1

    raises  DataError for another shape

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> x = jnp.arange(3).reshape(1, 1, 3, 1)
    >>> fp.data.flip(jax.random.key(0), x, rate=1.0).ravel().tolist()
    [2, 1, 0]
    """
    _check_images("flip", x)
    mirrored = jax.random.bernoulli(key, rate, (len(x), 1, 1, 1))
    return jnp.where(mirrored, x[:, :, ::-1], x)


def cutout(key: jax.Array, x: jax.Array, size: int) -> jax.Array:
    """Each image with a square of zeros, its center anywhere, cut off at the border.

    x     [B, H, W, C] of any dtype -> the same
    size  a number of Python, at least 0: pixels along a side of the square

    raises  DataError for another shape or size
    source  DeVries, Taylor 2017, Improved regularization of convolutional neural networks with
            cutout, arXiv:1708.04552

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> x = fp.data.cutout(jax.random.key(0), jnp.ones((1, 4, 4, 1), jnp.uint8), size=1)
    >>> int(x.sum())
    15
    """
    _check_images("cutout", x)
    _check_pixels("cutout", "size", size)
    b, h, w, _ = x.shape
    center = jax.random.randint(key, (b, 2), 0, jnp.array([h, w]))

    def inside(place: jax.Array, length: int) -> jax.Array:  # [B, length]
        offset = jnp.arange(length) - (place[:, None] - size // 2)
        return (offset >= 0) & (offset < size)

    square = inside(center[:, 0], h)[:, :, None, None] & inside(center[:, 1], w)[:, None, :, None]
    return jnp.where(square, jnp.zeros((), x.dtype), x)


def mixup(
    key: jax.Array, x: jax.Array, y: jax.Array, classes: int, alpha: float = 0.2
) -> tuple[jax.Array, jax.Array]:
    """Each example mixed with another one of the batch: λ x + (1 − λ) x′, and their targets alike.

    x        [B, ...] float; uint8 becomes float32 in [0, 1] first, as `Pixels` has it
    y        [B] integer -> [B, classes] float, shares of the classes, which `SoftmaxCrossEntropy`
             takes; or such shares already. A class out of range gives NaN
    classes  a number of Python
    alpha    λ ~ Beta(alpha, alpha), above 0: one λ for each pair. Small: mostly near 0 or 1

    raises  DataError for x that is neither, or y of another shape
    source  Zhang et al. 2018, mixup: beyond empirical risk minimization, arXiv:1710.09412

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> x, y = jnp.eye(3), jnp.array([0, 1, 2])
    >>> mixed, share = fp.data.mixup(jax.random.key(0), x, y, classes=3)
    >>> share.shape, bool(jnp.allclose(share, mixed))  # each x was the one-hot y
    ((3, 3), True)
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 255
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim < 2:
        raise DataError(
            f"mixup: x is {x.dtype} {list(x.shape)}, wanted floats or bytes [B, ...]: "
            "tokens cannot be mixed, their embeddings can"
        )
    if jnp.issubdtype(y.dtype, jnp.integer) and y.shape == x.shape[:1]:
        known = (y >= 0) & (y < classes)
        y = jnp.where(known[:, None], jax.nn.one_hot(y, classes, dtype=x.dtype), jnp.nan)
    if y.shape != (len(x), classes) or not jnp.issubdtype(y.dtype, jnp.floating):
        raise DataError(
            f"mixup: y is {y.dtype} {list(y.shape)} for {len(x)} examples, wanted classes [B] or "
            f"shares [B, {classes}]"
        )
    pairs, shares = jax.random.split(key)
    other = jax.random.permutation(pairs, len(x))
    share = jax.random.beta(shares, alpha, alpha, (len(x),), jnp.float32)

    def mixed(a: jax.Array) -> jax.Array:
        s = share.reshape(-1, *(1,) * (a.ndim - 1)).astype(a.dtype)
        return s * a + (1 - s) * a[other]

    return mixed(x), mixed(y)


def _check_images(name: str, x: jax.Array) -> None:
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != 4:
        given = type(x).__name__ if shape is None else list(shape)
        raise DataError(
            f"{name}: x is {given}, wanted images [B, H, W, C]: write x[..., None] for gray ones, "
            "x[None] for a single one"
        )


def _check_pixels(name: str, argument: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{name}: {argument} is {value!r}, wanted a whole number of at least 0")
