"""What a gradient costs: time, memory and flops, by hand and by automatic differentiation."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcprop.comparison.inputs import draw
from funcprop.comparison.report import aligned
from funcprop.comparison.row import Promise, Row
from funcprop.comparison.truth import cotangents
from funcprop.gradient import combine, partition
from funcprop.layer import Array, Context, Layer

SECONDS = 0.4  # of each program, in turns with the others
SLOWER = 1.15  # identical programs differ by more than 1.10 in one run of ten to twenty
LARGER = 1.10
SAME = 1e-3  # relative norm: float32 sums in another order
HEADINGS = ("layer", "promise", "ms", "time / plain", "/ vjp", "MB", "memory / plain", "/ vjp",
            "flops / plain")  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """One forward and one backward pass of a compiled program.

    seconds  of the fastest run; NaN where it was not run
    bytes    of arguments, outputs and temporaries, less what the outputs share with the arguments
    flops    as XLA counts them; NaN for a program with a loop, whose body XLA counts once
    """

    seconds: float
    bytes: int
    flops: float


@dataclass(frozen=True)
class Profile:
    """A row's cost by hand, by `jax.vjp` of the layer's own forward, and by `jax.vjp` of the form
    that a JAX user would write; None where there is no such program.

    judged says that it was measured at a size where time and memory mean something; a row without
    a large size runs for microseconds.
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


def over(cost: Cost, peer: Cost | None, attribute: str) -> float:
    """The ratio of an attribute; NaN where there is no peer, or it is 0 there."""
    below = math.nan if peer is None else getattr(peer, attribute)
    return getattr(cost, attribute) / below if below else math.nan


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean logarithm; NaN of nothing."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


# --- programs -------------------------------------------------------------------------------------


def by_hand(layer: Layer) -> Callable[..., Any]:
    """(params, x, context, dy) -> y, (dparams, dx), by the layer's own backward."""

    def both(params: Any, x: Any, context: Context, dy: Any) -> Any:
        y, residuals = layer.forward(params, x, context)
        dx, dparams = layer.backward(params, residuals, dy)
        return y, (dparams, dx)

    return both


def by_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same by `jax.vjp` of (params, x, context) -> y."""

    def both(params: Any, x: Any, context: Context, dy: Any) -> Any:
        floats, rest = partition((params, x))

        def f(floats: Any) -> Any:
            return partition(function(*combine(floats, rest), context))

        y, pullback, y_rest = jax.vjp(f, floats, has_aux=True)
        return combine(y, y_rest), pullback(dy)[0]

    return both


def sized(row: Row) -> tuple[Layer, Any, Any]:
    """(layer, x, mask) at the size where the row's costs are compared."""
    layer, x, *mask = row.large or (row.layer, row.x, row.mask)
    return layer, x, mask[0] if mask else None


def programs(
    row: Row, names: Sequence[str] = ("by_hand", "automatic", "plain"), abstract: bool = False
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The named programs that the row has, compiled, and the arguments that they all take.

    With `abstract` the arguments are shapes: enough for memory and flops, and nothing runs.
    """
    layer, x, mask = sized(row)

    def arguments(key: Array) -> tuple[Any, Any, Context]:
        x_key, init_key, mask_key, context_key = jax.random.split(key, 4)
        value = draw(x, x_key, "float32")
        given = None if mask is None else draw(mask, mask_key, bool)
        return layer.init(init_key, value), value, Context(context_key, given)

    key = jax.random.key(0)
    given = jax.eval_shape(arguments, key) if abstract else jax.jit(arguments)(key)
    if abstract:
        y = jax.eval_shape(lambda *a: layer.forward(*a)[0], *given)
        dy = partition(y)[0]
    else:
        params, value, context = given
        dys = cotangents(layer, params, value, context, 1, key)
        dy = jax.tree.map(lambda leaf: leaf[0], dys)
        dy = jax.device_put(dy)
    functions = {"by_hand": by_hand(layer)}
    if "automatic" in names and row.automatic:
        functions["automatic"] = by_jax(lambda p, v, c: layer.forward(p, v, c)[0])
    if "plain" in names and row.plain is not None:
        functions["plain"] = by_jax(row.plain)
    compiled = {
        name: jax.jit(function).lower(*given, dy).compile() for name, function in functions.items()
    }
    return compiled, (*given, dy)


def size_of(program: Any) -> tuple[int, float]:
    """(bytes, flops) of a compiled program."""
    memory, counted = program.memory_analysis(), program.cost_analysis()
    counted = counted[0] if isinstance(counted, list) else counted
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    flops = math.nan if " while(" in program.as_text() else (counted or {}).get("flops", math.nan)
    return total, float(flops)


def timed(programs: Sequence[Any], arguments: tuple[Any, ...], seconds: float) -> list[float]:
    """The fastest run of each program, all taking turns until each has had its seconds."""

    def run(program: Any, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(program(*arguments))
        return (time.perf_counter() - start) / calls

    once = [min(run(program, 1) for _ in range(2)) for program in programs]
    # a clock's tick and a Python loop are nothing beside a millisecond
    calls = [max(1, math.ceil(1e-3 / first)) for first in once]
    turns = min(200, max(5, math.ceil(seconds / max(1e-3, *once))))
    for _ in range(turns):
        for i, program in enumerate(programs):
            once[i] = min(once[i], run(program, calls[i]))
    return once


# --- the catalogue --------------------------------------------------------------------------------


def sizes(row: Row) -> Profile:
    """Memory and flops alone, from the compiled programs: nothing is run.

    Against the plain form, and against the layer's own forward only where there is none.
    """
    peer = "automatic" if row.plain is None else "plain"
    return _profile(row, programs(row, ("by_hand", peer), abstract=True)[0], {})


def profile_row(row: Row, seconds: float = SECONDS) -> Profile:
    """All three costs. A row that looks slower than it may is measured again, for longer."""
    compiled, arguments = programs(row)
    check_same(row, {name: program(*arguments) for name, program in compiled.items()})
    names, values = list(compiled), list(compiled.values())
    best = dict(zip(names, timed(values, arguments, seconds), strict=True))
    found = _profile(row, compiled, best)
    if found.time > SLOWER:
        again = timed(values, arguments, 3 * seconds)
        best = {name: min(best[name], t) for name, t in zip(names, again, strict=True)}
        found = _profile(row, compiled, best)
    return found


def check_same(row: Row, results: dict[str, Any]) -> None:
    """All programs compute one function: a cheaper other function would prove nothing.

    Raises ValueError where an output or a gradient is further off than rounding.
    """
    wanted = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(results["by_hand"])]
    # a gradient may be zero but for rounding, as that of the keys' bias in attention
    least = 1e-4 * max((np.abs(leaf).max(initial=0) for leaf in wanted), default=0)
    for name, result in results.items():
        for given, leaf in zip(jax.tree.leaves(result), wanted, strict=True):
            off = np.linalg.norm(np.asarray(given, np.float64) - leaf)
            size = max(np.linalg.norm(leaf), least * math.sqrt(leaf.size))
            if given.shape != leaf.shape or not off <= SAME * size:
                raise ValueError(
                    f"{row.name}: the {name} form differs by {off / size:.1e} from the layer at "
                    "its large size: they must be one function to be compared"
                )


def _profile(row: Row, compiled: dict[str, Any], seconds: dict[str, float]) -> Profile:
    costs = {
        name: Cost(seconds.get(name, math.nan), *size_of(program))
        for name, program in compiled.items()
    }
    peers = costs.get("automatic"), costs.get("plain")
    return Profile(row.name, row.promise, row.large is not None, costs["by_hand"], *peers)


@dataclass(frozen=True)
class Costs:
    """Rows of the catalogue with what they cost, on the machine that they ran on."""

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
    """A line; ratios below 1 are in favour of the hand-written pass."""

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


def profile_rows(
    rows: Sequence[Row], progress: Callable[[Row], None] | None = None, seconds: float = SECONDS
) -> Costs:
    """Every row's cost, in order; `progress` is called after each."""
    profiles = []
    for row in rows:
        profiles.append(profile_row(row, seconds))
        if progress is not None:
            progress(row)
    return Costs(tuple(profiles), machine())


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
