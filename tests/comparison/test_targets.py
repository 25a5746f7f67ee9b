"""Pairs and functions on trial: their gradients against those of what they compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import funcprop as fp
from funcprop.comparison.leaf import broken
from funcprop.comparison.programs import cast, computed
from funcprop.comparison.subject.functions import Function, Pair
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.subject.targets import adapted
from funcprop.comparison.subject.without_rules import count_rules
from funcprop.comparison.verdict.rules import judge_exact
from funcprop.comparison.witnesses.gradients import gradients
from funcprop.comparison.witnesses.points import cotangents
from funcprop.gradient import autodiff
from funcprop.layer import Context, LayerError, describe


def wrong(target, *args, against=None):
    """The names of the wrong leaves, in float64 under three random cotangents."""
    layer, x, peer = adapted(target, args, against)[:3]
    dys = cotangents(Subject(layer, (), x, Context(), jax.random.key(0), peer), 3)

    def both(x, dys):
        given = gradients(layer, (), x, Context(), dys)
        return given, gradients(autodiff(peer), (), x, Context(), dys)

    with jax.enable_x64(True):
        given, truth = computed(both, *(cast(tree, jnp.float64) for tree in (x, dys)))
    one = [jax.tree.map(lambda leaf: leaf[0], given["dx"]), cast(x, jnp.float64)]
    rows = broken("", {"dx": one[0]}, {"dx": one[1]}) or judge_exact("", given, truth)
    assert rows
    return [row.path for row in rows if not row.ok]


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


# --- pairs ----------------------------------------------------------------------------------------


def product_forward(x, w, labels):
    return (x @ w)[labels], (x, w, labels)


def product_backward(residuals, dy):
    x, w, labels = residuals
    dz = jnp.zeros((x.shape[0], w.shape[1]), dy.dtype).at[labels].add(dy)
    return dz @ w.T, x.T @ dz, None


PRODUCT = normal(3, 4), normal(4, 2, seed=1), jnp.asarray([0, 2, 2])


def test_a_right_pair():
    assert wrong((product_forward, product_backward), *PRODUCT) == []


def test_the_wrong_cotangent_of_a_pair_is_named():
    def backward(residuals, dy):
        dx, dw, _ = product_backward(residuals, dy)
        return dx, 1.001 * dw, None

    assert wrong((product_forward, backward), *PRODUCT) == ["dx[1]"]


def test_what_custom_vjp_takes_is_taken():
    def zeros(residuals, dy):
        dx, dw, _ = product_backward(residuals, dy)
        return [dx, dw, np.zeros(residuals[2].shape, jax.dtypes.float0)]

    assert wrong((product_forward, zeros), *PRODUCT) == []

    def stopped(residuals, dy):  # None stands for zeros
        return None, product_backward(residuals, dy)[1], None

    assert wrong((product_forward, stopped), *PRODUCT) == ["dx[0]"]
    assert wrong((product_forward, stopped), *PRODUCT, against=lambda x, w, labels: (
        lax.stop_gradient(x) @ w
    )[labels]) == []  # fmt: skip


def test_a_single_argument_with_and_without_a_tuple():
    def forward(x):
        return jnp.sin(x), x

    assert wrong((forward, lambda x, dy: (jnp.cos(x) * dy,)), normal(3)) == []
    assert wrong((forward, lambda x, dy: jnp.cos(x) * dy), normal(3)) == []


@pytest.mark.parametrize("factor, found", [(1, []), (2, ["dx[0]"])])
def test_an_output_that_is_always_float32(factor, found):
    def forward(x):
        return jnp.sum(jnp.sin(x)).astype(jnp.float32), x

    def backward(x, dy):
        assert dy.dtype == jnp.float32
        return (factor * jnp.cos(x) * dy.astype(x.dtype),)

    f = jax.custom_vjp(lambda x: forward(x)[0])
    f.defvjp(forward, backward)
    assert wrong((forward, backward), normal(3)) == wrong(f, normal(3)) == found
    half = adapted(f, (normal(3).astype(jnp.bfloat16),))
    assert half.layer.forward((), half.x)[0].dtype == jnp.float32


def test_trees_go_in_and_come_out():
    def forward(p, x):
        return {"y": p["w"] * x + p["b"], "positive": x > 0}, (p, x)

    def backward(residuals, dy):
        p, x = residuals
        assert dy["positive"].dtype == jax.dtypes.float0  # as jax.custom_vjp has it
        d = dy["y"]
        return {"w": jnp.sum(d * x), "b": jnp.sum(d)}, d * p["w"]

    given = {"w": 2.0, "b": np.float32(1)}, normal(3)
    assert wrong((forward, backward), *given) == []
    prefix = (forward, lambda r, dy: (backward(r, dy)[0]["w"], backward(r, dy)[1]))
    assert wrong(prefix, *given) == ["dx"]  # custom_vjp would give w and b the same cotangent
    half = (forward, lambda r, dy: ({"w": None, "b": backward(r, dy)[0]["b"]}, backward(r, dy)[1]))
    assert wrong(half, *given) == ["dx[0]['w']"]


def test_a_pair_that_agrees_is_right_inside_custom_vjp_too():
    f = jax.custom_vjp(lambda *args: product_forward(*args)[0])
    f.defvjp(product_forward, product_backward)
    assert wrong(f, *PRODUCT) == []
    assert count_rules(f, *PRODUCT) == 1


@pytest.mark.parametrize("result", [lambda d: (d, d), lambda d: (d,) * 4, lambda d: d])
def test_a_wrong_number_of_cotangents(result):
    layer, x, _ = adapted((product_forward, lambda r, dy: result(dy)), PRODUCT)[:3]
    y, residuals = layer.forward((), x)
    with pytest.raises(LayerError, match="wanted 3 cotangents, one for each argument") as caught:
        layer.backward((), residuals, y)
    assert "with: return dx, dw, None" in str(caught.value)
    assert "(product_forward, <lambda>): backward returned" in str(caught.value)


def test_a_forward_that_returns_no_pair():
    with pytest.raises(LayerError, match=r"wanted the pair \(y, residuals\)"):
        adapted((jnp.sin, jnp.cos), (normal(3),))


# --- functions of others --------------------------------------------------------------------------

FOREIGN = {
    "relu": (jax.nn.relu, normal(5)),
    "relu6": (jax.nn.relu6, 4 * normal(5)),
    "silu": (jax.nn.silu, normal(5)),
    "softmax": (jax.nn.softmax, normal(2, 5)),
    "logsumexp": (jax.nn.logsumexp, normal(2, 5)),
    "log1mexp": (jax.nn.log1mexp, jnp.abs(normal(5)) + 0.1),
    "logit": (jax.scipy.special.logit, jax.nn.sigmoid(normal(5))),
    "xlogy": (jax.scipy.special.xlogy, normal(5), jnp.abs(normal(5, seed=1)) + 0.1),
    "norm": (jnp.linalg.norm, normal(3, 4)),
    "solve": (jnp.linalg.solve, normal(3, 3) + 3 * jnp.eye(3), normal(3, 2, seed=1)),
    "logaddexp": (jnp.logaddexp, normal(5), normal(5, seed=1)),
    "huber": (optax.huber_loss, 2 * normal(5), normal(5, seed=1)),
    "sigmoid_binary": (optax.sigmoid_binary_cross_entropy, normal(5), jax.nn.sigmoid(normal(5))),
    "integer_labels": (
        optax.softmax_cross_entropy_with_integer_labels, normal(3, 5), jnp.asarray([0, 4, 2])
    ),
    "safe_softmax": (
        optax.safe_softmax_cross_entropy, normal(3, 5), jax.nn.softmax(normal(3, 5, seed=1))
    ),
    "simplex": (optax.projections.projection_simplex, normal(5)),
    "ctc": (
        optax.ctc_loss, normal(2, 6, 4), jnp.zeros((2, 6)),
        jnp.asarray([[1, 2, 2], [3, 1, 0]]), jnp.asarray([[0.0, 0, 0], [0, 0, 1]]),
    ),
}  # fmt: skip
WITH_RULES = {"relu", "relu6", "log1mexp", "logit", "xlogy", "safe_softmax", "simplex"}


@pytest.mark.parametrize("name", FOREIGN)
def test_functions_of_others_are_right(name):
    f, *args = FOREIGN[name]
    assert wrong(f, *args) == []
    assert name not in WITH_RULES or count_rules(f, *adapted(f, args).x) > 0


def test_a_rule_that_is_not_the_derivative_on_purpose_is_told():
    assert wrong(lambda x: optax.scale_gradient(jnp.sin(x), 0.5), normal(3)) == ["dx[0]"]


def test_a_wrong_rule_deep_inside_a_function():
    @jax.custom_jvp
    def softplus(z):
        return jnp.logaddexp(z, 0.0)

    softplus.defjvp(lambda z, dz: (softplus(*z), dz[0] * jnp.tanh(z[0])))

    def network(params, x):
        step = jax.checkpoint(lambda a, w: (softplus(a @ w), None))
        return jnp.sum(lax.scan(step, jax.nn.relu(x), params)[0])

    assert wrong(network, normal(2, 4, 4), normal(3, 4)) == ["dx[0]", "dx[1]"]


def scaled_rule(factor):
    """tanh(w x) with a rule that is right where factor = 1."""

    @jax.custom_vjp
    def f(w, x):
        return jnp.tanh(w * x)

    def backward(kept, dy):
        w, x, y = kept
        dz = dy * (1 - y * y)
        return factor * dz * x, dz * w

    f.defvjp(lambda w, x: (f(w, x), (w, x, f(w, x))), backward)
    return f


@pytest.mark.parametrize("factor, found", [(1, []), (2, ["dx[0].w"])])
def test_an_equinox_module(factor, found):
    eqx = pytest.importorskip("equinox")

    @eqx.filter_custom_vjp
    def rule(given, act):
        return act(given[0] * given[1])

    @rule.def_fwd
    def forward(perturbed, given, act):
        y = act(given[0] * given[1])
        return y, y

    @rule.def_bwd
    def backward(y, dy, perturbed, given, act):
        dz = dy * (1 - y * y)
        return factor * dz * given[1], dz * given[0]

    class Gate(eqx.Module):
        w: jax.Array
        act: object = jnp.tanh

        def __call__(self, x):
            return rule((self.w, x), self.act)

    arrays, static = eqx.partition(Gate(normal(4)), eqx.is_array)
    assert wrong(lambda gate, x: eqx.combine(gate, static)(x), arrays, normal(4, seed=1)) == found
    assert wrong(Gate(normal(4)), normal(4, seed=1)) == []  # w is closed over, x is on trial
    whole = Gate(normal(4)), normal(4, seed=1)  # what is no array in a module is closed over
    assert wrong(lambda gate, x: gate(x), *whole) == found


@pytest.mark.parametrize("factor, right", [(1, True), (2, False)])
def test_a_flax_module(factor, right):
    nnx = pytest.importorskip("flax.nnx")
    rule = scaled_rule(factor)

    class Gate(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(normal(4))

        def __call__(self, x):
            return rule(self.w[...], x)

    definition, state = nnx.split(Gate())
    given = wrong(lambda state, x: nnx.merge(definition, state)(x), state, normal(4, seed=1))
    assert len(given) == (0 if right else 1) and all("w" in path for path in given)


@pytest.mark.parametrize("factor, right", [(1, True), (2, False)])
def test_a_rule_by_flax(factor, right):
    nnx = pytest.importorskip("flax.nnx")

    class Gate(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(normal(4))

    @nnx.custom_vjp(graph_updates=False)
    def rule(gate, x):
        return jnp.sin(gate.w[...] * x)

    def forward(gate, x):
        return rule(gate, x), (gate, x)

    def backward(kept, dy):
        gate, x = kept
        dz = dy * jnp.cos(gate.w[...] * x)
        dgate = nnx.clone(gate)
        dgate.w[...] = factor * dz * x
        return dgate, dz * gate.w[...]

    rule.defvjp(forward, backward)
    definition, state = nnx.split(Gate())
    given = wrong(lambda state, x: rule(nnx.merge(definition, state), x), state, normal(4, seed=1))
    assert len(given) == (0 if right else 1)


@pytest.mark.parametrize("factor, found", [(1, []), (2, ["dx[0]"])])
def test_a_kernel_against_its_reference(factor, found):
    pallas = pytest.importorskip("jax.experimental.pallas")

    def body(x, y):
        y[...] = jax.nn.relu(x[...]) ** 2

    @jax.custom_vjp
    def kernel(x):
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pallas.pallas_call(body, out_shape=like, interpret=True)(x)

    kernel.defvjp(lambda x: (kernel(x), x), lambda x, dy: (2 * factor * dy * jnp.maximum(x, 0),))
    assert count_rules(kernel, normal(5)) == 1  # not the one inside the kernel
    assert wrong(kernel, normal(5), against=lambda x: jax.nn.relu(x) ** 2) == found


# --- a fused loss with a bug that has shipped -----------------------------------------------------

CHUNK = 4


def log_sum_exp(x, w, masked):
    """[B] over the vocabulary, [D, CHUNK] of w at a time."""

    def step(total, each):
        return jnp.logaddexp(
            total, jax.nn.logsumexp(logits(x, *each, w.shape[1], masked), -1)
        ), None

    start = jnp.full(x.shape[0], -1e30, x.dtype)
    return lax.scan(step, start, chunks(w))[0]


def chunks(w):
    """-> the first column of every chunk, and the chunks; the last is padded with zeros."""
    padded = jnp.pad(w, ((0, 0), (0, -w.shape[1] % CHUNK)))
    stacked = padded.reshape(w.shape[0], -1, CHUNK).transpose(1, 0, 2)
    return CHUNK * jnp.arange(len(stacked)), stacked


def logits(x, first, w, vocabulary, masked):
    column = first + jnp.arange(CHUNK)
    return jnp.where((column < vocabulary) | (not masked), x @ w, -1e30)


def fused(masked_forward, masked_backward):
    """Cross-entropy of x w; where a mask is missing, columns of padding enter the log-sum-exp."""

    @jax.custom_vjp
    def loss(x, w, labels):
        wanted = jnp.sum(x * w[:, labels].T, -1)
        return log_sum_exp(x, w, masked_forward) - wanted

    def backward(kept, dy):
        x, w, labels = kept
        total = log_sum_exp(x, w, masked_backward)

        def step(dx, each):
            first, part = each
            z = logits(x, first, part, w.shape[1], masked_backward)
            hit = first + jnp.arange(CHUNK) == labels[:, None]
            dz = (jnp.exp(z - total[:, None]) - hit.astype(z.dtype)) * dy[:, None]
            return dx + dz @ part.T, x.T @ dz

        dx, dw = lax.scan(step, jnp.zeros_like(x), chunks(w))
        return dx, dw.transpose(1, 0, 2).reshape(w.shape[0], -1)[:, : w.shape[1]], None

    loss.defvjp(lambda *args: (loss(*args), args), backward)
    return loss


def reference(x, w, labels):
    return optax.softmax_cross_entropy_with_integer_labels(x @ w, labels)


def examples(vocabulary, scale):
    """Logits of about `scale`; all positive, so that a logit of 0 is far from the largest."""
    x, w = jnp.abs(normal(3, 5)) + 0.5, scale * (jnp.abs(normal(5, vocabulary, seed=1)) + 0.5)
    return x, w, jnp.asarray([0, vocabulary - 1, 2])


@pytest.mark.parametrize("vocabulary", [8, 10])
def test_a_right_fused_loss(vocabulary):
    args = examples(vocabulary, 0.1)
    assert wrong(fused(True, True), *args) == []
    assert wrong(fused(True, True), *args, against=reference) == []


def test_padding_in_forward_and_backward_is_seen_against_the_plain_form():
    args = examples(10, 0.1)
    assert wrong(fused(False, False), *args) == []  # both are wrong, and agree
    assert wrong(fused(False, False), *args, against=reference) == ["dx[0]", "dx[1]"]


def test_padding_in_the_backward_alone_is_seen_at_once():
    args = examples(10, 0.1)
    assert wrong(fused(True, False), *args) == ["dx[0]", "dx[1]"]
    assert wrong(fused(True, False), *args, against=reference) == ["dx[0]", "dx[1]"]


def test_padding_cannot_be_seen_at_large_logits_or_in_whole_chunks():
    assert wrong(fused(False, False), *examples(10, 60.0), against=reference) == []
    assert wrong(fused(False, False), *examples(8, 0.1), against=reference) == []


def test_a_reference_with_rules_of_its_own_loses_them():
    @jax.custom_vjp
    def careless(x):
        return jnp.sin(x)

    careless.defvjp(lambda x: (jnp.sin(x), x), lambda x, dy: (dy,))
    assert wrong(careless, normal(3), against=careless) == ["dx[0]"]


# --- what is adapted, and what is refused ---------------------------------------------------------


def test_names():
    assert describe(Function(jax.nn.relu)) == "relu"
    assert describe(Function(functools.partial(jax.nn.softmax, axis=0))) == "softmax"
    assert (
        describe(Pair(product_forward, product_backward)) == "(product_forward, product_backward)"
    )
    assert repr(adapted(jax.nn.relu, (1.0,)).peer) == "without_rules(relu)"
    assert Function(jax.nn.relu) == Function(jax.nn.relu)
    assert hash(Pair(product_forward, product_backward))


def test_numbers_with_a_gradient_become_arrays():
    x = adapted(lambda *args: args[0], (1.5, np.ones(3), {"n": 2, "none": None}, [True])).x
    assert [leaf.dtype for leaf in jax.tree.leaves(x)] == [
        jnp.float32, jnp.float32
    ]  # fmt: skip
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x))


def test_integers_have_no_cotangent():
    def f(x, i, keep):
        return jnp.where(keep, x[i], 0.0), i + 1

    layer, x, _ = adapted(f, (normal(4), jnp.asarray([1, 3]), np.asarray([True, False])))[:3]
    (y, _), residuals = layer.forward((), x)
    (dx, di, dkeep), dparams = layer.backward((), residuals, (jnp.ones_like(y), None))
    assert (di, dkeep, dparams) == (None, None, ())
    np.testing.assert_array_equal(dx, [0, 1, 0, 0])
    assert wrong(f, *x) == []


@pytest.mark.parametrize(
    "target, args, against, message",
    [
        (3, (1.0,), None, r"target is a int, wanted a function or a pair"),
        ((jnp.sin,), (1.0,), None, r"target is tuple\(a .*\), wanted a function or a pair"),
        (jnp.sin, (), None, "there are no example arguments"),
        (jnp.sin, (1.0,), 3, "against is a int, wanted a function"),
        (jnp.sin, (np.ones(3),), jnp.sum, r"sin returns float32\[3\], .* float32\[\]: they must"),
    ],
)
def test_what_cannot_be_compared_is_told(target, args, against, message):
    with pytest.raises(TypeError, match=message):
        adapted(target, args, against)


@pytest.mark.parametrize("f", [jnp.sum, jax.jit(jnp.sum, static_argnums=1)])
def test_an_option_may_be_an_argument(f):
    assert wrong(f, normal(2, 3), 0) == []


def test_arguments_that_a_rule_keeps_for_itself_are_closed_over():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def scale(c, x):
        return c * x

    scale.defvjp(lambda c, x: (c * x, None), lambda c, kept, dy: (c * dy,))
    assert fp.compare(scale, 3.0, jnp.ones(4)).ok
    assert fp.compare(lambda c, x: scale(c, x), 3.0, jnp.ones(4)).ok
