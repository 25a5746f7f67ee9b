"""A function whose uses of parameters are asked: for single examples, and for what they saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal

from funcprop.collectors.form import Form, several
from funcprop.collectors.forms import Full
from funcprop.gradient import combine, partition
from funcprop.layer import Array, Layer, LayerError, Params, Residuals, is_float, spell
from funcprop.lifting.asking import form_of, plan_needs, replayed, seen_by, together
from funcprop.lifting.evaluating import Taps, run, taps_of
from funcprop.lifting.function import reduced
from funcprop.lifting.jaxprs import source_of
from funcprop.lifting.linear import CUSTOM
from funcprop.lifting.placing import followed, made_of, told
from funcprop.lifting.pullback import Kept, LiftedResiduals, Pullback, Seeing
from funcprop.lifting.traceable import Traceable
from funcprop.lifting.uses import Plan
from funcprop.lifting.weight import Seen
from funcprop.sharding import entries, fresh, is_spread


@dataclass(frozen=True, init=False, repr=False)
class Answering(Traceable):
    """A function with taps at its uses of parameters: one pass back, and each has told its part."""

    # --- single examples --------------------------------------------------------------------------

    def _forward_examples(self, params: Params, x: Any, given: Any) -> tuple[Any, Residuals]:
        size = examples_in(self, x)
        params = self._arrays(params)
        plan, outs = self.plan(params, jax.tree.map(one_example, x), one_of(given))
        check_rules(self, plan)
        values = self._known(plan, params)
        floats, rest = partition(x)
        each = dict(given)
        if "key" in given:
            each["key"] = jax.random.split(given["key"], size)
        own, others = self._inputs(params)
        taps, sent = self._taps(plan)
        lead = next((entries(leaf)[0] for leaf in jax.tree.leaves(x) if is_spread(leaf)), None)

        def zeros(s: Any) -> Array:  # spread over the devices as the examples are
            wide = jnp.zeros((size, *s.shape), s.dtype)
            return fresh(wide, (lead, *(None for _ in s.shape)), x)

        wide = jax.tree.map(zeros, (taps, sent))

        def one(floats: Any, wide: Any, rest: Any, each: Any) -> Any:
            taps, sent = wide
            data = jax.tree.leaves((combine(floats, rest), each))
            by_var = dict(zip(plan_needs(plan), taps, strict=True))
            return run(plan, [*own, *others, *data], by_var, sent, values)

        def mapped(floats: Any, wide: Any) -> tuple[Any, Any]:
            ys, kept = jax.vmap(one)(floats, wide, rest, each)
            ys = jax.tree.unflatten(outs, ys)
            if self.mapped:
                ys = reduced(ys, self.function.reduction)  # type: ignore[attr-defined]
            ys, others = partition(ys)
            return ys, (others, kept)

        y, pullback, (others, kept) = jax.vjp(mapped, floats, wide, has_aux=True)
        pullback = Pullback.of(pullback, params, plan)
        return combine(y, others), LiftedResiduals(pullback, Seeing(kept, Kept(plan, size)))

    def _backward_examples(
        self, params: Params, residuals: LiftedResiduals, dy: Any
    ) -> tuple[Any, list[Form]]:
        params = self._arrays(params)
        dx, (gradients, sent) = residuals.pullback(params, partition(dy)[0])
        plan, size = residuals.seen.static.plan, residuals.seen.static.size
        values = dict(zip(plan.jaxpr.jaxpr.invars, self._all_inputs(params), strict=False))
        made: dict[Any, list[Form]] = {}
        for var, gradient in zip(plan_needs(plan), gradients, strict=True):
            for leaf in self._leaves_of(plan, var):
                made.setdefault(leaf, []).append(
                    told(plan, None, var, leaf, values, Full(gradient))  # type: ignore[call-arg]
                )
        for use, operands, (d,) in seen_by(plan, residuals.seen.kept, sent):
            form = form_of(use, operands, d)
            for leaf in self._leaves_of(plan, use.var):
                made.setdefault(leaf, []).append(told(plan, use, use.var, leaf, values, form))
        invars = plan.jaxpr.jaxpr.invars[: len(self.layers)]

        def all_of(leaf: Any) -> Form:
            forms = made.get(leaf)
            if forms is None:  # the function does not read it
                zeros = jnp.zeros((size, *leaf.aval.shape), leaf.aval.dtype)
                return Full(zeros)  # type: ignore[call-arg]
            return several(together(forms))

        return dx, [all_of(leaf) for leaf in invars]

    # --- what the uses saw ------------------------------------------------------------------------

    def _pullback_of_uses(self, params: Params, x: Any, given: Any) -> Seeing:
        params = self._arrays(params)
        plan, _ = self.plan(params, x, given, "uses")
        check_rules(self, plan)
        values = self._known(plan, params)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self._taps(plan))
        inputs = [*self._all_inputs(params), *jax.tree.leaves((x, given))]

        def f(zeros: Any) -> Any:
            taps, sent = zeros
            ys, kept = run(
                plan, inputs, dict(zip(plan_needs(plan), taps, strict=True)), sent, values
            )
            return [y for y in ys if is_float(y)], kept

        _, pullback, kept = jax.vjp(f, zeros, has_aux=True)
        return Seeing(kept, Kept(plan, 0), pullback)

    def _seen(self, params: Params, seen: Seeing, dy: Any, gradients: Any) -> list[Any]:
        ((_, sent),) = seen.pullback([leaf for leaf in jax.tree.leaves(dy) if is_float(leaf)])
        plan = seen.static.plan
        values = dict(zip(plan.jaxpr.jaxpr.invars, self._all_inputs(params), strict=False))
        rows: dict[Any, list[Any]] = {}
        for use, operands, (d,) in seen_by(plan, seen.kept, sent):
            inputs, function, _ = made_of(plan, use.var)
            weight = followed(use.chain, function(*(values[v] for v in inputs)))
            y, dx = replayed(use, weight, list(operands), d)
            for leaf in self._leaves_of(plan, use.var):
                rows.setdefault(leaf, []).append((operands, y, dx, d))
        found = []
        for leaf, gradient in zip(plan.jaxpr.jaxpr.invars, gradients, strict=False):
            columns = list(zip(*rows.get(leaf, ()), strict=True)) or [()] * 4
            operands, ys, dxs, ds = map(tuple, columns)
            found.append((Seen(operands, ys, dxs, gradient), ds))
        return found

    def _taps(self, plan: Plan) -> tuple[list[Any], Taps]:
        """The shapes of the taps: of generic values, and of closed uses."""
        own = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in plan_needs(plan)]
        return own, taps_of(plan)


def check_rules(layer: Layer, plan: Plan) -> None:
    """Raises LayerError where a rule closes over a value of the function, which is gone once that
    is traced. What it closes over besides are constants."""
    known = set(plan.jaxpr.jaxpr.constvars)
    for eqn in plan.jaxpr.eqns:
        differentiated = eqn.primitive.name == CUSTOM and any(map(plan.kind, eqn.outvars))
        if differentiated and not known.issuperset(closed_over(eqn)):
            raise LayerError(
                layer,
                f"calls a jax.custom_vjp at {source_of(eqn)[0]} that closes over a value of the "
                "function around it",
                "give it the value as an argument, and return None for its gradient",
            )


def closed_over(eqn: JaxprEqn) -> list[Any]:
    """The values that a rule closes over."""
    return [a for a in eqn.invars[: eqn.params["num_consts"]] if not isinstance(a, Literal)]


def one_example(leaf: Any) -> Any:
    """The type of one example."""
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def one_of(given: dict[str, Any]) -> dict[str, Any]:
    """What of the context one example is given: its own key, and its row of the mask."""
    return {name: v if name == "key" else one_example(v) for name, v in given.items()}


def examples_in(layer: Layer, x: Any) -> int:
    """How many examples a batch holds."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or () in sizes:
        raise LayerError(
            layer,
            f"x is {spell(x)}: no common axis 0",
            "give the examples on axis 0 of every input",
        )
    return sizes.pop()[0]
