"""Multiply, Split and Concatenate: exact numbers and errors."""

import jax.numpy as jnp
import pytest

import funcprop as fp


def test_multiply():
    a, b = jnp.array([2.0, 3]), jnp.array([5.0, 7])
    y, kept = fp.Multiply().forward((), (a, b))
    assert y.tolist() == [10, 21]
    (da, db), _ = fp.Multiply().backward((), kept, jnp.array([1.0, 2]))
    assert da.tolist() == [5, 14] and db.tolist() == [2, 6]
    for x in ((a,), (a, b[None]), (a, jnp.array([1, 2])), a):
        with pytest.raises(fp.LayerError):
            fp.Multiply().forward((), x)


def test_split_and_concatenate_are_inverse():
    x = jnp.arange(12.0).reshape(2, 6)
    pieces, kept = fp.Split((1, 3, 2)).forward((), x)
    assert [piece.shape for piece in pieces] == [(2, 1), (2, 3), (2, 2)]
    assert (fp.Split((1, 3, 2)).backward((), kept, pieces)[0] == x).all()
    y, sizes = fp.Concatenate().forward((), pieces)
    assert (y == x).all()
    back, _ = fp.Concatenate().backward((), sizes, y)
    assert all((a == b).all() for a, b in zip(back, pieces, strict=True))


def test_split_and_concatenate_check():
    with pytest.raises(fp.LayerError, match="the sum of the sizes"):
        fp.Split((1, 3)).forward((), jnp.zeros((2, 5)))
    for sizes in ((), (1, 0), [1, 2]):
        with pytest.raises(fp.LayerError):
            fp.Split(sizes)
    with pytest.raises(fp.LayerError, match="a tuple of 2"):
        fp.Split((1, 3)).backward((), (), (jnp.zeros(1),))
    with pytest.raises(fp.LayerError, match="cannot stand side by side"):
        fp.Concatenate().forward((), (jnp.zeros((2, 1)), jnp.zeros((3, 1))))
    with pytest.raises(fp.LayerError, match="wanted a tuple of arrays"):
        fp.Concatenate().forward((), jnp.zeros((2, 1)))
