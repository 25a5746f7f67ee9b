"""Images changed at random: the same for a key, and distributed as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcprop.data import DataError, crop, cutout, flip, mixup

KEY, OTHER = jax.random.key(0), jax.random.key(1)
N = 3000
IMAGE = jnp.arange(1, 21, dtype=jnp.uint8).reshape(1, 4, 5, 1)
IMAGES = jnp.tile(IMAGE, (N, 1, 1, 1))

CHANGES = {
    "crop": lambda key, x: crop(key, x, padding=1),
    "flip": flip,
    "cutout": lambda key, x: cutout(key, x, size=2),
    "mixup": lambda key, x: mixup(key, x, jnp.arange(len(x)) % 3, classes=3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_key_decides(name):
    change = jax.jit(CHANGES[name])
    x = IMAGES[:64] + jnp.arange(64, dtype=jnp.uint8).reshape(-1, 1, 1, 1)
    first, again, other = (change(key, x) for key in (KEY, KEY, OTHER))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first, again))
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, first, other))
    if name != "mixup":
        assert first.dtype == jnp.uint8 and first.shape == (64, 4, 5, 1)


def test_crop_has_every_place_equally_often():
    found = np.asarray(jax.jit(CHANGES["crop"])(KEY, IMAGES))
    padded = np.pad(np.asarray(IMAGE[0]), ((1, 1), (1, 1), (0, 0)))
    counts = [
        (found == padded[i : i + 4, j : j + 5]).all((1, 2, 3)).sum()
        for i in range(3)
        for j in range(3)
    ]
    assert sum(counts) == N
    assert np.abs(np.array(counts) - N / 9).max() < 4.5 * np.sqrt(N / 9)
    np.testing.assert_array_equal(crop(KEY, IMAGE, padding=0), IMAGE)


def test_flip_mirrors_its_share():
    for rate in (0.0, 0.3, 1.0):
        found = flip(KEY, IMAGES, rate)
        mirrored = (found == IMAGES[:, :, ::-1]).all((1, 2, 3))
        assert bool(jnp.all(mirrored | (found == IMAGES).all((1, 2, 3))))
        assert abs(float(mirrored.mean()) - rate) <= 4.5 * np.sqrt(rate * (1 - rate) / N)


def test_cutout_is_a_square_around_any_pixel():
    found = np.asarray(jax.jit(lambda k, x: cutout(k, x, size=3))(KEY, IMAGES))[..., 0]
    gone = found == 0
    assert np.array_equal(found[~gone], np.asarray(IMAGES)[..., 0][~gone])
    # a pixel is gone where the center is at most one away
    share = np.outer([2, 3, 3, 2], [2, 3, 3, 3, 2]) / 20
    assert np.abs(gone.mean(0) - share).max() < 4.5 * 0.5 / np.sqrt(N)
    assert set(gone.sum((1, 2))) == {4, 6, 9}
    np.testing.assert_array_equal(cutout(KEY, IMAGE, size=0), IMAGE)


def test_mixup_mixes_targets_as_it_does_examples():
    y = jnp.arange(N) % 4
    mixed, share = mixup(KEY, jnp.eye(4)[y], y, classes=4, alpha=0.4)
    np.testing.assert_allclose(share, mixed, atol=1e-6)
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-6)
    own = np.asarray(share)[np.arange(N), y]
    # λ ~ Beta(α, α), or 1 where the other is of the same class, as one in four is
    variance = 1 / (4 * (2 * 0.4 + 1))
    assert abs(own.mean() - (0.75 * 0.5 + 0.25)) < 0.03
    assert abs(((own[own < 1] - 0.5) ** 2).mean() - variance) < 0.02
    soft = mixup(KEY, jnp.full((N, 2), 255, jnp.uint8), jnp.eye(4)[y], classes=4, alpha=0.4)
    np.testing.assert_array_equal(soft[1], share)
    np.testing.assert_allclose(soft[0], 1, rtol=1e-6)
    assert np.isnan(mixup(KEY, mixed, jnp.full(N, 4), classes=4, alpha=0.4)[1]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: crop(KEY, IMAGE[..., 0]), r"x is \[1, 4, 5\], wanted images \[B, H, W, C\]"),
        (lambda: flip(KEY, 3), "x is int"),
        (lambda: crop(KEY, IMAGE, padding=-1), "padding is -1"),
        (lambda: cutout(KEY, IMAGE, size=1.5), "size is 1.5"),
        (lambda: mixup(KEY, jnp.ones((3, 4), int), jnp.zeros(3, int), 2), "tokens cannot be mixed"),
        (lambda: mixup(KEY, jnp.ones((3, 4)), jnp.zeros((3, 4)), 2), r"shares \[B, 2\]"),
    ],
)
def test_other_shapes_are_answered_in_words(call, words):
    with pytest.raises(DataError, match=words):
        call()
