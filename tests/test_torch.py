"""PyTorch says the same of dense layers, activations and losses, in float64.

The other families are compared in their own files (tests/layers, tests/blocks, tests/losses).
Dropout and noise draw other numbers there, PyTorch has no focal loss, and its hard sigmoid rounds
1/6 to float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.comparison.programs import computed

torch = pytest.importorskip("torch")
F = torch.nn.functional
RANDOM = np.random.default_rng(0)


class Case(NamedTuple):
    """A layer, its x, and `theirs(params, x)`, of the same trees with tensors for leaves."""

    layer: fp.Layer
    x: Any
    theirs: Callable[[Any, Any], Any]

    def __repr__(self):
        return repr(self.layer)


def normal(*shape):
    return RANDOM.normal(size=shape)


def distributions(*shape):
    e = np.exp(normal(*shape))
    return e / e.sum(-1, keepdims=True)


Z = 2 * normal(5, 7)
Z[0, :3] = -1, 0, 1  # where some of them have a kink
LABELS = np.array([3, 0, 6, 2, 2], np.int32)
SOME = np.array([3, -1, 6, -1, 2], np.int32)

ACTIVATIONS = {
    fp.Sigmoid(): torch.sigmoid,
    fp.Tanh(): torch.tanh,
    fp.ReLU(): F.relu,
    fp.LeakyReLU(0.2): lambda z: F.leaky_relu(z, 0.2),
    fp.ELU(0.7): lambda z: F.elu(z, 0.7),
    fp.SELU(): F.selu,
    fp.GELU(): F.gelu,
    fp.GELU(approximate=True): lambda z: F.gelu(z, approximate="tanh"),
    fp.SiLU(): F.silu,
    fp.Softplus(): F.softplus,
    fp.HardTanh(): F.hardtanh,
    fp.Softplus(beta=0.7, threshold=1.0): lambda z: F.softplus(z, 0.7, 1.0),
    fp.HardTanh(low=-0.3, high=1.5): lambda z: F.hardtanh(z, -0.3, 1.5),
    fp.ReLU6(): F.relu6,
    fp.CELU(2.0): lambda z: F.celu(z, 2.0),  # it takes 1/α for float32
    fp.Threshold(0.3, -0.2): lambda z: F.threshold(z, 0.3, -0.2),
    fp.Softsign(): F.softsign,
    fp.LogSigmoid(): F.logsigmoid,
    fp.HardSwish(): F.hardswish,
    fp.Mish(): F.mish,
    fp.HardShrink(0.4): lambda z: F.hardshrink(z, 0.4),
    fp.Softshrink(0.4): lambda z: F.softshrink(z, 0.4),
    fp.TanhShrink(): F.tanhshrink,
    fp.Softmax(axis=-2): lambda z: F.softmax(z, -2),
    fp.Softmin(): lambda z: F.softmin(z, -1),
    fp.Softmax(): lambda z: F.softmax(z, -1),
    fp.LogSoftmax(): lambda z: F.log_softmax(z, -1),
}


def triplet(x):
    return F.triplet_margin_loss(x[0], *x[1], margin=1.5, eps=0)


def contrast(x):
    a, b = (F.normalize(v, dim=-1) for v in x)
    return F.cross_entropy(a @ b.T / 0.3, torch.arange(5))


# of (prediction, target)
LOSSES = [
    (fp.QuadraticCost(), (Z, normal(5, 7)), lambda x: F.mse_loss(*x, reduction="sum") / 10),
    (fp.MeanSquaredError(), (Z, normal(5, 7)), lambda x: F.mse_loss(*x)),
    (
        fp.MeanSquaredError(reduction="none"),
        (Z, normal(5, 7)),
        lambda x: F.mse_loss(*x, reduction="none").mean(-1),
    ),
    (
        fp.Huber(0.7),
        (Z, normal(5, 7)),
        lambda x: F.huber_loss(*x, delta=0.7, reduction="none").sum(-1).mean(),
    ),
    (
        fp.BinaryCrossEntropy(),
        (20 * Z, distributions(5, 7)),
        lambda x: F.binary_cross_entropy_with_logits(*x, reduction="none").sum(-1).mean(),
    ),
    (
        fp.KLDivergence(),
        (np.log(distributions(5, 7)), distributions(5, 7)),
        lambda x: F.kl_div(*x, reduction="batchmean"),
    ),
    (
        fp.Hinge(0.6, reduction="none"),  # theirs is a mean over the classes
        (Z, LABELS),
        lambda x: 7 * F.multi_margin_loss(*x, margin=0.6, reduction="none"),
    ),
    (fp.CosineDistance(), (Z, normal(5, 7)), lambda x: 1 - F.cosine_similarity(*x).mean()),
    (fp.TripletMargin(1.5), (Z, (normal(5, 7), normal(5, 7))), triplet),
    (fp.InfoNCE(0.3), (Z, normal(5, 7)), contrast),
    (fp.SoftmaxCrossEntropy(), (30 * Z, LABELS), lambda x: F.cross_entropy(*x)),
    (
        fp.SoftmaxCrossEntropy(label_smoothing=0.1, reduction="none"),
        (Z, LABELS),
        lambda x: F.cross_entropy(*x, label_smoothing=0.1, reduction="none"),
    ),
    (
        fp.SoftmaxCrossEntropy(label_smoothing=0.1, ignore_index=-1),
        (Z, SOME),
        lambda x: F.cross_entropy(*x, label_smoothing=0.1, ignore_index=-1),
    ),
    (
        fp.SoftmaxCrossEntropy(label_smoothing=0.1, reduction="sum"),
        (Z, distributions(5, 7)),
        lambda x: F.cross_entropy(*x, label_smoothing=0.1, reduction="sum"),
    ),
]

CASES = [
    Case(fp.Dense(3), Z, lambda p, x: F.linear(x, p.w.T, p.b)),
    Case(fp.Dense(3, bias=False), normal(2, 3, 4, 5), lambda p, x: F.linear(x, p.w.T)),
    Case(fp.Dense(3), Z[0], lambda p, x: F.linear(x, p.w.T, p.b)),
    *(Case(layer, Z, lambda p, z, f=f: f(z)) for layer, f in ACTIVATIONS.items()),
    *(Case(layer, x, lambda p, x, f=f: f(x)) for layer, x, f in LOSSES),
    Case(
        fp.LinearCrossEntropy(9, bias=True, label_smoothing=0.1, ignore_index=-1, chunk=2),
        (Z, SOME),
        lambda p, x: F.cross_entropy(
            F.linear(x[0], p.w.T, p.b), x[1], label_smoothing=0.1, ignore_index=-1
        ),
    ),
]


def ours(layer, params, x, dy):
    y, residuals = layer.forward(params, x)
    dx, dparams = layer.backward(params, residuals, jnp.broadcast_to(dy, y.shape))
    return y, (dparams, dx)


def tensor(leaf):
    value = torch.tensor(np.asarray(leaf))
    return value.requires_grad_() if value.is_floating_point() else value.long()


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_outputs_and_gradients(case):
    layer, x, theirs = case
    with jax.enable_x64(True):
        params = layer.init(jax.random.key(0), jax.tree.map(jnp.asarray, x))
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # off zero
        dy = np.float64(1.7)
        if not isinstance(layer, fp.losses.Loss) or layer.reduction == "none":
            y = jax.eval_shape(lambda p, x: layer.forward(p, x)[0], params, x)
            dy = normal(*y.shape)
        y, grads = computed(lambda *a: ours(layer, *a), params, x, dy)
    tensors = jax.tree.map(tensor, (params, x))
    wanted = theirs(*tensors)
    wanted.backward(torch.tensor(dy))
    np.testing.assert_allclose(y, wanted.detach().numpy(), rtol=1e-10, atol=1e-10)
    leaves = [leaf for leaf in jax.tree.leaves(tensors) if leaf.requires_grad]
    for mine, other in zip(jax.tree.leaves(grads), leaves, strict=True):
        np.testing.assert_allclose(mine, other.grad.numpy(), rtol=1e-10, atol=1e-10)


def test_the_kinks_are_theirs():
    """At a kink both have the derivative of the side where the function is flatter."""
    kinks = {fp.ReLU(): 0.0, fp.LeakyReLU(0.2): 0.2, fp.HardTanh(): 0.0}
    places = {fp.HardTanh(): (-1.0, 1.0)}
    for layer, slope in kinks.items():
        for z in places.get(layer, (0.0,)):
            value = jnp.array([z])
            dz, _ = layer.backward((), layer.forward((), value)[1], jnp.ones(1))
            t = torch.tensor([z], requires_grad=True)
            ACTIVATIONS[layer](t).backward(torch.ones(1))
            np.testing.assert_allclose([dz[0], t.grad[0].item()], slope, rtol=1e-6)
