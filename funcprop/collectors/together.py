"""Several rules in one backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from funcprop.collectors.rule import Remembered, Rule, RuleFunction, as_rule, is_empty
from funcprop.layer import Context, Layer, Params, Residuals


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Both:
    """One parameter's use under each of several rules."""

    uses: tuple[Any, ...]

    @property
    def ndim(self) -> int:
        return self.uses[0].ndim

    @property
    def T(self) -> Both:
        return Both(tuple(use.T for use in self.uses))


def is_both(value: Any) -> bool:
    return isinstance(value, Both)


def of(number: int, tree: Any) -> Any:
    """The uses under one of the rules."""
    return jax.tree.map(lambda both: both.uses[number], tree, is_leaf=is_both)


def zipped(params: Params, uses: tuple[Any, ...]) -> Any:
    """Trees like the parameters -> one, with a `Both` at every parameter."""
    structure = jax.tree.structure(params)
    rows = zip(*(structure.flatten_up_to(use) for use in uses), strict=True)
    return structure.unflatten([Both(row) for row in rows])


@dataclass(frozen=True)
class Together(Rule):
    """Several rules in one pass: the record of each, by name."""

    names: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def name(self) -> str:
        names = [rule.name for rule in self.rules if rule.per_example]
        return " and ".join(names or [rule.name for rule in self.rules])

    @property
    def per_example(self) -> bool:  # type: ignore[override]
        return any(rule.per_example for rule in self.rules)

    def at(self, place: tuple[str, ...], layer: Layer) -> Rule:
        return Together(self.names, tuple(rule.at(place, layer) for rule in self.rules))

    def prepare(self, layer: Layer) -> Layer:
        for rule in self.rules:
            layer = rule.prepare(layer)
        return layer

    def __post_init__(self) -> None:
        for name, rule in zip(self.names, self.rules, strict=True):
            if rule.holds:
                raise ValueError(
                    f"{name} carries something beside the parameters, which only one rule can: "
                    "collect it alone"
                )

    def remember(
        self, layer: Layer, params: Params, x: Any, context: Context, y: Any, residuals: Residuals
    ) -> Any:
        given = (layer, params, x, context, y, residuals)
        return tuple(rule.remember(*given) for rule in self.rules)

    def _each(self, function: str, layer: Layer, params: Any, residuals: Any, dy: Any) -> Any:
        results = []
        for number, rule in enumerate(self.rules):
            extra = residuals.extra[number]
            own = residuals.residuals if is_empty(extra) else Remembered(residuals.residuals, extra)
            results.append(getattr(rule, function)(layer, params, own, dy))
        # every rule passes on the layer's own dx: XLA computes it once
        return results[0][0], tuple(record for _, record in results)

    def __call__(
        self, layer: Layer, params: Params, residuals: Residuals, dy: Any
    ) -> tuple[Any, Any]:
        dx, records = self._each("__call__", layer, params, residuals, dy)
        return dx, dict(zip(self.names, records, strict=True))

    def use(self, layer: Layer, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        dx, uses = self._each("use", layer, params, residuals, dy)
        return dx, zipped(params, uses)

    def finish(self, layer: Layer, params: Params, use: Any) -> Any:
        rows = enumerate(zip(self.names, self.rules, strict=True))
        return {name: rule.finish(layer, params, of(i, use)) for i, (name, rule) in rows}

    def places(self, layer: Layer, records: tuple[Any, ...]) -> Any:
        each = []
        for number, rule in enumerate(self.rules):
            each.append(rule.places(layer, tuple(of(number, record) for record in records)))
        first = jax.tree.structure(records[0], is_leaf=is_both)
        rows = zip(*(first.flatten_up_to(total) for total in each), strict=True)
        return first.unflatten([Both(row) for row in rows])

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        one = jax.tree.map(lambda leaf: leaf[0], each)
        first = jax.tree.structure(jax.eval_shape(lambda: step(one)[1]), is_leaf=is_both)
        dxs, totals = [], []
        for number, rule in enumerate(self.rules):

            def only(slice: Any, number: int = number) -> tuple[Any, Any]:
                dx, uses = step(slice)
                return dx, of(number, uses)

            dx, total = rule.steps(layer, only, each)
            dxs.append(dx)
            totals.append(total)
        rows = zip(*(first.flatten_up_to(total) for total in totals), strict=True)
        return dxs[0], first.unflatten([Both(row) for row in rows])


def collect_all(**rules: Rule | RuleFunction) -> Together:
    """Several rules in one backward pass: collect_all(gradient=gradient, norms=squared_norms).

    rules   name=rule, or a function (layer, params, residuals, dy) -> dx, record
    record  of a layer: a dict with these names, of the records that each rule alone would make

    raises  TypeError where there is no rule at all, or something is none; ValueError for a rule
            that carries something beside the parameters (`update`)

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> rules = fp.collect_all(gradient=fp.collectors.gradient, norms=fp.collectors.squared_norms)
    >>> gradient = fp.backprop(fp.collect(model, rules), fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, found = gradient(params, (x, y))
    >>> jax.tree.map(jnp.shape, fp.collectors.values(found, "gradient"))
    (Affine(w=(2, 3), b=(3,)), (), Affine(w=(3, 2), b=(2,)))
    >>> fp.collectors.total(found, "norms").shape
    (4,)
    """
    if not rules:
        raise TypeError("collect_all was given no rule: write collect_all(gradient=gradient)")
    return Together(tuple(rules), tuple(map(as_rule, rules.values())))
