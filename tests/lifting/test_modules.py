"""Layers as modules of Flax and Equinox: values and gradients of the layer itself, in their places.

One class a library says how it makes a module, calls it, and names its parameters.
"""

import pickle
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp

nn = pytest.importorskip("flax.linen")
eqx = pytest.importorskip("equinox")
try:
    from flax import nnx
except AttributeError as error:  # that of Flax 0.12.8 wants a name that jax 0.12 has no longer
    nnx, why = None, f"flax.nnx is not imported: {error}"
else:
    why = ""
with_nnx = pytest.mark.skipif(nnx is None, reason=why)

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 5))
IMAGES, SEQUENCES = jax.random.normal(KEY, (2, 4, 4, 1)), jax.random.normal(KEY, (2, 3, 4))
IDS = jnp.array([[0, 2, 2], [1, 4, 0]])
MODEL = fp.Serial(fp.Dense(3), fp.BatchNorm(), fp.Dropout(0.5))

LAYERS = {
    "Dense": (fp.Dense(3), X),
    "Conv": (fp.Conv(2, (3, 3)), IMAGES),
    "LSTM": (fp.LSTM(3), SEQUENCES),
    "SelfAttention": (fp.SelfAttention(4, 2), SEQUENCES),
    "Embedding": (fp.Embedding(5, 3), IDS),
}


class Linen:
    def __init__(self, layer, x, params):
        self.module, self.params = fp.as_flax(layer, params=params), params
        self.trained = self.module.init(KEY, x)["params"]

    def call(self, trained, x):
        return self.module.apply({"params": trained}, x)

    def own(self, tree):
        """A tree of the library, flat, in the order of the layer's own."""
        return at(tree, self.params)


class NNX(Linen):
    def __init__(self, layer, x, params):
        self.params, self.module = params, fp.as_nnx(layer, x, params=params)
        self.graph, self.trained = nnx.split(self.module)

    def call(self, trained, x):
        return nnx.merge(self.graph, trained)(x)

    def own(self, tree):
        return at(nnx.to_pure_dict(tree)["params"], self.params)


class Equinox(Linen):
    def __init__(self, layer, x, params):
        self.module = fp.as_equinox(layer, x, params=params)
        self.trained, self.rest = eqx.partition(self.module, eqx.is_inexact_array)

    def call(self, trained, x):
        return eqx.combine(trained, self.rest)(x)

    def own(self, tree):
        return jax.tree.leaves(tree)


def at(tree, like):
    """The leaves of nested dictionaries, found by the paths of another tree."""
    found = []
    for path, _ in jax.tree.leaves_with_path(like):
        value = tree
        for key in path:
            value = value[jax.tree_util.keystr((key,), simple=True)]
        found.append(value)
    return found


def same(found, wanted, rtol=1e-6):
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in wanted]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("library", [Linen, pytest.param(NNX, marks=with_nnx), Equinox])
@pytest.mark.parametrize("title", LAYERS)
def test_values_and_gradients_are_the_layers_own(title, library):
    layer, x = LAYERS[title]
    params = layer.init(KEY, x)
    given = library(layer, x, params)
    same(given.own(given.trained), params, 0)
    y, residuals = layer.forward(params, x)
    weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)

    def value(trained):
        y = given.call(trained, x)
        return jnp.sum(y * weights), y

    grads, found = jax.jit(jax.grad(value, has_aux=True))(given.trained)
    same(found, y)
    same(given.own(grads), layer.backward(params, residuals, weights)[1])


@dataclass(frozen=True)
class Wrong(fp.Layer):
    """Its backward says twice the truth: whoever gets that has used it."""

    def init(self, key, x):
        return {"w": jnp.ones(x.shape[-1:], x.dtype), "n": jnp.arange(3)}

    def forward(self, params, x, context=fp.Context()):
        return x * params["w"], x

    def backward(self, params, x, dy):
        return dy * params["w"], {"w": 2 * (x * dy).sum(0), "n": None}


def test_the_backward_is_the_hand_written_one_and_integers_are_not_trained():
    layer, wanted = Wrong(), 2 * X.sum(0)
    module = fp.as_flax(layer)
    variables = module.init(KEY, X)
    rest = {"constants": variables["constants"]}
    grads = jax.grad(lambda p: module.apply({"params": p, **rest}, X).sum())(variables["params"])
    same(grads, {"w": wanted})
    same(rest["constants"], {"n": jnp.arange(3)})
    if nnx is not None:
        grads = nnx.grad(lambda m: m(X).sum())(fp.as_nnx(layer, X, rngs=nnx.Rngs(0)))
        same(nnx.to_pure_dict(grads), {"params": {"w": wanted}})
    grads = eqx.filter_grad(lambda m: m(X).sum())(fp.as_equinox(layer, X, key=KEY))
    assert grads.params["n"] is None
    same(grads.params["w"], wanted)


# --- a model that draws and observes --------------------------------------------------------------


def the_layers_own(params, key):
    """(value, grads) by the layer, and what it observed."""
    y, residuals = MODEL.forward(params, X, fp.Context(key))
    grads = MODEL.backward(params, residuals, 2 * y)[1]
    return jnp.sum(y * y), grads, MODEL.statistics(residuals)[1]


def test_linen_inside_a_model_with_dropout_and_averages():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic=False):
            return fp.as_flax(MODEL, name="block")(x, deterministic=deterministic)

    model = Model()
    variables = model.init(KEY, X)
    params, stats = variables["params"], variables["batch_stats"]
    assert set(params["block"]) == {"0", "1"} and set(stats["block"]) == {"1"}
    assert jnp.isnan(stats["block"]["1"]["mean"]).all()

    @jax.jit
    def value(params, stats):
        def loss(params):
            y, new = model.apply(
                {"params": params, "batch_stats": stats}, X, rngs={"dropout": KEY},
                mutable="batch_stats",
            )  # fmt: skip
            return jnp.sum(y * y), (y, new)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (y, new)), grads = value(params, stats)
    own = unnested(params["block"])
    kept = np.asarray(y) != 0
    assert kept.any() and not kept.all()
    normalized, residuals = MODEL.layers[1].forward(own[1], MODEL.layers[0].forward(own[0], X)[0])
    same(y, np.where(kept, 2 * normalized, 0), 1e-5)
    seen = MODEL.layers[1].statistics(residuals)
    same(new["batch_stats"]["block"]["1"], seen._asdict())  # the first batch stands for itself
    dscale = np.where(kept, 2 * y * 2 * normalized, 0).sum(0)
    same(grads["block"]["1"]["scale"], jnp.asarray(dscale), 1e-5)

    (_, (_, again)), _ = value(params, jax.tree.map(jnp.zeros_like, new["batch_stats"]))
    same(again["batch_stats"]["block"]["1"], jax.tree.map(lambda s: s / 10, seen._asdict()))

    predictor, its = fp.inference(MODEL, own, ((), seen, ()))
    y = model.apply({"params": params, **new}, X, deterministic=True)
    same(y, predictor.forward(its, X)[0])

    module = fp.as_flax(MODEL)
    only = {"params": params["block"]}
    with pytest.raises(fp.LayerError, match=r'rngs=\{"dropout": jax.random.key\(0\)\}'):
        module.apply(only, X)
    with pytest.raises(fp.LayerError, match="predicts with running averages, and was given none"):
        module.apply(only, X, deterministic=True)
    assert "0:" in nn.tabulate(module, {"params": KEY})(X)


def unnested(params):
    return (fp.layers.Affine(**params["0"]), fp.layers.Gain(**params["1"]), ())


@with_nnx
def test_nnx_inside_a_model_with_dropout_and_averages():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.block = fp.as_nnx(MODEL, X, rngs=rngs)

        def __call__(self, x):
            return self.block(x)

    model = Model(nnx.Rngs(0))
    params = unnested(nnx.to_pure_dict(nnx.state(model, nnx.Param))["block"]["params"])
    drawn = nnx.clone(model).block.rngs()
    wanted, grads, seen = the_layers_own(params, drawn)

    @nnx.jit
    def value(model):
        return nnx.value_and_grad(lambda model: jnp.sum(model(X) ** 2))(model)

    found, dmodel = value(model)
    same(found, wanted)
    got = nnx.to_pure_dict(dmodel)["block"]["params"]
    same((got["0"]["w"], got["1"]["scale"]), (grads[0].w, grads[1].scale), 1e-5)
    stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))["block"]["batch_stats"]
    same(stats["1"], seen._asdict())

    predictor, its = fp.inference(MODEL, params, ((), seen, ()))
    y = predictor.forward(its, X)[0]
    same(nnx.view(model, deterministic=True)(X), y)
    model.eval()
    same(nnx.merge(*nnx.split(model))(X), y)
    for options, words in (
        ({}, r"as_nnx\(layer, x, rngs=rngs\)"),
        ({"rngs": 0}, "wanted nnx.Rngs"),
    ):
        with pytest.raises(TypeError, match=words):
            fp.as_nnx(MODEL, X, **options)
    keyless = fp.as_nnx(MODEL, X, params=params)
    with pytest.raises(fp.LayerError, match=r"module\(x, rngs=nnx.Rngs\(0\)\)"):
        keyless(X)
    assert keyless(X, rngs=nnx.Rngs(0)).shape == (4, 3)


def test_equinox_inside_a_model_with_dropout_and_averages():
    class Model(eqx.Module):
        block: eqx.Module

        def __init__(self):
            self.block = eqx.nn.Sequential([fp.as_equinox(MODEL, X, key=KEY)])

        def __call__(self, x, state, key):
            return self.block(x, state, key=key)

    model, state = eqx.nn.make_with_state(Model)()
    params = model.block[0].params
    wanted, grads, seen = the_layers_own(params, jax.random.split(KEY, 1)[0])

    @eqx.filter_jit
    def value(model, state):
        def loss(model):
            y, new = model(X, state, KEY)
            return jnp.sum(y * y), new

        return eqx.filter_value_and_grad(loss, has_aux=True)(model)

    (found, state), dmodel = value(model, state)
    same(found, wanted)
    same(dmodel.block[0].params, grads, 1e-5)
    predictor, its = fp.inference(MODEL, params, ((), seen, ()))
    y, _ = eqx.nn.inference_mode(model)(X, state, None)
    same(y, predictor.forward(its, X)[0])
    module = model.block[0]
    with pytest.raises(fp.LayerError, match=r"module\(x, key=jax.random.key\(0\)\)"):
        module(X, state)
    with pytest.raises(fp.LayerError, match=r"make_with_state\(fp.as_equinox\)"):
        module(X, key=KEY)


# --- with what users of the libraries do ----------------------------------------------------------


def test_a_step_of_optax_is_that_of_the_layer():
    layer = fp.Dense(3)
    params, optimizer = layer.init(KEY, X), optax.sgd(0.5)
    y, residuals = layer.forward(params, X)
    wanted = jax.tree.map(
        lambda p, g: p - 0.5 * g, params, layer.backward(params, residuals, 2 * y)[1]
    )

    module = fp.as_flax(layer)
    its = {"w": params.w, "b": params.b}
    grads = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, X) ** 2))(its)
    mask = {"w": True, "b": False}
    masked = optax.chain(
        optax.masked(optimizer, mask),
        optax.masked(optax.set_to_zero(), jax.tree.map(lambda m: not m, mask)),
    )
    updates, _ = masked.update(grads, masked.init(its), its)
    same(optax.apply_updates(its, updates), {"w": wanted.w, "b": params.b})

    if nnx is not None:
        module = fp.as_nnx(layer, X, params=params)
        its_own = nnx.Optimizer(module, optimizer, wrt=nnx.Param)
        its_own.update(module, nnx.grad(lambda m: jnp.sum(m(X) ** 2))(module))
        same(nnx.to_pure_dict(nnx.state(module))["params"], wanted._asdict())

    module = fp.as_equinox(layer, X, params=params)
    grads = eqx.filter_grad(lambda m: jnp.sum(m(X) ** 2))(module)
    updates, _ = optimizer.update(grads, optimizer.init(module))
    same(eqx.apply_updates(module, updates).params, wanted)


def test_under_vmap():
    layer, many = fp.Dense(3), jnp.stack([X, 2 * X])
    params = layer.init(KEY, X)
    wanted = layer.forward(params, many)[0]
    module = fp.as_flax(layer, params=params)
    variables = module.init(KEY, X)
    same(jax.vmap(lambda x: module.apply(variables, x))(many), wanted)
    over = nn.vmap(type(module), variable_axes={"params": None}, split_rngs={"params": False})
    same(over(layer).apply(variables, many), wanted)
    if nnx is not None:
        module = fp.as_nnx(layer, X, params=params)
        same(nnx.vmap(lambda m, x: m(x), in_axes=(None, 0))(module, many), wanted)
    module = fp.as_equinox(layer, X, params=params)
    same(eqx.filter_vmap(module)(many), wanted)
    made = eqx.filter_vmap(lambda key: fp.as_equinox(layer, X, key=key))(jax.random.split(KEY, 2))
    assert made.params.w.shape == (2, 5, 3)


def test_a_mask_goes_by_name():
    x, mask = jnp.arange(6.0).reshape(1, 3, 2), jnp.array([[True, True, False]])
    layer = fp.LastStep()
    wanted = layer.forward((), x, fp.Context(mask=mask))[0]
    same(fp.as_flax(layer).apply({}, x, mask=mask), wanted)
    if nnx is not None:
        same(fp.as_nnx(layer, x, params=())(x, mask=mask), wanted)
    same(fp.as_equinox(layer, x, params=())(x, mask=mask), wanted)


def test_dtypes_repr_and_pickles():
    x = X.astype(jnp.bfloat16)
    module = fp.as_flax(fp.Dense(3))
    assert module.init(KEY, x)["params"]["w"].dtype == jnp.bfloat16
    assert "layer = Dense(3)" in repr(module) and pickle.loads(pickle.dumps(module)) == module
    old = fp.as_equinox(fp.Dense(3), x, key=jax.random.PRNGKey(0))  # keys of both kinds
    assert old.params.w.dtype == jnp.bfloat16 and "FuncpropLayer" in repr(old)
    assert jnp.array_equal(old.params.w, fp.Dense(3).init(KEY, x).w)
    assert jax.tree.structure(pickle.loads(pickle.dumps(old))) == jax.tree.structure(old)
    if nnx is not None:
        assert "layer=Dense(3)" in repr(fp.as_nnx(fp.Dense(3), x, rngs=nnx.Rngs(0)))


def test_what_does_not_fit_is_said_by_the_layer():
    layer = fp.Serial(fp.Dense(3), fp.Tanh())
    module = fp.as_flax(layer)
    variables = module.init(KEY, X)
    with pytest.raises(fp.LayerError, match=r"Serial\[0\] Dense\(3\): x is float32\[4, 4\]"):
        module.apply(variables, X[:, :4])
    with pytest.raises(fp.LayerError, match=r"params has no 0.b, wanted float32\[3\]"):
        module.apply({"params": {"0": {"w": variables["params"]["0"]["w"]}}}, X)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fp.as_flax(fp.Dense(3), momentum=1.0), ValueError, r"wanted one in \[0, 1\)"),
        (lambda: fp.as_equinox(fp.Dense(3), X), TypeError, r"write key=jax.random.key\(0\)"),
        (lambda: fp.as_flax(fp.Dense(3), name=3), TypeError, "name is 3, wanted a text"),
    ],
)
def test_what_is_missing_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    for name in ("flax", "equinox"):
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)

    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("flax", "equinox"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])
    from funcprop.lifting.modules import equinox_module, linen_module

    linen_module.linen_class.cache_clear()
    equinox_module.equinox_classes.cache_clear()
    for call, extra in (
        (lambda: fp.as_flax(fp.Dense(3)), "flax"),
        (lambda: fp.as_nnx(fp.Dense(3), X, params=()), "flax"),
        (lambda: fp.as_equinox(fp.Dense(3), X, params=()), "equinox"),
    ):
        with pytest.raises(ModuleNotFoundError, match=rf"pip install 'funcprop\[{extra}\]'"):
            call()
