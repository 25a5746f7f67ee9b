"""Wrong gradients that only the layer can tell: what would have come out, had it been so.

Each hypothesis evaluates the truth with something exchanged (the output for the input, no mask,
other weights, another dy), or the layer's own backward with something set right. Most share one
compiled program, and nothing is evaluated before it is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcprop.comparison.programs import named_leaves, quick_options
from funcprop.comparison.truth import Grads
from funcprop.gradient import autodiff
from funcprop.layer import Array, Context, Layer, Params, describe, is_float

Leaves = dict[str, np.ndarray]  # [probes, ...] by name
Guess = tuple[str, Leaves]  # words, and the leaves that they predict

WIDEST = 64  # a longer last axis: its Jacobian's diagonal takes too many cotangents
MOST = 16  # more leaves of a tree: trying them one by one takes too long


@dataclass(frozen=True)
class Problem:
    """A layer, what it was given, and both gradients as leaves by name."""

    layer: Layer
    peer: Layer  # its forward, as far as JAX can differentiate it
    params: Params
    x: Any
    context: Context
    dys: Any
    given: Leaves
    truth: Leaves

    @property
    def probes(self) -> int:
        return len(jax.tree.leaves(self.dys)[0])

    @property
    def dy(self) -> np.ndarray | None:
        """[probes, ...]: the cotangent, where the output is a single array."""
        leaves = jax.tree.leaves(self.dys)
        return leaves[0] if len(leaves) == 1 else None

    def dys_from(self, dy: np.ndarray) -> Any:
        """That cotangent in place of the only one."""
        return jax.tree.unflatten(jax.tree.structure(self.dys), [dy])

    def at(self, **changed: Any) -> Leaves:
        """The truth, had the layer been given other params [probes, ...], x, context or dys."""
        return self._evaluate(self._truth, **changed)

    def repaired(self, params: Params) -> Leaves:
        """The layer's own backward, handed other params [probes, ...] after the right forward.

        Told as a prediction: it is what was given where this change makes the leaf right.
        """
        own = self._evaluate(self._own, params=params)
        return {name: self.as_prediction(name, own[name]) for name in self.reproduced}

    def as_prediction(self, name: str, repaired: np.ndarray) -> np.ndarray:
        """What was given, where the repaired leaf is the truth."""
        return self.given[name] + self.truth[name] - repaired

    @functools.cached_property
    def reproduced(self) -> list[str]:
        """The wrong leaves that the layer's own backward returns here as well."""
        own = self._evaluate(self._own)
        pairs = {name: (leaf, self.given[name], self.truth[name]) for name, leaf in own.items()}
        return [
            name
            for name, (leaf, given, truth) in pairs.items()
            if leaf.shape == given.shape == truth.shape
            and np.abs(leaf - given).max(initial=0) < 1e-6 * np.abs(given - truth).max(initial=0)
        ]

    @functools.cached_property
    def _truth(self) -> Callable[..., Grads]:
        return over_probes(autodiff(self.peer), lambda params, right: params)

    @functools.cached_property
    def _own(self) -> Callable[..., Grads]:
        return over_probes(self.layer, lambda params, right: right)

    def _in_turn(self, program: Callable[..., Grads], dys: Any) -> Leaves:
        """Under another number of cotangents, so many at a time that no program is made anew."""
        count, size = len(jax.tree.leaves(dys)[0]), self.probes
        dys = jax.tree.map(lambda dy: np.concatenate([dy, *[dy[:1]] * (-count % size)]), dys)
        found = [
            self._evaluate(program, dys=jax.tree.map(lambda dy, i=i: dy[i : i + size], dys))
            for i in range(0, count, size)
        ]
        return {name: np.concatenate([each[name] for each in found])[:count] for name in found[0]}

    def _evaluate(self, program: Callable[..., Grads], **changed: Any) -> Leaves:
        dys = changed.get("dys", self.dys)
        if len(jax.tree.leaves(dys)[0]) != self.probes:
            return self._in_turn(program, dys)
        params = changed.get("params", stacked(self.params, len(jax.tree.leaves(dys)[0])))
        x, context = changed.get("x", self.x), changed.get("context", self.context)
        with jax.enable_x64(True):
            grads = program(params, self.params, x, context, dys)
        return {name: np.asarray(leaf) for name, leaf in named_leaves(grads)}


def over_probes(layer: Layer, in_forward: Callable[[Any, Any], Any]) -> Callable[..., Grads]:
    """(params [probes, ...], right params, x, context, dys) -> gradients, as one program.

    A loop over the probes, not a batch of them: XLA's CPU compiler (jaxlib 0.10.2) picks layouts
    for products with stacked parameters that it then refuses to emit, and ends the process.
    """

    def every(params: Params, right: Params, x: Any, context: Context, dys: Any) -> Grads:
        def one(each: tuple[Params, Any]) -> Grads:
            _, residuals = layer.forward(in_forward(each[0], right), x, context)
            dx, dparams = layer.backward(each[0], residuals, each[1])
            return {"dx": dx, "dparams": dparams}

        return jax.lax.map(one, (params, dys))

    return quickly(every)


def quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`, with as little optimization as the CPU's compiler allows."""
    options = quick_options() if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)


def hypotheses(problem: Problem) -> Iterator[Guess]:
    """Words and the leaves they predict, in the order in which they are to be believed."""
    for hypothesis in TABLE:
        try:
            yield from hypothesis(problem)
        except Exception:  # the layer cannot be given that: nothing is learnt from this one
            continue


# --- the truth, had it been so --------------------------------------------------------------------


def at_the_output(problem: Problem) -> Iterator[Guess]:
    with jax.enable_x64(True):
        arguments = (problem.params, problem.x, problem.context)
        y = quickly(lambda *given: problem.layer.forward(*given)[0])(*arguments)
    if spelling(y) == spelling(problem.x):
        words = "taken at the output in place of the input, as σ′ of the activation"
        yield words, problem.at(x=jax.tree.map(np.asarray, y))


def mask_ignored(problem: Problem) -> Iterator[Guess]:
    def all_seen(leaf: Any) -> Any:
        return np.ones_like(leaf) if leaf.dtype == bool else leaf

    x, mask = jax.tree.map(all_seen, (problem.x, problem.context.mask))
    if any(leaf.dtype == bool for leaf in jax.tree.leaves((x, mask))):
        context = Context(problem.context.key, mask)
        yield "the mask is ignored", problem.at(x=x, context=context)


def diagonal_alone(problem: Problem) -> Iterator[Guess]:
    """The Jacobian's diagonal along the last axis, by one cotangent for each index."""
    dy = problem.dy
    if (
        dy is None
        or not dy.ndim > 1
        or dy.shape[-1] > WIDEST
        or np.shape(problem.x) != dy.shape[1:]
    ):
        return
    index = range(dy.shape[-1])
    basis = np.stack([np.broadcast_to(np.eye(len(index))[k], dy.shape[1:]) for k in index])
    dx = problem.at(dys=problem.dys_from(basis))["dx"]
    yield "the Jacobian's diagonal alone", {"dx": np.stack([dx[k][..., k] for k in index], -1) * dy}


def not_transposed(problem: Problem) -> Iterator[Guess]:
    """Right as soon as backward reads the parameter the other way round."""
    for name, leaf, put in places(problem.params, "params"):
        for words, turned in other_ways_round(leaf):
            params = stacked(put(turned), problem.probes)
            yield f"{name} is not {words}", problem.at(params=params)
            yield f"{name} is not {words}", problem.repaired(params)


def left_out(problem: Problem) -> Iterator[Guess]:
    for name, leaf, put in places(problem.x, "x"):
        yield f"as if {name} were 1", problem.at(x=put(np.ones_like(leaf)))
    for name, leaf, put in places(problem.params, "params"):
        params = stacked(put(np.ones_like(leaf)), problem.probes)
        yield f"as if {name} were 1", problem.at(params=params)


def another_dy(problem: Problem) -> Iterator[Guess]:
    dy = problem.dy
    if dy is None:
        return
    mean = np.broadcast_to(dy.mean(axes_of(dy), keepdims=True), dy.shape)
    yield "as if dy were its mean everywhere", problem.at(dys=problem.dys_from(mean))
    yield "as if dy were 1 everywhere", problem.at(dys=problem.dys_from(np.ones_like(dy)))
    if "dx" in problem.truth and problem.truth["dx"].shape == dy.shape:
        twice = problem.at(dys=problem.dys_from(problem.truth["dx"]))
        yield "the derivative is applied twice", twice
    for axis, (end, index) in itertools.product(axes_of(dy), (("first", 0), ("last", -1))):
        alone = np.zeros_like(dy)
        np.moveaxis(alone, axis, 0)[index] = np.moveaxis(dy, axis, 0)[index]
        words = f"from the {end} index of axis {axis - 1} of dy alone"
        yield words, problem.at(dys=problem.dys_from(alone))


def weights_updated(problem: Problem) -> Iterator[Guess]:
    """The error is a multiple of what a step along the gradient changes: the learning rate."""
    leaves, tree = jax.tree.flatten(problem.params)
    names = [name for name, _ in named_leaves({"dparams": problem.params})]
    for grads in (problem.truth, problem.given):
        steps = [grads.get(name, np.zeros(())) for name in names]
        if not leaves or any(
            np.shape(s)[1:] != np.shape(p) for s, p in zip(steps, leaves, strict=True)
        ):
            continue
        stepped = [leaf - step for leaf, step in zip(leaves, steps, strict=True)]
        for name, after in problem.at(params=jax.tree.unflatten(tree, stepped)).items():
            truth, given = problem.truth[name], problem.given[name]
            change = after - truth
            size = float(np.sum(np.square(change)))
            if given.shape == truth.shape and size > 0 and given.size > 2:
                rate = float(np.sum((given - truth) * change)) / size
                words = f"by weights already updated, with a learning rate of {rate:.4g}"
                yield words, {name: truth + rate * change}


def another_key(problem: Problem) -> Iterator[Guess]:
    key, mask, dy = problem.context.key, problem.context.mask, problem.dy
    if key is None:
        return
    usual = [*jax.random.split(key), *(jax.random.fold_in(key, data) for data in (0, 1))]
    draws = False
    for other in (*usual, jax.random.key(0), jax.random.key(1)):
        leaves = problem.at(context=Context(other, mask))
        draws |= any(not np.array_equal(leaf, problem.truth[n]) for n, leaf in leaves.items())
        yield "drawn from another key", leaves
    for name in problem.truth if draws else ():
        given, truth = problem.given[name], problem.truth[name]
        if dy is not None and given.shape == truth.shape == dy.shape:
            for words, predicted in dropped(given, truth, dy):
                yield words, {name: predicted}


def dropped(given: np.ndarray, truth: np.ndarray, dy: np.ndarray) -> Iterator[Any]:
    """Where the truth is c · dy times a mask, and given c · dy times another one."""
    one, other = given != 0, truth != 0
    c = float(np.sum(truth * dy) / max(np.sum(np.square(dy * other)), 1e-300))
    if one.any() and not one.all() and np.allclose(c * dy * other, truth, 1e-9, 0):
        words = "other elements are dropped than in forward, as if drawn from another key"
        yield (
            words if (one == other)[dy != 0].any() else "kept and dropped are exchanged",
            c * dy * one,
        )


def another_axis(problem: Problem) -> Iterator[Guess]:
    """Right as soon as the layer's own backward sees its residuals and dy transposed."""

    def turned(x: Any, context: Context, dys: Array) -> Array:
        _, residuals = problem.layer.forward(problem.params, x, context)
        residuals, dys = jax.tree.map(lambda leaf: leaf.mT, (residuals, dys))
        return jax.vmap(lambda dy: problem.layer.backward((), residuals, dy)[0])(dys).mT

    dy = problem.dy
    if jax.tree.leaves(problem.params) or dy is None or dy.ndim < 3:
        return
    with jax.enable_x64(True):
        dx = np.asarray(quickly(turned)(problem.x, problem.context, dy))
    if "dx" in problem.reproduced and dx.shape == problem.truth["dx"].shape:
        words = "a sum over the last axis but one in place of the last"
        yield words, {"dx": problem.as_prediction("dx", dx)}


def another_setting(problem: Problem) -> Iterator[Guess]:
    """The same layer with a flag turned, or a field at its default."""
    fields = dataclasses.fields(problem.peer) if dataclasses.is_dataclass(problem.peer) else ()
    for field in fields:
        value = getattr(problem.peer, field.name)
        other = (not value) if isinstance(value, bool) else field.default
        if not field.init or other is dataclasses.MISSING or other == value:
            continue
        try:
            layer = dataclasses.replace(problem.peer, **{field.name: other})  # type: ignore
            leaves = dataclasses.replace(problem, peer=layer).at()
        except Exception:  # no such layer, or not for this input: the other fields may do
            continue
        yield f"the gradient of {describe(layer)}", leaves


def rearranged_arguments(problem: Problem) -> Iterator[Guess]:
    for words, moved in rearranged(problem.dy) if problem.dy is not None else ():
        yield f"as if dy were {words}", problem.at(dys=problem.dys_from(moved))
    for name, leaf, put in places(problem.x, "x"):
        for words, moved in rearranged(leaf[None]):
            yield f"as if {name} were {words}", problem.at(x=put(moved[0]))


TABLE: tuple[Callable[[Problem], Iterator[Guess]], ...] = (
    at_the_output,
    mask_ignored,
    diagonal_alone,
    not_transposed,
    left_out,
    another_dy,
    weights_updated,
    another_key,
    another_axis,
    another_setting,
    rearranged_arguments,
)


# --- arrays and trees -----------------------------------------------------------------------------


def rearranged(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The elements of [probes, ...] put elsewhere in every simple way, and words for it.

    `shifted by +1` says that each stands where the one after it belongs.
    """
    axes = axes_of(array)
    for i, j in reversed(list(itertools.combinations(axes, 2))):
        if array.shape[i] == array.shape[j]:
            last = (i, j) == (array.ndim - 2, array.ndim - 1)
            words = "transposed" if last else f"with axes {i - 1} and {j - 1} exchanged"
            yield words, np.swapaxes(array, i, j)
    for some in subsets(axes):
        yield f"reversed along {along(some)}", np.flip(array, some)
    for axis, step in itertools.product(axes if array.size else (), (1, -1)):
        words, rolled = f"shifted by {step:+d} along axis {axis - 1}", np.roll(array, step, axis)
        yield f"{words}, round its end", rolled
        filled = rolled.copy()
        np.moveaxis(filled, axis, 0)[0 if step > 0 else -1] = 0
        yield words, filled
    for count in (2, 3, 4) if axes else ():
        if array.shape[-1] % count == 0:
            parts = np.split(array, count, -1)
            for order in list(itertools.permutations(range(count)))[1:]:
                words = f"with the blocks of its last axis in the order {order}"
                yield words, np.concatenate([parts[k] for k in order], -1)


def other_ways_round(leaf: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A matrix transposed, its square blocks transposed, a kernel reversed."""
    if leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2]:
        yield "transposed", leaf.swapaxes(-1, -2)
    elif leaf.ndim == 2 and leaf.shape[0] and leaf.shape[1] % leaf.shape[0] == 0:
        blocks = np.split(leaf, leaf.shape[1] // leaf.shape[0], 1)
        yield "transposed, block by block", np.concatenate([block.T for block in blocks], 1)
    if leaf.ndim >= 3:
        axes = tuple(range(leaf.ndim - 2))
        yield f"reversed along {along([axis + 1 for axis in axes])}", np.flip(leaf, axes)


def places(tree: Any, name: str) -> Iterator[tuple[str, np.ndarray, Callable[[Any], Any]]]:
    """(`w`, the leaf, leaf -> the tree with that leaf in its place) for its float leaves."""
    leaves, structure = jax.tree.flatten(tree)
    for position, (path, leaf) in enumerate(jax.tree.leaves_with_path(tree)):
        if is_float(leaf) and len(leaves) <= MOST:

            def put(other: Any, position: int = position) -> Any:
                kept = [*leaves[:position], other, *leaves[position + 1 :]]
                return jax.tree.unflatten(structure, kept)

            words = jax.tree_util.keystr(path)
            yield words[1:] if words.startswith(".") else name + words, np.asarray(leaf), put


def stacked(tree: Any, count: int) -> Any:
    """Every leaf [...] as [count, ...]."""
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *np.shape(leaf))), tree)


def spelling(tree: Any) -> Any:
    """Tree, shapes and dtypes, to be compared."""
    return jax.tree.structure(tree), [(np.shape(v), v.dtype) for v in jax.tree.leaves(tree)]


def axes_of(array: np.ndarray) -> tuple[int, ...]:
    """All axes but the probes."""
    return tuple(range(1, array.ndim))


def subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Some of the axes: each alone first, then two together, ..."""
    for count in range(1, len(axes) + 1):
        yield from itertools.combinations(axes, count)


def along(axes: Sequence[int]) -> str:
    """`axis 0`, `axes 0 and 1`, numbered without the probes."""
    numbers = [str(axis - 1) for axis in axes]
    return f"axis {numbers[0]}" if len(numbers) == 1 else "axes " + " and ".join(numbers)
