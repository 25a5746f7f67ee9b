"""What a model must not do where a rule speaks of single examples."""

from __future__ import annotations

from dataclasses import replace

from funcprop.collectors.rule import Rule
from funcprop.composites import Composite, rewirings
from funcprop.doors import door
from funcprop.layer import Layer, LayerError


def check_summed(loss: Layer, rule: Rule) -> None:
    """The examples' gradients of a mean would be divided by their number, without saying so."""
    if getattr(loss, "reduction", "sum") == "mean":
        raise LayerError(
            loss,
            f"takes a mean, and {rule.name} speaks of each example's own gradient",
            "sum instead: reduction='sum', or summed(model) of funcprop.collectors for a loss "
            "inside; divide by the number of examples afterwards",
        )


def check_unmixed(layer: Layer, rule: Rule) -> None:
    """An example's gradient must not depend on the others in its batch."""
    for rewired in rewirings(layer):
        if rewired.mixes:
            raise LayerError(
                rewired,
                f"sends back to one example what depends on the others, and {rule.name} speaks of "
                "each example's own gradient",
                "limit each number instead: clip_cotangent(max_abs=1.0)",
            )


@door
def summed(model: Layer) -> Layer:
    """The model with a sum for every mean that a loss in it takes: what per-example rules read.

    model   a whole objective, with losses inside of composites

    Returns the model with reduction="sum" where "mean" was; parameters stay what they were.

    >>> import funcprop as fp
    >>> fp.collectors.summed(fp.Serial(fp.Identity(), fp.SoftmaxCrossEntropy()))
    Serial(Identity(), SoftmaxCrossEntropy(reduction='sum'))
    """
    if isinstance(model, Composite):
        return model.rebuild(tuple(map(summed, model.layers)))
    if getattr(model, "reduction", "sum") == "mean":
        return replace(model, reduction="sum")  # type: ignore[type-var]
    return model
