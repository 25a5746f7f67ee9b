"""Layers that ask a rule: a leaf, and a composite where all uses of a parameter have met."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from funcprop.collectors.held import Held, is_held
from funcprop.collectors.record import Place, recorded
from funcprop.collectors.rule import Remembered, Rule, is_empty
from funcprop.composites import Rewired, RewiredParams, Wrapper
from funcprop.composites.tied import put
from funcprop.layer import Context, Layer, LayerError, Params, Residuals, spell, two

Path = tuple[Any, ...]  # "[0].w" is (0, "w")


class CollectingResiduals(NamedTuple):
    """What Collecting keeps."""

    kept: Residuals  # what the layer keeps
    extra: Any  # what the rule remembers, or ()


@dataclass(frozen=True)
class Collecting(Wrapper):
    """`layer`, with a rule's record in the second slot of backward."""

    rule: Rule
    place: Place
    shared: bool = False  # its parameters have other uses: a use is passed up, not a record

    @property
    def seen_through(self) -> Rewired | None:
        """The layer, where it is a rewired one whose inner layer the rule is to be asked about."""
        whole = self.rule.whole or (self.rule.like_params and not self.rule.per_example)
        return self.layer if isinstance(self.layer, Rewired) and not whole else None

    def own_params(self, params: Params) -> Params:
        return params.params if is_held(params) else params

    def own_residuals(self, residuals: CollectingResiduals) -> Residuals:
        return residuals.kept

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, CollectingResiduals]:
        own = self.own_params(params)
        y, kept = two(self.layer, "forward", self.layer.forward(own, x, context))
        rewired = self.seen_through
        if rewired is None:
            extra = self.rule.remember(self.layer, own, x, context, y, kept)
        elif rewired.trained:
            extra = self.rule.remember(rewired.layer, own.params, x, context, y, kept)
        else:
            extra = ()
        return y, CollectingResiduals(kept, extra)

    def backward(self, params: Params, residuals: CollectingResiduals, dy: Any) -> tuple[Any, Any]:
        kept, extra = residuals
        given = kept if is_empty(extra) else Remembered(kept, extra)
        ask = self.rule.use if self.shared else self.rule
        rewired = self.seen_through
        if rewired is None:
            result = ask(self.layer, params, given, dy)
        elif rewired.trained:
            # a rewiring changes what is sent on, and nothing about the layer's own parameters
            dx, _ = rewired.backward(params, kept, dy)
            _, value = two(rewired.layer, "rule", ask(rewired.layer, params.params, given, dy))
            like_params = self.shared or self.rule.like_params
            result = dx, RewiredParams(value, None) if like_params else value
        else:
            result = rewired.backward(params, kept, dy)[0], None
        if not isinstance(result, tuple) or len(result) != 2:
            raise LayerError(
                self.layer,
                f"the rule {self.rule.name} returned {spell(result)}, wanted (dx, record)",
            )
        dx, value = result
        if self.shared:
            return dx, Held(value, None) if is_held(params) else value
        if self.rule.like_params:
            return dx, value
        return dx, recorded(value, self.place, self.layer)


class Open(NamedTuple):
    """A leaf whose parameters have uses elsewhere."""

    path: Path  # to its parameters
    layer: Layer
    place: Place
    stacked: int = 0  # how many loops lie between


@dataclass(frozen=True)
class Finishing(Wrapper):
    """A composite in which all uses of some parameters have come together."""

    rule: Rule
    leaves: tuple[Open, ...]

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        dx, tree = self.layer.backward(params, residuals, dy)
        for path, layer, place, stacked in self.leaves:
            use = read(tree, path)
            use = use.params if is_held(use) else use
            given = read(params, path)
            if use is None:  # frozen, or tied as a whole: its record is that of the source
                tree = put(tree, path, given) if self.rule.holds else tree
                continue
            finish = functools.partial(self.rule.at(place, layer).finish, layer)
            for _ in range(stacked if jax.tree.leaves((given, use)) else 0):
                finish = jax.vmap(finish)
            value = finish(given, use)
            if not self.rule.like_params:
                value = recorded(value, place, layer)
            tree = put(tree, path, value)
        return dx, tree


def read(tree: Any, path: Path) -> Any:
    """What stands at a path of indices; None inside of None."""
    for entry in path:
        tree = None if tree is None else tree[entry]
    return tree
