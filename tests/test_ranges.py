"""The ends of the range: small losses, long and short vectors, small cotangents in 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.comparisons import drawn
from funcprop.catalogue.table import ROWS
from funcprop.comparison.programs import cast
from funcprop.layer import is_float
from funcprop.losses.linear_cross_entropy import Projection

KEY = jax.random.key(5)
ROW = {row.name: row for row in ROWS}
DTYPES = ("float32", "float16", "bfloat16")

# --- losses near their minimum --------------------------------------------------------------------

SURE = np.array([[20.0, 3.0, 1.0], [-2.0, 19.0, 1.5], [0.5, -1.0, 9.0]])  # of classes 0, 1, 2
RIGHT = jnp.arange(3)
TRUTH = [np.log1p(sum(np.exp(v - row[i]) for j, v in enumerate(row) if j != i))
         for i, row in enumerate(SURE)]  # fmt: skip
ANGLES = [1e-3, 0.1, 2.0]


def confident():
    """name -> loss, (prediction, target), the right values."""
    of_class = np.array(TRUTH)
    one = (fp.SoftmaxCrossEntropy(reduction="none"), (SURE, RIGHT), of_class)
    hot = (fp.SoftmaxCrossEntropy(reduction="none"), (SURE, np.eye(3)), of_class)
    focal = (fp.FocalLoss(reduction="none"), (SURE, RIGHT), (-np.expm1(-of_class)) ** 2 * of_class)
    z, y = np.array([[17.0, -12.0, 8.0]]).T, np.array([[1.0, 0.0, 1.0]]).T
    binary = (fp.BinaryCrossEntropy(reduction="none"), (z, y), np.log1p(np.exp(-abs(z[:, 0]))))
    turned = np.array([[np.cos(a), np.sin(a)] for a in ANGLES])
    straight = np.array([[3.0, 0.0]] * 3)
    apart = 2 * np.sin(np.array(ANGLES) / 2) ** 2
    cosine = (fp.CosineDistance(reduction="none"), (straight, turned), apart)
    basis = np.eye(3)
    contrast = (
        fp.InfoNCE(0.05, reduction="none"),
        (basis, basis),
        np.log1p([2 * np.exp(-20.0)] * 3),
    )
    both = (fp.InfoNCE(0.05, symmetric=True, reduction="none"), *contrast[1:])
    return {"classes": one, "one hot": hot, "focal": focal, "binary": binary, "cosine": cosine,
            "contrast": contrast, "both ways": both}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_small_loss_keeps_its_digits(dtype):
    cases = confident()
    given = {k: cast(jax.tree.map(jnp.asarray, x), dtype) for k, (_, x, _) in cases.items()}
    values = jax.jit(lambda given: {k: cases[k][0].forward((), x)[0] for k, x in given.items()})
    eps = float(jnp.finfo(dtype).eps)
    tiny = float(jnp.finfo(dtype).smallest_subnormal)
    for name, found in values(given).items():
        found = np.asarray(found, np.float64)
        assert (found >= 0).all(), name
        # a rounded direction turns by eps
        loose = 4 * eps * np.sqrt(cases[name][2]) + eps**2 if name == "cosine" else 0
        # logits in 16 bits are what they are rounded to
        steps = 8 if dtype == "float32" else 40
        np.testing.assert_allclose(
            found, cases[name][2], rtol=steps * eps, atol=tiny + np.max(loose), err_msg=name
        )


@pytest.mark.parametrize(
    ("logits", "wanted"),
    [([0.0, 17.0], 1.7139e-15), ([0.0, 10.0], 2.06096648e-9), ([0.0, 30.0], 8.7565e-27)],
)
def test_ctc_of_a_right_alignment(logits, wanted):
    z, target = jnp.array([[logits, logits]]), jnp.array([[1]])
    loss = fp.CTC()
    value, kept = jax.jit(loss.forward)((), (z, target))
    np.testing.assert_allclose(value, wanted, rtol=2e-5)
    # −log(1 − q²), q = σ(z₀ − z₁)
    q = 1 / (1 + np.exp(logits[1]))
    dz = jax.jit(loss.backward)((), kept, jnp.ones(()))[0][0]
    np.testing.assert_allclose(dz[0, 0, 0], q**2 * (1 - q) / (1 - q**2), atol=2e-7)


def test_ctc_keeps_its_digits_among_many_labels():
    random = np.random.default_rng(0)
    z, paths = (
        3 * random.normal(size=(4, 9, 5)),
        [[1, 0, 1, 0, 2, 2], [3, 3, 3], [], [4, 4, 2, 2, 1]],
    )
    for row, path in zip(z, paths, strict=True):
        row[np.arange(9), path + [0] * (9 - len(path))] += 18
    target = jnp.array([[1, 1, 2], [3, -1, -1], [-1, -1, -1], [4, 2, 1]])
    z = z.astype(np.float32)
    forward = jax.jit(lambda z: fp.CTC(reduction="none").forward((), (z, target))[0])
    found = forward(jnp.asarray(z))
    with jax.enable_x64(True):
        p = np.exp(z.astype(np.float64))
        p /= p.sum(-1, keepdims=True)
        exact = forward(jnp.asarray(z, jnp.float64))
    np.testing.assert_allclose(found, exact, rtol=2e-5)
    # one label and no repeats: 1 − Σ P over where it begins and ends
    spelt = sum(
        p[1, :i, 0].prod() * p[1, i:j, 3].prod() * p[1, j:, 0].prod()
        for i in range(9) for j in range(i + 1, 10)
    )  # fmt: skip
    np.testing.assert_allclose(exact[1], -np.log(spelt), rtol=1e-8)


def test_a_divergence_of_equals_is_not_negative():
    z = jax.random.normal(KEY, (64, 33))
    for dtype in DTYPES:
        y = jax.nn.softmax(z).astype(dtype)
        loss = fp.KLDivergence(reduction="none")
        for log_p in (jnp.log(y), jax.nn.log_softmax(z).astype(dtype)):
            values = loss.forward((), (log_p, y))[0]
            assert (values >= 0).all() and values.max() < 40 * jnp.finfo(dtype).eps
    # what is no distribution has the value that its formula says
    far = fp.KLDivergence().forward((), (jnp.log(jnp.array([[0.9, 0.9]])), jnp.array([[0.5, 0.5]])))
    np.testing.assert_allclose(far[0], np.log(0.5 / 0.9), rtol=1e-6)


def test_linear_cross_entropy_keeps_its_digits_and_those_of_16_bit_logits():
    loss = fp.LinearCrossEntropy(3, reduction="none", chunk=2)
    for one_pass in (loss, fp.LinearCrossEntropy(3, reduction="sum", chunk=2)):
        value, _ = one_pass.forward(
            Projection(jnp.asarray(SURE, jnp.float32), None), (jnp.eye(3), RIGHT)
        )
        np.testing.assert_allclose(value, TRUTH if value.ndim else sum(TRUTH), rtol=1e-6)
    random = np.random.default_rng(1)
    h, w = random.normal(size=(8, 64)), 2 * random.normal(size=(64, 9))
    h, w = jnp.asarray(h, jnp.bfloat16), jnp.asarray(w, jnp.bfloat16)
    target = jnp.arange(8) % 9
    found = jax.jit(fp.backprop(fp.LinearCrossEntropy(9)))(Projection(w, None), (h, target))[1].w
    wide = Projection(w.astype(jnp.float32), None), (h.astype(jnp.float32), target)
    exact = jax.jit(fp.backprop(fp.LinearCrossEntropy(9)))(*wide)[1].w
    off = jnp.linalg.norm(found.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert off < 2.5e-3  # half an eps for every entry, and not more


# --- norms ----------------------------------------------------------------------------------------

SIZES = (1e-30, 1e-19, 1e-7, 1.0, 1e10, 1e19, 1e30)


def losses_of_directions():
    return fp.CosineDistance(reduction="sum"), fp.InfoNCE(0.5), fp.InfoNCE(0.5, symmetric=True)


def test_directions_do_not_depend_on_lengths():
    """Of losses of directions: C(s a, t b) is C(a, b), and its gradient 1/s of that at a."""
    a, b = (jax.random.normal(jax.random.key(i), (3, 4)) for i in (0, 1))
    scale = jnp.array(SIZES)[:, None, None]
    for loss in losses_of_directions():

        @jax.jit
        def run(a, b, loss=loss):
            value, kept = loss.forward((), (a, b))
            return value, loss.backward((), kept, jnp.ones(()))[0]

        value, (da, db) = run(a, b)
        for s, t in zip(SIZES, reversed(SIZES), strict=True):
            found, (left, right) = run(s * a, t * b)
            np.testing.assert_allclose(found, value, rtol=1e-5)
            np.testing.assert_allclose(left * s, da, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(right * t, db, rtol=1e-4, atol=1e-6)
    parallel = fp.CosineDistance(reduction="none").forward(
        (), (scale[:, 0] * a[:1], 2 * scale[:, 0] * a[:1])
    )
    assert parallel[0].max() < 1e-12
    for dtype, ends in (("float16", (1e-6, 3e4)), ("bfloat16", (1e-30, 1e30))):
        for end in ends:
            v = (jnp.array([[0.6, 0.8]]) * end).astype(dtype)
            assert fp.CosineDistance().forward((), (v, v))[0] == 0


def test_a_triplet_of_far_points_has_its_distances():
    for size in (1e-30, 1e30):
        a, p, n = (jnp.array([v], jnp.float32) * size for v in ([0.0, 0.0], [3.0, 4.0], [0.0, 4.0]))
        loss = fp.TripletMargin(0.0)
        value, kept = loss.forward((), (a, (p, n)))
        np.testing.assert_allclose(value, size, rtol=1e-6)
        (_, (dp, dn)), _ = loss.backward((), kept, jnp.ones(()))
        np.testing.assert_allclose(dp, [[0.6, 0.8]], rtol=1e-6)
        np.testing.assert_allclose(dn, [[0.0, -1.0]], rtol=1e-6)


@pytest.mark.parametrize("size", [1e25, 1e30])
def test_norms_of_large_inputs(size):
    """y(s x) is y(x) where eps is nothing beside x, and dx is 1/s of it."""
    x = jax.random.normal(KEY, (4, 3, 3, 6))
    layers = [fp.LayerNorm(eps=1e-12), fp.RMSNorm(eps=1e-12), fp.GroupNorm(2, eps=1e-12),
              fp.InstanceNorm(eps=1e-12), fp.BatchNorm(eps=1e-12)]  # fmt: skip
    dy = jax.random.normal(jax.random.key(1), x.shape)
    params = [layer.init(KEY, x) for layer in layers]

    @jax.jit
    def run(x):
        found = []
        for layer, p in zip(layers, params, strict=True):
            y, kept = layer.forward(p, x)
            found.append((y, *layer.backward(p, kept, dy)))
        return found

    ordinary, large = run(x), run(size * x)
    for layer, (y, dx, dp), (z, dz, dq) in zip(layers, ordinary, large, strict=True):
        np.testing.assert_allclose(z, y, rtol=1e-4, atol=1e-5, err_msg=repr(layer))
        np.testing.assert_allclose(dz * size, dx, rtol=1e-3, atol=1e-4, err_msg=repr(layer))
        for left, right in zip(jax.tree.leaves(dq), jax.tree.leaves(dp), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4, err_msg=repr(layer))


def test_standardized_weights_of_any_size():
    model, x = fp.WeightStandardized(fp.Dense(5), eps=1e-12), jax.random.normal(KEY, (3, 4))
    params, dy = model.init(KEY, x), jnp.ones((3, 5))

    @jax.jit
    def run(size):
        y, kept = model.forward(params._replace(w=params.w * size), x)
        return y, model.backward(params._replace(w=params.w * size), kept, dy)[1].w * size

    (y, dw), (z, dv) = run(1.0), run(1e30)
    np.testing.assert_allclose(z, y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dv, dw, rtol=1e-3, atol=1e-4)


def test_attention_over_many_keys_keeps_small_cotangents():
    layer, random = fp.DotProductAttention(), np.random.default_rng(0)
    even = jnp.zeros((1, 512, 1, 1), jnp.float16)
    drawn_ = [jnp.asarray(random.normal(size=(1, 512, 1, 8)), jnp.float16) for _ in range(4)]

    @jax.jit
    def run(q, k, v, dy):
        _, kept = layer.forward((), (q, k, v))
        return jax.vmap(lambda dy: layer.backward((), kept, dy))(dy)[0]

    # every p is 1/512, so dv is the mean of dy
    dv = run(even, even, jnp.ones_like(even), jnp.full_like(even, 1e-5)[None])[2]
    np.testing.assert_allclose(dv, 1e-5, rtol=0.05)  # in steps of 2⁻²⁴
    q, k, v, dy = drawn_
    dys = jnp.asarray(np.multiply.outer([1e-4, 1.0, 1e3], np.asarray(dy)), jnp.float16)
    found = run(q, k, v, dys)
    exact = run(*(a.astype(jnp.float32) for a in (q, k, v, dys)))
    for narrow, wide in zip(found, exact, strict=True):
        off = [np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)
               for a, b in zip(narrow, wide, strict=True)]  # fmt: skip
        assert off[0] < 4e-3 and off[1] < 1e-3 and off[2] < 1e-3


# --- cotangents in 16 bits ------------------------------------------------------------------------

COTANGENTS = (1e-4, 1.0, 1e3)


def is_leaf(row):
    """Whether no other layer is inside: between layers cotangents are as narrow as the output."""
    return not isinstance(row.layer, (fp.Composite, fp.composites.Wrapper, fp.composites.Rewired))


@pytest.mark.parametrize(
    "name", {type(row.layer): row.name for row in reversed(ROWS) if is_leaf(row)}.values()
)
def test_gradients_in_16_bits_are_as_good_for_small_and_large_cotangents(name):
    """Against the same backward in float32: no step of it is narrower than its result."""
    layer, random = ROW[name].layer, np.random.default_rng(0)
    given = {dtype: drawn(ROW[name], KEY, dtype) for dtype in DTYPES[1:]}
    shape = jax.eval_shape(lambda *given: layer.forward(*given)[0], *given["float16"])
    dy = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape) if is_float(leaf) else None, shape
    )
    sizes = np.array(COTANGENTS)
    dys = {
        dtype: jax.tree.map(lambda d: jnp.asarray(np.multiply.outer(sizes, d), dtype), dy)  # noqa: B023
        for dtype in given
    }

    @jax.jit
    def run(given, dys):
        narrow, wide = {}, {}
        for dtype, (params, x, context) in given.items():
            _, kept = layer.forward(params, x, context)
            found = jax.vmap(lambda dy: layer.backward(params, kept, dy))  # noqa: B023
            narrow[dtype] = found(dys[dtype])
            wide[dtype] = jax.tree.map(
                lambda leaf: leaf.astype(jnp.float32) if is_float(leaf) else leaf,
                (params, kept, dys[dtype]),
            )
        # in float32 both are the same program
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *wide.values())
        exact = jax.lax.map(
            lambda each: jax.vmap(lambda dy: layer.backward(*each[:2], dy))(each[2]), both
        )
        return narrow, {
            dtype: jax.tree.map(lambda leaf: leaf[i], exact)  # noqa: B023
            for i, dtype in enumerate(given)
        }

    narrow, wide = run(given, dys)
    for dtype, leaves in narrow.items():
        rows = zip(jax.tree.leaves(leaves), jax.tree.leaves(wide[dtype]), strict=True)
        for found, truth in rows:
            if is_float(found):
                check_proportional(dtype, *(np.asarray(a, np.float64) for a in (found, truth)))


def check_proportional(dtype, found, truth):
    """Gradients for small, ordinary and large cotangents, on axis 0: found as good as the truth."""
    info = jnp.finfo(dtype)
    eps, least = float(info.eps), float(info.smallest_subnormal)
    found, truth = found.reshape(3, -1), truth.reshape(3, -1)
    fits = np.abs(truth) < 0.9 * float(info.max)
    found, truth = np.where(fits, found, 0), np.where(fits, truth, 0)
    errors = np.linalg.norm(found - truth, axis=-1)
    norms, noise = np.linalg.norm(truth, axis=-1), 2 * least * np.sqrt(truth.shape[-1])
    known = max(4 * errors[1] / max(norms[1], least), 2 * eps)
    assert (errors <= known * norms + noise).all(), (dtype, errors / norms, found.shape)
    top = np.abs(truth).max(-1, keepdims=True, initial=0)
    assert not ((found == 0) & (np.abs(truth) > 4 * least + eps * top)).any(), dtype
