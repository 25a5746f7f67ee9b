"""The derivative along directions: finite differences and `jax.jvp` beside a gradient.

For a gradient g = Jᵀ dy and a direction v, ⟨g, v⟩ = ⟨dy, J v⟩. The right-hand side needs no reverse
pass: finite differences of ⟨dy, y⟩ make it from the forward alone, `jax.jvp` by forward-mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import Programs, generator, named_leaves
from funcprop.comparison.subject.subject import Subject
from funcprop.gradient import combine, partition
from funcprop.layer import Array, Context, Layer, Params

NEAR, FAR = 1e-6, 1e-4  # steps, in units of a leaf's root mean square
OFFSETS = (1.0, -1.0, 2.0, -2.0)
STEPS = tuple(step * offset for step in (NEAR, FAR) for offset in OFFSETS)
# That the directions may hold; where they would be more, leaves are not looked at one by one.
NUMBERS = 10_000_000
COTANGENTS = 2  # that slopes are taken for
# Up to so many steps, of so many leaves, each step is a call of the forward; else they are a loop.
CALLS, LEAVES = 256, 16


class Slope(NamedTuple):
    """The derivative of ⟨dy, y⟩ along one direction v: by hand, and by the other witnesses."""

    leaf: str  # the only leaf that moves; "" where all do
    by_hand: float  # ⟨g, v⟩
    size: float  # Σ |g v|: by which rounding is measured
    value: float  # Σ |dy y|: likewise, of finite differences
    near: float  # central differences of fourth order with the smaller step
    far: float  # and with the larger one
    left: float  # one-sided ones with the smaller step: they differ at a kink
    right: float
    forward: float | None  # jax.jvp; None where it cannot differentiate the forward
    most: float = np.inf  # Σ |dy Δy| of the smaller step over that step, the larger of both sides

    @property
    def kink(self) -> bool:
        """Whether the slopes of both sides differ, or the function jumps there."""
        size = max(abs(self.left), abs(self.right))
        return abs(self.left - self.right) > 1e-6 * size + 1e-8 * self.value or self.jump

    @property
    def jump(self) -> bool:
        """Whether differences grow as their step shrinks. At a jump between opposite values, as a
        mantissa has at 0, the slopes of both sides are the same."""
        growing = abs(self.near) > 0.3 * FAR / NEAR * abs(self.far)
        return growing and abs(self.near) * NEAR > 1e-6 * self.value

    @property
    def bend(self) -> bool:
        """Whether differences come to ⟨g, v⟩ as fast as their step shrinks: at a kink of the
        derivative, as relu(x)² has at 0. Elsewhere they come as its fourth power."""
        near, far = abs(self.near - self.by_hand), abs(self.far - self.by_hand)
        return bool(abs(near - far * NEAR / FAR) <= 0.1 * near)

    @property
    def plausible(self) -> bool:
        """Whether ⟨g, v⟩ is no larger than the slopes of both sides make any convention at a kink.

        Of each output's own: cotangents of both signs may cancel in their sum.
        """
        return bool(np.isfinite(self.by_hand)) and abs(self.by_hand) <= 2 * self.most + 1e-9


def along(
    subject: Subject,
    dys: Any,
    by_hand: dict[str, Any],
    *,
    frozen: frozenset[str] = frozenset(),
    run: Programs | None = None,
) -> tuple[tuple[Slope, ...], Any]:
    """-> slopes, and the directions as a tree of leaves [directions, ...].

    In float64 along two random directions of all leaves, and of each leaf alone along a random
    direction and along a coordinate; for the first cotangents of `dys` [probes, ...].

    by_hand  the gradients {"dx": ..., "dparams": ...} under `dys`
    frozen   names of leaves that do not move, since forward hides them from a gradient

    The forward is the layer's, but for a surrogate, whose values are others.
    """
    peer, (params, x, context) = subject.peer, subject.given
    run = Programs() if run is None else run
    moving = peer if subject.surrogate else subject.layer
    floats, rest = partition({"dx": x, "dparams": params})
    dys = jax.tree.map(lambda leaf: leaf[:COTANGENTS], dys)
    names, moves = directions(floats, subject.key, frozen)

    def output(layer: Layer, floats: Any, rest: Any, context: Context) -> Any:
        given = combine(floats, rest)
        return partition(layer.forward(given["dparams"], given["dx"], context)[0])[0]

    def differences(
        floats: Any, rest: Any, context: Context, dys: Any, moves: Any
    ) -> tuple[Array, Array]:
        """-> ⟨dy, y⟩ and Σ |dy (y − start)|, each [1 + directions · steps, cotangents]: first at
        the start itself, where y alone counts.

        In one loop, so that the forward stands in the program once.
        """

        def at(start: list[Array], place: tuple[Array, Array]) -> tuple[Any, Any]:
            which, step = place
            y = jax.tree.leaves(output(moving, moved(floats, moves, which, step), rest, context))
            y = [leaf.astype(old.dtype) for leaf, old in zip(y, start, strict=True)]
            away = [new - old for new, old in zip(y, start, strict=True)]
            told = products(dys, y), products(dys, away, size=True)
            return [jnp.where(step == 0, *pair) for pair in zip(y, start, strict=True)], told

        count = len(jax.tree.leaves(moves)[0])
        which, steps = np.repeat(np.arange(count, dtype=np.uint32), len(STEPS)), [*STEPS] * count
        places = np.insert(which, 0, 0), np.insert(np.asarray(steps), 0, 0.0)
        nothing = [jnp.zeros_like(dy[0]) for dy in jax.tree.leaves(dys)]
        return jax.lax.scan(at, nothing, jax.tree.map(jnp.asarray, places))[1]

    def tangents(floats: Any, rest: Any, context: Context, dys: Any, moves: Any) -> Array:
        def of(v: Any) -> Array:
            forward_mode = jax.jvp(lambda f: output(peer, f, rest, context), (floats,), (v,))
            return products(dys, forward_mode[1])

        return jax.lax.map(of, moves)

    def both(*given: Any) -> tuple[tuple[Array, Array], Array]:
        return differences(*given), tangents(*given)

    given = floats, rest, context, dys, moves
    few = len(names) * len(STEPS) <= CALLS and len(jax.tree.leaves(floats)) <= LEAVES
    name, by_jax = ("tangents", tangents) if few else ("slopes", both)

    def known() -> bool:
        try:
            run.prepare(name, by_jax, *given)
        except (TypeError, NotImplementedError, ValueError):  # a jax.custom_vjp function, say
            return False
        return True

    def values(floats: Any) -> list[np.ndarray]:
        """The output, by the program of the forward that there is."""
        whole = combine(floats, rest)
        title = "forward of the peer" if subject.surrogate else "forward"
        y = run.on_device(title, moving.forward, whole["dparams"], whole["dx"], context)[0]
        return [np.asarray(leaf) for leaf in jax.tree.leaves(partition(y)[0])]

    forward = run(name, by_jax, *given) if run.once("jax.jvp", known) else None
    if few:
        found = stepped(values, floats, moves, dys)
    elif forward is not None:
        found, forward = forward
    else:
        found = run("differences", differences, *given)
    value, near, far, left, right, most = quotients(*found)
    exact, size = inner(by_hand, moves)
    if subject.surrogate and stops(peer, *subject.given):  # there they see more
        near, far, left, right, most = (
            np.full_like(each, np.nan) for each in (near, far, left, right, most)
        )
    slopes = tuple(
        Slope(
            name, exact[d, c], size[d, c], value[c],
            near[d, c], far[d, c], left[d, c], right[d, c],
            None if forward is None else forward[d, c], most[d, c],
        )
        for d, name in enumerate(names)
        for c in range(len(value))
    )  # fmt: skip
    return slopes, moves


def stepped(
    values: Callable[[Any], list[np.ndarray]], floats: Any, moves: Any, dys: Any
) -> tuple[np.ndarray, np.ndarray]:
    """What `differences` makes by one program, made by calls of `values`: no program is compiled
    for it, which for a few directions takes longer than to run."""
    cotangents = [np.reshape(dy, (len(dy), -1)) for dy in jax.tree.leaves(dys)]
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), floats)
    start = values(wide)

    def told(y: list[np.ndarray], start: Any = start) -> tuple[Any, Any]:
        pairs = list(zip(cotangents, y, start, strict=True))
        with np.errstate(invalid="ignore", over="ignore"):
            value = sum(dy @ leaf.ravel() for dy, leaf, _ in pairs)
            away = sum(np.abs(dy * (leaf - old).ravel()).sum(-1) for dy, leaf, old in pairs)
        return value, away

    found = [told(start, [0 * leaf for leaf in start])]
    for which in range(len(jax.tree.leaves(moves)[0])):
        for step in STEPS:
            there = jax.tree.map(lambda leaf, v, t=step, i=which: leaf + t * v[i], wide, moves)
            found.append(told(values(there)))
    sums, sizes = (np.stack(column) for column in zip(*found, strict=True))
    return sums, sizes


def stops(layer: Layer, params: Params, x: Any, context: Context) -> bool:
    """Whether `lax.stop_gradient` stands in a forward."""
    return "stop_gradient" in str(jax.make_jaxpr(layer.forward)(params, x, context))


def moved(floats: Any, moves: Any, which: Array, step: Array) -> Any:
    """The floats a step along one of the directions."""
    return jax.tree.map(
        lambda leaf, v: leaf + step * jax.lax.dynamic_index_in_dim(v, which, keepdims=False),
        floats, moves,
    )  # fmt: skip


def quotients(values: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, ...]:
    """⟨dy, y⟩ and Σ |dy Δy| [1 + directions · steps, cotangents] -> Σ |dy y| [cotangents]; near,
    far, left, right and most [directions, cotangents]."""
    here, value = values[0], sizes[0]
    values, sizes = (each[1:].reshape(-1, len(STEPS), len(here)) for each in (values, sizes))
    with np.errstate(invalid="ignore", over="ignore"):
        near, far = (
            (8 * (up - down) - (up2 - down2)) / (12 * step)
            for step, (up, down, up2, down2) in (
                (NEAR, values[:, :4].swapaxes(0, 1)),
                (FAR, values[:, 4:].swapaxes(0, 1)),
            )
        )
        up, down, up2, down2 = values[:, :4].swapaxes(0, 1)
        left, right = 4 * (here - down) - (here - down2), 4 * (up - here) - (up2 - here)
        most = np.maximum(sizes[:, 0], sizes[:, 1]) / NEAR
        return value, near, far, left / (2 * NEAR), right / (2 * NEAR), most


def products(dys: Any, y: Any, size: bool = False) -> Array:
    """⟨dy, y⟩ for every cotangent, or Σ |dy y|."""
    pairs = zip(jax.tree.leaves(dys), jax.tree.leaves(y), strict=True)
    each = [(dy * leaf).reshape(len(dy), -1) for dy, leaf in pairs]
    return sum(jnp.sum(jnp.abs(a) if size else a, -1) for a in each)  # type: ignore


def inner(grads: dict[str, Any], moves: Any) -> tuple[np.ndarray, np.ndarray]:
    """⟨g, v⟩ and Σ |g v| [directions, cotangents]."""
    exact, size = 0.0, 0.0
    for g, v in zip(jax.tree.leaves(grads), jax.tree.leaves(moves), strict=True):
        g, v = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (g[:COTANGENTS], v))
        with np.errstate(invalid="ignore", over="ignore"):
            exact, size = exact + v @ g.T, size + np.abs(v) @ np.abs(g).T
    return np.asarray(exact), np.asarray(size)


def directions(
    floats: Any, key: Array, frozen: frozenset[str] = frozenset()
) -> tuple[list[str], Any]:
    """Names, and a tree of leaves [directions, ...], of the size of each leaf's own numbers."""
    random = generator(key)
    leaves, tree = jax.tree.flatten(floats)
    sizes = [
        float(np.sqrt(np.mean(np.square(leaf)))) or 1.0 if leaf.size else 1.0 for leaf in leaves
    ]
    for i, (name, _) in enumerate(named_leaves(floats)):
        sizes[i] *= name not in frozen

    def noise(i: int) -> np.ndarray:
        return sizes[i] * random.normal(size=leaves[i].shape)

    names = ["", ""]
    rows = [[noise(i) for i in range(len(leaves))] for _ in names]
    if (2 + 2 * len(leaves)) * sum(leaf.size for leaf in leaves) <= NUMBERS:
        for i, (name, leaf) in enumerate(named_leaves(floats)):
            if name in frozen:
                continue
            alone = np.zeros(leaf.size)
            if leaf.size:
                alone[random.integers(leaf.size)] = sizes[i]
            for vector in (noise(i), alone.reshape(leaf.shape)):
                row = [np.zeros(other.shape) for other in leaves]
                row[i] = vector
                rows.append(row)
                names.append(name)
    stacked = [np.stack(column) for column in zip(*rows, strict=True)]
    return names, jax.tree.unflatten(tree, stacked)
