"""only: a rule at some layers of a model, and nothing at the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from funcprop.collectors.record import Place
from funcprop.collectors.rule import Rule, RuleFunction, as_rule
from funcprop.composites.place import Where, check_where, is_meant
from funcprop.doors import door
from funcprop.layer import Layer, Params, Residuals


@dataclass(frozen=True)
class Nothing(Rule):
    """No record: None. dx is the layer's own."""

    like_params: bool = False  # type: ignore[misc]

    def __call__(
        self, layer: Layer, params: Params, residuals: Residuals, dy: Any
    ) -> tuple[Any, None]:
        return layer.backward(params, residuals, dy)[0], None

    def finish(self, layer: Layer, params: Params, use: Any) -> None:
        return None


@dataclass(frozen=True)
class Only(Rule):
    """`rule` at the layers that are meant, and at the others no record."""

    rule: Rule
    where: Where

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def like_params(self) -> bool:  # type: ignore[override]
        return self.rule.like_params

    @property
    def per_example(self) -> bool:  # type: ignore[override]
        return self.rule.per_example

    @property
    def separate(self) -> bool:  # type: ignore[override]
        return self.rule.separate

    def at(self, place: Place, layer: Layer) -> Rule:
        chosen = is_meant(self.where, place, layer)
        return self.rule.at(place, layer) if chosen else Nothing(self.rule.like_params)

    def places(self, layer: Layer, records: tuple[Any, ...]) -> Any:
        return self.rule.places(layer, records)

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        return self.rule.steps(layer, step, each)

    def use(self, layer: Layer, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        return self.rule.use(layer, params, residuals, dy)

    def prepare(self, layer: Layer) -> Layer:
        return self.rule.prepare(layer)

    def remember(self, *given: Any) -> Any:
        return self.rule.remember(*given)


@door
def only(rule: Rule | RuleFunction, where: Where) -> Only:
    """A rule at some layers: `collect(model, only(squared_norms, "Serial[3]"))`.

    rule    a rule, or a function (layer, params, residuals, dy) -> dx, record
    where   which layers: an exact layer type; a path as records and errors have it, "Serial[3]" or
            "Serial[3] Dense"; or a function (path, layer) -> bool

    record  the rule's at these layers, and None at the others, where nothing is computed for it.
            Of `gradient`, that is a gradient of some parameters: None freezes the others.

    Several at once: collect_all(norms=only(squared_norms, Dense), seen=only(trace, "Serial[0]")).

    raises  TypeError where `rule` is none, or `where` names no layers; ValueError for a rule that
            carries something beside the parameters

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> rule = fp.collectors.only(fp.collectors.squared_norms, "Serial[2]")
    >>> gradient = fp.backprop(fp.collect(model, rule), fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, found = gradient(params, (x, y))
    >>> [record.path for record in fp.collectors.records(found) if record.value is not None]
    ['Serial[2] Dense']
    """
    check_where(where, "write only(squared_norms, 'Serial[3]')")
    rule = as_rule(rule)
    if rule.holds:
        raise ValueError(
            f"{rule.name} carries something beside all parameters: freeze the other layers, "
            "rewire(model, {'Serial[0]': frozen()})"
        )
    return Only(rule, where)
