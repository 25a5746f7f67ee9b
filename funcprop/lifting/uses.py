"""What a plan is made of: the uses of parameters in a function, and the equations they stand in.

Every value of a jaxpr is of one of three kinds: it depends on data (DATA), on parameters and on no
data (PARAMETER), or on neither. An equation that reads a PARAMETER beside DATA is a *use*. What a
use does with its parameter has a closed form (see `primitives`), or it is of the generic kind,
whose gradient of one example JAX makes. Loops and checkpoints are entered, other calls are one
use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from funcprop.lifting.jaxprs import is_float_type, source_of
from funcprop.lifting.primitives import Primitive

NEITHER, PARAMETER, DATA = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Loop:
    """A scan around a use."""

    length: int
    stacked: bool  # whether the parameter is sliced by it, and not the same at every step


@dataclass(frozen=True, eq=False)
class Delta:
    """A cotangent that is asked for: of the output of a use, or of a sum that it enters alone, so
    that uses that are added have one between them. Of an output that is split, as LSTMs do with
    their gates, it is asked part by part.

    var      of this plan, or None where it is of a plan inside
    """

    var: Any
    aval: Any
    loops: tuple[Loop, ...] = ()


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a parameter meets data, in a way that has a closed form.

    var      the value at the top of the function that holds parameters only
    chain    of that value, the operand of the equation, stacked along the loops that slice it
    """

    primitive: Primitive
    eqn: JaxprEqn
    function: Callable[..., list[Any]]
    position: int
    var: Any
    chain: tuple[Any, ...]  # what is done with the value on the way: see `placing`
    deltas: tuple[int, ...]  # which of the plan's are the cotangent of its output, or its parts
    loops: tuple[Loop, ...] = ()
    axis: int | None = None  # along which the parts are put together, from the end
    again: bool = False  # whether a checkpoint computes it anew on the way back
    fixed: tuple[int, ...] = ()  # operands that are constants, and have no derivative: see `tapped`
    devices: int = 1  # that a `shard_map` around it maps over: their operands are then stacked
    around: Any = None  # what makes a function of one device's operands that of all: see `shards`

    @property
    def data(self) -> list[int]:
        """Which operands are no parameter."""
        return [i for i in range(len(self.eqn.invars)) if i != self.position]

    @property
    def source(self) -> str:
        return source_of(self.eqn)[0]

    @property
    def module(self) -> str:
        return source_of(self.eqn)[1]


@dataclass(frozen=True, eq=False)
class Site:
    """An equation of a plan that is no plain one.

    uses    of this equation, by the position of the operand: with a closed form
    generic the positions of operands whose gradients JAX makes
    inner   the plan of the jaxpr that it enters, or None
    atoms   what the inputs of that plan are here: what was moved out of it, then the operands
    first   the numbers of its first use and its first delta among those of the plan
    branches the plans of the branches that it chooses from: of `cond`
    shards  the devices of a `shard_map`, whose body `inner` is the plan of: see `shards`
    """

    uses: tuple[Use, ...] = ()
    generic: tuple[int, ...] = ()
    inner: Plan | None = None
    atoms: tuple[Any, ...] = ()
    first: tuple[int, int] = (0, 0)
    branches: tuple[Plan, ...] = ()
    shards: Any = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What there is to do on the way through a jaxpr.

    kinds   of every variable
    sites   by the number of the equation
    needs   the variables of which the generic uses want a gradient, with all they are made of
    uses    all closed uses inside, in the order in which they are met
    deltas  the cotangents of their outputs
    moved   equations that make, at every step, the same of parameters: done once, outside
    extra   what they make: the first inputs of the jaxpr
    """

    jaxpr: ClosedJaxpr
    kinds: dict[Any, int]
    sites: dict[int, Site] = field(default_factory=dict)
    needs: frozenset[Any] = frozenset()
    uses: tuple[Use, ...] = ()
    deltas: tuple[Delta, ...] = ()
    moved: tuple[JaxprEqn, ...] = ()
    extra: tuple[Any, ...] = ()

    def kind(self, atom: Any) -> int:
        return NEITHER if isinstance(atom, Literal) else self.kinds[atom]

    def is_weight(self, atom: Any) -> bool:
        """Whether it is made of parameters alone, and has a gradient."""
        return self.kind(atom) == PARAMETER and is_float_type(atom.aval)


def constants(kinds: dict[Any, int], eqn: JaxprEqn) -> tuple[int, ...]:
    """Which operands of an equation neither data nor a parameter has a part in."""
    rows = enumerate(eqn.invars)
    return tuple(i for i, a in rows if isinstance(a, Literal) or kinds[a] == NEITHER)
