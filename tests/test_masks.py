"""What a mask hides may hold anything: NaN, ∞ and 1e38 change no bit of the rest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.comparisons import drawn
from funcprop.catalogue.inputs import is_spec
from funcprop.catalogue.table import ROWS
from funcprop.layer import is_float
from funcprop.losses.loss import Loss

KEY = jax.random.key(3)
ROW = {row.name: row for row in ROWS}


def own_mask(row):
    """Whether a mask is an entry of x."""
    specs = jax.tree.leaves(row.x, is_leaf=is_spec)
    return any(spec.kind(jnp.float32) is bool for spec in specs)


def reads_a_mask(row):
    """Losses all do; the other rows have a mask where their layer does."""
    return isinstance(row.layer, Loss) or row.mask is not None or own_mask(row)


def masked(row):
    """The row's arguments, with a mask that hides something, and the mask."""
    params, x, context = drawn(row, KEY)
    if own_mask(row):
        mask = x[-1]
    elif row.mask is not None:
        mask = context.mask
    else:
        mask = jnp.ones(jax.tree.leaves(x)[0].shape[:-1], bool)
        if isinstance(row.layer, fp.CTC):
            mask = mask[..., 0]
    shown = np.array(mask)
    shown[..., -1], shown.flat[0] = False, True
    shown = jnp.asarray(shown)
    if own_mask(row):
        return params, (*x[:-1], shown), context, shown
    return params, x, dataclasses.replace(context, mask=shown), shown


def hidden(leaf, mask):
    """bool like the leaf: what the mask hides of it."""
    fits = is_float(leaf) and leaf.shape[: mask.ndim] == mask.shape
    inside = leaf.ndim > mask.ndim
    return ~mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim)) if fits and inside else False


# of every layer the first row with a mask of its own, or else the first
ORDER = sorted(filter(reads_a_mask, ROWS), key=lambda row: row.mask is None)


@pytest.mark.parametrize(
    "name", {(type(row.layer), own_mask(row)): row.name for row in reversed(ORDER)}.values()
)
def test_what_is_hidden_changes_no_bit_of_the_rest(name):
    layer = ROW[name].layer
    params, x, context, mask = masked(ROW[name])
    where = jax.tree.map(lambda leaf: hidden(leaf, mask), x)
    if isinstance(layer, fp.DotProductAttention):  # the mask is one of keys and values
        where = (False, *where[1:])

    def run(x, dy):
        y, residuals = layer.forward(params, x, context)
        dy = jax.tree.map(lambda leaf: dy * jnp.ones_like(leaf), y)
        return y, layer.backward(params, residuals, dy)

    check_hidden(run, x, where)


def check_hidden(run, x, where):
    """run(x, dy) -> y, (dx, dparams): the same to the bit whatever lies in x `where` it is hidden,
    finite, and dx 0 there. -> y, (dx, dparams)"""

    @jax.jit
    def filled(value, dy):
        given = jax.tree.map(
            lambda leaf, out: jnp.where(out, value.astype(leaf.dtype), leaf) if is_float(leaf)
            else leaf, x, where,
        )  # fmt: skip
        return run(given, dy)

    def bits(found):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)]

    wanted = filled(jnp.float32(0.5), jnp.float32(0.75))
    for value in (jnp.nan, jnp.inf, -jnp.inf, 1e38):
        assert bits(filled(jnp.float32(value), jnp.float32(0.75))) == bits(wanted), value
    dx = wanted[1][0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted))
    for leaf, out in zip(jax.tree.leaves(dx, is_leaf=lambda d: d is None),
                         jax.tree.leaves(where), strict=True):  # fmt: skip
        if leaf is not None:
            assert not np.any(np.where(out, leaf, 0))
    return wanted


def looped(x, mask):
    """A causal block in a loop that keeps nothing of its steps, and what surrounds it elsewhere."""
    block = fp.SelfAttention(4, 2, causal=True, bias=False)
    return fp.Repeat(fp.Remat(block), 2), x[..., :4], mask


def rewired(x, mask):
    """Feedback alignment: the block is made anew around other layers."""
    block = fp.SelfAttention(5, 1, rotary=True, head_size=2)
    return fp.rewire(block, {fp.Dense: fp.rewiring.feedback_alignment()}), x, mask


def remembered(x, mask):
    """A memory of other steps, whose mask is an entry of x."""
    return fp.CrossAttention(4, 2, kv_heads=1), (x[:, :2], x, mask), None


@pytest.mark.parametrize("case", [looped, rewired, remembered], ids=lambda case: case.__name__)
def test_what_a_block_does_not_see_is_in_no_gradient_and_no_norm(case):
    """A Dense inside has no mask: of NaN at a hidden step it would make 0 · NaN."""
    mask = jnp.array([[True, True, False], [False, True, True]])
    model, x, shown = case(jax.random.normal(KEY, (2, 3, 5)), mask)
    context = fp.Context(mask=shown)
    params = model.init(KEY, x)
    normed = fp.collect(model, fp.collectors.squared_norms)
    where = jax.tree.map(lambda leaf: hidden(leaf, mask), x)

    def run(x, dy):
        y, residuals = model.forward(params, x, context)
        dy = dy * jnp.ones_like(y)
        if shown is not None:  # a loss with the mask
            dy = jnp.where(mask[..., None], dy, 0)
        _, norms = normed.backward(params, normed.forward(params, x, context)[1], dy)
        return y, (*model.backward(params, residuals, dy), norms)

    _, (_, dparams, norms) = check_hidden(run, x, where)
    assert all(leaf.any() for leaf in jax.tree.leaves(norms))
    assert any(leaf.any() for leaf in jax.tree.leaves(dparams))


def test_hidden_tokens_change_nothing_that_is_seen():
    model, mask = fp.gpt(7, 4, width=4, depth=1, heads=2), jnp.array([[True, True, False, True]])
    tokens = jnp.array([[3, 1, 4, 1]])
    params = model.init(KEY, tokens)

    @jax.jit
    def run(tokens):
        y, kept = model.forward(params, tokens, fp.Context(mask=mask))
        dy = jnp.where(mask[..., None], jnp.ones_like(y).at[..., 0].set(2), 0)
        return y[:, jnp.array([0, 1, 3])], model.backward(params, kept, dy)[1]

    for left, right in zip(*map(jax.tree.leaves, map(run, (tokens, tokens.at[0, 2].set(5)))),
                           strict=True):  # fmt: skip
        np.testing.assert_array_equal(left, right)


def test_what_infonce_hides_is_no_candidate():
    a, b = (jax.random.normal(jax.random.key(i), (4, 8)) for i in (0, 1))
    mask = fp.Context(mask=jnp.array([True, True, True, False]))
    for symmetric in (False, True):
        loss = fp.InfoNCE(temperature=0.5, symmetric=symmetric)
        value, kept = jax.jit(loss.forward)((), (a, b), mask)
        alone, kept_alone = jax.jit(loss.forward)((), (a[:3], b[:3]))
        np.testing.assert_allclose(value, alone, rtol=1e-6)
        (da, db), _ = jax.jit(loss.backward)((), kept, jnp.ones(()))
        (da_alone, db_alone), _ = jax.jit(loss.backward)((), kept_alone, jnp.ones(()))
        np.testing.assert_allclose(da[:3], da_alone, atol=1e-6)
        np.testing.assert_allclose(db[:3], db_alone, atol=1e-6)
        assert not da[3].any() and not db[3].any()


def test_sure_and_right_answers_cost_nothing_and_wrong_ones_everything():
    z, y = jnp.array([[jnp.inf, -jnp.inf, 3.0]]), jnp.array([[1.0, 0.0, 0.5]])
    loss = fp.BinaryCrossEntropy()
    value, kept = loss.forward((), (z, y))
    np.testing.assert_allclose(value, 1.5 + np.log1p(np.exp(-3.0)), rtol=1e-6)
    (dz, _), _ = loss.backward((), kept, jnp.ones(()))
    np.testing.assert_allclose(dz, [[0, 0, 1 / (1 + np.exp(-3.0)) - 0.5]], rtol=1e-6)
    assert loss.forward((), (z, 1 - y))[0] == jnp.inf
