"""Lifted: a JAX function as a composite of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import jax

from funcprop.composites import Rewired, RewiredParams, Wrapper
from funcprop.gradient import combine, partition
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    spell,
)
from funcprop.lifting.answering import Answering, examples_in
from funcprop.lifting.calls import Call, Calls
from funcprop.lifting.evaluating import run
from funcprop.lifting.function import named, options_of
from funcprop.lifting.jaxprs import NOT_OF_A_BATCH, over_examples
from funcprop.lifting.mixing import Tried, check_apart
from funcprop.lifting.pullback import LiftedResiduals, Pullback
from funcprop.lifting.rewired import entry, instead, rewiring_of
from funcprop.lifting.uses import Plan
from funcprop.lifting.weight import Examples, Place, Whole, added


@dataclass(frozen=True, init=False, repr=False)
class Lifted(Answering):
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
            examples_in(self, x)
            if not self.mapped:
                check_apart(self._tried(), self._arrays(params), x, context)
            return self._forward_examples(params, x, given)
        if self.asks == "gradient" and not self._has_reverse(params, x, given):
            return self._forward_examples(params, x, given)
        y, pullback = self._forward_whole(params, x, given)
        if self.asks == "gradient":
            return y, LiftedResiduals(pullback)
        return y, LiftedResiduals(pullback, self._pullback_of_uses(params, x, given))

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        own, context = self.spread(params), Context()
        if self.asks == "examples":
            dx, forms = self._backward_examples(params, residuals, dy)
            given = [(Examples(form), ()) for form in forms]
        elif self.asks == "gradient" and residuals.seen:
            dx, forms = self._backward_examples(params, residuals, dy)
            given = [(Whole(), added(form)) for form in forms]
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

    def _has_reverse(self, params: Params, x: Any, given: Any) -> bool:
        """Whether JAX differentiates the function of a batch, and not of single examples alone."""
        names = {place.primitive for layer in self.layers for place in places_of(layer)}
        rewired = any(rewiring_of(layer) for layer in self.layers)
        if not self.mapped or rewired or names.isdisjoint(NOT_OF_A_BATCH):
            return True

        def reverse(params: Params, x: Any) -> Any:
            y, pullback = self._forward_whole(params, x, given)
            return pullback(self._arrays(params), partition(y)[0])

        try:
            jax.eval_shape(reverse, params, x)
        except ValueError:
            return False
        return True

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

    # --- as others walk through it ----------------------------------------------------------------

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


def without_rule(layer: Layer) -> Layer:
    """The weight inside what asks a rule about it."""
    return without_rule(layer.layer) if isinstance(layer, Wrapper) else layer


def places_of(layer: Layer) -> tuple[Place, ...]:
    """Where a parameter is read."""
    return without_rule(layer).places  # type: ignore[attr-defined]
