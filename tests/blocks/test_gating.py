"""Gated feed-forward networks by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp


@pytest.mark.parametrize(
    "kind, gate", [(fp.GLU, "sigmoid"), (fp.SwiGLU, "silu"), (fp.GEGLU, "gelu")]
)
def test_pytorch_agrees(kind, gate):
    torch = pytest.importorskip("torch")
    layer, x = kind(4, 5, bias=True), jax.random.normal(jax.random.key(0), (3, 4))
    params = layer.init(jax.random.key(1), x)
    y, kept = layer.forward(params, x)
    dy = jax.random.normal(jax.random.key(2), y.shape)
    dx, dparams = layer.backward(params, kept, dy)
    leaves = [torch.tensor(np.asarray(a)).requires_grad_() for a in jax.tree.leaves((x, params))]
    given, w, b, v, c, u, d = leaves
    activation = getattr(torch, gate, None) or getattr(torch.nn.functional, gate)
    out = (activation(given @ w + b) * (given @ v + c)) @ u + d
    out.backward(torch.tensor(np.asarray(dy)))
    np.testing.assert_allclose(y, out.detach().numpy(), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves((dx, dparams)), leaves, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_sizes():
    layer = fp.SwiGLU(4, 6)
    params = layer.init(jax.random.key(0), jnp.zeros((2, 3)))
    assert [a.shape for a in jax.tree.leaves(params)] == [(3, 6), (3, 6), (6, 4)]
    with pytest.raises(fp.LayerError, match="hidden is 0"):
        fp.GLU(4, 0)
