"""The contract: layers are values, errors name the layer and its place, checks hold."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.catalogue.table import ROWS
from funcprop.gradient import check_gradients
from funcprop.layer import (
    check_choice,
    check_cotangent,
    check_count,
    check_input,
    check_number,
    check_params,
    concrete,
    describe,
    inside,
    output_shape,
    spell,
    widen,
)

MODULES = (jax.nn, jnp, fp.layers, fp.losses, fp.composites, fp.initializers, fp)
NAMES = {word: getattr(module, word) for module in MODULES for word in dir(module)}
KINDS = [fp.Layer]
for kind in KINDS:  # layers that only the catalogue knows have names too
    KINDS += kind.__subclasses__()
    if kind.__module__.startswith("funcprop."):
        NAMES.setdefault(kind.__name__, kind)
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@every_row
def test_a_layer_is_a_frozen_comparable_value_whose_repr_makes_it(row):
    if isinstance(row.layer, fp.lifting.Lifted):  # its repr names a function, and makes none
        again = row.layer.rebuild(row.layer.layers)
    else:
        again = eval(repr(row.layer), dict(NAMES))
    assert again == row.layer and hash(again) == hash(row.layer)
    field = dataclasses.fields(row.layer)[:1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(row.layer, field[0].name if field else "anything", None)


@every_row
def test_every_layer_says_what_it_computes_keeps_and_sends_back(row):
    if type(row.layer).__module__.startswith("funcprop.blocks"):
        pytest.skip("a block is described by the layers it is made of")
    text = inspect.getdoc(type(row.layer)) or ""  # the same with and without its indentation
    assert all(f"\n{word}" in text for word in ("forward", "keeps", "backward"))


def test_layers_differ_by_type_and_configuration():
    assert fp.Dense(3) == fp.Dense(3) != fp.Dense(4)
    assert fp.Sigmoid() != fp.Tanh()
    assert len({fp.Dense(3), fp.Dense(3), fp.Dense(4)}) == 2
    assert repr(fp.Dense(3)) == "Dense(3)"
    assert repr(fp.Dense(3, bias=False)) == "Dense(3, bias=False)"


def test_describe_is_short():
    long = fp.Serial(*[fp.Dense(1000)] * 20)
    assert describe(long) == "Serial(...)" and describe(fp.Dense(3)) == "Dense(3)"


def test_spell():
    assert spell(jnp.zeros((2, 3))) == "float32[2, 3]"
    assert spell((jnp.zeros(2), None)) == "tuple(float32[2], None)"
    assert spell(object()) == "a object"


def test_an_error_names_the_place_the_layer_what_was_wrong_and_the_remedy():
    model = fp.Serial(fp.Dense(4), fp.Skip(fp.Serial(fp.Tanh(), fp.Dense(4))))
    params = model.init(jax.random.key(0), jnp.ones((2, 3)))
    bad = (params[0], ((params[1][0][0], fp.Dense(4).init(jax.random.key(0), jnp.ones(5))),))
    with pytest.raises(fp.LayerError) as caught:
        model.forward(bad, jnp.ones((2, 3)))
    assert caught.value.path == ("Serial[1]", "Skip[0]", "Serial[1]")
    text = str(caught.value)
    assert text.startswith("Serial[1] Skip[0] Serial[1] Dense(4): x is float32[2, 4]")
    assert "layer.init(key, x)" in text


def test_other_errors_keep_their_type_and_tell_the_place():
    with pytest.raises(ZeroDivisionError) as caught, inside(fp.Serial(), 3):
        _ = 1 / 0
    assert caught.value.__notes__ == ["in Serial[3]"]


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda d: check_input(d, jnp.ones(3, int)), "wanted an array of floats"),
        (lambda d: check_input(d, [1.0]), "wanted an array of floats"),
        (lambda d: check_input(d, jnp.ones(()), rank=1), "at least 1 axes"),
        (lambda d: check_input(d, jnp.ones(3), features=4), "its last axis has 3 features"),
        (lambda d: check_params(d, (), fp.layers.Affine), "wanted Affine"),
        (
            lambda d: check_params(
                d,
                fp.layers.Affine(jnp.ones((2, 2), jnp.float16), None),
                fp.layers.Affine,
                like=jnp.ones(2),
            ),
            "the dtypes differ",
        ),
        (lambda d: check_cotangent(d, jnp.ones(1), (3,), jnp.float32), "they must agree"),
        (lambda d: check_cotangent(d, None, (3,), jnp.float32), "dy is None"),
        (lambda d: check_number(d, "rate", 1.0, 0, 1), r"rate is 1.0, wanted a number in \[0, 1\)"),
        (lambda d: check_number(d, "rate", True, 0, 1), "rate is True"),
        (lambda d: check_count(d, "features", 0), "at least 1"),
        (lambda d: check_count(d, "features", 2.0), "whole number"),
        (lambda d: check_choice(d, "reduction", "avg", ("mean", "sum")), "'mean', 'sum'"),
        (lambda d: check_gradients(d, "dx", (), jnp.ones(3)), "give dx the tree of x"),
        (lambda d: check_gradients(d, "dx", jnp.ones(2), jnp.ones(3)), "wanted float32"),
    ],
)
def test_checks(check, words):
    with pytest.raises(fp.LayerError, match=words):
        check(fp.Dense(3))


def test_the_context_splits_its_key_and_keeps_its_mask():
    mask = jnp.ones(3, bool)
    first, second = fp.Context(jax.random.key(0), mask).split(2)
    assert first.mask is mask and second.mask is mask
    assert (jax.random.key_data(first.key) != jax.random.key_data(second.key)).any()
    assert fp.Context().split(2) == (fp.Context(), fp.Context())
    with pytest.raises(fp.LayerError, match="was given no key"):
        fp.Context().key_for(fp.Dropout(0.5))
    with pytest.raises(fp.LayerError, match=r"made by jax\.random\.key"):
        fp.Context(key=jnp.zeros(2, jnp.uint32)).key_for(fp.Dropout(0.5))


def test_undefined_passes_say_so():
    with pytest.raises(NotImplementedError, match="Layer does not define forward"):
        fp.Layer().forward((), jnp.ones(2))
    with pytest.raises(NotImplementedError, match="Layer does not define backward"):
        fp.Layer().backward((), (), jnp.ones(2))


def test_small_helpers():
    assert output_shape(fp.Dense(3), fp.Dense(3).init(jax.random.key(0), jnp.ones(2)),
                        jnp.ones((5, 2))).shape == (5, 3)  # fmt: skip
    assert widen(jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32
    assert concrete(jnp.ones(2)) is not None
    seen = []
    jax.eval_shape(lambda x: seen.append(concrete(x)), jnp.ones(2))
    assert seen == [None]
