"""Lifted: a JAX function as a composite of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp

from funcprop.collectors.forms import Form, Full, several
from funcprop.composites import Rewired, RewiredParams, Wrapper
from funcprop.gradient import combine, partition
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    is_float,
    spell,
)
from funcprop.lifting.asking import form_of, plan_needs, replayed, seen_by, together
from funcprop.lifting.calls import Call, Calls
from funcprop.lifting.evaluating import Taps, run, taps_of
from funcprop.lifting.function import named, options_of, reduced
from funcprop.lifting.jaxprs import over_examples
from funcprop.lifting.mixing import Tried, check_apart
from funcprop.lifting.placing import followed, made_of, told
from funcprop.lifting.pullback import Kept, LiftedResiduals, Pullback, Seeing
from funcprop.lifting.rewired import entry, instead, rewiring_of
from funcprop.lifting.traceable import Traceable
from funcprop.lifting.uses import Plan
from funcprop.lifting.weight import Examples, Seen, Whole
from funcprop.sharding import entries, is_spread, spread_as


@dataclass(frozen=True, init=False, repr=False)
class Lifted(Traceable):
    """A function as a layer: `lift(function, params, x)`.

    function   (params, x) -> y
    tree       of the parameters
    calls      the calls of `jax.custom_vjp` and `jax.custom_jvp` functions in it
    layers     a `Weight` for every float among the parameters, by which rules are asked
    asks       what backward finds of each: "gradient", "examples" (the gradients of single
               examples) or "uses" (what every use has seen)

    forward    x -> y, the function's: any trees
    keeps      what `jax.vjp` keeps
    backward   dx, and dparams: the tree, shapes and dtypes of the parameters, None at integers
    dtypes     the function's
    raises     LayerError where the parameters are of another tree, and what the function raises

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    >>> fp.lift(lambda p, x: x @ p["w"] + p["b"], params, jnp.ones((4, 3))).layers
    (Weight("['b']": add), Weight("['w']": dot_general))
    """

    calls: tuple[Call, ...]
    start: Callable[..., Any] | None
    asks: str

    def __init__(
        self,
        function: Callable[..., Any],
        tree: Any,
        floats: tuple[bool, ...],
        layers: tuple[Layer, ...],
        calls: tuple[Call, ...] = (),
        start: Callable[..., Any] | None = None,
        asks: str = "gradient",
    ) -> None:
        for name, value in (
            ("function", function),
            ("tree", tree),
            ("floats", floats),
            ("calls", calls),
            ("start", start),
            ("asks", asks),
        ):
            object.__setattr__(self, name, value)
        super().__init__(*layers)

    def __repr__(self) -> str:
        return f"lift({self.function!r})" if self.mapped else f"lift({named(self.function)})"

    @property
    def reduction(self) -> str:
        """What a loss of single examples makes of them; no attribute of any other function."""
        if self.mapped and self.function.reduction != "none":  # type: ignore[attr-defined]
            return self.function.reduction  # type: ignore[attr-defined]
        raise AttributeError("this function takes no mean and no sum that is known")

    # --- the tree of parameters -------------------------------------------------------------------

    def to_children(self, params: Params) -> Params:
        return self.spread(params)

    def from_children(self, params: Params, dparams: Params) -> Params:
        """dparams, with None at what is no float."""
        given = iter(dparams)
        return self.tree.unflatten([next(given) if own else None for own in self.floats])

    def place(self, position: int) -> str:
        return f"params{without_rule(self.layers[position]).path}"  # type: ignore[attr-defined]

    def under(self, rule: Any) -> Self:
        """The same layer, whose backward finds what a rule asks for."""
        if rule.per_example and getattr(self, "reduction", "sum") == "mean":
            raise LayerError(
                self,
                f"takes a mean, and {rule.name} speaks of each example's own gradient",
                "sum instead: fp.per_example(loss, reduction='sum'); divide by the number of "
                "examples afterwards",
            )
        rewired = [layer for layer in self.layers if rewiring_of(layer) is not None]
        if rewired and (rule.per_example or not rule.like_params):
            raise LayerError(
                self,
                f"is rewired, and {rule.name} is asked at its uses",
                "ask the function without its rewirings; the gradient is there in both",
            )
        asks = "examples" if rule.per_example else "gradient" if rule.like_params else "uses"
        new = Lifted(
            self.function, self.tree, self.floats, self.layers, self.calls, self.start, asks
        )
        return new.with_shared(self.shared)  # type: ignore[return-value]

    # --- the layer --------------------------------------------------------------------------------

    def adopted(self, params: Params) -> Params:
        """The function's parameters as a rewired function has them: `RewiredParams` where one is
        rewired."""

        def one(layer: Layer, leaf: Any) -> Any:
            rewired = rewiring_of(layer)
            if rewired is None:
                return leaf
            return RewiredParams(leaf, rewired.feedback(jax.random.key(0), leaf, leaf))

        rows = zip(self.layers, self.spread(params), strict=True)
        given = iter([one(*row) for row in rows])
        pairs = zip(self.leaves(params), self.floats, strict=True)
        return self.tree.unflatten([next(given) if own else leaf for leaf, own in pairs])

    def init(self, key: Array, x: Any) -> Params:
        if self.start is None:
            raise LayerError(
                self,
                "was lifted with parameters that exist, and makes none",
                "use those, or say how they are made: fp.lift(f, params, x, init=init)",
            )
        return self.adopted(self.start(key, x))

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        given = options_of(self.function, context)
        if context.mask is not None and "mask" not in given and hasattr(self, "reduction"):
            raise LayerError(
                self,
                f"was given a mask, {spell(context.mask)}, and its function takes none: what the "
                "mask hides would count",
                "let the loss read it from the example, loss(params, (x, y, counts)), or take it "
                "by name, loss(params, x, mask=None)",
            )
        if self.asks == "examples":
            return self._forward_examples(params, x, given, context)
        y, pullback = self._forward_whole(params, x, given)
        if self.asks == "gradient":
            return y, LiftedResiduals(pullback)
        return y, LiftedResiduals(pullback, self._pullback_of_uses(params, x, given))

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        own, context = self.spread(params), Context()
        if self.asks == "examples":
            dx, forms = self._backward_examples(params, residuals, dy)
            given = [(Examples(form), ()) for form in forms]
        else:
            ((dparams, dx),) = residuals.pullback(self._arrays(params), partition(dy)[0])
            gradients = self.spread(dparams)
            if self.asks == "gradient":
                given = [(Whole(), g) for g in gradients]
            else:
                given = self._seen(params, residuals.seen, dy, gradients)
        entries = []
        for layer, p, (x, d) in zip(self.layers, own, given, strict=True):
            if isinstance(layer, Rewired):
                entries.append(entry(layer, p, d))
                continue
            kept = layer.forward(p, x, context)[1]
            entries.append(layer.backward(p, kept, d)[1])
        return dx, self.from_children(params, tuple(entries))

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        return self, params

    def statistics(self, residuals: Residuals) -> Any:
        return ()

    # --- as a whole -------------------------------------------------------------------------------

    def _forward_whole(self, params: Params, x: Any, given: Any) -> tuple[Any, Any]:
        function = self._function(params, given)
        params = self._arrays(params)
        floats, rest = partition((params, x))

        def f(floats: Any) -> tuple[Any, Any]:
            params, x = combine(floats, rest)
            return partition(function(params, x))

        y, pullback, others = jax.vjp(f, floats, has_aux=True)
        return combine(y, others), Pullback.of(pullback, params, (self.function, self.layers))

    def _function(self, params: Params, given: Any) -> Callable[..., Any]:
        """(params, x) -> y, with the rewirings of its uses."""
        rewirings = [rewiring_of(layer) for layer in self.layers]
        if not any(rewirings):
            return lambda params, x: self.function(params, x, **given)
        feedback = [getattr(entry, "feedback", ()) for entry in self.spread(params)]

        def rewired(params: Params, x: Any) -> Any:
            plan, outs = self.plan(params, x, given, "uses")
            invars = plan.jaxpr.jaxpr.invars
            swaps: list[Any] = []
            for use in plan.uses:
                found = [invars.index(leaf) for leaf in self._leaves_of(plan, use.var)]
                at = next((i for i in found if rewirings[i] is not None), None)
                swaps.append(None if at is None else instead(use, rewirings[at], feedback[at]))
            inputs = [*self._all_inputs(params), *jax.tree.leaves((x, given))]
            return outs.unflatten(run(plan, inputs, {}, None, None, swaps)[0])

        return rewired

    # --- single examples --------------------------------------------------------------------------

    def _forward_examples(
        self, params: Params, x: Any, given: Any, context: Context
    ) -> tuple[Any, Residuals]:
        size = examples_in(self, x)
        params = self._arrays(params)
        if not self.mapped:
            check_apart(self._tried(), params, x, context)
        plan, outs = self.plan(params, jax.tree.map(one_example, x), one_of(given))
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
            return spread_as(wide, (lead, *(None for _ in s.shape)), x)

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

    def place_of(self, call: Call) -> str:
        """How a call inside is named."""
        return f"{type(self).__name__}[{call}]"

    def opened(self) -> Layer:
        """As compare walks through it: the calls of custom derivative rules inside."""
        return Calls(self, self.calls)

    def _tried(self) -> Tried:
        """What is looked at where it is tried whether the function mixes examples."""
        bare = tuple(map(without_rule, self.layers))
        whole = Lifted(self.function, self.tree, self.floats, bare, self.calls, self.start)

        def apart(params: Params, x: Any, context: Context) -> Any:
            given = options_of(self.function, context)
            return over_examples(self._one, (None, 0, 0))(params, x, given)

        def plan(params: Params, x: Any, context: Context) -> Plan:
            given = options_of(self.function, context)
            return self.plan(params, x, given, "uses")[0]

        return Tried(whole, apart, plan)

    def _taps(self, plan: Plan) -> tuple[list[Any], Taps]:
        """The shapes of the taps: of generic values, and of closed uses."""
        own = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in plan_needs(plan)]
        return own, taps_of(plan)


def without_rule(layer: Layer) -> Layer:
    """The weight inside what asks a rule about it."""
    return without_rule(layer.layer) if isinstance(layer, Wrapper) else layer


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
