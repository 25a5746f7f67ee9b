"""`rewire` replaces layers by type, before `init`, wherever they stand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop import rewiring
from funcprop.layer import inside

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (6, 4))
WRAPPED = {
    "Serial": lambda dense: fp.Serial(dense, fp.Tanh()),
    "Skip": lambda dense: fp.Skip(fp.Serial(dense, fp.Tanh())),
    "Branch": lambda dense: fp.Branch(dense, fp.Identity(), combine="concatenate"),
    "Repeat": lambda dense: fp.Repeat(fp.Serial(dense, fp.Tanh()), 3),
    "Remat": lambda dense: fp.Remat(fp.Serial(dense, fp.Tanh())),
    "OverTime": lambda dense: fp.OverTime(dense),
}
RULES = {
    "feedback_alignment": fp.rewiring.feedback_alignment(),
    "kolen_pollack": fp.rewiring.kolen_pollack(),
    "uSF": fp.rewiring.sign_symmetry(),
    "brSF": fp.rewiring.sign_symmetry("batch-wise random"),
    "frSF": fp.rewiring.sign_symmetry("fixed random"),
    "straight_through": fp.rewiring.straight_through(),
    "gradient_reversal": fp.rewiring.gradient_reversal(0.5),
    "clip_cotangent": fp.rewiring.clip_cotangent(max_abs=0.1),
    "frozen": fp.rewiring.frozen(),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
every_place = pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)


def gradients(model, params, x, context=fp.Context()):
    y, residuals = model.forward(params, x, context)
    return model.backward(params, residuals, jnp.cos(y))


def close(first, second, tolerance=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, 1e-6), first, second)


def test_leaves_of_the_type_are_replaced_and_others_stay():
    model = fp.Serial(fp.Dense(5), fp.Tanh(), fp.Skip(fp.Dense(5)), fp.Conv(3, (1,)))
    new = fp.rewire(model, {fp.Dense: rewiring.Frozen, fp.Conv: fp.rewiring.gradient_reversal(2.0)})
    assert new == fp.Serial(
        rewiring.Frozen(fp.Dense(5)),
        fp.Tanh(),
        fp.Skip(rewiring.Frozen(fp.Dense(5))),
        rewiring.Reversed(fp.Conv(3, (1,)), 2.0),
    )
    assert repr(new.layers[3]) == "Reversed(Conv(3, kernel_size=(1,)), factor=2.0)"
    assert fp.rewire(fp.Dense(3), {fp.Dense: rewiring.Frozen}) == rewiring.Frozen(fp.Dense(3))


def test_blocks_are_walked():
    model = fp.rewire(fp.SelfAttention(4, heads=2), {fp.Dense: fp.rewiring.feedback_alignment()})
    x = jnp.ones((2, 3, 4))
    params = model.init(KEY, x)
    y, _ = model.forward(params, x)
    assert y.shape == x.shape
    assert sum(isinstance(p, fp.composites.RewiredParams) for p in jax.tree.leaves(
        params, is_leaf=lambda p: isinstance(p, fp.composites.RewiredParams))) >= 2  # fmt: skip


def test_a_composite_is_replaced_after_the_layers_in_it_and_once():
    model = fp.Serial(fp.Dense(5), fp.Serial(fp.Dense(4), fp.Tanh()))
    rules = {fp.Serial: fp.rewiring.direct_feedback_alignment(), fp.Dense: fp.rewiring.frozen()}
    assert fp.rewire(model, rules) == fp.rewiring.DirectFeedback(
        rewiring.Frozen(fp.Dense(5)), fp.Serial(rewiring.Frozen(fp.Dense(4)), fp.Tanh())
    )


def test_errors():
    model = fp.Serial(fp.Dense(5), fp.Tanh())
    with pytest.raises(fp.LayerError, match=r"has no Conv to rewire\n.*Serial\[0\] Dense, S"):
        fp.rewire(model, {fp.Conv: fp.rewiring.frozen()})
    with pytest.raises(TypeError, match="names no layers"):
        fp.rewire(model, {fp.Dense(5): fp.rewiring.frozen()})
    with pytest.raises(TypeError, match="3 is no rewiring"):
        fp.rewire(model, {fp.Dense: 3})
    with pytest.raises(fp.LayerError, match="the rewiring of Dense returned None"):
        fp.rewire(model, {fp.Dense: lambda layer: None})
    frozen = rewiring.Frozen(fp.Dense(5))
    with pytest.raises(fp.LayerError, match="wanted RewiredParams"):
        frozen.forward(fp.Dense(5).init(KEY, X), X)
    with pytest.raises(NotImplementedError, match="does not define send"):
        layer = fp.composites.Rewired(fp.Dense(5))
        gradients(layer, layer.init(KEY, X), X)


@every_rule
def test_own_parameters_are_those_of_the_plain_layer(rule):
    plain = fp.Dense(4).init(KEY, X)
    params = rule(fp.Dense(4)).init(KEY, X)
    close(params.params, plain)
    for leaf in jax.tree.leaves(params.feedback):
        assert not np.isin(np.asarray(leaf), np.asarray(plain.w)).any()


@every_rule
def test_forward_statistics_and_inference_are_those_of_the_layer(rule):
    layer = rule(fp.Dense(4))
    params = layer.init(KEY, X)
    (y, kept), (want, own) = layer.forward(params, X), fp.Dense(4).forward(params.params, X)
    close((y, kept), (want, own))
    assert layer.statistics(kept) == ()
    assert fp.inference(layer, params) == (fp.Dense(4), params.params)
    model = fp.Serial(rule(fp.Dense(4)), fp.Dropout(0.5))
    params = model.init(KEY, X)
    assert fp.inference(model, params)[0] == fp.Serial(fp.Dense(4), fp.Identity())


def test_statistics_pass():
    layer = fp.rewiring.gradient_reversal()(fp.BatchNorm())
    params = layer.init(KEY, X)
    _, kept = layer.forward(params, X)
    found = layer.statistics(kept)
    close(found, fp.BatchNorm().statistics(kept))
    assert not isinstance(fp.inference(layer, params, found)[0], fp.composites.Rewired)


@every_rule
@every_place
def test_dparams_are_the_layers_own_for_the_dy_that_came_wherever_it_stands(rule, wrap):
    """Of the last layer, that is: what comes before hears something else."""
    model, plain = wrap(rule(fp.Dense(4))), wrap(fp.Dense(4))
    params = model.init(KEY, X)

    def own(tree):
        is_ours = lambda leaf: leaf is None or isinstance(leaf, fp.composites.RewiredParams)  # noqa: E731
        return jax.tree.map(lambda p: getattr(p, "params", None), tree, is_leaf=is_ours)

    run = jax.jit(functools.partial(gradients, model))
    dx, dparams = run(params, X)
    assert dx.shape == X.shape
    exact = gradients(plain, own(params), X)[1]
    if isinstance(model, fp.Repeat):  # the last step alone hears the true error
        exact, dparams = (jax.tree.map(lambda leaf: leaf[-1], tree) for tree in (exact, dparams))
    if rule is rewiring.Frozen:
        assert jax.tree.leaves(dparams) == []
        return
    close(own(dparams), exact, 1e-5)
    for p in jax.tree.leaves(dparams, is_leaf=lambda p: isinstance(p, fp.composites.RewiredParams)):
        if isinstance(p, fp.composites.RewiredParams) and rule is not rewiring.KolenPollack:
            assert all((leaf == 0).all() for leaf in jax.tree.leaves(p.feedback))


@every_rule
def test_under_vmap_and_scan(rule):
    """Rules that draw from dx see examples one at a time; all here send the same."""
    model = fp.Serial(fp.Dense(4), rule(fp.Dense(4)), fp.Tanh())
    params = model.init(KEY, X)
    dx, _ = gradients(model, params, X)
    each = jax.vmap(lambda x: gradients(model, params, x)[0])(X)
    _, scanned = jax.lax.scan(lambda _, x: (None, gradients(model, params, x)[0]), None, X)
    close(each, dx, 1e-5)
    close(scanned, dx, 1e-5)


@every_rule
def test_a_rewired_model_trains(rule):
    optimizer = optax.adamw(0.01)
    model = fp.Serial(fp.Dense(8), fp.Tanh(), rule(fp.Dense(8)), fp.Tanh(), fp.Dense(3))
    loss = fp.SoftmaxCrossEntropy()
    y = jnp.argmax(X, -1) % 3
    state = fp.init_state(model, optimizer, KEY, X)
    step = jax.jit(fp.train_step(fp.backprop(model, loss), optimizer))
    losses = []
    for _ in range(10):
        state, metrics = step(state, (X, y))
        losses.append(metrics.loss)
    assert losses[-1] < losses[0]


def test_errors_tell_the_place():
    model = fp.Serial(fp.Tanh(), rewiring.Frozen(fp.Dense(4)))
    params = model.init(KEY, X)
    with pytest.raises(fp.LayerError, match=r"Serial\[1\] Dense\(4\): x is"), inside(model, 0):
        model.forward(params, jnp.ones((2, 5)))


@every_place
def test_lora_begins_where_training_ended(wrap):
    plain = fp.Serial(wrap(fp.Dense(4)), fp.Dense(2, bias=False))
    trained = plain.init(KEY, X)
    adapted = fp.rewire(plain, {fp.Dense: lambda d: fp.LoRA(d.features, 2, bias=d.bias)})
    params = fp.warm_start(adapted.init(jax.random.key(1), X), trained)
    close(adapted.forward(params, X)[0], plain.forward(trained, X)[0])
    back, merged = fp.inference(adapted, params)
    assert back == plain
    close(merged, trained)


@every_rule
def test_a_rewired_model_begins_where_training_ended(rule):
    plain = fp.Serial(fp.Repeat(fp.Skip(fp.Dense(4)), 2), fp.Tanh(), fp.Dense(4))
    trained, rewired = plain.init(KEY, X), fp.rewire(plain, {fp.Dense: rule})
    fresh = rewired.init(jax.random.key(1), X)
    params = fp.warm_start(fresh, trained)
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    close(rewired.forward(params, X)[0], plain.forward(trained, X)[0])


def test_a_warm_start_from_another_model():
    model = fp.Serial(fp.Dense(3), fp.Skip(fp.Dense(3)))
    biasless = fp.Serial(fp.Dense(3), fp.Skip(fp.Dense(3, bias=False)))
    fresh, wider = model.init(KEY, X), model.init(KEY, jnp.ones((1, 7)))
    with pytest.raises(ValueError, match=r"params\[1\]\[0\]\.b is float32\[3\], and .* None"):
        fp.warm_start(fresh, biasless.init(KEY, X))
    with pytest.raises(ValueError, match=r"params\[0\]\.w is float32\[4, 3\], .*float32\[7, 3\]"):
        fp.warm_start(fresh, wider)


def test_layers_are_meant_by_path_and_by_predicate():
    model = fp.Serial(fp.Dense(3), fp.Skip(fp.Serial(fp.Tanh(), fp.Dense(3))), fp.Dense(2))
    frozen = fp.rewiring.frozen()
    inner = fp.Serial(fp.Tanh(), fp.rewiring.Frozen(fp.Dense(3)))
    wanted = fp.Serial(fp.Dense(3), fp.Skip(inner), fp.Dense(2))
    for where in (
        "Serial[1] Skip[0] Serial[1]",
        "Serial[1] Skip[0] Serial[1] Dense",
        lambda path, layer: isinstance(layer, fp.Dense) and "Skip" in path,
    ):
        assert fp.rewire(model, {where: frozen}) == wanted
    both = fp.rewire(model, {"Serial[2]": fp.rewiring.gradient_reversal(), fp.Dense: frozen})
    assert both.layers[2] == fp.rewiring.Reversed(fp.Dense(2))
    assert both.layers[0] == fp.rewiring.Frozen(fp.Dense(3))
    with pytest.raises(fp.LayerError, match=r"has no 'Serial\[7\]' to rewire"):
        fp.rewire(model, {"Serial[7]": frozen})
    with pytest.raises(TypeError, match="names no layers"):
        fp.rewire(model, {3: frozen})
