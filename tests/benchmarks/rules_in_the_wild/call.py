"""One row of the table: how a hand-written derivative rule is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("", "convention", "false alarm", "rounds more")


@dataclass(frozen=True)
class Call:
    """A function of arrays that reaches a derivative rule, and arguments to call it with.

    rule      where the rule stands: `module.qualname` of a `jax.custom_jvp` or `jax.custom_vjp`
              function, or of a primitive of JAX, `jax.lax.sin_p`
    function  of args; what is no array is closed over. None where `confirm` alone speaks, since
              the function is too slow to be judged here
    args      inside of the domain
    changed   whether the function takes other numbers too: scaled, zeros, ties
    against   a reference, where the function cannot be its own
    kind      what a difference that `compare` reports is, where it is no mistake: "convention" or
              "false alarm", "rounds more"; why says the reason
    confirm   -> name: number, computed without `compare`, where a rule is reported wrong
    seen_as   the name of the rule in a jaxpr, where a wrapper gave it another
    note      what a reader should know
    smallest  the smallest call that shows what is wrong, as code
    options   more keywords of `compare`
    """

    rule: str
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    note: str = ""
    changed: bool = True
    against: Callable[..., Any] | None = None
    kind: str = ""
    why: str = ""
    confirm: Callable[[], Mapping[str, float]] | None = None
    smallest: str = ""
    seen_as: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS or bool(self.kind) != bool(self.why):
            raise ValueError(f"{self.rule}: kind is one of {KINDS}, and `why` goes with it")


def slope(function: Callable[[float], Any], x: float, step: float = 1e-3) -> float:
    """The derivative at x by central differences of eighth order of the function's values."""
    weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
    pairs = enumerate(weights, 1)
    return float(
        sum(w * (float(function(x + i * step)) - float(function(x - i * step))) for i, w in pairs)
        / step
    )
