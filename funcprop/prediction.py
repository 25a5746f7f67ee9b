"""From a model that trains to the model that predicts."""

from __future__ import annotations

from typing import Any

from funcprop.layer import Layer, Params


def inference(model: Layer, params: Params, statistics: Any = ()) -> tuple[Layer, Params]:
    """The model and parameters for prediction.

    Layers that draw random numbers become the identity, and layers that observe their batch
    (batch norm) the affine map of their averaged statistics, under every composite. There is no
    train flag: a model computes what it says.

    statistics: what `model.statistics(residuals)` returned, averaged: `TrainState.statistics`.
    Raises LayerError where params or statistics do not fit the model.
    """
    return model.inference(params, statistics)
