"""summary: shapes, parameters, bytes kept and flops of every layer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.composites import Serial
from funcprop.initializers import Normal
from funcprop.inspection.summarizing import brief

IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)
WITH_KEY = fp.Context(jax.random.key(0))


def test_a_row_a_layer_from_shapes_alone():
    found = fp.summary(fp.convnet(3, 2), IMAGES, context=WITH_KEY)
    conv = next(row for row in found.rows if row.layer.startswith("Conv"))
    assert conv.output == "[4, 8, 8, 2]" and conv.parameters == 3 * 3 * 2 + 2
    assert conv.bytes == 4 * conv.parameters and math.isnan(conv.seconds)
    params = jax.eval_shape(fp.convnet(3, 2).init, WITH_KEY.key, IMAGES)
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert str(found).splitlines()[-1].startswith("in all")
    assert "time" not in str(found) and "<table>" in found._repr_html_()


def test_flops_of_a_dense_layer_are_its_three_products():
    row = fp.summary(fp.Dense(64, bias=False), jnp.ones((32, 16))).rows[0]
    assert row.flops == 3 * 2 * 32 * 16 * 64
    assert row.kept == 4 * 32 * 16  # x


def test_what_two_layers_keep_counts_once_in_all():
    found = fp.summary(fp.Serial(fp.Tanh(), fp.Tanh(), fp.Dense(5)), jnp.ones((2, 5)))
    assert [row.kept for row in found.rows] == [40, 40, 40]
    assert found.kept == 80  # the last two are the same array


def test_a_parameter_with_several_uses_counts_once():
    inner = fp.Serial(fp.Dense(4, bias=False), fp.Tanh(), fp.Dense(4, bias=False))
    tied = fp.summary(fp.Tied(inner, (("[0].w.T", "[2].w"),)), jnp.ones((2, 4)))
    assert [row.parameters for row in tied.rows] == [16, 0, 16]
    assert (tied.parameters, tied.bytes) == (16, 64)
    assert str(tied).startswith("16 parameters in 64 B") and "counts once in all" in str(tied)
    walked = fp.summary(fp.OverTime(fp.Repeat(fp.Dense(4), length=2)), jnp.ones((2, 5, 4)))
    assert walked.rows[0].parameters == walked.parameters == 2 * (16 + 4)
    assert walked.rows[0].bytes == walked.bytes and "counts once" not in str(walked)


def test_rewired_and_frozen_layers_have_a_row():
    first = fp.rewiring.frozen()(fp.Serial(fp.Dense(3), fp.Tanh()))
    model = fp.Serial(first, fp.rewiring.feedback_alignment()(fp.Dense(3)))
    found = fp.summary(model, jnp.ones((2, 4)))
    assert [row.parameters for row in found.rows] == [15, 12 + 9]  # 9 of the feedback
    assert found.parameters == 36


def test_remat_keeps_its_input_alone():
    layers = fp.Serial(fp.Dense(64), fp.Tanh(), fp.Dense(64))
    plain, remat = (fp.summary(m, jnp.ones((8, 4))) for m in (layers, fp.Remat(layers)))
    assert remat.kept == 4 * 8 * 4 < plain.kept
    assert remat.parameters == plain.parameters


def test_blocks_of_repeat_count_as_often_as_they_run():
    one, three = (
        fp.summary(fp.Repeat(fp.Dense(5), length=n), jnp.ones((2, 5))).rows[0] for n in (1, 3)
    )
    assert three.parameters == 3 * one.parameters and three.flops == 3 * one.flops
    assert three.kept == 3 * one.kept and three.output == "[3, 2, 5]"


def test_time_is_shared_out_where_it_is_measured():
    found = fp.summary(
        fp.Serial(fp.Dense(3), fp.ReLU()), np.ones((4, 2), np.float32), seconds=0.001
    )
    assert all(row.seconds > 0 for row in found.rows)
    assert "time" in str(found) and str(found).endswith("ms")


def test_models_of_tokens_and_functions_that_were_lifted():
    gpt = fp.gpt(7, length=5, width=4, depth=2, heads=2, dropout=0.2)
    found = fp.summary(gpt, jax.ShapeDtypeStruct((2, 5), jnp.int32), context=WITH_KEY)
    assert found.rows[0].layer.startswith("Embedding") and found.kept > 0
    once = jax.eval_shape(gpt.init, WITH_KEY.key, jax.ShapeDtypeStruct((2, 5), jnp.int32))
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(once))
    params = {"w": np.ones((3, 2), np.float32)}
    x = np.ones((4, 3), np.float32)
    lifted = fp.lift(lambda p, x: x @ p["w"], params, x)
    assert [row.parameters for row in fp.summary(lifted, x, params).rows] == [6]


def test_what_a_model_does_not_accept_is_said():
    with pytest.raises(fp.LayerError, match="Dropout"):
        fp.summary(fp.Dropout(0.5), jnp.ones((2, 3)))
    with pytest.raises(fp.LayerError, match="Conv"):
        fp.summary(fp.Conv(3, (3, 3)), jnp.ones((2, 3)))


def test_long_layers_lose_what_is_no_plain_value():
    layer = fp.Dense(12345, bias=False, w_init=Normal(0.123456789), b_init=Normal(0.123456789))
    assert brief(layer) == "Dense(12345, bias=False)"
    assert brief(Serial(*[fp.Dense(10)] * 9)) == "Serial(...)"
