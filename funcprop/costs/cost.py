"""What gradients cost: time, memory and flops, and on which machine."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from funcprop.sheets import aligned

SLOWER = 1.15  # identical programs differ by more than 1.10 in one run of ten to twenty
LARGER = 1.10
HEADINGS = ("layer", "promise", "ms", "time / plain", "/ vjp", "MB", "memory / plain", "/ vjp",
            "flops / plain")  # fmt: skip
WAYS = {"by_hand": "by hand", "automatic": "automatic", "plain": "plain form"}


@dataclass(frozen=True)
class Cost:
    """One forward and one backward pass of a compiled program.

    seconds    of the fastest run; NaN where it was not run
    bytes      of arguments, outputs and temporaries, less what the outputs share with the arguments
    flops      as XLA counts them; NaN for a program with a loop, whose body XLA counts once
    temporary  bytes of temporaries alone
    accessed   bytes that are read and written, as XLA counts them; NaN as with flops
    compiling  seconds that tracing and compiling took

    >>> import funcprop as fp
    >>> fp.costs.Cost(seconds=1e-3, bytes=4096, flops=1e6).bytes
    4096
    """

    seconds: float
    bytes: int
    flops: float
    temporary: int = 0
    accessed: float = math.nan
    compiling: float = math.nan


@dataclass(frozen=True)
class Profile:
    """A row's cost by hand, by `jax.vjp` of the layer's own forward, and by `jax.vjp` of the form
    that a JAX user would write; None where there is no such program.

    name       of the row, or what was measured
    promise    what the row promises against the plain form
    judged     whether it was measured at a size where time and memory mean something; a row without
               a large size runs for microseconds

    >>> import funcprop as fp
    >>> half, whole = fp.costs.Cost(1e-3, 4096, 1e6), fp.costs.Cost(2e-3, 4096, 1e6)
    >>> fp.costs.Profile("mine", (), True, half, whole, None).time
    0.5
    """

    name: str
    promise: tuple[Promise, ...]
    judged: bool
    by_hand: Cost
    automatic: Cost | None
    plain: Cost | None

    @property
    def time(self) -> float:
        """By hand over plain, or over automatic where there is no plain form; below 1 is faster."""
        return over(self.by_hand, self.plain or self.automatic, "seconds")

    @property
    def memory(self) -> float:
        """By hand over plain, or over automatic where there is no plain form."""
        return over(self.by_hand, self.plain or self.automatic, "bytes")

    @property
    def flops(self) -> float:
        """By hand over plain, or over automatic where there is no plain form."""
        return over(self.by_hand, self.plain or self.automatic, "flops")

    def as_dict(self) -> dict[str, Any]:
        """Plain values: costs and ratios; None where one does not exist."""

        def finite(cost: Cost | None) -> dict[str, Any] | None:
            if cost is None:
                return None
            return {name: v if math.isfinite(v) else None for name, v in vars(cost).items()}

        costs = {"by_hand": self.by_hand, "automatic": self.automatic, "plain": self.plain}
        ratios = {
            f"{name}_over_{peer}": given if math.isfinite(given) else None
            for peer in ("automatic", "plain")
            for name, attribute in (("time", "seconds"), ("memory", "bytes"), ("flops", "flops"))
            for given in [over(self.by_hand, costs[peer], attribute)]
        }
        written = {name: finite(cost) for name, cost in costs.items()}
        return {"promise": list(self.promise), "judged": self.judged} | written | ratios

    def __str__(self) -> str:
        """A line for each way to compute it."""
        headings = ("", "ms", "MB", "temporary MB", "Mflop", "MB accessed", "compiling s")
        lines: list[tuple[str, ...]] = [headings]
        for name, words in WAYS.items():
            if (cost := getattr(self, name)) is not None:
                numbers = (1e3 * cost.seconds, cost.bytes / 1e6, cost.temporary / 1e6,
                           cost.flops / 1e6, cost.accessed / 1e6, cost.compiling)  # fmt: skip
                lines.append((words, *("-" if math.isnan(n) else f"{n:.4g}" for n in numbers)))
        return "\n".join(aligned(lines))


def over(cost: Cost, peer: Cost | None, attribute: str) -> float:
    """The ratio of an attribute; NaN where there is no peer, or it is 0 there."""
    below = math.nan if peer is None else getattr(peer, attribute)
    return getattr(cost, attribute) / below if below else math.nan


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean logarithm; NaN of nothing."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


@dataclass(frozen=True)
class Costs:
    """Rows of the catalogue, or one target, with what they cost, on the machine that they ran on.

    profiles  one a row
    machine   its processor, how many of them, and the versions of Python and jax

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> costs = fp.measure(fp.Tanh(), (), jnp.ones((4, 2)), seconds=0.01)
    >>> "jax" in costs.machine, len(costs.profiles)
    (True, 1)
    """

    profiles: tuple[Profile, ...]
    machine: str

    def kept(self, promise: Promise) -> tuple[int, float]:
        """(how many rows promise it, the geometric mean of their ratios to the plain form)."""
        which = [p for p in self.profiles if promise in p.promise and p.plain is not None]
        ratios = [p.time if promise == "time" else p.memory for p in which]
        return len(which), geometric_mean(ratios)

    @property
    def slower(self) -> tuple[Profile, ...]:
        """The judged rows above SLOWER in time."""
        return tuple(p for p in self.profiles if p.judged and p.time > SLOWER)

    @property
    def larger(self) -> tuple[Profile, ...]:
        """The judged rows above LARGER in memory that do not promise time for it."""
        paid = [p for p in self.profiles if p.judged and "time" not in p.promise]
        return tuple(p for p in paid if p.memory > LARGER)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """{"cost": ..., "machine": ...} of every row, by its name."""
        return {p.name: {"cost": p.as_dict(), "machine": self.machine} for p in self.profiles}

    def __str__(self) -> str:
        if len(self.profiles) == 1:
            (profile,) = self.profiles
            return f"{profile.name} on {self.machine}\n\n{profile}"
        lines = [HEADINGS, *(_cells(profile) for profile in self.profiles)]
        small = sum(not profile.judged for profile in self.profiles)
        summary = []
        for promise in ("time", "memory"):
            count, mean = self.kept(promise)
            if count:
                summary.append(f"{count} rows promise {promise}: {mean:.2f} of the plain form")
        for words, found in (("slower", self.slower), ("larger", self.larger)):
            if found:
                summary.append(f"{words} than allowed: {', '.join(p.name for p in found)}")
        if small:
            summary.append(f"{small} rows in brackets have no large size, and are not judged")
        return "\n".join([self.machine, "", *aligned(lines), "", *summary])


def _cells(p: Profile) -> tuple[str, ...]:
    """A line; ratios below 1 are in favor of the hand-written pass."""

    def ratio(peer: Cost | None, attribute: str) -> str:
        given = over(p.by_hand, peer, attribute)
        return "-" if math.isnan(given) else f"{given:.2f}"

    return (
        p.name if p.judged else f"({p.name})", ", ".join(p.promise),
        f"{1e3 * p.by_hand.seconds:.3f}",
        ratio(p.plain, "seconds"), ratio(p.automatic, "seconds"),
        f"{p.by_hand.bytes / 1e6:.2f}",
        ratio(p.plain, "bytes"), ratio(p.automatic, "bytes"), ratio(p.plain, "flops"),
    )  # fmt: skip


def machine() -> str:
    """The device, how many processors this process may use, and the versions."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        name = processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} processors; Python {platform.python_version()}, jax {jax.__version__}"


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


Promise = Literal["time", "memory", "enables", "parity"]
