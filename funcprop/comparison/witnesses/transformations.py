"""What a rule gives inside of JAX's transformations, beside what the plain call gives.

Batching a rule, running it again, scanning over it, splitting it over devices, differentiating by
some of its arguments only: none of that may change a number. Each is one `Trial`, and all are one
program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import Programs, Raised, generator, is_key, named_leaves
from funcprop.comparison.subject.rule import (
    Rule,
    Unit,
    arguments,
    float_units,
    plain,
    promoting,
    units,
    with_rules,
)
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.forward_mode import forward_parts
from funcprop.comparison.witnesses.second_order import FORWARD, Second
from funcprop.gradient import combine, partition
from funcprop.layer import is_float

BATCH = 2  # examples under vmap, scan and shard_map: the given one, and another near by
AWAY = 0.05  # of every number: how far the other one lies
UNITS = 6  # arguments that are looked at one by one: of more, the first

Part = Callable[..., Any]  # (rule, given, stacked, context, dys, moves) -> a tree


class Trial(NamedTuple):
    """One transformation: what it gave and what the plain call gives, leaves [examples, ...].

    name      in words: "under vmap over argument 1"
    found     or `Raised`
    plain_too whether the function without its rules raises there as well
    """

    name: str
    found: Any
    wanted: Any
    plain_too: bool = False


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

        def passed(given: Any, context: Any, dy: Any) -> Any:
            with promoting(self.subject):
                return pass_of(self.rule, given, context, dy)

        given = jax.tree.unflatten(tree, mixed)
        return self.run("plain pass", passed, given, self.subject.context, dy)


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
            too = raises(of(task.part, plain), *inputs)
        trials.append(Trial(name, result, task.wanted, too))
    again = passes.anew((), _first(dys))
    trials.append(Trial("run a second time", _one(again), _one(passes())))
    return trials


def every_task(subject: Subject, passes: Passes, second: Second) -> dict[str, Task]:
    """By name; the wanted numbers are computed here."""
    alone = units(subject)[:UNITS]
    movable = {i for i, leaf in enumerate(jax.tree.leaves(passes.given)) if not is_key(leaf)}
    every = Unit("every argument", tuple(sorted(movable)))
    batch = _stacked([passes(), passes(every.leaves, 1)])
    tasks = {
        "under jax.checkpoint": Task(checkpointed, _one(passes())),
        "under lax.scan": Task(scanned, batch),
        "under vmap over every argument": Task(_batched(every.leaves, True), batch),
        "in the gradient of vmap over every argument": Task(_of_batch(every.leaves), batch),
    }
    for unit in alone:
        leaves = tuple(i for i in unit.leaves if i in movable)
        if not leaves:
            continue
        stack = _stacked([passes(), passes(leaves)])
        tasks[f"under vmap over {unit.name}"] = Task(_batched(leaves, False), stack)
        summed = _summed(stack, passes.given, leaves)
        tasks[f"in the gradient of vmap over {unit.name}"] = Task(_of_batch(leaves, 0), summed)
    gradient = list(named_leaves(_gradient(passes())))
    floats = float_units(subject)
    if len(floats) == 1 < len(floats[0].leaves):  # one tree: leaf by leaf
        floats = [Unit(gradient[i][0][1:], (i,)) for i in floats[0].leaves]
    for unit in floats[:UNITS] if len(floats) > 1 else []:
        names = tuple(gradient[i][0] for i in unit.leaves)
        wanted = _one({gradient[i][0]: gradient[i][1] for i in unit.leaves})
        tasks[f"with only {unit.name} differentiated"] = Task(_only(unit.leaves, names), wanted)
    outputs = [name for name, _ in named_leaves({"y": passes()["y"]})]
    for i, name in enumerate(outputs[:UNITS] if len(outputs) > 1 else []):
        dy = _alone(_first(passes.dys), i)
        wanted = _one(_gradient(passes.anew((), dy)))
        tasks[f"with only {name} used"] = Task(_used(i), wanted)
    if any(not is_float(leaf) and not is_key(leaf) for leaf in jax.tree.leaves(passes.given)):
        wanted = _one(_gradient(passes()))
        tasks["with integers among the differentiated"] = Task(with_integers, wanted)
    if len(jax.devices()) >= BATCH:
        for name, part in DEVICES.items():
            tasks[name] = Task(part, batch)
    if FORWARD in second.modes and not isinstance(second.modes[FORWARD], Raised):
        tangent = second.modes[FORWARD]["ddy"]
        gradient = _one({name: second.first[name] for name in ("dparams", "dx")})
        for name, part in forward_parts(subject, second.moves).items():
            wanted = gradient if "transpose" in name else {"tangent": part.wanted(tangent)}
            tasks[name] = Task(part.part, wanted)
    return tasks


# --- the parts: (rule, given, others, context, dys, moves) -> leaves [examples, ...] --------------


def pass_of(rule: Rule, given: Any, context: Any, dy: Any) -> Any:
    """The output and the gradient."""
    floats, rest = partition(given)
    y, pullback = jax.vjp(lambda f: rule(combine(f, rest), context), floats)
    return {**pullback(dy)[0], "y": y}


def checkpointed(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    def again(given: Any, context: Any) -> Any:
        floats, rest = partition(given)
        return jax.checkpoint(lambda f: rule(combine(f, rest), context))(floats)

    return _one(pass_of(again, given, context, _first(dys)))


def scanned(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    """The gradient of a scan over the examples."""
    keys = [is_key(leaf) for leaf in jax.tree.leaves(given)]

    def over(floats: Any, rest: Any) -> Any:
        def step(carry: None, each: Any) -> Any:
            floats, rest = each
            leaves, tree = jax.tree.flatten(combine(floats, rest))
            own = jax.tree.leaves(given)
            leaves = [old if key else new for new, old, key in zip(leaves, own, keys, strict=True)]
            return carry, rule(jax.tree.unflatten(tree, leaves), context)

        return jax.lax.scan(step, None, (floats, rest))[1]

    floats, rest = partition(_pairs(given, others))
    y, pullback = jax.vjp(lambda f: over(f, rest), floats)
    return {**pullback(dys)[0], "y": y}


def with_integers(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    """Differentiated by every argument: the cotangents of integers are float0."""
    leaves, tree = jax.tree.flatten(given)
    places = [i for i, leaf in enumerate(leaves) if not is_key(leaf)]

    def of(*moved: Any) -> Any:
        every = list(leaves)
        for i, leaf in zip(places, moved, strict=True):
            every[i] = leaf
        return rule(jax.tree.unflatten(tree, every), context)

    _, pullback = jax.vjp(of, *(leaves[i] for i in places))
    grads: list[Any] = [None] * len(leaves)
    for i, grad in zip(places, pullback(_first(dys)), strict=True):
        if is_float(leaves[i]):
            grads[i] = grad
        elif grad.dtype != jax.dtypes.float0 or grad.shape != leaves[i].shape:
            raise TypeError(f"the cotangent of an integer is {grad.dtype}{list(grad.shape)}, "
                            f"wanted float0{list(leaves[i].shape)}")  # fmt: skip
    return _one(jax.tree.unflatten(tree, grads))


def _batched(leaves: tuple[int, ...], every: bool) -> Part:
    """`vmap` of the gradient over these leaves, and over the cotangent where every one is."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        mixed, axes, tree = _mixed(given, others, leaves)

        def one(flat: list[Any], dy: Any) -> Any:
            return pass_of(rule, jax.tree.unflatten(tree, flat), context, dy)

        dy = dys if every else _first(dys)
        return jax.vmap(one, in_axes=(axes, 0 if every else None))(mixed, dy)

    return part


def _of_batch(leaves: tuple[int, ...], probe: int | None = None) -> Part:
    """The gradient of `vmap` over these leaves; what is not batched gets the sum over examples."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        mixed, axes, tree = _mixed(given, others, leaves)
        if probe is not None:
            dys = jax.tree.map(lambda leaf: jnp.stack([leaf[probe]] * BATCH), dys)

        def batch(given: Any, context: Any) -> Any:
            flat = jax.tree.leaves(given)
            one = jax.vmap(lambda f: rule(jax.tree.unflatten(tree, f), context), in_axes=(axes,))
            return one(flat)

        found = pass_of(batch, jax.tree.unflatten(tree, mixed), context, dys)
        return _leading(found, given, leaves)

    return part


def _only(leaves: tuple[int, ...], names: tuple[str, ...]) -> Part:
    """Differentiated by these floats alone: the tangents of the others are symbolic zeros."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        floats, rest = partition(given)
        flat, tree = jax.tree.flatten(floats)

        def of(moved: list[Any]) -> Any:
            every = list(flat)
            for i, leaf in zip(leaves, moved, strict=True):
                every[i] = leaf
            return rule(combine(jax.tree.unflatten(tree, every), rest), context)

        _, pullback = jax.vjp(of, [flat[i] for i in leaves])
        grads = pullback(_first(dys))[0]
        return _one(dict(zip(names, grads, strict=True)))

    return part


def _used(output: int) -> Part:
    """Of several outputs one used: the cotangents of the others are symbolic zeros."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        floats, rest = partition(given)

        def of(floats: Any) -> Any:
            return jax.tree.leaves(rule(combine(floats, rest), context))[output]

        return _one(jax.vjp(of, floats)[1](jax.tree.leaves(_first(dys))[output])[0])

    return part


def _sharded(check: bool) -> Part:
    """An example on each of two devices."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:BATCH]), ("examples",))
        spec = jax.sharding.PartitionSpec("examples")
        mixed, axes, tree = _mixed(given, others, None)
        moving = [leaf for leaf, axis in zip(mixed, axes, strict=True) if axis == 0]

        def one(moving: list[Any], dy: Any) -> Any:
            rest = iter(moving)
            flat = [
                next(rest)[0] if axis == 0 else leaf
                for leaf, axis in zip(mixed, axes, strict=True)
            ]
            return _one(pass_of(rule, jax.tree.unflatten(tree, flat), context, _first(dy)))

        return jax.shard_map(
            one, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=check
        )(moving, dys)

    return part


DEVICES = {
    "under shard_map on two devices": _sharded(True),
    "under shard_map on two devices without check_vma": _sharded(False),
}


# --- examples -------------------------------------------------------------------------------------


def another(given: Any, subject: Subject) -> Any:
    """Another example near by: floats moved, integers along their first axis, keys as they are."""
    random = generator(subject.key)

    def moved(leaf: Any) -> Any:
        if is_key(leaf):
            return leaf
        leaf = np.asarray(leaf)
        if is_float(leaf):
            return (leaf * (1 + AWAY * random.normal(size=leaf.shape))).astype(leaf.dtype)
        return np.roll(leaf, 1, 0) if leaf.ndim else leaf

    return jax.tree.map(moved, given)


def raises(part: Callable[..., Any], *inputs: Any) -> bool:
    """Whether tracing it raises."""
    try:
        jax.eval_shape(part, *inputs)
    except Exception:
        return True
    return False


def _first(dys: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], dys)


def _one(tree: Any) -> Any:
    """With an axis of one example."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _gradient(found: Any) -> Any:
    return {name: found[name] for name in ("dparams", "dx")}


def _alone(dy: Any, output: int) -> Any:
    """The cotangent of one output, and zeros."""
    leaves, tree = jax.tree.flatten(dy)
    kept = [leaf if i == output else np.zeros_like(leaf) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, kept)


def _pairs(given: Any, others: Any) -> Any:
    """Both examples, leaves [examples, ...]; keys too, for `scan` wants an axis."""
    return jax.tree.map(lambda *both: jnp.stack(both), given, others)


def _mixed(
    given: Any, others: Any, leaves: tuple[int, ...] | None
) -> tuple[list[Any], list[int | None], Any]:
    """-> the leaves, those named (or all) of both examples; their axes; and the tree."""
    flat, tree = jax.tree.flatten(given)
    pairs = zip(flat, jax.tree.leaves(others), strict=True)
    mixed, axes = [], []
    for i, (leaf, other) in enumerate(pairs):
        chosen = not is_key(leaf) and (leaves is None or i in leaves)
        mixed.append(jnp.stack([leaf, other]) if chosen else leaf)
        axes.append(0 if chosen else None)
    return mixed, axes, tree


def _positions(given: Any, leaves: tuple[int, ...]) -> list[bool]:
    """Of every float of the arguments, whether it is among these leaves."""
    flat = enumerate(jax.tree.leaves(given))
    return [i in leaves for i, leaf in flat if is_float(leaf)]


def _each(found: Any, given: Any, leaves: tuple[int, ...], change: Callable[[Any], Any]) -> Any:
    """The gradients of what is not batched, changed."""
    flat, tree = jax.tree.flatten(_gradient(found))
    chosen = _positions(given, leaves)
    pairs = zip(flat, chosen, strict=True)
    flat = [leaf if batched else change(leaf) for leaf, batched in pairs]
    return {**jax.tree.unflatten(tree, flat), "y": found["y"]}


def _leading(found: Any, given: Any, leaves: tuple[int, ...]) -> Any:
    """The sums with an axis of one example."""
    return _each(found, given, leaves, lambda leaf: leaf[None])


def _summed(stack: Any, given: Any, leaves: tuple[int, ...]) -> Any:
    """Of a stack of passes, the sum where a leaf is not batched."""
    return _each(stack, given, leaves, lambda leaf: leaf.sum(0, keepdims=True))
