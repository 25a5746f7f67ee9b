"""Repeat is Serial over stacked parameters; Remat inside it saves memory."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.layer import Layer

BLOCK = fp.Skip(fp.Serial(fp.Dense(4), fp.Tanh()))


@dataclass(frozen=True)
class Masked(Layer):
    """y = x where the mask is True: a layer that keeps the mask, and watches the mean of x."""

    def forward(self, params, x, context=fp.Context()):
        if context.mask is None:
            return x, (None, x.mean())
        return jnp.where(context.mask[..., None], x, 0), (context.mask, x.mean())

    def backward(self, params, residuals, dy):
        return jnp.where(residuals[0][..., None], dy, 0), ()

    def statistics(self, residuals):
        return residuals[1]

    def inference(self, params, statistics):
        return Shift(), statistics


@dataclass(frozen=True)
class Shift(Layer):
    """y = x − params."""

    def forward(self, params, x, context=fp.Context()):
        return x - params, ()


@dataclass(frozen=True)
class Recorded(Layer):
    """Dense, whose backward puts something else than the gradient into its second slot."""

    layer: Layer

    def init(self, key, x):
        return self.layer.init(key, x)

    def forward(self, params, x, context=fp.Context()):
        return self.layer.forward(params, x, context)

    def backward(self, params, residuals, dy):
        dx, _ = self.layer.backward(params, residuals, dy)
        return dx, {"norm": jnp.linalg.norm(dy), "nothing": None}


def gradients(layer, params, x, context=fp.Context()):
    """y, dx, dparams for dy = cos y."""

    @jax.jit
    def run(params, x, context):
        y, residuals = layer.forward(params, x, context)
        return y, *layer.backward(params, residuals, jnp.cos(y))

    return run(params, x, context)


def close(a, b, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype
        assert jnp.allclose(left, right, atol=atol), (left, right)


def setup(layer, shape=(5, 4)):
    x = jax.random.normal(jax.random.key(1), shape)
    return layer.init(jax.random.key(2), x), x


def test_equals_serial_over_stacked_parameters():
    repeat = fp.Repeat(BLOCK, 3)
    params, x = setup(repeat)
    serial = fp.Serial(BLOCK, BLOCK, BLOCK)
    unstacked = tuple(jax.tree.map(lambda p, i=i: p[i], params[0]) for i in range(3))
    y, dx, (dstack,) = gradients(repeat, params, x)
    sy, sdx, sdparams = gradients(serial, unstacked, x)
    close((y, dx), (sy, sdx))
    close(dstack, jax.tree.map(lambda *d: jnp.stack(d), *sdparams))


def test_init_stacks_the_layers_own_parameters():
    params, x = setup(fp.Repeat(fp.Dense(4), 3))
    one_by_one = [fp.Dense(4).init(key, x) for key in jax.random.split(jax.random.key(2), 3)]
    close(params[0], jax.tree.map(lambda *p: jnp.stack(p), *one_by_one))
    abstract = fp.Repeat(fp.Dense(4), 3).init(
        jax.random.key(2), jax.ShapeDtypeStruct(x.shape, x.dtype)
    )
    close(params, abstract)


def test_the_compiled_program_does_not_grow_with_depth():
    def program(length):
        repeat = fp.Repeat(BLOCK, length)
        params, x = setup(repeat)

        def run(params, x):
            y, residuals = repeat.forward(params, x)
            return repeat.backward(params, residuals, y)

        return len(jax.jit(run).lower(params, x).as_text().splitlines())

    assert program(2) == program(50)


def test_nested_under_jit_vmap_and_scan():
    nested = fp.Repeat(fp.Repeat(fp.Remat(BLOCK), 2), 3)
    params, x = setup(nested)
    flat = fp.Repeat(BLOCK, 6)
    joined = jax.tree.map(lambda p: p.reshape(6, *p.shape[2:]), (params[0][0][0],))
    y, dx, dparams = gradients(nested, params, x)
    fy, fdx, fdparams = gradients(flat, joined, x)
    close((y, dx), (fy, fdx))
    close(jax.tree.map(lambda d: d.reshape(6, *d.shape[2:]), (dparams[0][0][0],)), fdparams)
    mapped = jax.vmap(lambda x: gradients(nested, params, x))(x)
    close(mapped[:2], (y, dx))
    close(jax.tree.map(lambda d: d.sum(0), mapped[2]), dparams)
    _, scanned = jax.lax.scan(lambda c, x: (c, gradients(nested, params, x)), 0, x[None])
    close(jax.tree.map(lambda leaf: leaf[0], scanned), (y, dx, dparams))


def test_a_mask_is_kept_once_and_not_stacked():
    x, mask = jnp.ones((2, 6, 4)), jnp.arange(12).reshape(2, 6) % 5 < 3
    for layer in (fp.Repeat(Masked(), 9), fp.Repeat(fp.Repeat(fp.Remat(Masked()), 3), 3)):
        params = layer.init(jax.random.key(0), x)
        context = fp.Context(mask=mask)
        residuals = jax.eval_shape(lambda p, x, c: layer.forward(p, x, c)[1], params, x, context)  # noqa: B023
        masks = [leaf for leaf in jax.tree.leaves(residuals) if leaf.dtype == bool]
        assert [leaf.shape for leaf in masks] == [(2, 6)]
        y, dx, _ = gradients(layer, params, x, context)
        assert (y == jnp.where(mask[..., None], 1.0, 0.0)).all()
        assert jnp.allclose(dx, jnp.where(mask[..., None], jnp.cos(1.0), 0))


def test_statistics_and_inference_are_stacked():
    x, context = jnp.arange(8.0).reshape(2, 4), fp.Context(mask=jnp.array([True, False]))
    model = fp.Repeat(fp.Serial(fp.Remat(Masked()), fp.Dropout(0.5)), 3)
    params = model.init(jax.random.key(0), x)
    _, residuals = model.forward(params, x, fp.Context(jax.random.key(0), context.mask))
    ((((watched,), _),)) = model.statistics(residuals)
    assert watched.shape == (3,) and watched[0] == x.mean()
    predictor, stack = fp.inference(model, params, model.statistics(residuals))
    assert predictor == fp.Repeat(fp.Serial(fp.Remat(Shift()), fp.Identity()), 3)
    y, _ = predictor.forward(stack, x)
    assert jnp.allclose(y, x - watched.sum())
    silent = fp.Repeat(BLOCK, 3)
    assert silent.statistics(silent.forward(*setup(silent))[1]) == ()
    params, _ = setup(silent)
    assert fp.inference(silent, params)[0] == silent


def test_each_step_draws_its_own_numbers_and_remat_draws_them_again():
    x, context = jnp.ones((50, 40)), fp.Context(key=jax.random.key(3))
    repeat = fp.Repeat(fp.Dropout(0.5), 2)
    _, residuals = repeat.forward(((),), x, context)
    first, second = residuals.steps
    assert 0.4 < (first == second).mean() < 0.6
    y, dx, _ = gradients(repeat, ((),), x, context)
    again = gradients(fp.Repeat(fp.Remat(fp.Dropout(0.5)), 2), (((),),), x, context)
    close((y, dx), again[:2])
    assert jnp.allclose(dx, jnp.where(first & second, 4 * jnp.cos(4.0), 4 * 0.0))


def test_anything_in_the_second_slot_is_passed_up_and_stacked():
    for wrap in (lambda layer: layer, fp.Remat):
        repeat = fp.Repeat(wrap(fp.Serial(Recorded(fp.Dense(4)), fp.Tanh())), 3)
        params, x = setup(repeat)
        _, _, (records,) = gradients(repeat, params, x)
        record = jax.tree.leaves(records)
        assert [leaf.shape for leaf in record] == [(3,)]
        inner = records if wrap is not fp.Remat else records[0]
        assert set(inner[0]) == {"norm", "nothing"}


def test_remat_saves_memory_inside_repeat():
    block = fp.Serial(fp.Dense(64), fp.Tanh(), fp.Dense(64), fp.Tanh(), fp.Dense(32))

    def temporary(layer):
        params, x = setup(layer, (512, 32))

        def run(params, x):
            y, residuals = layer.forward(params, x)
            return layer.backward(params, residuals, y)

        return jax.jit(run).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    plain, remat = temporary(fp.Repeat(block, 16)), temporary(fp.Repeat(fp.Remat(block), 16))
    assert remat < 0.4 * plain


def test_remat_keeps_its_input_and_nothing_of_its_child():
    remat = fp.Remat(fp.Serial(fp.Dense(4), fp.Tanh()))
    params, x = setup(remat)
    residuals = remat.forward(params, x)[1]
    assert [leaf.shape for leaf in jax.tree.leaves(residuals)] == [x.shape]
    assert residuals.x is x


def test_values_repr_and_errors():
    assert fp.Repeat(fp.Tanh(), 3) == fp.Repeat(fp.Tanh(), length=3) != fp.Repeat(fp.Tanh(), 4)
    assert repr(fp.Repeat(fp.Remat(fp.Tanh()), 3)) == "Repeat(Remat(Tanh()), length=3)"
    with pytest.raises(fp.LayerError, match="length is 0"):
        fp.Repeat(fp.Tanh(), 0)
    params, x = setup(fp.Repeat(fp.Dense(4), 3))
    with pytest.raises(fp.LayerError, match="wanted 2 steps"):
        fp.Repeat(fp.Dense(4), 2).forward(params, x)
    wider = fp.Repeat(fp.Dense(7), 2)
    with pytest.raises(fp.LayerError, match=r"shape and dtype must agree\n.*before or after"):
        wider.forward(*setup(wider))
    with pytest.raises(fp.LayerError, match="no key"):
        fp.Repeat(fp.Dropout(0.5), 2).forward(((),), x)
