"""What is refused says what was given, what to write instead, and where in the function it is."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.collectors import kfac, squared_norms

nn = pytest.importorskip("flax.linen")

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
Y = jnp.array([0, 1, 1, 0])
W = jnp.ones((3, 2))


def line_of(function, words):
    """file:line of the line of a function that holds these words."""
    lines, first = inspect.getsourcelines(function)
    (number,) = [first + i for i, line in enumerate(lines) if words in line]
    return f"test_refusals.py:{number}"


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=False, name="norm")(x))


def normalized(variables, x):
    return Normalized().apply(variables, x, mutable=["batch_stats"])[0]


def contrasted(w, x):
    z = x @ w
    return z @ z.T


def over_how_many(w, x):
    return x @ w / len(x)


def loss_of_batch(w, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(x @ w, y).sum()


def loss_of_one(w, example):
    x, y = example
    return optax.softmax_cross_entropy_with_integer_labels(x @ w, y)


def turned(w, x):
    return (x @ w).T


def grouped(params, x):
    return jax.lax.conv_general_dilated(
        x, params["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=2,
    ).mean(1)  # fmt: skip


def closing(w, example):
    x, _ = example

    @jax.custom_vjp
    def rule(w):
        return x @ w

    rule.defvjp(lambda w: (x @ w, None), lambda _, d: (jnp.outer(x, d),))
    return rule(jnp.sin(w)).sum()


def plain(params, x):
    return x @ params["w"]


def asked(function, params, x, rule=squared_norms, given=None):
    """A rule asked of a function of a batch, or of a loss."""
    loss = fp.SoftmaxCrossEntropy(reduction="sum")
    lifted = fp.lift(function, params, x)
    loss, batch = (None, x) if isinstance(x, tuple) else (loss, (x, Y))
    gradient = fp.backprop(fp.collect(lifted, rule), loss)
    return jax.eval_shape(gradient, params if given is None else given, batch)


def of_a_mean():
    asked(fp.per_example(loss_of_one), W, (X, Y))


def with_a_mask():
    lifted = fp.lift(fp.per_example(loss_of_one, "sum"), W, (X, Y))
    fp.backprop(lifted, None)(W, (X, Y), fp.Context(mask=jnp.array([True, True, False, True])))


IMAGES = jnp.ones((4, 5, 4)), {"kernel": jnp.ones((3, 2, 2))}
REFUSED = {
    "mixed by a module": (
        lambda: asked(normalized, jax.jit(Normalized().init)(KEY, X), X),
        "lift(normalized): mixes examples by reduce_sum at normalization.py:",
        "in Normalized/norm", "GroupNorm",
    ),
    "mixed": (
        lambda: asked(contrasted, W, X),
        "mixes examples by dot_general at " + line_of(contrasted, "z.T"), "(contrasted)",
        "lift fp.per_example(loss, reduction='sum')",
    ),
    "of how many there are": (
        lambda: asked(over_how_many, W, X),
        "another output in a batch of one than in a batch of 4",
        "by div at " + line_of(over_how_many, "len(x)"),
    ),
    "a batch's loss": (
        lambda: asked(loss_of_batch, W, (X, Y)),
        "lift(loss_of_batch): returns float32[] for a batch of 4",
        "lift fp.per_example(loss, reduction='sum')",
    ),
    "examples on another axis": (
        lambda: asked(turned, W, X), "returns float32[2, 4] for a batch of 4", "one row an example",
    ),
    "a mean": (
        of_a_mean, "lift(per_example(loss_of_one)): takes a mean, and SquaredNorms",
        "reduction='sum'",
    ),
    "a mask for a loss that takes none": (
        with_a_mask, "was given a mask, bool[4]", "loss(params, x, mask=None)",
    ),
    "another tree": (
        lambda: asked(plain, {"w": W}, X, given={"v": W}),
        "lift(plain): the parameters are of another tree", "'v'", "fp.lift(f, params, x)",
    ),
    "another tree of a gradient": (
        lambda: fp.lift(plain, {"w": W}, X).forward({"v": W}, X),
        "lift(plain): the parameters are of another tree", "'v'", "fp.lift(f, params, x)",
    ),
    "complex": (
        lambda: fp.lift(plain, {"w": W.astype(complex)}, X),
        "params['w'] is complex64[3, 2], wanted real numbers", "lax.complex(re, im)",
    ),
    "a Python number": (
        lambda: fp.lift(plain, {"w": W, "s": 0.5}, X),
        "params['s'] is the Python number 0.5, wanted an array", "jnp.asarray(0.5)",
    ),
    "a loss with something beside it": (
        lambda: asked(fp.per_example(lambda w, e: (loss_of_one(w, e), e[0]), "sum"), W, (X, Y)),
        "returns tuple(float32[], float32[3]) for one example, wanted a loss, one number",
        "fp.per_example(function, reduction='none')",
    ),
    "a loss that is a vector": (
        lambda: asked(fp.per_example(lambda w, e: e[0] @ w), W, (X, Y)),
        "returns float32[2] for one example", "since reduction is 'mean'",
    ),
    "no float": (
        lambda: fp.lift(plain, {"w": W.astype(int)}, X),
        "it holds no array of floats", "fp.lift(apply, params, x)",
    ),
    "a class": (
        lambda: fp.lift(Normalized, {"w": W}, X),
        "lift: function is the class Normalized", "fp.lift(apply, ...), apply(params, x) -> y",
    ),
    "a model": (
        lambda: fp.lift(Normalized(), {"w": W}, X),
        "lift: function is the model Normalized", "write model.apply",
    ),
    "a model of one example": (
        lambda: fp.per_example(Normalized()), "per_example: function is the model Normalized",
        "write model.apply",
    ),
    "a layer": (
        lambda: fp.lift(fp.Dense(2), {"w": W}, X), "lift: function is Dense(2)",
        "fp.collect(layer, rule)",
    ),
    "no init": (
        lambda: fp.lift(plain, {"w": W}, X).init(KEY, X), "lift(plain): was lifted with parameters",
        "fp.lift(f, params, x, init=init)",
    ),
    "no common axis": (
        lambda: fp.lift(fp.per_example(loss_of_one), W, (X, Y[0])),
        "x is tuple(float32[4, 3], int32[]): no common axis 0", "on axis 0 of every input",
    ),
    "another reduction": (
        lambda: fp.per_example(loss_of_one, "max"), "reduction is 'max'", "'mean', 'sum' or 'none'",
    ),
    "a rule that closes over an example": (
        lambda: asked(fp.per_example(closing, "sum"), W, (X, Y)),
        "calls a jax.custom_vjp at " + line_of(closing, "jnp.sin(w)"),
        "(closing) that closes over a value of the function around it",
        "give it the value as an argument, and return None for its gradient",
    ),
    "no Kronecker form": (
        lambda: asked(grouped, IMAGES[1], IMAGES[0], kfac),
        "params['kernel'], read by conv_general_dilated at "
        + line_of(grouped, "conv_general_dilated"),
        "(grouped): its parameter [3, 2, 2] has no Kronecker form", "Kfac(others='skip')",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name):
    ask, *wanted = REFUSED[name]
    with pytest.raises((TypeError, ValueError)) as told:
        ask()
    for words in wanted:
        assert words in str(told.value)


def test_a_loss_that_takes_the_mask_is_given_each_examples_own():
    def masked(w, example, mask=None):
        return loss_of_one(w, example) * (1.0 if mask is None else mask.astype(jnp.float32))

    mask = jnp.array([True, True, False, True])
    lifted = fp.collect(fp.lift(fp.per_example(masked, "sum"), W, (X, Y)), squared_norms)
    _, found = jax.jit(fp.backprop(lifted, None))(W, (X, Y), fp.Context(mask=mask))
    assert (np.asarray(fp.collectors.total(found)) > 0).tolist() == mask.tolist()
