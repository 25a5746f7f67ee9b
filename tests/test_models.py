"""Models are compositions of one signature, found by name."""

import jax
import jax.numpy as jnp
import pytest

from funcprop.composites import Serial
from funcprop.initializers import HeNormal, Normal
from funcprop.layer import LayerError
from funcprop.layers import Dense, Flatten, Pixels, ReLU, Sigmoid
from funcprop.models import MODELS, mlp


def test_mlp_is_dense_layers_with_an_activation_between():
    assert mlp((30,), 10) == Serial(Pixels(), Flatten(), Dense(30), Sigmoid(), Dense(10))


def test_mlp_with_everything():
    model = mlp((5, 4), 3, ReLU(), Sigmoid(), w_init=HeNormal(), b_init=Normal(), axes=1)
    dense = [Dense(size, w_init=HeNormal(), b_init=Normal()) for size in (5, 4, 3)]
    assert model == Serial(
        Pixels(), Flatten(axes=1), dense[0], ReLU(), dense[1], ReLU(), dense[2], Sigmoid()
    )


def test_mlp_without_hidden_layers_is_linear():
    assert mlp((), 3) == Serial(Pixels(), Flatten(), Dense(3))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 6, 5, 1), jnp.float32), ((4, 6, 5, 1), jnp.uint8)]
)
def test_every_model_makes_a_number_for_each_class(name, shape, dtype):
    model, x = MODELS[name]((7,), 3), jnp.ones(shape, dtype)
    params = model.init(jax.random.key(0), x)
    y, _ = model.forward(params, x)
    assert (y.shape, y.dtype) == ((4, 3), jnp.float32)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_documented_and_a_value(name):
    assert MODELS[name].__doc__
    assert MODELS[name]((7,), 3) == MODELS[name]((7,), 3)
    hash(MODELS[name]((7,), 3))


def test_sizes_must_be_positive_whole_numbers():
    with pytest.raises(LayerError, match="features is 0, wanted a whole number of at least 1"):
        mlp((0,), 10)
