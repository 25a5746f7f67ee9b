"""Tied: one parameter in several places."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from funcprop.composites.composite import Composite
from funcprop.composites.sharing import Path, Sum, spell_tree
from funcprop.layer import Array, Context, Layer, LayerError, Params, Residuals, inside, spell


@dataclass(frozen=True, init=False, repr=False)
class Tied(Composite):
    """f with parameters that stand in several places: each target is a copy of its source.

    A pair is (source, target), two paths in the parameters of f as they are printed: "[2]" is the
    third entry of a tuple, ".w" a field. "[0].w.T" is a source that its target transposes. A
    path may also name a whole layer's parameters: ("[0]", "[2]"). The parameters hold the source,
    and None at the target. A language model whose embedding is its output projection:

        Tied(Serial(Embedding(V, D), body, Dense(V, bias=False)), (("[0].w.T", "[2].w"),))

    forward   x -> y: f, any trees, with the targets filled in; a parameter "[0].w.T" [D, V] is
              stored once, as [V, D]
    keeps     what f keeps
    backward  dsource = Σ over its uses, dtarget = None: a parameter used twice has two gradients,
              which add
    dtypes    those of f; a source and its targets have one
    raises    LayerError where pairs is no tuple of pairs of paths, a path names no parameter, a
              target is named twice or lies in a source, a source and its target differ in tree,
              shape or dtype, or params holds something at a target; f's own errors, with their
              place in the model
    source    Press and Wolf, 2016, arXiv:1608.05859

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> f = fp.Serial(fp.Embedding(10, 4), fp.Dense(10, bias=False))
    >>> model, ids = fp.Tied(f, (("[0].w.T", "[1].w"),)), jax.ShapeDtypeStruct((8,), jnp.int32)
    >>> params = model.init(jax.random.key(0), ids)
    >>> logits, residuals = jax.eval_shape(model.forward, params, ids)
    >>> logits.shape, params[0][1]
    ((8, 10), Affine(w=None, b=None))
    """

    pairs: tuple[tuple[str, str], ...]

    def __init__(
        self, layer: Layer, pairs: tuple[tuple[str, str], ...], *, shared: Sum = Sum()
    ) -> None:
        object.__setattr__(self, "pairs", pairs)
        object.__setattr__(self, "shared", shared)
        super().__init__(layer)
        if not isinstance(pairs, tuple) or not all(
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(p, str) for p in pair)
            for pair in pairs
        ):
            raise LayerError(
                self,
                f"pairs is {pairs!r}, wanted a tuple of (source, target), both paths",
                'write Tied(layer, (("[0].w.T", "[2].w"),))',
            )
        sources = {parse(self, transposes(source)[0]) for source, _ in pairs}
        for one in sources:
            if any(one != other and one[: len(other)] == other for other in sources):
                raise LayerError(
                    self,
                    f"one source lies in another: {sorted(source for source, _ in pairs)}",
                    "tie single parameters, each from one source: ('[0].w', '[2].w')",
                )
        targets = [parse(self, target) for _, target in pairs]
        for number, path in enumerate(targets):
            others = sources.union(targets[:number])
            if any(path[: len(o)] == o or o[: len(path)] == path for o in others):
                raise LayerError(
                    self,
                    f"the target {pairs[number][1]!r} is named twice, or lies in a source",
                    "name a source once for each of its targets; a target has one source",
                )

    def __repr__(self) -> str:
        words = [repr(self.layers[0]), repr(self.pairs)]
        if self.shared != Sum():
            words.append(f"shared={self.shared!r}")
        return f"Tied({', '.join(words)})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return Tied(*layers, pairs=self.pairs, shared=self.shared)

    @property
    def reused(self) -> frozenset[Path]:  # type: ignore[override]
        """The paths of the sources and of the targets."""
        names = [name for source, target in self.pairs for name in (transposes(source)[0], target)]
        return frozenset((0, *parse(self, name)) for name in names)

    def with_paths(self, change: Callable[[Layer, str], str]) -> Layer:
        (child,) = self.layers
        pairs = tuple(
            (change(child, source), change(child, target)) for source, target in self.pairs
        )
        return Tied(child, pairs, shared=self.shared)

    def init(self, key: Array, x: Any) -> Params:
        with inside(self, 0):
            params = self.layers[0].init(key, x)
        for source, target in self.pairs:
            given, wanted = self._read(params, source), self._read(params, target)
            if spell_tree(given) != spell_tree(wanted):
                raise LayerError(
                    self,
                    f"{source} is {spell(given)} and {target} is {spell(wanted)}",
                    "tie parameters of one tree, shape and dtype; "
                    'a source ending in ".T" is transposed',
                )
        return (self._empty(params),)

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        full = self._fill(params)
        with inside(self, 0):
            return self.layers[0].forward(full, x, context)

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        with inside(self, 0):
            dx, records = self.layers[0].backward(self._fill(params), residuals, dy)
        return dx, (records,) if self.shared.apart else self.from_children(params, (records,))

    def to_children(self, params: Params) -> Params:
        return (self._fill(params),)

    def from_children(self, params: Params, dparams: Params) -> Params:
        """The uses of every source joined, and None at the targets."""
        (records,) = dparams
        joined = records
        for source in dict.fromkeys(transposes(source)[0] for source, _ in self.pairs):
            uses = [self._read(records, source)]
            for name, target in self.pairs:
                if transposes(name)[0] == source:
                    use = self._read(records, target)
                    uses.append(transposed(self, name, use) if transposes(name)[1] else use)
            joined = put(joined, parse(self, source), self.shared.places(self, tuple(uses)))
        return (self._empty(joined),)

    def statistics(self, residuals: Residuals) -> Any:
        return super().statistics((residuals,))

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        (found,) = ((),) if statistics == () else self.entries("statistics", statistics)
        full = self._fill(params)
        with inside(self, 0):
            layer, new = self.layers[0].inference(full, found)
        # a layer may have put its statistics into its parameters: then its uses differ, and what
        # was one parameter is several
        same = tuple(
            pair for pair in self.pairs if all(self._unchanged(full, new, path) for path in pair)
        )
        if not same:
            return layer, new
        tied = Tied(layer, same, shared=self.shared)
        return tied, (tied._empty(new),)

    def _fill(self, params: Params) -> Params:
        """The parameters with every source also at its targets."""
        (full,) = self.entries("params", params)
        for source, target in self.pairs:
            given = self._read(full, target)
            if jax.tree.leaves(given):
                raise LayerError(
                    self,
                    f"the tied parameter {target} is {spell(given)}, wanted None",
                    f"it is stored once, at {transposes(source)[0]}; "
                    "make parameters with layer.init(key, x)",
                )
            full = put(full, parse(self, target), self._read(full, source))
        return full

    def _empty(self, params: Params) -> Params:
        """The parameters with None at the targets."""
        for _, target in self.pairs:
            params = put(params, parse(self, target), None)
        return params

    def _read(self, params: Params, name: str) -> Any:
        """What stands at a path, transposed where it says so."""
        path, turned = transposes(name)
        found = params
        for entry in parse(self, path):
            try:
                found = found[entry] if isinstance(entry, int) else getattr(found, entry)
            except (IndexError, AttributeError, TypeError):
                leaves = jax.tree.leaves_with_path(params)
                names = [jax.tree_util.keystr(leaf_path) for leaf_path, _ in leaves]
                raise LayerError(
                    self,
                    f"{path!r} names no parameter",
                    f"they are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}",
                ) from None
        return transposed(self, name, found) if turned else found

    def _unchanged(self, old: Params, new: Params, name: str) -> bool:
        """Whether the very same arrays stand at the path."""
        path = transposes(name)[0]
        try:
            before, after = self._read(old, path), self._read(new, path)
        except LayerError:
            return False
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=False)
        return spell_tree(before) == spell_tree(after) and all(a is b for a, b in pairs)


# --- paths ----------------------------------------------------------------------------------------


def parse(layer: Layer, path: str) -> Path:
    """ "[0].w" -> (0, "w")."""
    entries = re.findall(r"\[(\d+)\]|\.([^\W\d]\w*)", path)
    if not entries or "".join(f"[{n}]" if n else f".{name}" for n, name in entries) != path:
        raise LayerError(
            layer,
            f"{path!r} is no path",
            'write it as JAX prints it: "[0].w", where a source may end in ".T"',
        )
    return tuple(int(n) if n else name for n, name in entries)


def transposes(source: str) -> tuple[str, bool]:
    """ "[0].w.T" -> "[0].w", True."""
    return (source[:-2], True) if source.endswith(".T") else (source, False)


def transposed(layer: Layer, name: str, value: Any) -> Any:
    """The transpose of a matrix."""
    if getattr(value, "ndim", None) != 2:
        raise LayerError(layer, f"{name} is the transpose of {spell(value)}, wanted two axes")
    return value.T


def put(tree: Any, path: Path, value: Any) -> Any:
    """The tree with another value at the path."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        return (*tree[:head], put(tree[head], rest, value), *tree[head + 1 :])
    return tree._replace(**{head: put(getattr(tree, head), rest, value)})
