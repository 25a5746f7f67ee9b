"""Functions that Python runs once: what is traced once is a call of its jaxpr from then on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.extend.core.primitives import custom_jvp_call_p

from funcprop.comparison.subject.without_rules import jaxprs_in


class Once:
    """The function, which Python runs once for arguments of some types: then it is its jaxpr.

    Gradients, values and differences trace a function dozens of times, and its Python may take
    longer than all of their programs. In the jaxpr of a caller it is one equation, a call, so that
    it takes no time to meet it again.

    every_time  the function as it was given
    final       whether nobody differentiates it: else a function with a rule that its jaxpr does
                not hold runs every time
    """

    def __init__(self, every_time: Callable[..., Any], final: bool = False) -> None:
        self.every_time, self.final = every_time, final
        self.__name__ = name_of(every_time)
        self._traced: dict[Any, Traced] = {}

    def __call__(self, *args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if not any(isinstance(leaf, Tracer) for leaf in leaves):
            return self.every_time(*args)
        traced = self._of(args)
        if traced.call is None:
            return self.every_time(*args)
        return jax.tree.unflatten(traced.tree, traced.call(traced.jaxpr.consts, *leaves))

    def jaxpr(self, *args: Any) -> ClosedJaxpr:
        """What Python made of arguments of such types."""
        return self._of(args).jaxpr

    def _of(self, args: tuple[Any, ...]) -> Traced:
        leaves, tree = jax.tree.flatten(args)
        wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
        types = tree, *map(jax.typeof, leaves), wide
        if types not in self._traced:
            jaxpr, shapes = jax.make_jaxpr(self.every_time, return_shape=True)(*args)
            whole = self.final or not rule_over_constants(jaxpr)
            call = call_of(jaxpr) if whole else None
            self._traced[types] = Traced(jaxpr, jax.tree.structure(shapes), call)
        return self._traced[types]


class Traced(NamedTuple):
    """A jaxpr; the tree of what it returns; a call of it, or None where it cannot stand for the
    function."""

    jaxpr: ClosedJaxpr
    tree: Any
    call: Callable[..., list[Any]] | None


def call_of(jaxpr: ClosedJaxpr) -> Callable[..., list[Any]]:
    """(constants, *leaves) -> leaves: programs are told apart by the constants that they show."""

    def call(constants: Sequence[Any], *leaves: Any) -> list[Any]:
        return jaxpr_as_fun(ClosedJaxpr(jaxpr.jaxpr, constants))(*leaves)

    return jax.jit(call)


def rule_over_constants(jaxpr: ClosedJaxpr) -> bool:
    """Whether a custom_jvp rule in it closes over constants, as over its `nondiff_argnums`.

    From the jaxpr, JAX hands them to the rule as arrays that a compiled program then takes for
    arguments, and nobody gives it those.
    """
    return any(
        (eqn.primitive is custom_jvp_call_p and eqn.params.get("num_consts", 0) > 0)
        or any(map(rule_over_constants, jaxprs_in(eqn)))
        for eqn in jaxpr.jaxpr.eqns
    )


def name_of(function: Callable[..., Any]) -> str:
    """`relu`; the name of what a partial is of; the type's name where there is no other."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
