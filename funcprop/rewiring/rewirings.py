"""`rewire`: the first result of backward, changed layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from funcprop.composites import Composite
from funcprop.doors import door
from funcprop.layer import Layer, LayerError, spell


class Rewiring(Protocol):
    """What `rewire` asks about each layer of a type: `frozen()`, or a function of your own.

    >>> import funcprop as fp
    >>> def frozen_if_wide(dense: fp.Dense) -> fp.Layer:
    ...     return fp.rewiring.Frozen(dense) if dense.features > 10 else dense
    >>> rule: fp.rewiring.Rewiring = frozen_if_wide
    >>> fp.rewire(fp.Serial(fp.Dense(30), fp.Dense(3)), {fp.Dense: rule})
    Serial(Frozen(Dense(30)), Dense(3))
    """

    def __call__(self, layer: Any, /) -> Layer:
        """The layer that takes its place: as a rule a subclass of `Rewired` around it.

        layer  of exactly the type that stands beside the rewiring in `rewire(model, {type: ...})`
        """
        ...


@door
def rewire(model: Layer, rules: Mapping[type[Layer], Rewiring]) -> Layer:
    """The model with layers replaced, type by type: `rewire(model, {Dense: gradient_reversal()})`.

    model  before `init`: the new model has parameters of its own, of which each rewired layer's are
           RewiredParams
    rules  exact layer type -> rewiring, a function from a layer to the one that takes its place.
           Subclasses are other types; layers of other types stay. A composite may be replaced too,
           after the layers inside it; inside it no other composite of its type is.

    forward   x -> y, the model's: shapes and dtypes stay
    backward  dx of the rewired layers is what their rewirings send

    raises  LayerError where a type occurs nowhere in the model, or a rewiring returns no Layer;
            TypeError for other rules

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> fp.rewire(model, {fp.Dense: fp.rewiring.feedback_alignment()})
    Serial(FeedbackAligned(Dense(3)), Tanh(), FeedbackAligned(Dense(2)))
    >>> fp.rewire(model, {fp.Tanh: fp.rewiring.straight_through()})
    Serial(Dense(3), StraightThrough(Tanh()), Dense(2))
    """
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"rewire wants a dict of layer types, and was given {rules!r}: "
            "write rewire(model, {Dense: feedback_alignment()})"
        )
    for kind, rule in rules.items():
        if (
            not isinstance(kind, type)
            or not issubclass(kind, Layer)
            or not callable(rule)
            or isinstance(rule, Layer)
        ):
            raise TypeError(
                f"rewire wants layer types and rewirings, and was given {kind!r}: {rule!r}: "
                "write rewire(model, {Dense: feedback_alignment()})"
            )
    seen: dict[type[Layer], None] = {}  # ordered, for the message

    def walk(layer: Layer, rules: Mapping[type[Layer], Rewiring]) -> Layer:
        kind = type(layer)
        seen[kind] = None
        rule = rules.get(kind)
        if isinstance(layer, Composite):
            inside = {other: r for other, r in rules.items() if other is not kind}
            layer = layer.rebuild(tuple(walk(child, inside) for child in layer.layers))
        if rule is None:
            return layer
        try:
            new = rule(layer)
        except TypeError as error:
            if "positional argument" not in str(error):
                raise
            raise TypeError(
                f"{rule!r} is no function of a layer ({error}): write feedback_alignment(), "
                "with its brackets"
            ) from error
        if not isinstance(new, Layer):
            raise LayerError(layer, f"the rewiring of {kind.__name__} returned {spell(new)}")
        return new

    new = walk(model, rules)
    missing = [kind.__name__ for kind in rules if kind not in seen]
    if missing:
        raise LayerError(
            model,
            f"has no {' and no '.join(missing)} to rewire",
            f"the layers in it are {', '.join(kind.__name__ for kind in seen)}; "
            "a subclass is another type",
        )
    return new
