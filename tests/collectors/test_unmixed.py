"""What is written elsewhere and mixes examples is found out, though its residuals look apart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop import collectors

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
LOSS = fp.QuadraticCost(reduction="sum")


@dataclasses.dataclass(frozen=True)
class Function(fp.Layer):
    """(x w) through a function: x is kept whole, as by a layer around another library's module."""

    function: object = staticmethod(lambda z: z)

    def init(self, key, x):
        return fp.layers.Table(jax.random.normal(key, (x.shape[-1], 3)))

    def forward(self, params, x, context=fp.Context()):
        return self.function(x @ params.w), x

    def backward(self, params, x, dy):
        dparams, dx = jax.vjp(lambda p, x: self.function(x @ p.w), params, x)[1](dy)
        return dx, dparams


class Plain(Function):
    """The same without parameters."""

    def init(self, key, x):
        return ()

    def forward(self, params, x, context=fp.Context()):
        return self.function(x), x

    def backward(self, params, x, dy):
        return jax.vjp(self.function, x)[1](dy)[0], ()


def batch_norm(z):
    return (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5)


def by_largest(z):
    return z / jax.lax.stop_gradient(jnp.abs(z).max())


def layer_norm(z):
    return z - z.mean(-1, keepdims=True)


class Centered(fp.Composite):
    """The mixing stands in a composite, between layers that do not."""

    def init(self, key, x):
        return self.init_each(key, (x,))

    def forward(self, params, x, context=fp.Context()):
        y, kept = self.layers[0].forward(params[0], x, context)
        return y - y.mean(0), (kept,)

    def backward(self, params, residuals, dy):
        dx, dp = self.layers[0].backward(params[0], residuals[0], dy - dy.mean(0))
        return dx, (dp,)


class Contrastive(fp.losses.Loss):
    """Each example against all others."""

    def forward(self, params, x, context=fp.Context()):
        y, t = x
        return jnp.square(y - y.mean(0) - t).sum(), x

    def backward(self, params, x, dC):
        y, t = x
        d = 2 * dC * (y - y.mean(0) - t)
        return (d - d.mean(0), -d), ()


def later(z):
    return jnp.cumsum(z, 0)


def neighbors(z):
    return z + jnp.roll(z, 1, 0)


def by_smallest(z):
    return z - jax.lax.stop_gradient(z.min(0))


def by_count(z):
    return z * jax.lax.stop_gradient((z > 0).sum(0)).astype(z.dtype)


def of_roots(z):
    return jnp.sqrt(z) - jnp.sqrt(z).mean(0)


class Backwards(Plain):
    """Mixed on the way back alone."""

    def backward(self, params, x, dy):
        return dy - dy.mean(0), ()


MIXED = {
    "in later ones": fp.Serial(fp.Dense(3), Plain(later)),
    "in neighbors": fp.Serial(fp.Dense(3), Plain(neighbors)),
    "by the smallest": fp.Serial(fp.Dense(3), Plain(by_smallest)),
    "by how many": fp.Serial(fp.Dense(3), Plain(by_count)),
    "of what is positive": fp.Serial(fp.Dense(3), fp.Softplus(), Plain(of_roots)),
    "on the way back": fp.Serial(fp.Dense(3), Backwards()),
    "in a layer": fp.Serial(fp.Tanh(), Function(batch_norm)),
    "by the largest of all": fp.Serial(fp.Tanh(), Function(by_largest)),
    "in a wrapped layer": fp.Serial(fp.Tanh(), fp.autodiff(Function(batch_norm))),
    "in a composite": fp.Serial(fp.Tanh(), Centered(fp.Dense(3))),
    "in a function": fp.Serial(fp.Dense(3), fp.autodiff(Plain(batch_norm))),
}


@pytest.mark.parametrize("name", MIXED)
def test_it_is_refused_by_every_rule_of_single_examples(name):
    model = MIXED[name]
    params = model.init(jax.random.key(0), X)
    for gradient in (
        fp.backprop(fp.collect(model, collectors.squared_norms), LOSS),
        jax.jit(fp.backprop(fp.collect(model, collectors.gradients), LOSS)),
        jax.jit(fp.private_gradient(model, LOSS, 1.0, 1.0, 4)),
    ):
        with pytest.raises(fp.LayerError, match=r"mixes examples|are mixed") as error:
            gradient(params, (X, Y), fp.Context(jax.random.key(0)))
        assert "Serial[" in str(error.value)
    with pytest.raises(fp.LayerError, match=r"mixes examples|are mixed"):
        fp.check_unmixed(model, params, X)


def test_what_keeps_them_apart_passes():
    model = fp.Serial(fp.Tanh(), Function(layer_norm), fp.LayerNorm())
    params = model.init(jax.random.key(0), X)
    fp.check_unmixed(model, params, X)
    gradient = fp.backprop(fp.collect(model, collectors.squared_norms), LOSS)
    _, found = jax.jit(gradient)(params, (X, Y))

    def one(params, x, y):
        return LOSS.forward((), (model.forward(params, x[None])[0], y[None]))[0]

    grads = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(params, X, Y)
    squares = sum(np.square(g).sum(tuple(range(1, g.ndim))) for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(collectors.total(found), squares, rtol=1e-4)


def test_one_example_alone_says_nothing_so_two_are_tried():
    model = Function(batch_norm)
    params = model.init(jax.random.key(0), X)
    gradient = fp.backprop(fp.collect(model, collectors.squared_norms), LOSS)
    with pytest.raises(fp.LayerError, match=r"mixes examples|are mixed"):
        gradient(params, (X[:1], Y[:1]))
    with pytest.raises(ValueError, match="at least two examples"):
        fp.check_unmixed(model, params, X[:1])


def test_losses_that_mix_are_refused():
    model = fp.Dense(3)
    params = model.init(jax.random.key(0), X)
    collected = fp.collect(model, collectors.squared_norms)
    with pytest.raises(fp.LayerError, match="depends on all"):
        fp.backprop(collected, fp.InfoNCE(reduction="sum"))
    with pytest.raises(fp.LayerError, match=r"mixes examples|are mixed"):
        jax.jit(fp.backprop(collected, Contrastive(reduction="sum")))(params, (X, Y))
    with pytest.raises(fp.LayerError, match=r"mixes examples|are mixed"):
        gradient = fp.private_gradient(model, Contrastive(reduction="sum"), 1.0, 1.0, 4)
        gradient(params, (X, Y), fp.Context(jax.random.key(0)))


def test_integers_are_exchanged():
    ids = np.array([[0, 1], [2, 3], [1, 1]])
    model = fp.Serial(fp.Embedding(4, 3), Function(batch_norm))
    params = model.init(jax.random.key(0), ids)
    with pytest.raises(fp.LayerError, match="example 1 moved"):
        fp.check_unmixed(model, params, ids)


def test_a_key_and_a_mask_are_no_obstacle():
    fp.check_unmixed(fp.Dropout(0.5), (), X, fp.Context(jax.random.key(0)))
    model = fp.Serial(fp.Dense(3), Plain(layer_norm))
    params = model.init(jax.random.key(0), X)
    gradient = fp.private_gradient(model, LOSS, 1.0, 1.0, 4)
    for rows in (4, 1):
        mask = jnp.ones(rows, bool)
        gradient(params, (X[:rows], Y[:rows]), fp.Context(jax.random.key(0), mask))
