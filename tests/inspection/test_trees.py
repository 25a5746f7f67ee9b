"""Tables of trees, and what a notebook shows of models and records."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.collectors import trace


def test_a_row_an_array():
    tree = {"w": np.array([[3.0, 4.0]], np.float32), "n": np.arange(3), "none": None}
    table = fp.inspection.tree_table(tree)
    assert [row.path for row in table.rows] == ["['n']", "['w']"]
    assert table.rows[1].norm == 5 and table.rows[1].low == 3 and table.rows[0].norm is None
    assert str(table).splitlines()[0] == "5 numbers in 2 arrays" and repr(table) == str(table)
    assert "<table>" in table._repr_html_()
    assert "nan" in str(fp.inspection.tree_table([np.array([np.nan, 1.0])]))
    with pytest.raises(TypeError, match=r"a str at \['x'\], wanted arrays"):
        fp.inspection.tree_table({"x": "y"})


def test_a_model_in_a_notebook_is_nested():
    model = fp.Serial(fp.Dense(3), fp.Skip(fp.Serial(fp.Dense(3), fp.Tanh())))
    shown = model._repr_html_()
    assert shown.count("<details") == 3 and "[1] <code>Tanh()</code>" in shown
    assert "<code>Dense(3)</code>" in fp.Dense(3)._repr_html_()


def test_a_record_is_one_line_and_a_table_in_a_notebook():
    layer = fp.collect(fp.Tanh(), trace)
    y, residuals = layer.forward((), jnp.array([[0.5, 1.0]]))
    record = layer.backward((), residuals, jnp.ones_like(y))[1]
    text = repr(record)
    assert text.startswith("Record(Tanh: x float32[1, 2], y float32[1, 2]") and "\n" not in text
    assert "<td>0.5 1</td>" in record._repr_html_()
    shapes = jax.eval_shape(layer.backward, (), residuals, y)[1]
    assert "float32[1, 2]" in repr(shapes) and "float32[1, 2]" in shapes._repr_html_()
