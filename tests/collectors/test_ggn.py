"""Second derivatives against their definitions, in float64: full Jacobians of small networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import funcprop as fp
from funcprop.collectors import collect, diag_ggn, hessian_root, kfac
from funcprop.collectors.loss_hessian import ROOTS, Root
from funcprop.layer import Context, LayerError

KEY = jax.random.key(3)
EXAMPLES, CLASSES = 4, 3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def images(features):
    return jax.random.normal(KEY, (EXAMPLES, *features), jnp.float64)


MODELS = {
    "mlp": (fp.Serial(fp.Dense(5), fp.Tanh(), fp.Dense(CLASSES)), (4,)),
    "conv": (
        fp.Serial(fp.Conv(3, (2, 2), stride=2), fp.Tanh(), fp.Flatten(), fp.Dense(CLASSES)),
        (5, 4, 2),
    ),
    "norm": (fp.Serial(fp.Dense(5), fp.LayerNorm(), fp.GELU(), fp.Dense(CLASSES)), (4,)),
    "lstm": (fp.Serial(fp.LSTM(3), fp.LastStep(), fp.Dense(CLASSES)), (5, 2)),
    "gru": (fp.Serial(fp.GRU(3), fp.LastStep(), fp.Dense(CLASSES)), (5, 2)),
    "attention": (fp.Serial(fp.SelfAttention(4, 2, causal=True), fp.Dense(CLASSES)), (3, 4)),
    "repeat": (
        fp.Serial(fp.Repeat(fp.Skip(fp.Serial(fp.Dense(4), fp.Tanh())), 2), fp.Dense(CLASSES)),
        (4,),
    ),
    "tied": (
        fp.Tied(
            fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(4), fp.Tanh(), fp.Dense(CLASSES)),
            (("[0]", "[2]"),),
        ),
        (4,),
    ),
    "over time": (fp.Serial(fp.OverTime(fp.Dense(4)), fp.Tanh(), fp.Dense(CLASSES)), (3, 2)),
}
LOSSES = {
    "softmax": fp.SoftmaxCrossEntropy(),
    "softmax, sum": fp.SoftmaxCrossEntropy(label_smoothing=0.2, reduction="sum"),
    "softmax, ignored": fp.SoftmaxCrossEntropy(ignore_index=0),
    "softmax, probabilities": fp.SoftmaxCrossEntropy(),
    "binary": fp.BinaryCrossEntropy(),
    "quadratic": fp.QuadraticCost(),
    "mean squared": fp.MeanSquaredError(reduction="sum"),
}


@functools.cache
def problem(model, loss, masked=False):
    """The model, params off their initial values, and a batch."""
    layer = MODELS[model][0]
    x, params, shape = inputs(model)
    random = np.random.default_rng(9)
    if loss.startswith("softmax") and not loss.endswith("probabilities"):
        target = random.integers(0, CLASSES, shape[:-1])
    else:
        target = np.exp(random.normal(size=shape))
        target /= target.sum(-1, keepdims=True)
    mask = (np.arange(np.prod(shape[:-1])) % 3 > 0).reshape(shape[:-1])
    batch = jax.tree.map(jnp.asarray, (x, target, mask) if masked else (x, target))
    return layer, LOSSES[loss], params, batch


@functools.cache
def inputs(model):
    """-> x, params and the shape of the output: all numbers by one program."""
    layer, features = MODELS[model]

    @jax.jit
    def draw():
        x = images(features)
        params, tree = jax.tree.flatten(layer.init(KEY, x))
        moved = [p + 0.1 * jax.random.normal(KEY, p.shape, p.dtype) for p in params]
        return x, tree.unflatten(moved)

    x, params = draw()
    return x, params, jax.eval_shape(layer.forward, params, x)[0].shape


@functools.partial(jax.jit, static_argnums=(0, 1))
def explicit(layer, loss, params, batch):
    """J [outputs, parameters] and H [outputs, outputs], by JAX alone."""
    flat, unravel = ravel_pytree(params)
    context = Context(None, batch[2] if len(batch) == 3 else None)

    def predict(flat):
        return layer.forward(unravel(flat), batch[0], context)[0]

    prediction = predict(flat)
    jacobian = jax.jacrev(predict)(flat).reshape(prediction.size, -1)

    def cost(z):
        return loss.forward((), (z, batch[1]), context)[0]

    hessian = jax.hessian(cost)(prediction).reshape(prediction.size, prediction.size)
    return jacobian, hessian


def off(given, wanted):
    given, wanted = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (given, wanted)
    )
    assert given.shape == wanted.shape and given.dtype == np.float64
    return np.linalg.norm(given - wanted) / np.linalg.norm(wanted)


CASES = [(model, "softmax") for model in MODELS] + [("mlp", loss) for loss in LOSSES]


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_ggn_vector_is_the_explicit_product(model, loss):
    layer, loss, params, batch = problem(model, loss)
    jacobian, hessian = map(np.asarray, explicit(layer, loss, params, batch))
    flat, unravel = ravel_pytree(params)
    v = np.cos(1 + np.arange(flat.size, dtype=flat.dtype))
    run = jax.jit(fp.ggn_vector, static_argnums=(0, 1))
    found = run(layer, loss, params, batch, unravel(jnp.asarray(v)))
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert off(found, jacobian.T @ (hessian @ (jacobian @ v))) < 1e-9


@pytest.mark.parametrize("model", MODELS)
def test_hessian_vector_is_the_derivative_of_jax_grad(model):
    layer, loss, params, batch = problem(model, "softmax")
    v = jax.tree.map(lambda p: np.cos(np.arange(p.size)).reshape(p.shape), params)
    automatic = jax.grad(fp.objective(layer, loss))

    @jax.jit
    def both(params, v):
        wanted = jax.jvp(lambda p: automatic(p, batch), (params,), (v,))[1]
        return fp.hessian_vector(layer, loss, params, batch, v), wanted

    assert off(*both(params, v)) < 1e-9


def test_hessian_vector_of_an_objective_with_parameters():
    model = fp.Serial(fp.Parallel(fp.Dense(4), fp.Identity()), fp.LinearCrossEntropy(5))
    batch = (images((3,)), jnp.array([0, 1, 4, 2]))
    params = model.init(KEY, batch)
    v = jax.tree.map(jnp.sin, params)

    @jax.jit
    def both(params, v):
        wanted = jax.jvp(lambda p: jax.grad(fp.objective(model))(p, batch), (params,), (v,))[1]
        return fp.hessian_vector(model, None, params, batch, v), wanted

    assert off(*both(params, v)) < 1e-9


@pytest.mark.parametrize(("model", "loss"), [*CASES, ("attention", "softmax, ignored")])
def test_diag_ggn_is_the_diagonal(model, loss):
    layer, loss, params, batch = problem(model, loss)
    jacobian, hessian = map(np.asarray, explicit(layer, loss, params, batch))
    found = jax.jit(diag_ggn, static_argnums=(0, 1))(layer, loss, params, batch)
    assert off(found, np.diag(jacobian.T @ hessian @ jacobian)) < 1e-9


@pytest.mark.parametrize(("model", "loss"), [("mlp", "softmax"), ("attention", "softmax")])
def test_what_is_masked_does_not_count(model, loss):
    layer, loss, params, batch = problem(model, loss, masked=model == "mlp")
    if model == "attention":  # a mask of the loss alone: of attention it would hide keys as well
        loss = fp.SoftmaxCrossEntropy(ignore_index=1)
    jacobian, hessian = map(np.asarray, explicit(layer, loss, params, batch))
    found = jax.jit(diag_ggn, static_argnums=(0, 1))(layer, loss, params, batch)
    assert off(found, np.diag(jacobian.T @ hessian @ jacobian)) < 1e-9


@pytest.mark.parametrize("loss", LOSSES)
def test_samples_have_the_hessian_for_their_covariance(loss):
    """And the columns are its exact square root."""
    *_, batch = problem("mlp", loss)
    loss = LOSSES[loss]
    one = type(loss)(reduction="sum")

    @jax.jit
    def run(target):
        z = jax.random.normal(KEY, (EXAMPLES, CLASSES), jnp.float64)
        root = ROOTS[type(loss)](loss, z, target)
        hessian = jax.hessian(lambda z, y: one.forward((), (z[None], y[None]))[0])
        columns = jax.vmap(root.column)(jnp.arange(CLASSES))
        samples = jax.vmap(root.sample)(jax.random.split(KEY, 100_000))
        return jax.vmap(hessian)(z, target), columns, samples

    wanted, columns, samples = map(np.asarray, run(batch[1]))
    assert off(np.einsum("cbi,cbj->bij", columns, columns), wanted) < 1e-9
    found = np.einsum("nbi,nbj->bij", samples, samples) / len(samples)
    assert off(found, wanted) < 0.02
    assert np.abs(samples.mean(0)).max() < 0.02


def test_sampled_diagonal_is_unbiased():
    layer, loss, params, batch = problem("attention", "softmax")

    def sampled(key):
        return diag_ggn(layer, loss, params, batch, Context(key), method="sampled")

    @jax.jit
    def both():
        found = jax.lax.map(sampled, jax.random.split(KEY, 4000), batch_size=500)
        mean = jax.tree.map(lambda f: f.mean(0), found)
        return mean, diag_ggn(layer, loss, params, batch)

    assert off(*both()) < 0.05


def test_several_samples_are_averaged():
    layer, loss, params, batch = problem("mlp", "softmax")

    def error(samples):
        def one(key):
            return diag_ggn(layer, loss, params, batch, Context(key), "sampled", samples)

        found = jax.lax.map(one, jax.random.split(KEY, 20))
        wanted = diag_ggn(layer, loss, params, batch)
        rows = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
        return sum(jnp.square(f - w).sum() for f, w in rows) / 20

    one, many = jax.jit(lambda: (error(1), error(16)))()
    assert 8 < one / many < 32  # the variance falls as 1 / samples
    for wrong, words in ((0, "at least 1"), (2, "method='sampled'")):
        with pytest.raises(ValueError, match=words):
            diag_ggn(layer, loss, params, batch, samples=wrong)


def test_a_loss_without_a_root_is_named():
    layer, _, params, batch = problem("mlp", "softmax")
    with pytest.raises(LayerError, match=r"Hinge\(\): has no known square root.*\n.*hessian_root"):
        diag_ggn(layer, fp.Hinge(), params, batch)
    with pytest.raises(LayerError, match="was given no key"):
        diag_ggn(layer, fp.SoftmaxCrossEntropy(), params, batch, method="sampled")
    with pytest.raises(ValueError, match="wanted 'exact' or 'sampled'"):
        diag_ggn(layer, fp.SoftmaxCrossEntropy(), params, batch, method="mc")  # type: ignore


def test_a_root_from_outside():
    class Doubled(fp.QuadraticCost):
        """Its backward is the quadratic cost's: a subclass has no root before it is given one."""

    layer, _, params, batch = problem("mlp", "quadratic")
    with pytest.raises(LayerError, match="no known square root"):
        diag_ggn(layer, Doubled(), params, batch)

    @hessian_root(Doubled)
    def of_doubled(loss, a, target):
        return Root(lambda c: jnp.zeros_like(a).at[..., c].set(1), lambda key: a)

    found = diag_ggn(layer, Doubled(), params, batch)
    wanted = diag_ggn(layer, fp.QuadraticCost(), params, batch)
    jax.tree.map(np.testing.assert_allclose, found, wanted)
    del ROOTS[Doubled]


def test_examples_that_are_mixed_have_no_diagonal():
    model = fp.Serial(fp.Dense(3), fp.BatchNorm())
    x = jnp.ones((4, 2))
    params = model.init(KEY, x)
    with pytest.raises(LayerError, match="BatchNorm"):
        diag_ggn(model, fp.SoftmaxCrossEntropy(), params, (x, jnp.zeros(4, int)))
    with pytest.raises(LayerError, match="BatchNorm"):
        collect(model, kfac).forward(params, x)
