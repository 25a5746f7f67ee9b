"""What tests/eager.py computes is what a compiled program computes."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler

from . import eager as eager_module
from .eager import OFTEN

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
OPERATIONS = {
    "arithmetic": lambda x: (x + x, x - 2, x * x, 3 * x, x / x[::-1], -x),
    "signs": lambda x: (jnp.sign(x), jnp.sign(jnp.arange(-2, 3))),
    "sizes": lambda x: (abs(x), x**2, jnp.square(x)),
    "roots": lambda x: jnp.sqrt(abs(x)),
    "comparisons": lambda x: (x > 0, x >= x, x == 1, x != x, x < 0, x <= 0, jnp.isfinite(x)),
    "logic": lambda x: ((x > 0) & (x < 1), (x > 0) | (x < -1), ~(x > 0)),
    "extremes": lambda x: (jnp.maximum(x, 0.5), jnp.minimum(x, 1), x.max(0), x.min()),
    "selection": lambda x: jnp.where(x > 0, x, 0),
    "shape": lambda x: (x.T, x.reshape(2, 6), x[None], x.ravel(), jnp.squeeze(x[:1], 0)),
    "slices": lambda x: (x[1], x[-1, 1:], x[:, ::2], x[::-1]),
    "slices by number": lambda x: jax.lax.dynamic_slice(x, (2, 3), (2, 2)),
    "joined": lambda x: (jnp.concatenate([x, x], 1), jnp.stack([x, x]), jnp.tile(x, (2, 1)), *x),
    "padded": lambda x: (jnp.pad(x, 1), jnp.pad(x > 0, ((0, 2), (1, 0)))),
    "repeated": lambda x: (jnp.ones((2, 3)), jnp.zeros_like(x), jnp.full((2,), 3.0), jnp.arange(5)),
    "dtypes": lambda x: (x.astype(jnp.bfloat16), (x > 0).astype(int), jnp.arange(3).astype(float)),
    "whole numbers": lambda x: (jnp.arange(5) * 3 - 7, jnp.arange(6).sum(), (x > 0).sum()),
    "truth": lambda x: ((x > 0).any(1), (x > 0).all()),
    "weak types": lambda x: (jnp.asarray(2.0) * 3, jnp.asarray(2) + 1, 2 * jnp.asarray(0.1)),
}  # fmt: skip


SUMS = (
    lambda x, y: x.sum(0),
    lambda x, y: x @ y,
    lambda x, y: x[0] @ y[1, 2],
    lambda x, y: jax.lax.dot_general(x, y, (((0, 2), (0, 1)), ((), ()))),
    lambda x, y: jax.lax.dot_general(x, y, (((1,), (2,)), ((2, 0), (1, 0)))),
)


@pytest.fixture
def programs(monkeypatch):
    """The names of what is compiled; no operation was called before."""
    monkeypatch.setattr(eager_module, "calls", weakref.WeakKeyDictionary())
    names, compile_one = [], compiler.compile_or_get_cached

    def counted(backend, computation, *rest, **options):
        names.append(str(computation.operation.attributes["sym_name"]))
        return compile_one(backend, computation, *rest, **options)

    monkeypatch.setattr(compiler, "compile_or_get_cached", counted)
    return names


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_it_is_what_a_program_computes(name, wide, programs):
    with jax.enable_x64(wide):
        x = jnp.asarray(X, float)
        eager = OPERATIONS[name](x)
        assert not programs
        compiled = jax.jit(lambda x: OPERATIONS[name](x))(x)
    assert programs
    for given, wanted in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        assert given.aval == wanted.aval and given.sharding == wanted.sharding
        assert given.committed == wanted.committed
        assert np.asarray(given).tobytes() == np.asarray(wanted).tobytes()


def test_a_sum_is_rounded_in_another_order(programs):
    x, y = np.random.default_rng(1).normal(size=(2, 5, 7, 7)).astype(np.float32)
    for operation in SUMS:
        given = jnp.asarray(x), jnp.asarray(y)
        found = operation(*given)
        assert not programs
        wanted = jax.jit(lambda x, y, operation=operation: operation(x, y))(*given)
        assert programs.pop() and found.aval == wanted.aval
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


# What a test before these has compiled is not compiled again: they have shapes that no other has.
LEFT = {
    "jit_add": lambda: jax.device_put(jnp.ones(1009), jax.devices()[1]) + 1,
    "jit_broadcast_in_dim": lambda: jnp.full(1013, 1e-39, jnp.float32),  # to XLA it is zero
    "jit_multiply": lambda: jnp.full(1019, 1.0, jnp.bfloat16) * jnp.full(1019, 1.01, jnp.bfloat16),
    "jit_exp": lambda: jnp.exp(jnp.ones(1021)),
    "jit_convert_element_type": lambda: jnp.asarray(np.full(1031, 1e20, np.float32)).astype(int),
    "jit__lambda": lambda: jax.jit(lambda x: x + 1)(jnp.ones(1033)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_the_compiler(name, programs):
    LEFT[name]()
    assert programs[-1].strip('"') == name


def test_what_comes_often_is_compiled(programs):
    for _ in range(OFTEN + 1):
        assert not any("subtract" in name for name in programs)
        jnp.ones(1039) - 3
    assert sum("subtract" in name for name in programs) == 1


def test_float64_stays_so_where_it_is_off():
    with jax.enable_x64(True):
        x = jnp.asarray(X, float)
    assert x[1].dtype == jnp.float64
    np.testing.assert_array_equal(x[1], X[1])
