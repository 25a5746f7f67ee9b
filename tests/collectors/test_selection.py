"""`only`: rules at some layers, the numbers of the rule itself there, and nothing elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop import collectors
from funcprop.collectors import only

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
LOSS = fp.QuadraticCost(reduction="sum")
INNER = fp.Serial(fp.Tanh(), fp.Dense(3))
MODEL = fp.Serial(fp.Dense(3), fp.Skip(INNER), fp.OverTime(fp.Dense(3)))
LAST = "Serial[2] OverTime[0] Dense"


def test_some_layers_have_records_and_others_none():
    model, x, y = MODEL, X[:, None], Y[:, None]
    params = model.init(jax.random.key(0), x)
    rules = {
        "all": collectors.squared_norms,
        "type": only(collectors.squared_norms, fp.Dense),
        "path": only(collectors.squared_norms, "Serial[1] Skip[0] Serial[1]"),
        "shared": only(collectors.squared_norms, LAST),
        "gradient": only(collectors.gradient, lambda path, layer: "Skip" in path),
        "moment": only(collectors.second_moment, "Serial[0]"),
    }

    @jax.jit
    def run(params):
        return {
            name: fp.backprop(fp.collect(model, rule), LOSS)(params, (x, y))[1]
            for name, rule in rules.items()
        }

    found = run(params)
    gradient = found.pop("gradient")
    assert gradient[0] is None and gradient[1][0][1].w.shape == (3, 3) and gradient[2] == (None,)
    whole = {r.path: r.value for r in collectors.records(found["all"])}

    def there(name):
        return {r.path: r.value for r in collectors.records(found[name]) if r.value is not None}

    assert set(there("type")) == {"Serial[0] Dense", "Serial[1] Skip[0] Serial[1] Dense", LAST}
    assert list(there("path")) == ["Serial[1] Skip[0] Serial[1] Dense"]
    assert list(there("shared")) == [LAST]
    for name in ("type", "path", "shared"):
        for path, value in there(name).items():
            np.testing.assert_array_equal(value, whole[path])


def test_several_at_once():
    model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(3))
    params = model.init(jax.random.key(0), X)
    rule = fp.collect_all(
        norms=only(collectors.squared_norms, "Serial[0]"), moment=collectors.second_moment
    )
    _, found = jax.jit(fp.backprop(fp.collect(model, rule), LOSS))(params, (X, Y))
    norms = [r.value is None for r in collectors.records(found, "norms")]
    assert norms == [False, True, True]
    assert collectors.values(found, "moment")[2].w.shape == (3, 3)


def test_a_rule_that_sees_the_batch():
    """It is made in the gradient function, around what it reads: pure, so that jit takes it."""
    model = fp.Dense(3)
    params = model.init(jax.random.key(0), X)

    def by_target(params, batch):
        _, y = batch

        def split(layer, params, residuals, dy):
            dx, _ = layer.backward(params, residuals, dy)
            return dx, layer.backward(params, residuals, jnp.where(y > 0, dy, 0))[1].b

        return fp.backprop(fp.collect(model, split), LOSS)(params, batch)

    _, record = jax.jit(by_target)(params, (X, Y))
    dz = model.forward(params, X)[0] - Y
    np.testing.assert_allclose(record.value, np.where(Y > 0, dz, 0).sum(0), rtol=1e-5)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="freeze the other layers"):
        only(collectors.update(optax.sgd(0.1)), fp.Dense)
    with pytest.raises(TypeError, match="names no layers"):
        only(collectors.squared_norms, 3)
    with pytest.raises(TypeError, match="is no rule"):
        only(3, fp.Dense)
