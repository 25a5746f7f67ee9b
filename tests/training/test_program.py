"""Predictions in files: what is read back predicts the same, and what is no such file is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import funcprop as fp

X = jnp.arange(8.0).reshape(4, 2) / 8


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    model = fp.Serial(fp.Dense(3), fp.BatchNorm(), fp.Dropout(0.5), fp.Tanh())
    params = model.init(jax.random.key(0), X)
    averages = fp.layers.Statistics(mean=jnp.ones(3), variance=jnp.full(3, 2.0))
    model, params = fp.inference(model, params, ((), averages, (), ()))
    path = tmp_path_factory.mktemp("programs") / "model.stablehlo"
    fp.save_program(path, model, params, X)
    return path, model, params


def test_it_predicts_the_same_for_any_number_of_examples(written):
    path, model, params = written
    program = fp.load_program(path)
    for x in (X, X[:1]):
        np.testing.assert_allclose(program(x), model.forward(params, x)[0], rtol=1e-6)
    assert repr(program) == "<Program float32[b, 2] -> float32[b, 3]>"
    assert "stablehlo" in program.stablehlo


def test_jax_reads_the_file_alone(written):
    path, model, params = written
    found = export.deserialize(bytearray(path.read_bytes())).call(X)
    np.testing.assert_allclose(found, model.forward(params, X)[0], rtol=1e-6)


def test_another_x_is_refused_in_words(written):
    program = fp.load_program(written[0])
    with pytest.raises(ValueError, match=r"x is float32\[4, 3\], and the program takes float32\[b"):
        program(jnp.ones((4, 3)))


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_bit_is_seen(written, tmp_path, place):
    data = bytearray(written[0].read_bytes())
    data[place] ^= 4
    path = tmp_path / "changed"
    path.write_bytes(data)
    with pytest.raises(fp.training.CheckpointError, match="is no complete program"):
        fp.load_program(path)


def test_what_needs_its_number_of_examples_is_told(tmp_path):
    class Halves(fp.Layer):
        def init(self, key, x):
            return ()

        def forward(self, params, x, context=fp.Context()):
            return x[: int(x.shape[0]) // 2], ()

    path = tmp_path / "halves"
    with pytest.raises(ValueError, match="write any_batch=False"):
        fp.save_program(path, Halves(), (), X)
    assert not path.exists()
    fp.save_program(path, Halves(), (), X, any_batch=False)
    assert fp.load_program(path)(X).shape == (2, 2)
