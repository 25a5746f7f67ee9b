"""A model as a table."""

import jax
import jax.numpy as jnp

from funcprop.cli.job.summary import brief, count_parameters, format_summary, summary
from funcprop.composites import Serial, Skip
from funcprop.initializers import Normal
from funcprop.layers import Dense, Flatten, ReLU, Sigmoid

MODEL = Serial(Flatten(axes=2), Serial(Dense(4, w_init=Normal()), ReLU()), Skip(Dense(4)))


def rows(x):
    return summary(MODEL, jax.eval_shape(MODEL.init, jax.random.key(0), x), x)


def test_a_row_for_each_layer_with_its_output_and_parameters():
    assert [tuple(row) for row in rows(jnp.ones((2, 3, 5)))] == [
        ("0", "Flatten(axes=2)", "[15]", 0),
        ("1.0", "Dense(4, w_init=Normal(stddev=1.0))", "[4]", 64),
        ("1.1", "ReLU()", "[4]", 0),
        ("2", "Skip(Dense(4))", "[4]", 20),
    ]


def test_as_text_with_the_sum():
    text = format_summary(rows(jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)))
    assert len({len(line) for line in text.splitlines()}) == 1
    assert text.splitlines()[-1].split() == ["in", "all", "84"]


def test_one_layer_is_a_model():
    x = jnp.ones((2, 3))
    assert [row.layer for row in summary(Sigmoid(), (), x)] == ["Sigmoid()"]


def test_long_layers_lose_what_is_no_plain_value():
    layer = Dense(12345, bias=False, w_init=Normal(0.123456789), b_init=Normal(0.123456789))
    assert brief(layer) == "Dense(12345, bias=False)"
    assert brief(Serial(*[Dense(10)] * 9)) == "Serial(...)"


def test_count_parameters():
    assert count_parameters({"a": jnp.ones((2, 3)), "b": (jnp.ones(()), None)}) == 7
