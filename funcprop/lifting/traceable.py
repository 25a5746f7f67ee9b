"""A function with a tree of parameters, as it is traced: for one example, or for a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from funcprop.collectors.held import Held
from funcprop.composites import Composite, RewiredParams
from funcprop.layer import Context, LayerError, Params, spell
from funcprop.lifting.asking import frontier
from funcprop.lifting.function import PerExample, options_of
from funcprop.lifting.jaxprs import is_key
from funcprop.lifting.placing import made_of
from funcprop.lifting.plan import plan_of
from funcprop.lifting.primitives import TABLE
from funcprop.lifting.pullback import remembered, without_addresses
from funcprop.lifting.uses import DATA, NEITHER, PARAMETER, Plan

PLANS: dict[Any, Any] = {}
SMALL = 4096  # numbers


@dataclass(frozen=True, init=False, repr=False)
class Traceable(Composite):
    """A composite of a function's parameters, an entry of `layers` for each that is a float.

    function   (params, x) -> y
    tree       of the parameters
    floats     which of its leaves are floats
    """

    function: Callable[..., Any]
    tree: Any
    floats: tuple[bool, ...]

    @property
    def mapped(self) -> bool:
        """Whether the function is one of a single example."""
        return isinstance(self.function, PerExample)

    def spread(self, tree: Any) -> tuple[Any, ...]:
        """A tree like the parameters -> the entries of the floats."""
        rows = zip(self.leaves(tree), self.floats, strict=True)
        return tuple(leaf for leaf, own in rows if own)

    def leaves(self, tree: Any) -> list[Any]:
        """The leaves of a tree like the parameters."""
        try:
            return self.tree.flatten_up_to(tree)
        except ValueError as error:
            problem = f"the parameters are of another tree than they were lifted with: {error}"
            raise LayerError(
                self, problem, "lift the function again: fp.lift(f, params, x)"
            ) from None

    def gathered(self, tree: Any, entries: tuple[Any, ...]) -> Any:
        """The inverse: what is no float stays what it is in the tree."""
        given = iter(entries)
        leaves = zip(self.tree.flatten_up_to(tree), self.floats, strict=True)
        return self.tree.unflatten([next(given) if own else leaf for leaf, own in leaves])

    def inputs(self, params: Params, x: Any, context: Context) -> list[Any]:
        """What the jaxpr of the function of a batch is evaluated at."""
        data = jax.tree.leaves((x, options_of(self.function, context)))
        return [*self._all_inputs(params), *data]

    def plan(self, params: Params, x: Any, given: Any, asks: str = "forms") -> tuple[Plan, Any]:
        """-> the plan of one example ("forms") or of the batch, and the tree of its output."""
        own, others = self._inputs(params)
        data, tree = jax.tree.flatten((x, given))
        avals = [jax.typeof(leaf) for leaf in (*own, *others, *data)]
        rows = tuple(TABLE.values())

        def flat(*leaves: Any) -> Any:
            first, second = len(own), len(own) + len(others)
            params = self._whole_tree(leaves[:first], leaves[first:second])
            x, given = jax.tree.unflatten(tree, leaves[second:])
            if asks == "forms":
                return self._one(params, x, given)
            return self.function(params, x, **given)

        jaxpr, outs = jax.make_jaxpr(flat, return_shape=True)(*avals)
        consts = [c.copy() if isinstance(c, np.ndarray) else c for c in jaxpr.consts]
        jaxpr = ClosedJaxpr(jaxpr.jaxpr, consts)  # what is NumPy's may be written to
        key = (self.function, self.tree, self.floats, asks, tree, rows, *avals, *written(jaxpr))
        try:
            if key in PLANS:
                return PLANS[key]
        except TypeError:  # a function that cannot be hashed
            key = None
        first = DATA if asks == "calls" else PARAMETER
        kinds = [first] * len(own) + [NEITHER] * len(others) + [DATA] * len(data)
        found = plan_of(jaxpr, kinds, asks=asks), jax.tree.structure(outs)
        if key is not None and not any(isinstance(c, Tracer) for c in jaxpr.consts):
            remembered(PLANS, key, found)
        return found

    def _one(self, params: Params, x: Any, given: Any) -> Any:
        """The function of one example; that of a batch is given a batch of one."""
        if self.mapped:
            return self.function.function(params, x, **given)  # type: ignore[attr-defined]
        y = self.function(params, jax.tree.map(lambda leaf: leaf[None], x), **given)
        if any(jnp.shape(leaf)[:1] != (1,) for leaf in jax.tree.leaves(y)):
            raise LayerError(
                self,
                f"returns {spell(y)} for a batch of one: no example axis in front",
                "return one row an example, [B, ...]; of a loss, write it for one example and lift "
                "fp.per_example(loss, reduction='sum')",
            )
        return jax.tree.map(lambda leaf: leaf[0], y)

    def _inputs(self, params: Params) -> tuple[list[Any], list[Any]]:
        """The floats among the parameters, and the rest."""
        rows = list(zip(self.leaves(params), self.floats, strict=True))
        return [leaf for leaf, own in rows if own], [leaf for leaf, own in rows if not own]

    def _all_inputs(self, params: Params) -> list[Any]:
        own, others = self._inputs(self._arrays(params))
        return [*own, *others]

    def _whole_tree(self, own: Any, others: Any) -> Params:
        floats, rest = iter(own), iter(others)
        return self.tree.unflatten([next(floats if is_own else rest) for is_own in self.floats])

    def _known(self, plan: Plan, params: Params) -> dict[Any, Any]:
        """The values that are made of parameters alone, and meet data."""
        inputs = dict(zip(plan.jaxpr.jaxpr.invars, self._all_inputs(params), strict=False))
        found = {}
        for var in frontier(plan):
            if var in inputs:
                continue
            needed, function, _ = made_of(plan, var)
            found[var] = function(*(inputs[v] for v in needed))
        return found

    def _leaves_of(self, plan: Plan, var: Any) -> list[Any]:
        """The float parameters that a value is made of."""
        invars = plan.jaxpr.jaxpr.invars[: len(self.layers)]
        if var in invars:
            return [var]
        needed = made_of(plan, var)[0]
        return [v for v in invars if v in needed]

    def _arrays(self, params: Params) -> Params:
        """The parameters, without what a rule or a rewiring carries beside them."""

        def bare(leaf: Any) -> Any:
            return bare(leaf.params) if isinstance(leaf, (Held, RewiredParams)) else leaf

        return self.tree.unflatten([bare(leaf) for leaf in self.leaves(params)])


def written(jaxpr: ClosedJaxpr) -> tuple[Any, ...]:
    """What a function computes, to know it by: what it closes over may have changed since it was
    traced last."""
    return without_addresses(str(jaxpr)), *map(told_apart, jaxpr.consts)


def told_apart(const: Any) -> Any:
    """A small constant by its numbers, since it may be made anew each time; else by what it is."""
    if isinstance(const, Tracer) or not is_small(const):
        return id(const)
    value = np.asarray(jax.random.key_data(const) if is_key(const) else const)
    return value.shape, str(value.dtype), value.tobytes()


def is_small(const: Any) -> bool:
    return isinstance(const, np.ndarray) or getattr(const, "size", SMALL) < SMALL
