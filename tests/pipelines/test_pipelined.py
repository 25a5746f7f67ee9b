"""Gradients of a pipeline that runs, on two devices, against those of one that knows of none."""

from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.pipelines import pipelined

CLASSES = fp.SoftmaxCrossEntropy()
SUM = fp.SoftmaxCrossEntropy(reduction="sum")
BLOCK = fp.Skip(fp.Serial(fp.LayerNorm(), fp.Dense(6), fp.Tanh(), fp.Dense(6)))
UNEVEN = fp.Serial(fp.Dense(6), fp.Repeat(BLOCK, 3), fp.LayerNorm(), fp.Dense(4))
MODEL = fp.Serial(fp.Dense(6), fp.Repeat(BLOCK, 4), fp.Dense(4))


def mesh(stages=2):
    return jax.make_mesh((stages,), ("stage",), devices=jax.devices()[:stages])


def problem(model, dtype="float32", shape=(8, 5)):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=shape), dtype)
    y = jnp.asarray(random.integers(0, 4, shape[:1]), jnp.int32)
    return model.init(jax.random.key(1), x), (x, y)


def assert_same(given, wanted, tolerance):
    """The same trees, whose leaves differ by little of the largest."""
    assert jax.tree.structure(given) == jax.tree.structure(wanted)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert float(jnp.abs(a - b).max()) <= tolerance * largest


@pytest.mark.parametrize("schedule", ["GPipe", "1F1B", "interleaved", "ZB-H1", "ZB-H2"])
def test_gradients_are_those_of_one_device_to_double_precision(schedule):
    model = UNEVEN if schedule in ("1F1B", "ZB-H2") else MODEL
    with jax.enable_x64(True):
        params, batch = problem(model, "float64")
        gradient = pipelined(model, CLASSES, mesh(), 4, schedule=schedule)
        value, grads, count = gradient.counted(params, batch)
        wanted = jax.jit(fp.backprop(model, CLASSES))(params, batch)
        assert_same((value, grads), wanted, 1e-10)
    assert np.array_equal(count, gradient.table.actions())


def test_statistics_dropout_and_frozen_layers_are_those_of_the_parts():
    frozen = fp.rewiring.frozen()(fp.Dense(5))
    model = fp.Serial(fp.Dense(6), fp.BatchNorm(), fp.Dropout(0.5), frozen, fp.Dense(4))
    params, batch = problem(model)
    context = fp.Context(jax.random.key(2))
    gradient = pipelined(model, CLASSES, mesh(), 2, has_aux=True)
    (value, aux), grads = gradient(params, batch, context)
    whole = fp.accumulate(fp.backprop(model, CLASSES, has_aux=True), 2)
    (wanted, wanted_aux), wanted_grads = jax.jit(whole)(params, batch, context)
    assert_same((value, grads), (wanted, wanted_grads), 1e-6)
    assert_same(aux, wanted_aux, 1e-6)
    assert not jax.tree.leaves(grads[3]) and jax.tree.leaves(aux.statistics)


CALLS = []


@dataclass(frozen=True)
class Counted(fp.Layer):
    """y = x w, and a note of every time that a part of it runs."""

    stage: int

    def init(self, key, x):
        return jnp.eye(x.shape[-1], dtype=x.dtype)

    def noted(self, part, result):
        def note(result):
            CALLS.append(f"{part}{self.stage}")
            return np.asarray(result)

        return jax.pure_callback(note, jax.ShapeDtypeStruct(result.shape, result.dtype), result)

    def forward(self, params, x, context=fp.Context()):
        return self.noted("F", x @ params), x

    def backward(self, params, x, dy):
        return self.noted("B", dy @ params.T), self.noted("W", x.T @ dy)


def test_nothing_runs_but_what_the_table_says():
    model = fp.Serial(fp.Bias(), Counted(0), Counted(1))
    params, (x, _) = problem(model, shape=(6, 4))
    gradient = pipelined(model, fp.MeanSquaredError(), mesh(), 3, cuts=(2,))
    jax.block_until_ready(gradient(params, (x, x)))
    assert Counter(CALLS) == {f"{part}{stage}": 3 for part in "FBW" for stage in (0, 1)}


def test_masks_of_a_sum():
    model = fp.Serial(fp.Dense(6), fp.Tanh(), fp.Dense(4))
    params, (x, y) = problem(model)
    mask = jnp.arange(8) % 3 > 0
    found = pipelined(model, SUM, mesh(), 2)(params, (x, y, mask))
    assert_same(found, jax.jit(fp.backprop(model, SUM))(params, (x, y, mask)), 1e-6)


def test_an_objective_that_holds_its_loss_and_ties_its_table():
    body = fp.Serial(fp.Embedding(8, 4), fp.Dense(4), fp.Tanh())
    head = fp.Serial(fp.Parallel(body, fp.Identity()), fp.LinearCrossEntropy(8))
    goal = fp.Tied(head, (("[0][0][0].w.T", "[1].w"),))
    batch = (jnp.arange(16).reshape(4, 4) % 8,) * 2
    params = goal.init(jax.random.key(0), batch)
    found = pipelined(goal, None, mesh(), 2)(params, batch)
    assert_same(found, jax.jit(fp.backprop(goal))(params, batch), 1e-6)


def test_sixteen_bits_are_summed_in_thirty_two():
    model = fp.Serial(fp.Dense(6), fp.Tanh(), fp.Dense(4))
    params, batch = problem(model, "bfloat16")
    value, grads = pipelined(model, CLASSES, mesh(), 2)(params, batch)
    whole = fp.accumulate(fp.backprop(model, CLASSES), 2)
    assert_same((value, grads), jax.jit(whole)(params, batch), 2.0**-8)


def test_parts_are_told_and_cut_again():
    gradient = pipelined(UNEVEN, CLASSES, mesh(), 4, cuts=(3,))
    params, batch = problem(UNEVEN)
    first, second = gradient.parts(params, batch)
    assert [len(first), len(second)] == [3, 3]
    assert first[0] == "[0] Dense(6)" and first[2].endswith("step 1")
    assert gradient == pipelined(UNEVEN, CLASSES, mesh(), 4, cuts=[3]) and hash(gradient)


def test_what_cannot_run_is_told_in_words():
    params, batch = problem(MODEL)
    small, other = fp.Serial(fp.Dense(4)), jax.make_mesh((2,), ("data",))
    collected = fp.collect(MODEL, fp.collectors.squared_norms)
    ignoring = fp.SoftmaxCrossEntropy(ignore_index=-1)

    def made(model=MODEL, loss=CLASSES, on=mesh(), microbatches=2, **options):
        return pipelined(model, loss, on, microbatches, **options)

    one = small.init(jax.random.key(0), batch[0])
    masked = (*batch, jnp.ones(8, bool))
    for words, call in {
        "does not divide into 3 equal micro": lambda: made(microbatches=3)(params, batch),
        "has 1 pieces .* 2 places: give it at most 1 stages": lambda: made(small)(one, batch),
        r"\(9,\), wanted 1 growing numbers from 1 to 5": lambda: made(cuts=(9,))(params, batch),
        "has 'data', and no axis 'stage': write jax.make_mesh": lambda: made(on=other),
        "collects something else": lambda: made(collected, SUM),
        "whole objective, of which the last stage": lambda: made(loss=None),
        "cannot average masked microbatches": lambda: made()(params, masked),
        "give the loss reduction='sum'": lambda: made(loss=ignoring),
        "wanted 'GPipe', '1F1B'": lambda: made(schedule="PipeDream"),
        "be a multiple of the stages": lambda: made(microbatches=3, schedule="interleaved"),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match=r"wanted a mesh: write jax\.make_mesh"):
        made(on=jax.devices())
    for cuts in (3, "12", (1.5,)):
        with pytest.raises(TypeError, match=r"cuts is .*, wanted whole numbers: write cuts=\("):
            made(cuts=cuts)
