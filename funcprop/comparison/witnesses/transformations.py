"""What a rule gives inside of JAX's transformations, beside what the plain call gives.

Batching a rule, running it again, scanning over it, splitting it over devices, differentiating by
some of its arguments only: none of that may change a number. Each is one `Trial`, and all are one
program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.comparison.programs import Programs, Raised, is_key, named_leaves
from funcprop.comparison.subject.rule import (
    Rule,
    Unit,
    arguments,
    float_units,
    plain,
    promoting,
    ruled,
    units,
    with_rules,
)
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.forward_mode import forward_parts
from funcprop.comparison.witnesses.second_order import FORWARD, Second
from funcprop.comparison.witnesses.transformed import (
    BATCH,
    Part,
    another,
    batched_over,
    checkpointed,
    first_of,
    gradient_in,
    gradient_of_batch,
    one_example,
    one_output,
    only_by,
    only_used,
    pass_of,
    scanned,
    sharded,
    stacked,
    summed_over,
    with_integers,
)
from funcprop.layer import is_float

UNITS = 6  # arguments that are looked at one by one: of more, the first

DEVICES = {
    "under shard_map on two devices": sharded(True),
    "under shard_map on two devices without check_vma": sharded(False),
}
SUMMED = "in the gradient of vmap"  # where JAX adds the cotangents of what is not batched
HOST = Raised("its callback would run in a thread that knows of no float64")


class Trial(NamedTuple):
    """One transformation: what it gave and what the plain call gives, leaves [examples, ...].

    name      in words: "under vmap over argument 1"
    found     or `Raised`
    plain_too whether the function without its rules raises there as well
    by_jax    what it gave of JAX's own derivative, put into a `jax.custom_vjp`; None: not asked
    """

    name: str
    found: Any
    wanted: Any
    plain_too: bool = False
    by_jax: Any = None


class Task(NamedTuple):
    """A transformation before it runs, and how the wanted numbers are made of plain passes."""

    part: Part
    wanted: Any


class Passes:
    """Plain calls at the examples, each made once: the arguments of a unit, or all, are another's.

    A pass is {"dx", "dparams", "y"}.
    """

    def __init__(self, subject: Subject, given: Any, others: Any, dys: Any, run: Programs) -> None:
        self.rule, self.subject, self.run = with_rules(subject), subject, run
        self.given, self.others, self.dys = given, others, dys
        self.known: dict[Any, Any] = {}

    def __call__(self, moved: tuple[int, ...] = (), probe: int = 0) -> Any:
        """With the leaves at `moved` those of the other example, under one of the cotangents."""
        if (moved, probe) not in self.known:
            dy = jax.tree.map(lambda leaf: leaf[probe], self.dys)
            self.known[moved, probe] = self.anew(moved, dy)
        return self.known[moved, probe]

    def anew(self, moved: tuple[int, ...], dy: Any) -> Any:
        """Under any cotangent, and not out of memory."""
        leaves, tree = jax.tree.flatten(self.given)
        other = jax.tree.leaves(self.others)
        mixed = [other[i] if i in moved else leaf for i, leaf in enumerate(leaves)]

        given = jax.tree.unflatten(tree, mixed)
        return self.run("plain pass", self.passed, given, self.subject.context, dy)

    def passed(self, given: Any, context: Any, dy: Any) -> Any:
        with promoting(self.subject):
            return pass_of(self.rule, given, context, dy)

    def calls_host(self) -> bool:
        """Whether a callback stands in it."""
        trace = jax.make_jaxpr(self.passed)(self.given, self.subject.context, first_of(self.dys))
        return "callback" in str(trace)


def transformations(subject: Subject, dys: Any, second: Second, run: Programs) -> list[Trial]:
    """Every trial of a subject in float64; only inside `jax.enable_x64`.

    dys [probes, ...], at least two.
    """
    given = arguments(subject)
    others = another(given, subject)
    dys = jax.tree.map(lambda leaf: leaf[:BATCH], dys)
    passes = Passes(subject, given, others, dys, run)
    tasks = every_task(subject, passes, second)

    def of(part: Part, rule: Callable[[Subject], Rule]) -> Callable[..., Any]:
        def run_part(*inputs: Any) -> Any:
            with promoting(subject):
                return part(rule(subject), *inputs)

        return run_part

    inputs = given, others, subject.context, dys, second.moves
    alone = {name for name in tasks if "shard_map" in name}  # a program of two devices
    found: dict[str, Any] = {}
    for title, names in (("transformations", tasks.keys() - alone), ("devices", alone)):
        parts = {name: of(tasks[name].part, with_rules) for name in tasks if name in names}
        found |= run.each(title, parts, *inputs) if parts else {}
    trials = []
    for name, task in tasks.items():
        result, too = found[name], False
        if isinstance(result, Raised):
            too = isinstance(
                run.each(f"plain {name}", {"": of(task.part, plain)}, *inputs)[""], Raised
            )
        by_jax = None
        if (
            name.startswith(SUMMED)
            and not isinstance(result, Raised)
            and apart(result, task.wanted)
        ):
            by_jax = run.each(f"ruled {name}", {"": of(task.part, ruled)}, *inputs)[""]
        trials.append(Trial(name, result, task.wanted, too, by_jax))
    if len(jax.devices()) >= BATCH and not DEVICES.keys() & tasks.keys():
        trials.append(Trial(next(iter(DEVICES)), HOST, None, True))
    again = passes.anew((), first_of(dys))
    trials.append(Trial("run a second time", one_example(again), one_example(passes())))
    return trials


def apart(found: Any, wanted: Any) -> bool:
    """Whether the numbers are others."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return any(not np.allclose(one, other, 1e-7, equal_nan=True) for one, other in pairs)


def every_task(subject: Subject, passes: Passes, second: Second) -> dict[str, Task]:
    """By name; the wanted numbers are computed here."""
    alone = units(subject)[:UNITS]
    movable = {i for i, leaf in enumerate(jax.tree.leaves(passes.given)) if not is_key(leaf)}
    every = Unit("every argument", tuple(sorted(movable)))
    batch = stacked([passes(), passes(every.leaves, 1)])
    tasks = {
        "under jax.checkpoint": Task(checkpointed, one_example(passes())),
        "under lax.scan": Task(scanned, batch),
        "under vmap over every argument": Task(batched_over(every.leaves, True), batch),
        "in the gradient of vmap over every argument": Task(gradient_of_batch(every.leaves), batch),
    }
    for unit in alone:
        leaves = tuple(i for i in unit.leaves if i in movable)
        if not leaves:
            continue
        stack = stacked([passes(), passes(leaves)])
        tasks[f"under vmap over {unit.name}"] = Task(batched_over(leaves, False), stack)
        summed = summed_over(stack, passes.given, leaves)
        tasks[f"in the gradient of vmap over {unit.name}"] = Task(
            gradient_of_batch(leaves, 0), summed
        )
    gradient = list(named_leaves(gradient_in(passes())))
    floats = float_units(subject)
    if len(floats) == 1 < len(floats[0].leaves):  # one tree: leaf by leaf
        floats = [Unit(gradient[i][0][1:], (i,)) for i in floats[0].leaves]
    for unit in floats[:UNITS] if len(floats) > 1 else []:
        names = tuple(gradient[i][0] for i in unit.leaves)
        wanted = one_example({gradient[i][0]: gradient[i][1] for i in unit.leaves})
        tasks[f"with only {unit.name} differentiated"] = Task(only_by(unit.leaves, names), wanted)
    outputs = [name for name, _ in named_leaves({"y": passes()["y"]})]
    for i, name in enumerate(outputs[:UNITS] if len(outputs) > 1 else []):
        dy = one_output(first_of(passes.dys), i)
        wanted = one_example(gradient_in(passes.anew((), dy)))
        tasks[f"with only {name} used"] = Task(only_used(i), wanted)
    if any(not is_float(leaf) and not is_key(leaf) for leaf in jax.tree.leaves(passes.given)):
        wanted = one_example(gradient_in(passes()))
        tasks["with integers among the differentiated"] = Task(with_integers, wanted)
    if len(jax.devices()) >= BATCH and not passes.calls_host():
        for name, part in DEVICES.items():
            tasks[name] = Task(part, batch)
    if FORWARD in second.modes and not isinstance(second.modes[FORWARD], Raised):
        tangent = second.modes[FORWARD]["ddy"]
        gradient = one_example({name: second.first[name] for name in ("dparams", "dx")})
        for name, part in forward_parts(subject, second.moves).items():
            wanted = gradient if "transpose" in name else {"tangent": part.wanted(tangent)}
            tasks[name] = Task(part.part, wanted)
    return tasks
