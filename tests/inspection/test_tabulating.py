"""trace_table: every number of one pass, by hand beside `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.layers import Affine

# Mazur's 2-2-2 network
PARAMS = (
    Affine(np.array([[0.15, 0.25], [0.20, 0.30]]), np.full(2, 0.35)),
    (),
    Affine(np.array([[0.40, 0.50], [0.45, 0.55]]), np.full(2, 0.60)),
    (),
)
BATCH = np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]])
MODEL = fp.Serial(fp.Dense(2), fp.Sigmoid(), fp.Dense(2), fp.Sigmoid())


def test_mazurs_numbers_by_hand_and_by_jax():
    with jax.enable_x64(True):
        table = fp.trace_table(MODEL, fp.QuadraticCost(reduction="sum"), PARAMS, BATCH)
    np.testing.assert_allclose(table["[0]", "z"], [[0.3775, 0.3925]])
    np.testing.assert_allclose(table["[1]", "a"], [[0.59326999, 0.59688438]], rtol=1e-8)
    np.testing.assert_allclose(table["[2]", "∂C/∂w"][0, 0], 0.08216704, rtol=1e-7)
    np.testing.assert_allclose(table["loss", "C"], 0.29837111, rtol=1e-7)
    compared = [row for row in table.rows if row.automatic is not None]
    assert len(compared) == 8 and all(row.difference < 1e-14 for row in compared)
    text = str(table)
    assert "0.082167041" in text and "8 of 14 also by jax.grad" in text and repr(table) == text


def test_a_wrong_backward_stands_out():
    class Forgotten(fp.Sigmoid):
        def backward(self, params, a, da):
            return a * (1 - a), ()  # not · da

    model = fp.Serial(fp.Dense(2), Forgotten(), fp.Dense(2), fp.Sigmoid())
    table = fp.trace_table(model, fp.QuadraticCost(), PARAMS, BATCH)
    wrong = {(row.path, row.quantity) for row in table.rows if (row.difference or 0) > 1e-4}
    assert wrong == {("Serial[0] Dense", q) for q in ("δ = ∂C/∂z", "∂C/∂w", "∂C/∂b")}
    assert table._repr_html_().count('class="wrong"') == 3


def test_inside_composites_and_stacks():
    model = fp.Serial(
        fp.Dense(4), fp.Repeat(fp.Skip(fp.Serial(fp.Dense(4), fp.Tanh())), 3), fp.Dense(2)
    )
    x, y = np.ones((5, 3), np.float32), np.arange(5, dtype=np.int32) % 2
    params = jax.jit(model.init)(jax.random.key(0), x)
    table = fp.trace_table(model, fp.SoftmaxCrossEntropy(), params, (x, y))
    assert table["Repeat[0]", "∂C/∂w"].shape == (3, 4, 4)
    compared = [row.difference for row in table.rows if row.automatic is not None]
    assert len(compared) == 10 and max(compared) < 1e-5


def test_where_parameters_are_used_several_times_the_hand_stands_alone():
    gpt = fp.gpt(7, length=5, width=4, depth=1, heads=2)
    tokens = np.arange(10, dtype=np.int32).reshape(2, 5) % 7
    params = jax.jit(gpt.init)(jax.random.key(0), tokens)
    table = fp.trace_table(gpt, fp.SoftmaxCrossEntropy(), params, (tokens, tokens))
    assert all(row.automatic is None for row in table.rows)
    assert "DotProductAttention" in str(table)


def test_a_lifted_function():
    params, batch = {"w": np.ones((3, 2), np.float32)}, np.ones((4, 3), np.float32)
    lifted = fp.lift(fp.per_example(lambda p, x: jnp.sum((x @ p["w"]) ** 2)), params, batch)
    table = fp.trace_table(lifted, None, params, batch)
    assert table.rows[-1].quantity == "C" and "params['w']" in str(table)


def test_a_name_that_is_not_one_row_is_answered_with_those_there_are():
    table = fp.trace_table(MODEL, fp.QuadraticCost(), PARAMS, BATCH)
    with pytest.raises(KeyError, match=r"names 2 rows, wanted one of: Serial\[0\] Dense: z"):
        table["Dense", "z"]


def test_frozen_and_rewired_layers():
    x, y = np.arange(24, dtype=np.float32).reshape(6, 4) / 9, np.arange(6, dtype=np.int32) % 3
    for first in (fp.rewiring.frozen()(fp.Dense(3)), fp.rewiring.feedback_alignment()(fp.Dense(3))):
        model = fp.Serial(first, fp.Tanh(), fp.Dense(3))
        params = jax.jit(model.init)(jax.random.key(0), x)
        table = fp.trace_table(model, fp.SoftmaxCrossEntropy(), params, (x, y))
        assert table["[2]", "∂C/∂w"].shape == (3, 3)


def test_a_gradient_that_is_zero_but_for_rounding_is_not_called_wrong():
    x, y = np.arange(24, dtype=np.float32).reshape(6, 4) / 9, np.arange(6, dtype=np.int32) % 3
    model = fp.Serial(fp.Dense(3), fp.BatchNorm(), fp.Dense(3))
    params = jax.jit(model.init)(jax.random.key(0), x)
    table = fp.trace_table(model, fp.SoftmaxCrossEntropy(), params, (x, y))
    assert all(row.same for row in table.rows)
    bias = next(row for row in table.rows if row.quantity == "∂C/∂b")
    assert bias.difference > 0.1 and not bias.close
    assert "rounding: apart by no more" in str(table)
    assert 'class="wrong"' not in table._repr_html_()


def test_a_small_gradient_is_judged_by_its_own_size():
    class Doubled(fp.Dense):
        def backward(self, params, x, dz):
            dx, dparams = super().backward(params, x, dz)
            return dx, dparams._replace(w=2 * dparams.w)

    model = fp.Serial(Doubled(2), fp.Sigmoid(), fp.Dense(2), fp.Sigmoid())
    last = PARAMS[2]._replace(w=1e-4 * PARAMS[2].w)  # so little comes down through them
    table = fp.trace_table(model, fp.QuadraticCost(), (*PARAMS[:2], last, ()), BATCH)
    assert np.linalg.norm(table["[0]", "∂C/∂w"]) < 1e-4 * np.linalg.norm(table["[2]", "∂C/∂w"])
    wrong = [(row.path, row.quantity, row.difference) for row in table.rows if not row.same]
    assert wrong == [("Serial[0] Doubled", "∂C/∂w", pytest.approx(1, rel=1e-4))]
