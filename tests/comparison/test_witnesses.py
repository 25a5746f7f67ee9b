"""Wrong gradients that one look at one input would miss, and right ones that it would accuse."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.catalogue.comparisons import compare_row
from funcprop.catalogue.table import ROWS
from funcprop.comparison.programs import Programs
from funcprop.comparison.subject.door import subject_of
from funcprop.comparison.trial import compare_subject
from funcprop.comparison.verdict.rules import judge_rounded, judge_slopes
from funcprop.comparison.witnesses.slopes import Slope

X = jax.random.normal(jax.random.key(0), (5, 4))


@dataclass(frozen=True)
class Square(fp.Layer):
    """y = x²."""

    def forward(self, params, x, context=fp.Context()):
        return jnp.square(x), x

    def backward(self, params, x, dy):
        return 2 * x * dy, ()


class WrongFarOut(Square):
    def backward(self, params, x, dy):
        return jnp.where(jnp.abs(x) > 10, 0, 2 * x * dy), ()


class WrongNearZero(Square):
    def backward(self, params, x, dy):
        return jnp.where(jnp.abs(x) < 1e-9, dy, 2 * x * dy), ()


class Clipped(Square):
    def backward(self, params, x, dy):
        return 2 * x * jnp.clip(dy, -100, 100), ()


class Thresholded(Square):
    def backward(self, params, x, dy):
        return jnp.where(jnp.abs(dy) > 1e-4, 2 * x * dy, 0), ()


class Rounded(Square):
    def backward(self, params, x, dy):
        return (2 * x * dy).astype(jnp.bfloat16).astype(dy.dtype), ()


@pytest.mark.parametrize(
    ("layer", "at"),
    [
        (WrongFarOut(), "30 x"),
        (WrongNearZero(), "zeros"),
        (Clipped(), "1e+06 dy"),
        (Thresholded(), "1e-06 dy"),
    ],
    ids=repr,
)
def test_changed_inputs_and_scaled_cotangents(layer, at):
    found = fp.compare(layer, (), X)
    assert at in [row.at for row in found.wrong]


def test_a_lost_dtype_is_seen():
    found = fp.compare(Rounded(), (), X)
    assert "rounded to bfloat16" in found.headline


class IgnoresTheMask(fp.DotProductAttention):
    def backward(self, params, residuals, dy):
        return super().backward(params, residuals._replace(mask=None), dy)


def test_masks_that_hide_more_and_less():
    q = jax.random.normal(jax.random.key(1), (2, 5, 2, 3))
    context = fp.Context(mask=jnp.ones((2, 5), bool))  # hides nothing: the slip has no effect
    found = fp.compare(IgnoresTheMask(), (), (q, 2 * q, 3 * q), context)
    assert [row.at for row in found.wrong if row.dtype == "float64"]
    assert fp.compare(fp.DotProductAttention(), (), (q, 2 * q, 3 * q), context).ok


def test_a_kink_is_named_and_not_failed():
    @dataclass(frozen=True)
    class Ramp(fp.Layer):
        def forward(self, params, x, context=fp.Context()):
            return jnp.maximum(x, 0), x

        def backward(self, params, x, dy):
            return jnp.where(x > 0, dy, 0), ()

    found = fp.compare(Ramp(), (), X)  # JAX's maximum has 0.5 at 0
    assert found.ok and any("kink at zeros" in note for note in found.notes)


def test_where_automatic_differentiation_errs_finite_differences_decide():
    found = fp.compare(fp.Softplus(), (), X)
    assert found.ok and any("jax.vjp does not" in note for note in found.notes)


def test_a_forward_that_jax_cannot_differentiate_has_two_witnesses():
    found = compare_row(next(row for row in ROWS if row.name == "FixedPoint"))
    assert found.ok and any("finite differences are the truth" in note for note in found.notes)
    assert any("jax.jvp too" in note for note in found.notes)


def test_a_slope_is_judged_by_every_witness():
    right = Slope("dx", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert judge_slopes("", [right])[0] == []
    for wrong in (right._replace(near=1.1, far=1.1), right._replace(forward=1.1)):
        (row,) = judge_slopes("", [wrong])[0]
        assert not row.ok and row.path == "dx"
    kink = right._replace(near=0.5, far=0.5, left=0.0, right=1.0)
    jump = right._replace(near=5e5, far=4e3, left=6e5, right=6e5)  # to the opposite value, at 0
    rows, notes = judge_slopes("", [kink, jump])
    assert rows == [] and "2 directions lie across a kink" in notes[0]


def test_a_bias_of_five_per_cent_is_no_rounding_of_bfloat16():
    truth = {"dx": jax.random.normal(jax.random.key(3), (2, 40))}
    rounded = {"dx": truth["dx"].astype(jnp.bfloat16)}
    assert judge_rounded("", rounded, lambda: rounded, truth)[0].ok
    biased = {"dx": (1.05 * truth["dx"]).astype(jnp.bfloat16)}
    (row,) = judge_rounded("", biased, lambda: rounded, truth)
    assert not row.ok and "relative norm" in row.rule


class Coarse(Square):
    def backward(self, params, x, dy):
        return 2 * x * dy * (1 + 1e-5 * (x.dtype == jnp.float32)), ()


@pytest.mark.parametrize(("layer", "needed"), [(Square(), False), (Coarse(), True)])
def test_automatic_differentiation_runs_in_float32_where_roundings_do_not_explain(layer, needed):
    run = Programs()
    found = compare_subject(subject_of(layer, ((), X)), 2, programs=run)
    assert found.ok != needed and ("automatic in float32" in run.made) == needed


def test_python_runs_a_function_a_few_times_only():
    """Forward and backward in both dtypes, once more to see that they are pure, and the reference:
    to differentiate a function may take longer than all of the programs that are made of it."""
    runs = []

    @jax.custom_vjp
    def square(x):
        runs.append("plain")
        return x * x

    def forward(x):
        runs.append("forward")
        return x * x, x

    square.defvjp(forward, lambda x, dy: (2 * x * dy,))
    assert fp.compare(square, X).ok
    assert runs.count("forward") == 3 and runs.count("plain") <= 5
