"""Shuffles, Unfold and Fold, local convolutions, general products: by hand, PyTorch and Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

from ..torch_modules.against import assert_same
from ..torch_modules.rearranging import TABLE


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("title", "args", "options", "shapes"),
    [
        ("PixelShuffle", (2,), {}, [(2, 12, 3, 4)]),
        ("PixelUnshuffle", (3,), {}, [(2, 2, 3, 6)]),
        ("ChannelShuffle", (2,), {}, [(2, 6, 3, 4)]),
        ("Fold", ((5, 6), (2, 3), 1, (1, 0), (2, 1)), {}, [(2, 18, 12)]),
        ("Fold", ((5, 6), 2, 2), {}, [(2, 12, 12)]),
        ("Bilinear", (2, 3, 4), {}, [(2, 5, 2), (2, 5, 3)]),
        ("Bilinear", (2, 3, 4, False), {}, [(2,), (3,)]),
        ("Upsample", (None, 2, "bilinear", True), {}, [(2, 3, 4, 5)]),
        ("Upsample", (None, 2, "bicubic", True), {}, [(2, 3, 4, 5)]),
        ("Upsample", (None, (3, 2), "bicubic"), {}, [(2, 3, 1, 5)]),
        ("Upsample", (None, (3, 2)), {}, [(2, 3, 4, 5)]),
        ("Upsample", (None, 3, "linear"), {}, [(2, 3, 4)]),
        ("Upsample", (None, 2, "trilinear", True), {}, [(2, 3, 2, 1, 4)]),
    ],
    ids=str,
)
def test_pytorch_agrees(title, args, options, shapes):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer, adapt = TABLE[title](args, options)
    module = getattr(torch.nn, title)(*args, **options).double()
    inputs = [torch.tensor(normal(*shape).astype(np.float64)) for shape in shapes]
    assert_same(layer, adapt, module, inputs)


def test_unfold_is_pytorchs_tap_by_tap():
    torch = pytest.importorskip("torch")
    x = normal(2, 5, 6, 3)
    layer = fp.Unfold((2, 3), stride=(2, 1), padding=((1, 1), (0, 0)), dilation=(2, 1))
    y, _ = layer.forward((), jnp.asarray(x))
    theirs = torch.nn.functional.unfold(
        torch.tensor(x.transpose(0, 3, 1, 2).copy()), (2, 3), (2, 1), (1, 0), (2, 1)
    ).numpy()  # [N, C · taps, L]
    rows = theirs.reshape(2, 3, 6, -1).transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(y, rows.reshape(y.shape))


def test_a_shuffle_by_hand():
    x = jnp.arange(8.0).reshape(1, 1, 8)
    y, _ = fp.PixelShuffle().forward((), x)
    assert y[..., 0].tolist() == [[0, 1], [2, 3]] and y[..., 1].tolist() == [[4, 5], [6, 7]]
    assert fp.PixelUnshuffle().forward((), y)[0].tolist() == x.tolist()


def test_flax_agrees_on_general_products():
    linen = pytest.importorskip("flax.linen")
    key, x = jax.random.key(0), jnp.asarray(normal(4, 2, 3))
    for module, layer in (
        (linen.DenseGeneral((5, 4), axis=(-2, -1)), fp.DenseGeneral((5, 4), axes=2)),
        (
            linen.Einsum((2, 3, 4), "bhi,hij->bhj"),
            fp.Einsum("...hi,hij->...hj", (2, 3, 4)),
        ),
    ):
        theirs = module.init(key, x)["params"]
        bias = jnp.asarray(normal(*theirs["bias"].shape, seed=1))
        ours = fp.layers.Affine(theirs["kernel"], bias.reshape(layer.init(key, x).b.shape))
        wanted = module.apply({"params": {"kernel": theirs["kernel"], "bias": bias}}, x)
        np.testing.assert_allclose(layer.forward(ours, x)[0], wanted, atol=1e-5)


def test_flax_agrees_on_local_convolutions():
    linen = pytest.importorskip("flax.linen")
    key, x = jax.random.key(0), jnp.asarray(normal(2, 5, 4, 3))
    module, layer = (
        linen.ConvLocal(2, (3, 2), strides=(2, 1)),
        fp.ConvLocal(2, (3, 2), stride=(2, 1)),
    )
    ours = layer.init(key, x)
    assert ours.b is not None
    # theirs goes channel by channel, each of all taps
    kernel = jnp.moveaxis(ours.w, -2, 2).reshape(*ours.w.shape[:2], -1, 2)
    wanted = module.apply({"params": {"kernel": kernel, "bias": ours.b + 1}}, x)
    found, _ = layer.forward(ours._replace(b=ours.b + 1), x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_local_kernel_that_is_everywhere_the_same_is_a_convolution():
    key, x = jax.random.key(0), jnp.asarray(normal(2, 5, 4, 3))
    conv, local = fp.Conv(2, (3, 3), bias=False), fp.ConvLocal(2, (3, 3), bias=False)
    shared = conv.init(key, x)
    params = fp.layers.LocalKernel(jnp.broadcast_to(shared.w, (5, 4, *shared.w.shape)), None)
    z, kept = local.forward(params, x)
    wanted, residuals = conv.forward(shared, x)
    np.testing.assert_allclose(z, wanted, atol=1e-5)
    dx, dw = local.backward(params, kept, z)
    right, shared_dw = conv.backward(shared, residuals, wanted)
    np.testing.assert_allclose(dx, right, atol=1e-4)
    np.testing.assert_allclose(dw.w.sum((0, 1)), shared_dw.w, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: fp.PixelShuffle(0), "factor is 0"),
        (lambda: fp.PixelShuffle().forward((), jnp.ones((2, 2, 6))), "no multiple of 4"),
        (lambda: fp.PixelUnshuffle().forward((), jnp.ones((2, 3, 1))), "3 is no multiple of 2"),
        (lambda: fp.ChannelShuffle(2).forward((), jnp.ones(3)), "do not divide"),
        (lambda: fp.Unfold((2,)).forward((), jnp.ones((1, 1))), "no window fits"),
        (lambda: fp.Fold((2,), (3,)), "no window fits"),
        (lambda: fp.Fold((3, 3), (2,)), "as in window"),
        (lambda: fp.Fold((3,), (2,)).forward((), jnp.ones((3, 2))), "wanted .*2, 2 · channels"),
        (lambda: fp.ConvLocal(2, (3,), groups=2), "groups is 2"),
        (lambda: fp.Bilinear(2).init(jax.random.key(0), jnp.ones(2)), "wanted a pair"),
        (
            lambda: fp.Bilinear(2).init(jax.random.key(0), (jnp.ones(2), jnp.ones((1, 2)))),
            "must agree",
        ),
        (lambda: fp.DenseGeneral(3), r"write features=\(3,\)"),
        (lambda: fp.Einsum("ij,jk", (2, 3)), "has not the form"),
        (lambda: fp.Einsum("...i,ij->j", (2, 3)), "in front of both"),
        (lambda: fp.Einsum("...ik,ij->...j", (2, 3)), "'k' is in x alone"),
        (lambda: fp.Einsum("...ii,ij->...j", (2, 3)), "each once"),
        (lambda: fp.Einsum("...i,ij->...j", (2,)), "wanted 2 sizes"),
        (lambda: fp.Upsample(2, align_corners=True), "copies have no corners"),
        (lambda: fp.Conv(2, (3,), padding_mode="zeros"), "write padding_mode='constant'"),
        (lambda: fp.Conv(2, (3,), padding_mode="same"), "padding_mode is 'same'"),
    ],
)
def test_errors(make, match):
    with pytest.raises(fp.LayerError, match=match):
        make()


def test_parameters_of_other_sizes_are_errors():
    key = jax.random.key(0)
    for layer, x, other in (
        (fp.ConvLocal(2, (3,)), jnp.ones((2, 5, 3)), jnp.ones((2, 6, 3))),
        (fp.Bilinear(2), (jnp.ones((5, 2)),) * 2, (jnp.ones((5, 2)), jnp.ones((5, 3)))),
        (fp.DenseGeneral((2,)), jnp.ones((5, 2)), jnp.ones((5, 3))),
        (fp.Einsum("...i,ij->...j", (2, 2)), jnp.ones((5, 2)), jnp.ones((5, 3))),
    ):
        params = jax.eval_shape(layer.init, key, x)
        with pytest.raises(fp.LayerError, match=r"wanted w|sizes of one letter"):
            jax.eval_shape(layer.forward, params, other)
