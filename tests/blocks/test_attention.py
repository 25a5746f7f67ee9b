"""SelfAttention and CrossAttention against PyTorch, and as values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.layers import Affine

KEY = jax.random.key(0)


def off_zero(params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    moved = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def tensor(torch, array):
    return torch.tensor(np.asarray(array))


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_is_multi_head_attention(causal):
    torch = pytest.importorskip("torch")
    layer, x = fp.SelfAttention(6, 3, causal=causal), jax.random.normal(KEY, (2, 5, 6))
    params = off_zero(layer.init(KEY, x))
    mask = jnp.arange(5) < jnp.array([[4], [5]])
    # theirs answers at hidden steps too, of what lies there
    dy = jnp.where(mask[..., None], jax.random.normal(jax.random.key(1), x.shape), 0)
    y, kept = layer.forward(params, x, fp.Context(mask=mask))
    dx, dparams = layer.backward(params, kept, dy)

    theirs = torch.nn.MultiheadAttention(6, 3, batch_first=True)
    first, last = params[0], params[-1]
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = (
        tensor(torch, first.w.T),
        tensor(torch, first.b),
    )
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = (
        tensor(torch, last.w.T),
        tensor(torch, last.b),
    )
    given = tensor(torch, x).requires_grad_()
    out, _ = theirs(
        given,
        given,
        given,
        key_padding_mask=~tensor(torch, mask),
        attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None,
        need_weights=False,
    )
    out.backward(tensor(torch, dy))
    close(y[mask], out[tensor(torch, mask)])
    close(dx, given.grad)
    close(dparams[0].w.T, theirs.in_proj_weight.grad)
    close(dparams[0].b, theirs.in_proj_bias.grad)
    close(dparams[-1].w.T, theirs.out_proj.weight.grad)
    close(dparams[-1].b, theirs.out_proj.bias.grad)


def test_cross_attention_is_multi_head_attention():
    torch = pytest.importorskip("torch")
    layer = fp.CrossAttention(6, 2)
    xs, memory = jax.random.normal(KEY, (2, 4, 6)), jax.random.normal(KEY, (2, 5, 7))
    mask = jnp.arange(5) < jnp.array([[2], [5]])
    x = (xs, memory, mask)
    params = off_zero(layer.init(KEY, x))
    dy = jax.random.normal(jax.random.key(1), xs.shape)
    y, kept = layer.forward(params, x)
    dx, dparams = layer.backward(params, kept, dy)
    assert dx[2] is None

    theirs = torch.nn.MultiheadAttention(6, 2, kdim=7, vdim=7, batch_first=True)
    projections = [p[0] for p in params[1][:3]]
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    for name, p in zip(names, projections, strict=True):
        getattr(theirs, name).data = tensor(torch, p.w.T)
    theirs.in_proj_bias.data = tensor(torch, jnp.concatenate([p.b for p in projections]))
    theirs.out_proj.weight.data = tensor(torch, params[-1].w.T)
    theirs.out_proj.bias.data = tensor(torch, params[-1].b)
    given = [tensor(torch, a).requires_grad_() for a in (xs, memory)]
    out, _ = theirs(
        given[0],
        given[1],
        given[1],
        key_padding_mask=~tensor(torch, mask),
        need_weights=False,
    )
    out.backward(tensor(torch, dy))
    close(y, out)
    close(dx[0], given[0].grad)
    close(dx[1], given[1].grad)
    for name, p in zip(names, dparams[1][:3], strict=True):
        close(p[0].w.T, getattr(theirs, name).grad)
    close(jnp.concatenate([p[0].b for p in dparams[1][:3]]), theirs.in_proj_bias.grad)
    close(dparams[-1].w.T, theirs.out_proj.weight.grad)


def test_the_context_mask_is_not_the_memorys():
    layer = fp.CrossAttention(6, 2)
    x = (jax.random.normal(KEY, (2, 5, 6)), jax.random.normal(KEY, (2, 5, 7)))
    params = layer.init(KEY, x)
    y, kept = layer.forward(params, x)
    hidden, _ = layer.forward(params, x, fp.Context(mask=jnp.zeros((2, 5), bool)))
    np.testing.assert_array_equal(y, hidden)
    dx, _ = layer.backward(params, kept, y)
    assert len(dx) == 2 and dx[1].shape == x[1].shape
    with pytest.raises(fp.LayerError, match=r"CrossAttention\[0\].*wanted \(xs, memory\)"):
        layer.forward(params, x[0])


@pytest.mark.parametrize(
    "layer",
    [
        fp.SelfAttention(6, 3, causal=True, kv_heads=1, rotary=True),
        fp.CrossAttention(6, 3, head_size=5, bias=False),
        fp.SwiGLU(4, 8),
    ],
)
def test_a_block_is_the_call_that_makes_it(layer):
    assert eval(repr(layer), vars(fp.layers) | vars(fp.blocks)) == layer
    assert hash(layer) == hash(eval(repr(layer), vars(fp.layers) | vars(fp.blocks)))
    assert "layers" not in repr(layer)
    rebuilt = layer.rebuild(layer.layers)
    assert isinstance(rebuilt, fp.Serial) and rebuilt.layers == layer.layers


def test_grouped_heads_have_fewer_parameters():
    layer, x = fp.SelfAttention(8, 4, kv_heads=2, bias=False), jnp.zeros((3, 8))
    params = layer.init(KEY, x)
    assert params[0] == Affine(params[0].w, None) and params[0].w.shape == (8, (4 + 2 * 2) * 2)


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ({"features": 7, "heads": 2}, "no multiple of heads = 2"),
        ({"features": 8, "heads": 4, "kv_heads": 3}, "does not divide"),
        ({"features": 8, "heads": 0}, "heads is 0"),
    ],
)
def test_heads_are_checked(arguments, problem):
    for kind in (fp.SelfAttention, fp.CrossAttention):
        with pytest.raises(fp.LayerError, match=problem):
            kind(**arguments)
