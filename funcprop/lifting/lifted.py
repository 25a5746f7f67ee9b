"""Lifted: a JAX function as a composite of its parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from funcprop.collectors.forms import Form, Full, several
from funcprop.collectors.held import Held
from funcprop.collectors.single_examples import check_summed
from funcprop.composites import Composite, Rewired, RewiredParams, Wrapper
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
from funcprop.lifting.asking import form_of, frontier, plan_needs, replayed, seen_by, together
from funcprop.lifting.calls import Call, Calls
from funcprop.lifting.evaluating import Taps, run, taps_of
from funcprop.lifting.function import PerExample, named, options_of, reduced
from funcprop.lifting.mixing import Tried, check_apart
from funcprop.lifting.placing import followed, made_of, told
from funcprop.lifting.plan import DATA, NEITHER, PARAMETER, Plan, plan_of
from funcprop.lifting.rewired import entry, instead, rewiring_of
from funcprop.lifting.weight import Examples, Seen, Whole


class LiftedResiduals(NamedTuple):
    """What Lifted keeps."""

    pullback: Any  # what jax.vjp returns: a pytree that holds JAX's own residuals
    seen: Any = ()  # where the uses are asked: the pullback that tells what they saw


@dataclass(frozen=True, init=False, repr=False)
class Lifted(Composite):
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

    function: Callable[..., Any]
    tree: Any
    floats: tuple[bool, ...]
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
    def mapped(self) -> bool:
        """Whether the function is one of a single example."""
        return isinstance(self.function, PerExample)

    @property
    def reduction(self) -> str:
        """What a loss of single examples makes of them; no attribute of any other function."""
        if self.mapped and self.function.reduction != "none":  # type: ignore[attr-defined]
            return self.function.reduction  # type: ignore[attr-defined]
        raise AttributeError("this function takes no mean and no sum that is known")

    # --- the tree of parameters -------------------------------------------------------------------

    def spread(self, tree: Any) -> tuple[Any, ...]:
        """A tree like the parameters -> the entries of the floats."""
        try:
            leaves = self.tree.flatten_up_to(tree)
        except ValueError as error:
            problem = f"the parameters are of another tree than they were lifted with: {error}"
            raise LayerError(
                self, problem, "lift the function again: fp.lift(f, params, x)"
            ) from None
        return tuple(leaf for leaf, own in zip(leaves, self.floats, strict=True) if own)

    def gathered(self, tree: Any, entries: tuple[Any, ...]) -> Any:
        """The inverse, with None at what is no float."""
        given = iter(entries)
        return self.tree.unflatten([next(given) if own else None for own in self.floats])

    def to_children(self, params: Params) -> Params:
        return self.spread(params)

    def from_children(self, params: Params, dparams: Params) -> Params:
        return self.gathered(params, dparams)

    def place(self, position: int) -> str:
        return f"params{self.layers[position].path}"  # type: ignore[attr-defined]

    def under(self, rule: Any) -> Self:
        """The same layer, whose backward finds what a rule asks for."""
        if rule.per_example:
            check_summed(self, rule)
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
        leaves = self.tree.flatten_up_to(params)
        pairs = zip(leaves, self.floats, strict=True)
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
        return dx, self.gathered(params, tuple(entries))

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

    def _arrays(self, params: Params) -> Params:
        """The parameters, without what a rule or a rewiring carries beside them."""

        def bare(leaf: Any) -> Any:
            return bare(leaf.params) if isinstance(leaf, (Held, RewiredParams)) else leaf

        return self.tree.unflatten([bare(leaf) for leaf in self.tree.flatten_up_to(params)])

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
        wide = jax.tree.map(lambda s: jnp.zeros((size, *s.shape), s.dtype), (taps, sent))

        def one(floats: Any, wide: Any, rest: Any, each: Any) -> list[Any]:
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

    def opened(self) -> Layer:
        """As compare walks through it: the calls of custom derivative rules inside."""
        return Calls(self, self.calls)

    def _tried(self) -> Tried:
        """What is looked at where it is tried whether the function mixes examples."""
        bare = tuple(map(without_rule, self.layers))
        whole = Lifted(self.function, self.tree, self.floats, bare, self.calls, self.start)

        def apart(params: Params, x: Any, context: Context) -> Any:
            given = options_of(self.function, context)
            return jax.vmap(functools.partial(self._one, params))(x, given)

        def plan(params: Params, x: Any, context: Context) -> Plan:
            given = options_of(self.function, context)
            return self.plan(params, x, given, "uses")[0]

        return Tried(whole, apart, plan)

    def inputs(self, params: Params, x: Any, context: Context) -> list[Any]:
        """What the jaxpr of the function of a batch is evaluated at."""
        data = jax.tree.leaves((x, options_of(self.function, context)))
        return [*self._all_inputs(params), *data]

    # --- the plan ---------------------------------------------------------------------------------

    def plan(self, params: Params, x: Any, given: Any, asks: str = "forms") -> tuple[Plan, Any]:
        """-> the plan of one example ("forms") or of the batch, and the tree of its output."""
        own, others = self._inputs(params)
        data, tree = jax.tree.flatten((x, given))
        avals = [jax.typeof(leaf) for leaf in (*own, *others, *data)]
        shapes = tuple(
            (str(a.dtype), a.shape, a.weak_type) if hasattr(a, "weak_type") else a for a in avals
        )
        key = (self.function, self.tree, self.floats, asks, tree, shapes)
        try:
            if key in PLANS:
                return PLANS[key]
        except TypeError:  # a function that cannot be hashed is traced every time
            key = None

        def flat(*leaves: Any) -> Any:
            first, second = len(own), len(own) + len(others)
            params = self._whole_tree(leaves[:first], leaves[first:second])
            x, given = jax.tree.unflatten(tree, leaves[second:])
            if asks == "forms":
                return self._one(params, x, given)
            return self.function(params, x, **given)

        jaxpr, outs = jax.make_jaxpr(flat, return_shape=True)(*(_bare(a) for a in avals))
        first = DATA if asks == "calls" else PARAMETER
        kinds = [first] * len(own) + [NEITHER] * len(others) + [DATA] * len(data)
        found = plan_of(jaxpr, kinds, asks=asks), jax.tree.structure(outs)
        traced = any(isinstance(c, jax.core.Tracer) for c in found[0].jaxpr.consts)
        if key is not None and not traced:
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
        leaves = self.tree.flatten_up_to(params)
        rows = list(zip(leaves, self.floats, strict=True))
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

    def _taps(self, plan: Plan) -> tuple[list[Any], Taps]:
        """The shapes of the taps: of generic values, and of closed uses."""
        own = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in plan_needs(plan)]
        return own, taps_of(plan)

    def _leaves_of(self, plan: Plan, var: Any) -> list[Any]:
        """The float parameters that a value is made of."""
        invars = plan.jaxpr.jaxpr.invars[: len(self.layers)]
        if var in invars:
            return [var]
        needed = made_of(plan, var)[0]
        return [v for v in invars if v in needed]


PLANS: dict[Any, Any] = {}


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Kept:
    """What stands beside residuals, and is no array."""

    plan: Plan
    size: int


class Seeing(NamedTuple):
    """What is kept where the uses are asked."""

    kept: list[Any]  # their operands, where no checkpoint computes them again
    static: Kept
    pullback: Any = ()  # where it is not that of the function itself


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=["own", "tree"]
)
@dataclass(frozen=True)
class Pullback:
    """What `jax.vjp` returns, without parameters, of which backward is given the same.

    Its tree is the same whenever the same function is traced. JAX's own is another one every time,
    and would have every step compiled.
    """

    leaves: list[Any]
    own: tuple[int | None, ...]  # for every leaf of JAX's, which parameter it is, if it is one
    tree: Any

    @staticmethod
    def of(pullback: Any, params: Params, key: Any) -> Pullback:
        leaves, tree = jax.tree.flatten(pullback)
        number = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(params))}
        own = tuple(number.get(id(leaf)) for leaf in leaves)
        types = tuple((jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)
        rest = [leaf for leaf, i in zip(leaves, own, strict=True) if i is None]
        try:
            return Pullback(rest, own, remembered(TREES, (key, types), tree))
        except TypeError:  # a function that cannot be hashed
            return Pullback(rest, own, tree)

    def __call__(self, params: Params, dy: Any) -> Any:
        given, rest = jax.tree.leaves(params), iter(self.leaves)
        leaves = [next(rest) if i is None else given[i] for i in self.own]
        return self.tree.unflatten(leaves)(dy)


TREES: dict[Any, Any] = {}
LIMIT = 1024  # of what is remembered of functions


def remembered(known: dict[Any, Any], key: Any, value: Any) -> Any:
    """The value that is known under the key, or this one from now on."""
    if key not in known and len(known) >= LIMIT:
        del known[next(iter(known))]
    return known.setdefault(key, value)


def _bare(aval: Any) -> Any:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


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
