"""`rewire`: the first result of backward, changed layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from funcprop.composites import Composite
from funcprop.composites.place import Where, check_where, is_meant, path_of
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

        layer  one that is meant by what stands beside the rewiring in `rewire(model, {...})`
        """
        ...


@door
def rewire(model: Layer, rules: Mapping[Where, Rewiring]) -> Layer:
    """The model with layers replaced: `rewire(model, {Dense: gradient_reversal()})`.

    model  before `init`: the new model has parameters of its own, of which each rewired layer's are
           RewiredParams
    rules  which layers -> rewiring, a function from a layer to the one that takes its place. Which:
           an exact layer type (a subclass is another type); a path as errors and records have it,
           "Serial[3]" or "Serial[3] Dense"; or a function (path, layer) -> bool. The first that
           means a layer counts; all others stay. A composite may be replaced too, after the
           layers inside it; inside it no other composite is by the same entry

    forward   x -> y, the model's: shapes and dtypes stay
    backward  dx of the rewired layers is what their rewirings send

    raises  LayerError where an entry means no layer of the model, or a rewiring returns no Layer;
            TypeError for other rules

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> fp.rewire(model, {fp.Dense: fp.rewiring.feedback_alignment()})
    Serial(FeedbackAligned(Dense(3)), Tanh(), FeedbackAligned(Dense(2)))
    >>> fp.rewire(model, {"Serial[0]": fp.rewiring.frozen()})
    Serial(Frozen(Dense(3)), Tanh(), Dense(2))
    >>> wide = lambda path, layer: getattr(layer, "features", 0) > 2
    >>> fp.rewire(model, {wide: fp.rewiring.frozen()})
    Serial(Frozen(Dense(3)), Tanh(), Dense(2))
    """
    told = "write rewire(model, {Dense: feedback_alignment()}) or {'Serial[0]': frozen()}"
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"rewire wants a dict of layer types, paths or predicates, and was given {rules!r}: "
            f"{told}"
        )
    for where, rule in rules.items():
        check_where(where, told)
        if not callable(rule) or isinstance(rule, Layer):
            raise TypeError(f"{rule!r} is no rewiring, a function of a layer: {told}")
    seen: dict[str, None] = {}  # ordered, for the message
    met: set[Where] = set()

    def walk(layer: Layer, place: tuple[str, ...], rules: Mapping[Where, Rewiring]) -> Layer:
        seen[path_of(place, layer)] = None
        meant = [where for where in rules if is_meant(where, place, layer)]
        met.update(meant)
        if isinstance(layer, Composite):
            rest = {where: rule for where, rule in rules.items() if where not in meant}
            layer = layer.rebuild(
                tuple(
                    walk(child, (*place, layer.place(position)), rest)
                    for position, child in enumerate(layer.layers)
                )
            )
        return rewired(layer, rules[meant[0]]) if meant else layer

    new = walk(model, (), rules)
    missing = [where for where in rules if where not in met]
    if missing:
        names = [where.__name__ if isinstance(where, type) else repr(where) for where in missing]
        raise LayerError(
            model,
            f"has no {' and no '.join(names)} to rewire",
            f"the layers in it are {', '.join([*seen][:12])}{', ...' if len(seen) > 12 else ''}; "
            "a subclass is another type",
        )
    return new


def rewired(layer: Layer, rule: Rewiring) -> Layer:
    """What the rewiring makes of the layer."""
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
        raise LayerError(layer, f"the rewiring of {type(layer).__name__} returned {spell(new)}")
    return new
