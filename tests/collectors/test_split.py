"""The two halves of backward are together the whole, and each costs its own part."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.comparisons import drawn
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Row
from funcprop.catalogue.table import ROWS
from funcprop.comparison.programs import cast, computed
from funcprop.composites.sharing import Sum
from funcprop.gradient import partition
from funcprop.models.transformer import transformer_block

BLOCK = fp.Serial(fp.Dense(4), fp.Tanh())
SEQUENCE = Normal((3, 5, 4))


class Doubled(Sum):
    """Not a sum: the halves must ask the composite what becomes of several uses."""

    def places(self, layer, records):
        return jax.tree.map(lambda total: 2 * total, super().places(layer, records))


NESTED = (
    Row("Cast", fp.Cast(BLOCK, "float32"), Normal((5, 4))),
    Row("Repeat of Cast", fp.Repeat(fp.Cast(BLOCK, "float32"), 3), Normal((5, 4))),
    Row("OverTime of Remat", fp.OverTime(fp.Remat(fp.Skip(BLOCK))), SEQUENCE),
    Row("Repeat of OverTime", fp.Repeat(fp.OverTime(BLOCK), 3), SEQUENCE),
    Row("OverTime of Tied", fp.OverTime(fp.Tied(fp.Serial(BLOCK, BLOCK), (("[0]", "[1]"),))),
        SEQUENCE),
    Row("Tied Repeats, doubled", fp.Tied(fp.Serial(fp.Repeat(BLOCK, 3), fp.Repeat(BLOCK, 3)),
        (("[0]", "[1]"),), shared=Doubled()), Normal((5, 4))),
)  # fmt: skip
EVERY = {row.name: row for row in (*ROWS, *NESTED)}


def close(given, wanted, rtol):
    assert jax.tree.structure(given) == jax.tree.structure(wanted)
    for left, right in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)
        left, right = (np.asarray(leaf, np.float64) for leaf in (left, right))  # compiles nothing
        off, size = np.linalg.norm(left - right), np.linalg.norm(right)
        assert off <= rtol * max(size, 1), (off, size)


@pytest.mark.parametrize("name", EVERY)
def test_the_halves_are_the_whole(name):
    layer = EVERY[name].layer
    input_half, weight_half = fp.split_backward(layer)
    with jax.enable_x64(True):
        arguments = [cast(tree, jnp.float64) for tree in drawn(EVERY[name], jax.random.key(3))]

        def run(params, x, context):
            y, residuals = layer.forward(params, x, context)
            dy = jax.tree.map(jnp.cos, partition(y)[0])
            dx_alone, kept = input_half(params, residuals, dy)
            return layer.backward(params, residuals, dy), dx_alone, weight_half(params, kept), kept

        params = arguments[0]
        if not jax.tree.leaves(params):  # the input half is all of it
            (dx, dparams), dx_alone, weights, kept = jax.eval_shape(run, *arguments)
            assert dx_alone == dx and not jax.tree.leaves(kept) and weights == dparams
            return
        (dx, dparams), dx_alone, weights, _ = computed(run, *arguments)
        rtol = 1e-6 if "Cast" in name else 1e-12
        close(dx_alone, dx, rtol)
        close(weights, dparams, rtol)


def test_what_is_kept_stays_in_the_precision_of_the_layer():
    model = fp.Cast(fp.Serial(fp.Dense(4), fp.Conv(3, (2,))))
    x = jnp.ones((5, 4))
    params = model.init(jax.random.key(0), x)
    y, residuals = model.forward(params, x)
    _, kept = fp.split_backward(model).input_half(params, residuals, y)
    for layer, own in zip(kept[0], residuals.layer, strict=True):
        close(layer.residuals, own, 0)
        assert layer.dy.dtype == jnp.bfloat16


# --- what the halves cost -------------------------------------------------------------------------


def flops(function, *arguments):
    return (jax.jit(function).lower(*arguments).compile().cost_analysis() or {})["flops"]


def shares(model, x):
    """The flops of the input half and of the weight half over those of backward."""
    context = fp.Context(jax.random.key(0))
    params = jax.eval_shape(model.init, jax.random.key(1), x)
    y, residuals = jax.eval_shape(model.forward, params, x, context)
    input_half, weight_half = fp.split_backward(model)
    _, kept = jax.eval_shape(input_half, params, residuals, y)
    whole = flops(model.backward, params, residuals, y)
    first, second = flops(input_half, params, residuals, y), flops(weight_half, params, kept)
    return first / whole, second / whole


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


DENSE = fp.Serial(fp.Dense(64), fp.ReLU(), fp.Dense(64), fp.ReLU(), fp.Dense(64))


@pytest.mark.parametrize(
    "model",
    [DENSE, fp.Repeat(fp.Skip(DENSE), 4), fp.mlp((64, 64), 64, axes=1)],
    ids=["Serial", "Repeat", "mlp"],
)
def test_a_stack_of_dense_layers_costs_half_and_half(model):
    assert max(shares(model, floats(128, 64))) < 0.51


@pytest.mark.parametrize(
    "model, x, low, high",
    [
        (fp.convnet(10, 16), floats(8, 16, 16, 3), 0.5, 0.6),
        # attention itself has no parameters, so all of its backward is in the input half
        (transformer_block(64, 4, causal=True), floats(2, 64, 64), 0.55, 0.65),
    ],
    ids=["convnet", "gpt block"],
)
def test_a_model_costs_no_more_in_halves(model, x, low, high):
    first, second = shares(model, x)
    assert low < first < high and first + second < 1.02


def test_the_weight_half_does_not_run_forward_again():
    model = fp.Repeat(fp.Remat(fp.Skip(DENSE)), 4)
    first, second = shares(model, floats(128, 64))
    # products: 2 of forward again (y is not wanted) and 3 for dx, then 3 for dparams
    assert first == pytest.approx(5 / 8, abs=0.02) and second == pytest.approx(3 / 8, abs=0.02)


def test_bytes_between_are_an_input_and_a_delta_for_every_dense():
    size = 5 * 4 * 4  # float32 [5, 4]
    for model in (fp.Serial(BLOCK, BLOCK, BLOCK), fp.Repeat(BLOCK, 3)):
        params = model.init(jax.random.key(0), floats(5, 4))
        assert fp.collectors.bytes_between(model, params, floats(5, 4)) == 3 * (size + size)
    assert (
        fp.collectors.bytes_between(
            fp.Dropout(0.5), (), floats(5, 4), fp.Context(jax.random.key(0))
        )
        == 0
    )


def test_residuals_that_are_given_away_are_not_copied():
    model = fp.Repeat(BLOCK, 3)
    params = model.init(jax.random.key(0), jnp.ones((5, 4)))
    y, residuals = model.forward(params, jnp.ones((5, 4)))
    first = jax.jit(fp.split_backward(model).input_half, donate_argnums=1)
    memory: Any = first.lower(params, residuals, y).compile().memory_analysis()
    assert memory.alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(residuals))


def test_halves_are_values_and_errors_name_the_place():
    model = fp.Serial(BLOCK, fp.Dense(3))
    assert fp.split_backward(model) == fp.split_backward(fp.Serial(BLOCK, fp.Dense(3)))
    params = model.init(jax.random.key(0), jnp.ones((5, 4)))
    _, residuals = model.forward(params, jnp.ones((5, 4)))
    with pytest.raises(fp.LayerError) as caught:
        fp.split_backward(model).input_half(params, residuals, jnp.ones((5, 2)))
    assert caught.value.path == ("Serial[1]",)
