"""Cast: low precision inside, and nothing of it to be seen outside."""

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp

MODEL = fp.Serial(fp.Dense(5), fp.Tanh(), fp.Dense(3))


def setup(layer, dtype=jnp.float32):
    x = jax.random.normal(jax.random.key(1), (6, 4), dtype)
    return layer.init(jax.random.key(2), x), x


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_equals_casting_by_hand(dtype):
    cast = fp.Cast(MODEL, dtype)
    params, x = setup(cast)
    y, residuals = cast.forward(params, x)
    dx, dparams = cast.backward(params, residuals, jnp.cos(y))

    low = jax.tree.map(lambda leaf: leaf.astype(dtype), (params[0], x))
    want, kept = MODEL.forward(*low)
    wdx, wdp = MODEL.backward(low[0], kept, jnp.cos(y).astype(dtype))
    assert (y == want.astype(jnp.float32)).all()
    for a, b in zip(jax.tree.leaves((dx, dparams)), jax.tree.leaves((wdx, wdp)), strict=True):
        assert a.dtype == jnp.float32 and (a == b.astype(jnp.float32)).all()
    assert jax.tree.structure(dparams) == jax.tree.structure(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(residuals)} == {jnp.dtype(dtype)}


def test_is_near_automatic_differentiation_of_the_float32_layer():
    cast = fp.Cast(MODEL)
    params, x = setup(cast)
    y, residuals = cast.forward(params, x)
    got = cast.backward(params, residuals, jnp.ones_like(y))
    _, pull = jax.vjp(lambda p, x: MODEL.forward(p, x)[0], params[0], x)
    dp, dx = pull(jnp.ones_like(y))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves((dx, (dp,))), strict=True):
        assert jnp.linalg.norm(a - b) < 0.02 * jnp.linalg.norm(b)


def test_integers_pass_and_take_the_precision_of_the_parameters():
    cast = fp.Cast(fp.Parallel(fp.Dense(3), fp.Identity()))
    x = (jnp.ones((2, 4)), jnp.arange(2))
    params = cast.init(jax.random.key(0), x)
    y, residuals = cast.forward(params, x)
    assert (y[0].dtype, y[1].dtype) == (jnp.float32, jnp.int32)
    dx, _ = cast.backward(params, residuals, (y[0], None))
    assert dx[0].dtype == jnp.float32 and dx[1] is None


def test_values_repr_and_errors():
    assert fp.Cast(MODEL, jnp.bfloat16) == fp.Cast(MODEL)
    assert repr(fp.Cast(fp.Tanh())) == "Cast(Tanh())"
    assert repr(fp.Cast(fp.Tanh(), jnp.float16)) == "Cast(Tanh(), dtype='float16')"
    for wrong in ("int8", "half-precise"):
        with pytest.raises(fp.LayerError, match="wanted a floating-point dtype"):
            fp.Cast(MODEL, wrong)
    mixed = (jnp.ones(2), jnp.ones(2, jnp.bfloat16))
    with pytest.raises(fp.LayerError, match="bfloat16 and float32"):
        fp.Cast(fp.Identity()).forward(((),), mixed)
    with pytest.raises(fp.LayerError, match="nothing to cast"):
        fp.Cast(fp.Identity()).forward(((),), jnp.arange(3))
