"""From a model that trains to the model that predicts."""

from __future__ import annotations

from typing import Any

from funcprop.composites import Composite
from funcprop.doors import door
from funcprop.layer import Layer, LayerError, Params, spell


@door
def inference(model: Layer, params: Params, statistics: Any = ()) -> tuple[Layer, Params]:
    """The model and parameters for prediction.

    Layers that draw random numbers become the identity, and layers that observe their batch
    (batch norm) the affine map of their averaged statistics, under every composite. There is no
    train flag: a model computes what it says.

    statistics: what `model.statistics(residuals)` returned, averaged: `TrainState.statistics`.
    Raises LayerError where params or statistics do not fit the model.

    Shapes and dtypes stay those of the model: y [..., out] for x [..., in].

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.BatchNorm(), fp.Dropout(0.5))
    >>> params = model.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> averages = fp.layers.Statistics(mean=jnp.zeros(3), variance=jnp.ones(3))
    >>> predictor, its_params = fp.inference(model, params, ((), averages, ()))
    >>> predictor
    Serial(Dense(3), Scale(bias=True), Identity())
    """
    if isinstance(model, Composite) and not isinstance(statistics, tuple):
        raise LayerError(
            model,
            f"statistics is {spell(statistics)}, wanted what model.statistics(residuals) returned",
            "write inference(model, state.params, state.statistics)",
        )
    return model.inference(params, statistics)
