"""`compare(order=2)`: what JAX's transformations make of a rule that is right by itself."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcprop as fp
from funcprop.comparison.verdict.transformations import LEFT_OUT


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


X, Y = normal(5), normal(5, seed=1)


def product_rule(backward=lambda k, dy: (k[1] * dy, k[0] * dy), forward=None, **options):
    """x y, with a rule."""
    f = jax.custom_vjp(lambda x, y: x * y)
    f.defvjp(forward or (lambda x, y: (x * y, (x, y))), backward, **options)
    return f


def places(found):
    return {row.place for row in found.wrong}


def accused(f, *args):
    """The places that are wrong, of a function that order=1 passes."""
    assert fp.compare(f, *args).ok
    found = fp.compare(f, *args, order=2)
    assert not found.ok and all(row.place for row in found.wrong)
    return places(found)


# --- planted --------------------------------------------------------------------------------------


def product_batched_wrongly():
    """x y, whose gradient by x is averaged over a batch of y."""

    @jax.custom_batching.custom_vmap
    def weight(y):
        return jnp.ones_like(y)

    @weight.def_vmap
    def _(size, batched, y):
        return jnp.ones_like(y) / size, True

    return product_rule(lambda k, dy: (weight(lax.stop_gradient(k[1])) * k[1] * dy, k[0] * dy))


def test_wrong_under_vmap_only():
    found = accused(product_batched_wrongly(), X, Y)
    assert {"under vmap over argument 1", "in the gradient of vmap over argument 1"} <= found
    assert "under vmap over argument 0" not in found


def test_wrong_under_vmap_only_is_the_headline():
    found = fp.compare(product_batched_wrongly(), X, Y, order=2)
    told = "wrong gradient under vmap over every argument: dx[0]"
    assert told in found.headline and "in under" not in found.headline
    assert found.wrong[0].rule.startswith("as the plain call: relative norm")


def test_raises_under_vmap_only():
    def host(x):
        return jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def forward(x, y):
        return x * y, (x, y, host(x))

    f = product_rule(lambda k, dy: (k[1] * dy, k[0] * dy), forward)
    found = fp.compare(f, X, Y, order=2)
    wrong = {row.place: row for row in found.wrong}
    assert {"under vmap over every argument", "under vmap over argument 0"} <= wrong.keys()
    assert "under vmap over argument 1" not in wrong  # what the host computes is not batched there
    row = wrong["under vmap over argument 0"]
    assert row.rule.startswith("contract: raised ") and row.words == "raises"
    assert "vmap" in row.rule


def test_raises_under_scan():
    """What forward leaves behind is of the trace of the scan's body, and gone after it."""
    left = []

    def forward(x, y):
        left.append(jnp.sin(x))
        return x * y, (x, y)

    def backward(kept, dy):
        x, y = kept
        return y * dy + 0 * left[-1], x * dy

    found = fp.compare(product_rule(backward, forward), X, Y, order=2)
    assert not found.ok and "under lax.scan" in places(found)
    row = next(row for row in found.wrong if row.place == "under lax.scan")
    assert row.rule.startswith("contract: raised ")


def symbolic(wrong):
    """x y, and x + y, that looks at which cotangents and arguments there are."""
    zero = jax.custom_derivatives.SymbolicZero

    def forward(x, y):
        kept = x.value, y.value, (x.perturbed, y.perturbed)
        return (x.value * y.value, x.value + y.value), kept

    def backward(kept, dy):
        x, y, perturbed = kept
        dproduct, dsum = dy
        if isinstance(dproduct, zero):
            dproduct = jnp.ones_like(x) if wrong == "output" else jnp.zeros_like(x)
        if isinstance(dsum, zero):
            dsum = jnp.zeros_like(x)
        dx, dy = y * dproduct + dsum, x * dproduct + dsum
        if wrong == "argument" and perturbed == (False, True):
            dy = 2 * dy
        return dx, dy

    f = jax.custom_vjp(lambda x, y: (x * y, x + y))
    f.defvjp(forward, backward, symbolic_zeros=True)
    return f


def test_wrong_where_an_output_is_unused():
    assert accused(symbolic("output"), X, Y) == {"with only y[1] used"}


def test_wrong_where_an_argument_is_not_differentiated():
    assert accused(symbolic("argument"), X, Y) == {"with only argument 1 differentiated"}


def test_right_with_symbolic_zeros():
    found = fp.compare(symbolic(""), X, Y, order=2)
    assert found.ok, str(found)
    (note,) = [note for note in found.notes if note.startswith("the same numbers")]
    for name in (
        "under jax.checkpoint", "under lax.scan", "under vmap over argument 1",
        "in the gradient of vmap over argument 0", "with only argument 0 differentiated",
        "with only y[0] used", "under shard_map on two devices", "run a second time",
    ):  # fmt: skip
        assert name in note


def test_another_number_every_time():
    state = np.random.default_rng(0)

    def noisy(x):
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return x + jax.pure_callback(
            lambda x: (1e-7 * state.normal(size=x.shape)).astype(x.dtype), like, x,
            vmap_method="sequential",
        )  # fmt: skip

    f = product_rule(lambda k, dy: (k[1] * dy, k[0] * dy), lambda x, y: (x * y, (noisy(x), y)))
    found = fp.compare(f, X, Y, order=2)
    assert not found.ok  # whichever witness meets it first


def test_integers_have_the_cotangent_float0():
    def take(x, i):
        return x[i] ** 2

    f = jax.custom_vjp(take)
    zeros = np.zeros((2,), jax.dtypes.float0)
    f.defvjp(
        lambda x, i: (take(x, i), (x, i)),
        lambda k, dy: (jnp.zeros_like(k[0]).at[k[1]].add(2 * k[0][k[1]] * dy), zeros),
    )
    found = fp.compare(f, X, jnp.asarray([1, 3]), order=2)
    assert found.ok, str(found)
    assert any("with integers among the differentiated" in note for note in found.notes)


# --- devices --------------------------------------------------------------------------------------


def test_a_rule_that_names_a_device_axis_is_told():
    """Its number of devices is baked in: of a mesh of two it makes another gradient."""

    def backward(kept, dy):
        x, y = kept
        devices = jax.sharding.get_abstract_mesh().shape_tuple
        return y * dy * (1 + len(devices)), x * dy

    found = accused(product_rule(backward), X, Y)
    assert found == {"under shard_map on two devices"}


def test_one_device_is_told():
    code = (
        "import jax, jax.numpy as jnp, funcprop as fp\n"
        "found = fp.compare(jnp.tanh, jnp.ones(3), order=2)\n"
        "assert found.ok\n"
        "print(*found.notes, sep='\\n')\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    environment.pop("XLA_FLAGS", None)
    root = Path(__file__).parent.parent.parent
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert LEFT_OUT in told.stdout and "shard_map on two devices" not in told.stdout


def test_two_devices_are_there():
    assert len(jax.devices()) >= 2  # else nothing above looked at shard_map


# --- what is no fault of the rule -----------------------------------------------------------------


def test_what_the_plain_function_cannot_do_either_is_a_note():
    def host(x):
        return jax.pure_callback(
            lambda x: np.ones(x.shape, x.dtype), jax.ShapeDtypeStruct(x.shape, x.dtype), x
        )

    f = product_rule()
    found = fp.compare(lambda x, y: f(x, y) * host(lax.stop_gradient(x)), X, Y, order=2)
    assert found.ok, str(found)
    assert any(
        note.startswith("not judged ")
        and "under vmap over argument 0" in note
        and note.endswith("the plain function does too")
        for note in found.notes
    )


def test_weights_of_a_batch_of_models():
    """vmap over the weights of a narrow Dense layer."""
    dense, x = fp.Dense(2), normal(4, 3)
    params = [dense.init(jax.random.key(i), x) for i in range(3)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

    def loss(params):
        return jnp.sum(fp.as_function(dense)(params, x) ** 2)

    found = jax.jit(jax.vmap(jax.grad(loss)))(stack)
    for i, each in enumerate(params):
        wanted = jax.grad(lambda p: jnp.sum((x @ p.w + p.b) ** 2))(each)
        np.testing.assert_allclose(found.w[i], wanted.w, rtol=1e-5)
        np.testing.assert_allclose(found.b[i], wanted.b, rtol=1e-5)
