"""Composites written elsewhere that use a parameter several times: every rule agrees with the
definition, and those that join the uses themselves are refused by name."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop import collectors

DENSE = fp.Dense(3)
RNG = np.random.default_rng(3)
X = RNG.normal(size=(4, 3)).astype(np.float32)
Y = RNG.normal(size=(4, 3)).astype(np.float32)
LOSS = fp.QuadraticCost(reduction="sum")


class Unjoined(fp.Composite):
    """f(f(x)), which says nothing of its uses and adds them itself."""

    def init(self, key, x):
        return self.init_each(key, (x,))

    def forward(self, params, x, context=fp.Context()):
        first_context, second_context = context.split(2)
        z, first = self.layers[0].forward(params[0], x, first_context)
        y, second = self.layers[0].forward(params[0], z, second_context)
        return y, (first, second)

    def backward(self, params, residuals, dy):
        dz, second = self.layers[0].backward(params[0], residuals[1], dy)
        dx, first = self.layers[0].backward(params[0], residuals[0], dz)
        return dx, (self.join(first, second),)

    def join(self, first, second):
        return jax.tree.map(jnp.add, first, second)


class Twice(Unjoined):
    """The same by the protocol."""

    reused = fp.composites.EVERYTHING

    def join(self, first, second):
        return self.shared.places(self, (first, second))


class Undeclared(Unjoined):
    def join(self, first, second):
        return self.shared.places(self, (first, second))


class Scaled(Unjoined):
    """One use, of which it passes up something else."""

    def forward(self, params, x, context=fp.Context()):
        return self.layers[0].forward(params[0], x, context)

    def backward(self, params, residuals, dy):
        dx, dp = self.layers[0].backward(params[0], residuals, dy)
        return dx, (jax.tree.map(lambda g: 2 * g, dp),)


class Looped(fp.Composite):
    """f(f(f(x))) in a loop: the uses are the steps of a scan."""

    reused = fp.composites.EVERYTHING

    def init(self, key, x):
        return self.init_each(key, (x,))

    def forward(self, params, x, context=fp.Context()):
        return jax.lax.scan(lambda x, _: self.layers[0].forward(params[0], x), x, length=3)

    def backward(self, params, residuals, dy):
        kept, dys = residuals, [dy]  # δ of every step first, then all uses at once
        for step in (2, 1, 0):
            own = jax.tree.map(lambda leaf, step=step: leaf[step], kept)
            dys.insert(0, self.layers[0].backward(params[0], own, dys[0])[0])
        each = kept, jax.tree.map(lambda *leaves: jnp.stack(leaves), *dys[1:])
        step = lambda each: self.layers[0].backward(params[0], *each)  # noqa: E731
        return dys[0], (self.shared.steps(self, step, each)[1],)


class Stacked(fp.Composite):
    """f₂(f₁(x)) with the two parameters in one stack."""

    stacked = 2

    def init(self, key, x):
        return (jax.vmap(lambda key: self.layers[0].init(key, x))(jax.random.split(key, 2)),)

    def forward(self, params, x, context=fp.Context()):
        return jax.lax.scan(lambda x, p: self.layers[0].forward(p, x), x, params[0])

    def backward(self, params, residuals, dy):
        def step(dy, each):
            return self.layers[0].backward(*each, dy)

        dx, dp = jax.lax.scan(step, dy, (params[0], residuals), reverse=True)
        return dx, (dp,)


MODELS = {
    "twice": Twice(DENSE),
    "twice inside": fp.Serial(Twice(fp.Serial(DENSE, fp.Tanh())), fp.Dense(3)),
    "twice, twice": Twice(Twice(DENSE)),
    "in a loop": Looped(DENSE),
    "stacked": fp.Serial(Stacked(fp.Serial(DENSE, fp.Tanh())), fp.Dense(3)),
}


@functools.cache
def drawn(name):
    params = fp.init_update_state(MODELS[name], optax.adam(0.1), jax.random.key(0), X).params
    with jax.enable_x64(True):
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


@functools.cache
def per_example(name):
    """Each example's own gradient, by jax.grad: leaves [B, ...]."""

    def one(params, x, y):
        z, _ = MODELS[name].forward(params, x[None])
        return jnp.square(z - y[None]).sum() / 2

    with jax.enable_x64(True):
        given = drawn(name), X.astype(np.float64), Y.astype(np.float64)
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(*given))


def run(name, function, model=None):
    """function(gradient, params, batch) in one float64 program; gradient(rule) is of one rule."""
    model = MODELS[name] if model is None else model

    def all_of_it(params, batch):
        def gradient(rule):
            return fp.backprop(fp.collect(model, rule), LOSS)(params, batch)[1]

        return function(gradient, params, batch)

    with jax.enable_x64(True):
        return jax.jit(all_of_it)(drawn(name), (X.astype(np.float64), Y.astype(np.float64)))


def agree(given, wanted):
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_rules_are_their_definitions(name):
    each = per_example(name)
    squares = sum(np.square(leaf).sum(tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(each))
    scale = np.minimum(1, 0.1 / np.sqrt(squares))
    flat = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(each)], 1)

    def found(gradient, params, batch):
        return {
            "gradient": gradient(collectors.gradient),
            "norms": collectors.total(gradient(collectors.squared_norms)),
            "moment": collectors.values(gradient(collectors.second_moment)),
            "products": collectors.total(gradient(collectors.inner_products)),
            "clipped": collectors.clipped(MODELS[name], LOSS, 0.1)(params, batch)[1],
        }

    agree(
        run(name, found),
        {
            "gradient": jax.tree.map(lambda leaf: leaf.sum(0), each),
            "norms": squares,
            "moment": jax.tree.map(lambda leaf: np.square(leaf).sum(0), each),
            "products": flat @ flat.T,
            "clipped": jax.tree.map(lambda leaf: np.tensordot(scale, leaf, 1), each),
        },
    )


@pytest.mark.parametrize("name", MODELS)
def test_an_update_in_the_pass_is_the_optimizers(name):
    optimizer = optax.adam(0.1)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn(name))
    step = fp.update_step(MODELS[name], LOSS, optimizer)
    state = fp.init_update_state(MODELS[name], optimizer, jax.random.key(0), X)
    grads = jax.tree.map(lambda leaf: leaf.sum(0).astype(np.float32), per_example(name))
    with jax.numpy_dtype_promotion("standard"):
        changes, _ = optimizer.update(grads, optimizer.init(params), params)
        wanted = optax.apply_updates(params, changes)
    found = jax.jit(step)(state, (X, Y))[0].params
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_split_halves_are_the_whole(name):
    model = MODELS[name]
    halves = fp.split_backward(model)

    def both(params, x):
        y, residuals = model.forward(params, x)
        dx, kept = halves.input_half(params, residuals, y)
        return (dx, halves.weight_half(params, kept)), model.backward(params, residuals, y)

    with jax.enable_x64(True):
        agree(*jax.jit(both)(drawn(name), X.astype(np.float64)))


@pytest.mark.parametrize("rule", [collectors.squared_norms, collectors.trace, collectors.kfac])
@pytest.mark.parametrize(
    "wrong, told",
    [
        (Unjoined, "does something with what its children left"),
        (Undeclared, "does not say that it has them"),
        (Scaled, "does something with what its children left"),
    ],
)
def test_a_composite_that_breaks_the_protocol_is_refused_by_name(wrong, told, rule):
    model = fp.Serial(fp.Tanh(), wrong(DENSE))
    params = jax.eval_shape(model.init, jax.random.key(0), X)
    collected = fp.collect(model, rule)
    with pytest.raises(fp.LayerError, match=told) as error:
        jax.eval_shape(fp.backprop(collected, LOSS), params, (X, Y))
    assert f"Serial[1] {wrong.__name__}" in str(error.value)
    assert "shared.places" in str(error.value) or "reused" in str(error.value)


@pytest.mark.parametrize("wrong", [Unjoined, Undeclared])
def test_nor_are_parameters_updated_or_gradients_deferred_in_it(wrong):
    model = wrong(DENSE)
    params = jax.eval_shape(model.init, jax.random.key(0), X)
    with pytest.raises(fp.LayerError, match=wrong.__name__):
        state = fp.init_update_state(model, optax.sgd(0.1), jax.random.key(0), X)
        jax.eval_shape(fp.update_step(model, LOSS, optax.sgd(0.1)), state, (X, Y))
    y, residuals = jax.eval_shape(model.forward, params, X)
    with pytest.raises(fp.LayerError, match=wrong.__name__):
        jax.eval_shape(fp.split_backward(model).input_half, params, residuals, y)


def test_its_gradient_is_right_all_the_same():
    model = Unjoined(DENSE)
    found = run("twice", lambda gradient, *_: gradient(collectors.gradient), model)
    agree(found, jax.tree.map(lambda leaf: leaf.sum(0), per_example("twice")))


def test_a_record_is_no_number():
    found = run("twice", lambda gradient, *_: gradient(collectors.squared_norms))
    (record,) = collectors.records(found)
    for function in (
        lambda r: r + r, lambda r: 2 * r, lambda r: r * 0.5, lambda r: sum((r, r)),
        lambda r: r - r, lambda r: -r, lambda r: r / 2,
    ):  # fmt: skip
        for call in (function, jax.jit(function)):
            with pytest.raises(TypeError, match="Record is no number"):
                call(record)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Times(fp.Composite):
    """scale f(x), with a field and a constructor of its own."""

    scale: float = 2.0

    def __init__(self, features, scale):
        object.__setattr__(self, "scale", scale)
        super().__init__(fp.Dense(features))

    def init(self, key, x):
        return self.init_each(key, (x,))

    def forward(self, params, x, context=fp.Context()):
        (y,), kept = self.forward_each(params, (x,), context)
        return self.scale * y, kept

    def backward(self, params, residuals, dy):
        (dx,), dparams = self.backward_each(params, residuals, (self.scale * dy,))
        return dx, dparams


def test_a_composite_keeps_its_fields():
    model = Times(3, 10.0)
    params = model.init(jax.random.key(0), X)
    wanted, grads = fp.backprop(model, LOSS)(params, (X, Y))
    given, clipped = collectors.clipped(model, LOSS, 1e9)(params, (X, Y))
    np.testing.assert_allclose(given, wanted, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(clipped), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    predictor, fitted = fp.inference(model, params, ())
    np.testing.assert_array_equal(predictor.forward(fitted, X)[0], model.forward(params, X)[0])


class Folded(Unjoined):
    """The child sees the halves of each example as examples."""

    def forward(self, params, x, context=fp.Context()):
        y, kept = self.layers[0].forward(params[0], x.reshape(-1, x.shape[-1] // 3), context)
        return y.reshape(x.shape[0], -1), kept

    def backward(self, params, kept, dy):
        dx, dp = self.layers[0].backward(params[0], kept, dy.reshape(kept.shape[0], -1))
        return dx.reshape(dy.shape[0], -1), (dp,)


class Reversed(Scaled):
    """The child sees the examples in another order."""

    def forward(self, params, x, context=fp.Context()):
        y, kept = self.layers[0].forward(params[0], x[::-1], context)
        return y[::-1], kept

    def backward(self, params, residuals, dy):
        dx, dp = self.layers[0].backward(params[0], residuals, dy[::-1])
        return dx[::-1], (dp,)


@pytest.mark.parametrize("kind, told", [(Folded, "on axis 0"), (Reversed, "mixes examples")])
def test_children_that_are_given_other_examples_are_refused(kind, told):
    model = kind(fp.Dense(1 if kind is Folded else 3))
    params = jax.eval_shape(model.init, jax.random.key(0), X[:, :1] if kind is Folded else X)
    for rule in (collectors.squared_norms, collectors.second_moment):
        with pytest.raises(fp.LayerError, match=told):
            jax.eval_shape(fp.backprop(fp.collect(model, rule), LOSS), params, (X, Y))


class Owning(Unjoined):
    owns = True


def test_parameters_of_its_own_are_no_leafs():
    model = Owning(DENSE)
    with pytest.raises(fp.LayerError, match="has parameters of its own"):
        fp.collect(model, collectors.squared_norms)
    with pytest.raises(fp.LayerError, match="has parameters of its own"):
        params = jax.eval_shape(model.init, jax.random.key(0), X)
        y, residuals = jax.eval_shape(model.forward, params, X)
        jax.eval_shape(fp.split_backward(model).input_half, params, residuals, y)


class Around(fp.Composite):
    """f(g(f(x))): one child is used twice, the other once."""

    reused = frozenset([(0,)])

    def init(self, key, x):
        return self.init_each(key, (x, x))

    def forward(self, params, x, context=fp.Context()):
        (f, g), (p, q) = self.layers, params
        a, first = f.forward(p, x)
        b, between = g.forward(q, a)
        y, second = f.forward(p, b)
        return y, (first, between, second)

    def backward(self, params, residuals, dy):
        (f, g), (p, q), (first, between, second) = self.layers, params, residuals
        db, two = f.backward(p, second, dy)
        da, dq = g.backward(q, between, db)
        dx, one = f.backward(p, first, da)
        return dx, (self.shared.places(self, (one, two)), dq)


def test_some_children_may_be_used_twice():
    model = Around(DENSE, fp.Dense(3))
    halves = fp.split_backward(model)

    def both(params, x):
        y, residuals = model.forward(params, x)
        dx, kept = halves.input_half(params, residuals, y)
        return (dx, halves.weight_half(params, kept)), model.backward(params, residuals, y)

    given, wanted = jax.jit(both)(model.init(jax.random.key(0), X), X)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
