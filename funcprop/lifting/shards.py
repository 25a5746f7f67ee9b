"""The body of a `shard_map`, entered for the calls of derivative rules in it.

Every device sees operands of its own, and what it sends into a tap is stacked along an axis in
front. A rule may add over devices. So a call is told as a function of the operands of all devices
together, under a `shard_map` of its own, in which each varies over the axes that it varied over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import lax
from jax.extend.core import DropVar, JaxprEqn, Var
from jax.sharding import NamedSharding, PartitionSpec

from funcprop.lifting.branches import has_key
from funcprop.lifting.jaxprs import outputs
from funcprop.lifting.uses import Delta, Plan, Site, Use
from funcprop.sharding import varies

SHARD_MAP = "shard_map"


def on_shards(eqn: JaxprEqn, function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Another function of what each device holds, mapped over devices as the equation maps its."""
    p = eqn.params
    return jax.shard_map(
        function,
        mesh=p["mesh"],
        in_specs=tuple(p["in_specs"]),
        out_specs=list(p["out_specs"]),
        axis_names=set(p["newly_manual_axes"]),
        check_vma=p["check_vma"],
    )


def is_outermost(eqn: JaxprEqn) -> bool:
    """Whether a `shard_map` stands in no other, whose axes would be unknown outside of it."""
    return not getattr(eqn.params["mesh"], "manual_axes", ())


@dataclass(frozen=True, eq=False)
class Shards:
    """The devices of a `shard_map`.

    mesh   of the equation
    axes   those of the mesh that it maps over
    check  whether the types tell over which of them a value varies; else it is over all
    """

    mesh: Any
    axes: tuple[str, ...]
    check: bool

    @staticmethod
    def of(eqn: JaxprEqn) -> Shards:
        p = eqn.params
        axes = tuple(name for name in p["mesh"].axis_names if name in p["newly_manual_axes"])
        return Shards(p["mesh"], axes, p["check_vma"])

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.shape[name] for name in self.axes)

    def over(self, aval: Any) -> tuple[str, ...]:
        """The axes that a value inside varies over."""
        return tuple(a for a in self.axes if a in varies(aval)) if self.check else self.axes

    def spec(self, aval: Any, before: int = 0) -> PartitionSpec:
        """Of the stack, behind as many axes of loops."""
        return PartitionSpec(*(None,) * before, self.over(aval) or None)

    def stacked(self, aval: Any) -> jax.ShapeDtypeStruct:
        """The type outside of a value inside: what devices have in common is there once."""
        size = math.prod(self.mesh.shape[name] for name in self.over(aval))
        return jax.ShapeDtypeStruct((size, *aval.shape), aval.dtype)

    def outside(self, eqn: JaxprEqn) -> JaxprEqn:
        """An equation inside with the types that its operands and outputs have stacked."""

        def var(atom: Any) -> Any:  # its type is all that is asked of it
            return Var(jax.typeof(self.stacked(atom.aval)))

        outvars: list[Any] = [v if isinstance(v, DropVar) else var(v) for v in eqn.outvars]
        return eqn.replace(invars=list(map(var, eqn.invars)), outvars=outvars)

    def spread(self, tree: Any, specs: Any) -> Any:
        """What lies as the specs say, where the mesh wants to be told."""
        if not self.mesh.explicit_axes:
            return tree
        return jax.tree.map(
            lambda x, spec: jax.reshard(x, NamedSharding(self.mesh, spec)), tree, specs
        )

    def together(
        self, function: Callable[..., list[Any]], given: Sequence[Any], made: Sequence[Any]
    ) -> Callable[..., list[Any]]:
        """A function of what one device holds, of these types -> that of the stacks of all."""
        specs = tuple(map(self.spec, given))

        def one(*operands: Any) -> list[Any]:
            return [y[None] for y in function(*(x[0] for x in operands))]

        mapped = jax.shard_map(
            one, mesh=self.mesh, in_specs=specs, out_specs=list(map(self.spec, made)),
            axis_names=set(self.axes), check_vma=self.check,
        )  # fmt: skip
        return lambda *operands: mapped(*self.spread(operands, specs))


def sharded(
    eqn: JaxprEqn, inner: Plan, first_of: tuple[int, int]
) -> tuple[Site, list[Delta]] | None:
    """-> the site of a `shard_map`, and the cotangents that are asked for inside; None where what
    stands in it cannot be told: a key is no number that a tap takes."""
    if inner.moved or any(has_key(use.eqn) for use in inner.uses):
        return None
    shards, before = Shards.of(eqn), first_of[1]

    def from_outside(use: Use) -> Use:
        given, made, every = (
            [atom.aval for atom in side]
            for side in (use.eqn.invars, outputs(use.eqn), use.eqn.outvars)
        )
        return replace(
            use,
            eqn=shards.outside(use.eqn),
            function=shards.together(use.function, given, made),
            around=lambda function: shards.together(function, given, every),
            devices=shards.devices,
            again=True,
            deltas=tuple(before + i for i in use.deltas),
        )

    uses = tuple(map(from_outside, inner.uses))
    deltas = [Delta(None, shards.stacked(delta.aval), delta.loops) for delta in inner.deltas]
    return Site(uses, inner=inner, atoms=tuple(eqn.invars), first=first_of, shards=shards), deltas


def enter_shards(
    site: Site,
    eqn: JaxprEqn,
    operands: list[Any],
    deltas: list[Any],
    codes: list[Any],
    run: Callable[[Plan, list[Any], list[Any], list[Any]], list[Any]],
) -> list[Any]:
    """The outputs of a `shard_map`.

    deltas, codes  the taps of what stands inside, first: see `evaluating.Taps`
    run            (plan, inputs, its deltas, its codes) -> outputs
    """
    inner, shards = site.inner, site.shards
    assert inner is not None and shards is not None
    places = [len(delta.loops) for delta in inner.deltas]
    deltas = deltas[: len(places)]
    delta_specs = [
        shards.spec(delta.aval, at) for delta, at in zip(inner.deltas, places, strict=True)
    ]
    code_specs = [
        [shards.spec(use.eqn.invars[i].aval, len(use.loops)) for i in use.data]
        for use in inner.uses
    ]

    def one(operands: list[Any], deltas: list[Any], codes: list[Any]) -> list[Any]:
        deltas = [lax.squeeze(tap, [at]) for tap, at in zip(deltas, places, strict=True)]
        codes = [
            [lax.squeeze(tap, [len(use.loops)]) for tap in taps]
            for use, taps in zip(inner.uses, codes, strict=True)
        ]
        return run(inner, operands, deltas, codes)

    p = eqn.params
    mapped = jax.shard_map(
        one,
        mesh=shards.mesh,
        in_specs=(list(p["in_specs"]), delta_specs, code_specs),
        out_specs=list(p["out_specs"]),
        axis_names=set(shards.axes),
        check_vma=shards.check,
    )
    taps = shards.spread((deltas, codes), (delta_specs, code_specs))
    return mapped(operands, *taps)
