"""Convolutions: numbers by hand, PyTorch, sizes, errors, and the form that is used on GPUs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.layers import Kernel, correlation


def numbers(seed, shape, dtype=jnp.float32):
    # not by jax.random, which compiles for every new shape
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def parameters(layer, x):
    leaves, tree = jax.tree.flatten(jax.eval_shape(layer.init, jax.random.key(0), x))
    return jax.tree.unflatten(tree, [numbers(i, leaf.shape) for i, leaf in enumerate(leaves)])


def backward(layer, params, x, dz):
    return layer.backward(params, layer.forward(params, x)[1], dz)


def test_numbers_by_hand():
    layer = fp.Conv(1, (2,), padding="VALID")
    params = Kernel(jnp.array([[[2.0]], [[-1.0]]]), jnp.array([0.5]))
    x = jnp.array([[1.0], [3.0], [4.0]])
    z, _ = layer.forward(params, x)
    np.testing.assert_array_equal(z, [[-0.5], [2.5]])  # 2·1 − 3 + ½, 2·3 − 4 + ½
    dx, (dw, db) = backward(layer, params, x, jnp.array([[1.0], [10.0]]))
    np.testing.assert_array_equal(dx, [[2.0], [19.0], [-10.0]])
    np.testing.assert_array_equal(dw[:, 0, 0], [31.0, 43.0])
    np.testing.assert_array_equal(db, [11.0])


def test_numbers_by_hand_transposed():
    layer = fp.ConvTranspose(1, (3,), stride=2, padding=0, bias=False)
    params = Kernel(jnp.array([[[1.0]], [[2.0]], [[3.0]]]), None)
    x = jnp.array([[1.0], [10.0]])
    z, _ = layer.forward(params, x)
    np.testing.assert_array_equal(z[:, 0], [1, 2, 3 + 10, 20, 30])
    dx, (dw, db) = backward(layer, params, x, jnp.arange(5.0)[:, None])
    np.testing.assert_array_equal(dx[:, 0], [0 + 2 + 6, 2 + 6 + 12])
    np.testing.assert_array_equal(dw[:, 0, 0], [0 + 20, 1 + 30, 2 + 40])
    assert db is None


@pytest.mark.parametrize(
    ("layer", "sizes", "out"),
    [
        (fp.Conv(2, (3,)), (5,), (5,)),
        (fp.Conv(2, (3,), stride=2), (5,), (3,)),
        (fp.Conv(2, (3,), stride=2, padding="VALID"), (6,), (2,)),
        (fp.Conv(2, (3,), dilation=2, padding="CAUSAL"), (5,), (5,)),
        (fp.Conv(2, (2, 3), padding=((1, 2), 0)), (5, 4), (7, 2)),
        (fp.ConvTranspose(2, (3,), stride=2), (5,), (10,)),
        (fp.ConvTranspose(2, (3,), stride=2, padding="VALID"), (5,), (11,)),
        (fp.ConvTranspose(2, (2,), stride=3, padding="VALID"), (5,), (15,)),
        (fp.ConvTranspose(2, (3,), stride=2, padding=1), (5,), (9,)),
        (fp.ConvTranspose(2, (3,), stride=2, padding=((1, 0),)), (5,), (10,)),
    ],
    ids=str,
)
def test_sizes(layer, sizes, out):
    x = jax.ShapeDtypeStruct((*sizes, 3), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    z, _ = jax.eval_shape(layer.forward, params, x)
    assert z.shape == (*out, 2)


def test_causal_sees_nothing_later():
    layer = fp.Conv(2, (3,), padding="CAUSAL", dilation=2)
    x = numbers(0, (7, 3))
    params = parameters(layer, x)
    z, later = (layer.forward(params, v)[0] for v in (x, x.at[4:].add(1.0)))
    np.testing.assert_array_equal(z[:4], later[:4])
    assert (z[4:] != later[4:]).all()


CASES = [
    # kernel, stride, padding, dilation, groups, in, out
    ((3,), 1, 1, 1, 1, 3, 4),
    ((4,), 3, 2, 2, 2, 4, 6),
    ((3, 2), (2, 1), (1, 0), (1, 2), 1, 3, 4),
    ((3, 3), 2, 1, 1, 4, 4, 8),
    ((1, 1), 2, 0, 1, 1, 3, 4),
    ((3, 3), 1, 1, 1, 1, 6, 5),
    ((2, 3, 2), (1, 2, 1), (1, 0, 1), (2, 1, 1), 2, 4, 6),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_convolution(case):
    torch = pytest.importorskip("torch")
    taps, stride, padding, dilation, groups, c, out = case
    layer = fp.Conv(out, taps, stride=stride, padding=padding, dilation=dilation, groups=groups)
    x = numbers(0, (2, *(6, 7, 5)[: len(taps)], c))
    params = Kernel(numbers(1, (*taps, c // groups, out)), numbers(2, (out,)))
    function = getattr(torch.nn.functional, f"conv{len(taps)}d")
    w = np.moveaxis(np.asarray(params.w), (-1, -2), (0, 1))
    compare_with_torch(torch, layer, params, x, w, lambda x, w, b: function(
        x, w, b, stride, padding, dilation, groups
    ), lambda dw: np.moveaxis(dw, (0, 1), (-1, -2)))  # fmt: skip


TRANSPOSED = [
    # kernel, stride, padding, output padding, dilation, groups, in, out
    ((3,), 2, 1, 1, 1, 1, 3, 4),
    ((4, 3), (2, 3), (1, 0), (0, 1), (1, 2), 1, 3, 4),
    ((3, 3), 2, 1, 1, 1, 2, 4, 6),
    ((3, 2), 2, 0, 0, 1, 4, 4, 4),
    ((2, 3, 2), (1, 2, 1), (0, 1, 0), (0, 1, 0), 1, 1, 3, 2),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_torch_transposed(case):
    torch = pytest.importorskip("torch")
    taps, stride, padding, more, dilation, groups, c, out = case
    n = len(taps)
    low, extra = ((v,) * n if isinstance(v, int) else v for v in (padding, more))
    pairs = tuple((p, p - q) for p, q in zip(low, extra, strict=True))
    layer = fp.ConvTranspose(
        out, taps, stride=stride, padding=pairs, dilation=dilation, groups=groups
    )
    x = numbers(0, (2, *(4, 5, 3)[:n], c))
    params = Kernel(numbers(1, (*taps, c // groups, out)), numbers(2, (out,)))
    function = getattr(torch.nn.functional, f"conv_transpose{n}d")

    def to_torch(w):  # [*taps, in/g, (g, out/g)] -> [(g, in/g), out/g, *taps]
        grouped = w.reshape(*taps, c // groups, groups, out // groups)
        return np.moveaxis(grouped, (n + 1, n, n + 2), (0, 1, 2)).reshape(c, out // groups, *taps)

    def from_torch(dw):
        grouped = dw.reshape(groups, c // groups, out // groups, *taps)
        return np.moveaxis(grouped, (0, 1, 2), (n + 1, n, n + 2)).reshape(params.w.shape)

    compare_with_torch(torch, layer, params, x, to_torch(np.asarray(params.w)), lambda x, w, b:
        function(x, w, b, stride, low, extra, groups, dilation), from_torch)  # fmt: skip


def compare_with_torch(torch, layer, params, x, w, function, from_torch):
    """Outputs and every gradient, channels first there and last here."""

    def leaf(a):
        return torch.tensor(np.array(a), requires_grad=True)

    theirs = [leaf(np.moveaxis(np.asarray(x), -1, 1)), leaf(w), leaf(params.b)]
    z_theirs = function(*theirs)
    dz = numbers(3, np.moveaxis(np.empty(z_theirs.shape), 1, -1).shape)
    z_theirs.backward(torch.tensor(np.array(np.moveaxis(np.asarray(dz), -1, 1))))
    z, residuals = layer.forward(params, x)
    dx, (dw, db) = layer.backward(params, residuals, dz)
    pairs = [
        (z, np.moveaxis(z_theirs.detach().numpy(), 1, -1)),
        (dx, np.moveaxis(theirs[0].grad.numpy(), 1, -1)),
        (dw, from_torch(theirs[1].grad.numpy())),
        (db, theirs[2].grad.numpy()),
    ]
    for ours, other in pairs:
        np.testing.assert_allclose(ours, other, rtol=2e-5, atol=5e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("taps", "stride"), [(3, 2), (4, 2), (2, 3), (1, 2), (5, 1)])
def test_flax_transposed(padding, taps, stride):
    """Flax calls lax.conv_transpose: the same sizes, the kernel flipped."""
    layer = fp.ConvTranspose(3, (taps,), stride=stride, padding=padding, bias=False)
    x = numbers(0, (2, 4, 5))
    params = parameters(layer, x)
    letters = ("NWC", "WIO", "NWC")
    flipped = jnp.flip(params.w, 0)
    wanted = jax.lax.conv_transpose(x, flipped, (stride,), padding, dimension_numbers=letters)
    np.testing.assert_allclose(layer.forward(params, x)[0], wanted, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_transposed_is_the_adjoint(padding):
    """⟨Conv x, y⟩ = ⟨x, ConvTranspose y⟩, with in and out exchanged in w."""
    conv = fp.Conv(4, (3, 2), stride=2, padding=padding, groups=2, bias=False)
    transposed = fp.ConvTranspose(6, (3, 2), stride=2, padding=padding, groups=2, bias=False)
    y = numbers(0, (3, 5, 4))
    w = numbers(1, (3, 2, 3, 4))
    back = transposed.forward(Kernel(correlation.exchange_channels(w, 2), None), y)[0]
    x = numbers(2, back.shape)
    there = conv.forward(Kernel(w, None), x)[0]
    np.testing.assert_allclose(jnp.vdot(there, y), jnp.vdot(x, back), rtol=1e-4)


FORMS = [
    # taps, stride, dilation, padding, groups, in, out, sizes
    ((3,), (2,), (1,), ((1, 0),), 1, 2, 3, (6,)),
    ((3, 2), (2, 1), (1, 2), ((1, 2), (0, 1)), 1, 5, 3, (6, 5)),
    ((3, 2), (1, 2), (2, 1), ((2, 2), (0, 1)), 2, 6, 4, (6, 5)),
    ((3, 2), (2, 1), (2, 1), ((2, 1), (0, 1)), 3, 3, 6, (6, 5)),
    ((2, 3, 2), (2, 1, 1), (2, 1, 1), ((1, 2), (0, 1), (1, 0)), 1, 5, 3, (4, 4, 3)),
    ((1, 1), (2, 1), (1, 1), ((0, 0), (0, 0)), 1, 5, 3, (6, 5)),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_one_xla_convolution_says_the_same(form):
    """What GPUs run agrees with what CPUs run."""
    taps, stride, dilation, padding, groups, c, out, sizes = form
    geometry = correlation.Geometry(stride, dilation, padding, groups)
    with jax.enable_x64(True):
        x = numbers(0, (2, *sizes, c), jnp.float64)
        w = numbers(1, (*taps, c // groups, out), jnp.float64)
        y = correlation.correlate(x, w, geometry)
        dy = numbers(2, y.shape, jnp.float64)
        pairs = [
            (y, correlation._correlate_xla(x, w, geometry)),
            (
                correlation.input_gradient(w, dy, geometry, sizes),
                correlation._dx_xla(w, dy, geometry, sizes),
            ),
            (
                correlation.kernel_gradient(x, dy, geometry, taps),
                correlation._dw_xla(x, dy, geometry, taps),
            ),
        ]
        for by_hand, by_xla in pairs:
            np.testing.assert_allclose(by_hand, by_xla, rtol=1e-12, atol=1e-12)


def test_any_leading_axes():
    layer = fp.Conv(3, (2, 2), stride=2)
    x = numbers(0, (2, 3, 1, 4, 5, 2))
    params = parameters(layer, x)
    z, _ = layer.forward(params, x)
    one, _ = layer.forward(params, x[1, 2, 0])
    assert z.shape == (2, 3, 1, 2, 3, 3)
    np.testing.assert_allclose(z[1, 2, 0], one, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_half_precision_sums_in_float32(groups):
    """4096 ones: float16 counts no further than 2048."""
    layer = fp.Conv(4, (1,) if groups == 1 else (2,), padding="VALID", groups=groups, bias=False)
    x = jnp.ones((4097, 4), jnp.float16)
    params = Kernel(jnp.ones((*layer.kernel_size, 4 // groups, 4), jnp.float16), None)
    z, residuals = layer.forward(params, x)
    dx, (dw, _) = layer.backward(params, residuals, jnp.ones_like(z))
    assert z.dtype == dx.dtype == dw.dtype == jnp.float16
    assert (dw == len(z)).all() or (abs(dw.astype(jnp.float32) - len(z)) <= 2).all()


@pytest.mark.parametrize(
    "layer",
    [
        fp.Conv(4, (3, 3), groups=4, bias=False),
        fp.Conv(4, (3, 3), groups=2, bias=False),
        fp.ConvTranspose(4, (3, 3), stride=2, bias=False),
    ],
    ids=str,
)
def test_forward_mode_and_second_derivatives(layer):
    """Both passes are differentiable themselves."""
    x = numbers(0, (2, 4, 3, 4))
    params = parameters(layer, x)

    def squares(x):
        z, residuals = layer.forward(params, x)
        return jnp.sum(z * z), layer.backward(params, residuals, 2 * z)[0]

    direction = numbers(2, x.shape)
    (_, dx), (slope, turn) = jax.jvp(squares, (x,), (direction,))
    np.testing.assert_allclose(slope, jnp.vdot(dx, direction), rtol=1e-4)
    np.testing.assert_allclose(jnp.vdot(turn, x), slope, rtol=1e-4)  # dx is linear in x


def test_repr_is_the_call():
    assert repr(fp.Conv(8, (3, 3), stride=2)) == "Conv(8, kernel_size=(3, 3), stride=2)"
    assert eval(
        repr(fp.ConvTranspose(8, (3,), stride=2, padding="VALID")), vars(fp.layers)
    ) == fp.ConvTranspose(8, (3,), stride=2, padding="VALID")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fp.Conv(0, (3,)), "features is 0"),
        (lambda: fp.Conv(8, 3), r"kernel_size is 3, wanted a tuple"),  # type: ignore[arg-type]
        (lambda: fp.Conv(8, (3, 0)), "kernel_size is 0"),
        (lambda: fp.Conv(8, (3, 3), stride=(1,)), "the lengths differ"),
        (lambda: fp.Conv(8, (3, 3), stride=0), "stride is 0"),
        (lambda: fp.Conv(8, (3, 3), groups=3), "write features=9"),
        (lambda: fp.Conv(8, (3, 3), padding="same"), "padding is 'same', wanted 'SAME'"),
        (lambda: fp.Conv(8, (3, 3), padding="CAUSAL"), "padding is 'CAUSAL'"),
        (lambda: fp.Conv(8, (3, 3), padding=(1,)), "one entry a spatial axis"),
        (lambda: fp.Conv(8, (3, 3), padding=-1), "padding is -1"),
    ],
)
def test_configuration_errors(make, words):
    with pytest.raises(fp.LayerError, match=words):
        make()


def test_call_errors():
    layer = fp.Conv(4, (3, 3), padding="VALID", groups=2)
    x = numbers(0, (1, 5, 5, 6))
    params = parameters(layer, x)
    for given, words in [
        (x[0, 0], "wanted at least 3 axes"),
        (x[..., :5], "wanted w of shape"),
        (x[..., :4], "wanted w of shape"),
        (x[:, :2], "smaller than the kernel's reach"),
        (x.astype(jnp.bfloat16), "the dtypes differ"),
        (jnp.ones((5, 5, 6), jnp.int32), "wanted an array of floats"),
    ]:
        with pytest.raises(fp.LayerError, match=words):
            layer.forward(params, given)
    with pytest.raises(fp.LayerError, match="2 groups do not divide its 5 channels"):
        layer.init(jax.random.key(0), x[..., :5])
    with pytest.raises(fp.LayerError, match="dy is float32"):
        layer.backward(params, x, jnp.ones((1, 3, 3, 5)))
    cropped = fp.ConvTranspose(2, (3,), padding=4)
    with pytest.raises(fp.LayerError, match="leaves an output of sizes"):
        cropped.forward(parameters(cropped, x[0]), x[0])


def test_every_tap_is_used():
    """dw of a kernel larger than the image: the taps that only meet padding are zero."""
    layer = fp.Conv(2, (5, 5))
    x = numbers(0, (1, 2, 2, 6))
    params = parameters(layer, x)
    _, (dw, _) = backward(layer, params, x, jnp.ones((1, 2, 2, 2)))
    met = np.asarray(jnp.abs(dw).sum((-1, -2)) > 0)
    inside = [abs(i - 2) <= 1 and abs(j - 2) <= 1 for i, j in itertools.product(range(5), repeat=2)]
    np.testing.assert_array_equal(met.ravel(), inside)


@pytest.mark.parametrize(
    ("images", "taps", "dilation"), [(32, (3, 3), 1), (33, (3, 2), 2), (34, (5, 5), (1, 2))]
)
def test_kernel_gradient_of_many_images(images, taps, dilation):
    """From some sizes on it is another sum, over a few images at a time."""
    layer = fp.Conv(32, taps, dilation=dilation)
    x = jax.random.normal(jax.random.key(0), (images, 15, 14, 16))
    params = layer.init(jax.random.key(1), x)
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        y, residuals = layer.forward(params, x)
        dy = jax.random.normal(jax.random.key(2), y.shape, y.dtype)
        program = jax.jit(layer.backward).lower(params, residuals, dy)
        assert "stablehlo.while" in program.as_text()
        dw = program.compile()(params, residuals, dy)[1].w
        wanted = fp.autodiff(layer)
        residuals = wanted.forward(params, x)[1]
        wanted_dw = wanted.backward(params, residuals, dy)[1].w
    assert np.abs(dw - wanted_dw).max() <= 1e-12 * np.abs(wanted_dw).max()
