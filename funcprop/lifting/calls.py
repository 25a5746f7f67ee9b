"""The calls of custom derivative rules inside a lifted function, as layers that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from funcprop.composites import Composite
from funcprop.gradient import combine, partition
from funcprop.layer import Context, Layer, Params, Residuals
from funcprop.lifting.asking import seen_by
from funcprop.lifting.evaluating import run, taps_of
from funcprop.lifting.function import options_of
from funcprop.lifting.jaxprs import closed, is_float_type, outputs
from funcprop.lifting.uses import Plan, Use


class Functions:
    """What calls compute, by number and operand types: filled where the function is traced."""

    def __init__(self) -> None:
        self.known: dict[Any, Use] = {}

    def add(self, number: int, use: Use) -> None:
        self.known[number, types([v.aval for v in use.eqn.invars])] = use

    def find(self, number: int, operands: Any) -> Callable[..., list[Any]]:
        return self.known[number, types(operands)].function

    def without_rule(self, number: int, operands: Any) -> Callable[..., list[Any]]:
        """What the call computes, differentiated through that: rules it calls are followed."""
        use = self.known[number, types(operands)]
        function = jaxpr_as_fun(closed(use.eqn.params["call_jaxpr"]))
        return function if use.around is None else use.around(function)


def types(operands: Any) -> tuple[Any, ...]:
    return tuple((jnp.shape(x), str(jnp.result_type(x))) for x in operands)


@dataclass(frozen=True, repr=False)
class Call(Layer):
    """One call of a `jax.custom_vjp` or `jax.custom_jvp` function; its rule is what is compared.

    name       of the function
    source     the line that calls it
    number     among all calls
    functions  what it computes, by the types of its operands
    defined    the file and line of the function
    times      how often the loops around it call it
    real       whether no complex number goes in or comes out
    types      of the operands where it was found
    calls      whether its function calls further rules
    devices    of a `shard_map` around it: its operands are those of all, stacked
    """

    name: str
    source: str
    number: int
    functions: Functions
    defined: str = ""
    times: int = 1
    real: bool = True
    types: tuple[Any, ...] = ()
    calls: bool = False
    devices: int = 1

    def __repr__(self) -> str:
        often = f", {self.times} times" if self.times > 1 else ""
        often += f", on {self.devices} devices" if self.devices > 1 else ""
        return f"{self.name}{self.source and f' at {self.source}'}{often}"

    @property
    def words(self) -> str:
        """`relu (nn.py:12), called at model.py:30, 3 times`."""
        often = f", {self.times} times in a loop" if self.times > 1 else ""
        often += f", on {self.devices} devices of a shard_map" if self.devices > 1 else ""
        defined = f" ({self.defined})" if self.defined else ""
        return f"{self.name}{defined}{self.source and f', called at {self.source}'}{often}"

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        floats, rest = partition(x)
        function = self.functions.find(self.number, x)

        def f(floats: Any) -> Any:
            return partition(tuple(function(*combine(floats, rest))))

        y, pullback, others = jax.vjp(f, floats, has_aux=True)
        return combine(y, others), pullback

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        return residuals(dy)[0], ()


class CallsResiduals(NamedTuple):
    """What Calls keeps."""

    pullback: Any
    operands: list[Any]  # of every call, None where a checkpoint computes them again
    context: Context
    static: Traced


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Traced:
    """What belongs to the jaxpr: its plan, the tree of x, and how many leaves stand before it."""

    plan: Plan
    tree: Any
    before: int


@dataclass(frozen=True, init=False, repr=False)
class Calls(Composite):
    """A lifted function, whose children are the calls of custom rules that it makes."""

    lifted: Any
    owns: ClassVar[bool] = True

    def __init__(self, lifted: Any, layers: tuple[Layer, ...]) -> None:
        object.__setattr__(self, "lifted", lifted)
        super().__init__(*layers)

    def __repr__(self) -> str:
        return repr(self.lifted)

    def place(self, position: int) -> str:
        return self.lifted.place_of(self.lifted.calls[position])

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return Calls(self.lifted, layers)

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        given = options_of(self.lifted.function, context)
        plan, outs = self.lifted.plan(params, x, given, "calls")
        leaves = self.lifted.inputs(params, x, context)
        for number, use in enumerate(plan.uses):
            self.lifted.calls[number].functions.add(number, use)
        floats, rest = partition(leaves)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), taps_of(plan))

        def f(floats: Any, zeros: Any) -> Any:
            ys, kept = run(plan, combine(floats, rest), {}, zeros)
            ys, others = partition(ys)
            return ys, (others, kept)

        ys, pullback, (others, kept) = jax.vjp(f, floats, zeros, has_aux=True)
        y = jax.tree.unflatten(outs, combine(ys, others))
        before = len(leaves) - len(jax.tree.leaves((x, given)))
        return y, CallsResiduals(
            pullback, kept, context, Traced(plan, jax.tree.structure(x), before)
        )

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        pullback, kept, context, static = residuals
        plan, tree, before = static.plan, static.tree, static.before
        leaves, sent = pullback(jax.tree.leaves(dy))
        dx = tree.unflatten(leaves[before : before + tree.num_leaves])
        records = []
        for layer, (use, operands, own) in zip(self.layers, seen_by(plan, kept, sent), strict=True):
            aval_of = [v.aval for v in outputs(use.eqn)]
            ds = iter(own)
            dys = tuple(next(ds) if is_float_type(aval) else None for aval in aval_of)

            def one(operands: Any, dys: Any, layer: Layer = layer) -> Any:
                _, own = layer.forward((), operands, context)
                return layer.backward((), own, dys)[1]

            for _ in use.loops:
                one = jax.vmap(one)
            records.append(one(operands, dys))
        return dx, tuple(records)
