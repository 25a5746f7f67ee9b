"""What `compare` asks of a layer beside its numbers: purity, residuals, trees."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

X = jax.random.normal(jax.random.key(0), (3, 4))
W = jax.random.normal(jax.random.key(1), (4,))
LEFT = {}


@dataclass(frozen=True)
class Times(fp.Layer):
    """y = w x."""

    def init(self, key, x):
        return W

    def forward(self, params, x, context=fp.Context()):
        return params * x, x

    def backward(self, params, x, dy):
        return dy * params, (dy * x).sum(0)


class KeepsParameters(Times):
    def forward(self, params, x, context=fp.Context()):
        return params * x, (x, params)

    def backward(self, params, residuals, dy):
        return Times.backward(self, residuals[1], residuals[0], dy)


class DrawsForward(Times):
    def forward(self, params, x, context=fp.Context()):
        return params * x * np.random.default_rng().normal(), x


class DrawsBackward(Times):
    def backward(self, params, x, dy):
        return dy * params * np.random.default_rng().normal(), (dy * x).sum(0)


class ReadsWhatForwardLeft(Times):
    def forward(self, params, x, context=fp.Context()):
        LEFT["x"] = x
        return params * x, jnp.zeros(())

    def backward(self, params, residuals, dy):
        return dy * params, (dy * LEFT["x"]).sum(0)


class NewStructureEveryTime(Times):
    def forward(self, params, x, context=fp.Context()):
        LEFT["count"] = LEFT.get("count", 0) + 1
        return params * x, {f"x{LEFT['count']}": x}

    def backward(self, params, residuals, dy):
        (x,) = residuals.values()
        return Times.backward(self, params, x, dy)


class Raises(Times):
    def backward(self, params, x, dy):
        return dy @ params[:3], params


class ForgetsTheSum(Times):
    def backward(self, params, x, dy):
        return dy * params, dy * x


def test_a_right_one_holds_it():
    found = fp.compare(Times(), W, X)
    assert found.ok and found.kept == X.size * 8


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (KeepsParameters(), "residuals hold params"),
        (DrawsForward(), "forward is not pure"),
        (DrawsBackward(), "backward is not pure"),
        (ReadsWhatForwardLeft(), "backward reads a value that forward left behind"),
        (NewStructureEveryTime(), "different structure"),
        (Raises(), "backward raised"),
        (ForgetsTheSum(), "not summed over axis 0"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, fp.Layer) else "",
)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])
def test_what_breaks_it_is_said(layer, words, inside):
    params, target = W, layer
    if inside:
        params, target = ((), W, ()), fp.Serial(fp.Tanh(), layer, fp.Tanh())
    found = fp.compare(target, params, X)
    assert not found.ok
    assert words in str(found)
    if inside and isinstance(layer, (Raises, ForgetsTheSum)):
        assert found.wrong[0].place == f"Serial[1] {type(layer).__name__}"


def test_the_words_of_a_missing_sum_come_with_the_leaf():
    (row,) = fp.compare(ForgetsTheSum(), W, X).wrong
    assert row.words == "not summed over axis 0" and row.path == "dparams"


def answered(answer):
    class Answering(fp.Tanh):
        def backward(self, params, a, da):
            return answer(da)

    return Answering()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda da: da, "backward returned float32[4, 2], wanted the pair (dx, dparams)"),
        (lambda da: None, "backward returned None, wanted the pair (dx, dparams)"),
        (lambda da: (da[0, :1], ()), "dx has shape [1], wanted [4, 2]"),
        (lambda da: (da.astype(jnp.float16), ()), "dx is float16[4, 2], wanted float32[4, 2]"),
        (lambda da: ([da, da], ()),
         "dx is list(float32[4, 2], float32[4, 2]), wanted float32[4, 2]"),
        (lambda da: 1 / 0, "backward raised ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_the_headline_says_what_the_contract_wanted(answer, words):
    found = fp.compare(answered(answer), (), np.ones((4, 2), np.float32))
    assert found.headline == f"Answering(): wrong gradient in Answering: {words}"
