"""Functions of a whole batch: single examples, what mixes them, wrong rules inside, rewirings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcprop as fp
from funcprop import collectors

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def experts(params, x):
    """Every token by one of three matrices, those of the whole batch sorted by expert."""
    tokens = x.reshape(-1, x.shape[-1])
    choice = jnp.argmax(tokens @ params["router"], -1)
    order = jnp.argsort(choice)
    sizes = jnp.bincount(choice, length=3)
    y = lax.ragged_dot(tokens[order], params["w"], sizes)
    y = jnp.zeros_like(y).at[order].set(y)
    return jnp.tanh(y.reshape(*x.shape[:-1], -1)).sum(1)


def test_experts_of_a_batch_are_asked_example_by_example():
    params = {"router": normal(4, 3), "w": normal(3, 4, 2)}
    x, y = normal(3, 5, 4), normal(3, 2)
    loss = fp.QuadraticCost(reduction="sum")
    model = fp.collect(fp.lift(experts, params, x), collectors.squared_norms)
    found = jax.jit(lambda p: collectors.total(fp.backprop(model, loss)(p, (x, y))[1]))(params)

    @jax.jit
    def norm(i):
        def one(params):
            return loss.forward((), (experts(params, x[i][None]), y[i][None]))[0]

        return jnp.square(jax.grad(one)(params)["w"]).sum()

    np.testing.assert_allclose(found, [norm(i) for i in range(3)], rtol=1e-5)


def centered(params, x):
    z = x @ params["w"]
    return jnp.tanh(z - z.mean(0))


def rolled(params, x):
    return jnp.roll(x @ params["w"], 1, axis=0)


def contrasted(params, x):
    z = x @ params["w"]
    return jax.nn.softmax(z @ z.T)


def counted(params, x):
    return x @ params["w"] / x.shape[0]


@pytest.mark.parametrize(
    ("function", "primitive"), [(centered, "reduce_sum"), (rolled, "slice"), (contrasted, "dot_")]
)
def test_a_function_that_mixes_examples_is_told_by_its_equation(function, primitive):
    params, x = {"w": normal(3, 4)}, normal(4, 3)
    layer = fp.lift(function, params, x)
    model = fp.collect(layer, collectors.squared_norms)
    told = rf"mixes examples by {primitive}.* at test_batches.py:\d+:\d+ \({function.__name__}\)"
    with pytest.raises(fp.LayerError, match=told):
        model.forward(params, x)
    with pytest.raises(fp.LayerError, match=told):  # its numbers are not known
        jax.eval_shape(model.forward, params, x)
    y, residuals = layer.forward(params, x)  # a gradient it has
    layer.backward(params, residuals, y)


def test_a_function_of_how_many_examples_there_are_is_refused():
    params, x = {"w": normal(3, 4)}, normal(4, 3)
    model = fp.collect(fp.lift(counted, params, x), collectors.squared_norms)
    with pytest.raises(
        fp.LayerError, match="another output in a batch of one than in a batch of 4"
    ):
        model.forward(params, x)


@jax.custom_vjp
def bent(z):
    return jnp.tanh(z)


def _forward(z):
    a = jnp.tanh(z)
    return a, a


bent.defvjp(_forward, lambda a, da: (da * (1 - a),))


def test_compare_finds_the_wrong_rule_inside():
    params = {"w": normal(3, 4), "v": normal(4, 2)}

    def predict(params, x):
        def step(h, _):
            return jnp.tanh(bent(h)), None

        h = lax.scan(step, x @ params["w"], None, length=2)[0]
        return h @ params["v"]

    x = normal(5, 3)
    comparison = fp.compare(fp.lift(predict, params, x), params, x)
    assert not comparison.ok
    wrong = [row.place for row in comparison.rows if not row.ok and "Call" in row.place]
    assert wrong and wrong[0].startswith("Lifted[bent at test_batches.py:")


def test_uses_are_rewired_by_path_and_by_primitive():
    params = {"w": normal(3, 4), "b": normal(4), "v": normal(4, 2)}

    def predict(params, x):
        return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]

    x, y = normal(5, 3), jnp.array([0, 1, 1, 0, 1])
    layer, loss = fp.lift(predict, params, x), fp.SoftmaxCrossEntropy()
    _, grads = fp.backprop(layer, loss)(params, (x, y))

    reversal = fp.rewiring.gradient_reversal(2.0)
    rewired = fp.rewire(layer, {"params['v']": reversal})
    _, found = fp.backprop(rewired, loss)(rewired.adopted(params), (x, y))
    np.testing.assert_allclose(found["v"].params, grads["v"], rtol=1e-5)
    np.testing.assert_allclose(found["w"], -2 * grads["w"], rtol=1e-5)

    frozen = fp.rewire(layer, {"dot_general": fp.rewiring.frozen()})
    _, found = fp.backprop(frozen, loss)(frozen.adopted(params), (x, y))
    assert found["w"] is None and found["v"] is None
    np.testing.assert_allclose(found["b"], grads["b"], rtol=1e-5)

    with pytest.raises(fp.LayerError, match="is rewired, and SquaredNorms is asked at its uses"):
        fp.collect(rewired, collectors.squared_norms)
