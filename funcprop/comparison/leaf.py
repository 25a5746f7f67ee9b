"""One leaf of a gradient beside its truth: what every stage of a comparison speaks of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcprop.comparison.programs import named_leaves
from funcprop.gradient import zeros_where_frozen
from funcprop.layer import Layer, is_float, spell


@dataclass(frozen=True)
class Leaf:
    """One leaf of a gradient in one dtype, judged.

    place, path  where: "Serial[2] Dense", "dw"
    error        the largest absolute error over all probes
    relative     the norm of the error over the norm of the truth, the worst of the probes
    ulps         the largest error in units in the last place of the expected value there
    cosine       of the angle between both, the worst of the probes; 1 where both are zero
    index        where the largest error lies; by_hand and expected: both values there
    rule         which rule decided, in words
    at           the input, where it was changed: "30 x"
    words        what is wrong, where its pattern is known: "sign flipped"
    judged       whether some witness could tell: nowhere can it on a kink, as all of a bisection is
    x, dy        what stands there in x and dy where the row is wrong and each element of dx has its
                 own: numbers to redo it with
    """

    place: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    ok: bool
    rule: str
    error: float = 0.0
    relative: float = 0.0
    index: tuple[int, ...] = ()
    by_hand: float = 0.0
    expected: float = 0.0
    ulps: float = 0.0
    cosine: float = 1.0
    at: str = ""
    words: str = ""
    judged: bool = True
    x: float | None = None
    dy: float | None = None

    @property
    def name(self) -> str:
        """`Serial[2] Dense: dw`."""
        return f"{self.place}: {self.path}" if self.place else self.path


def broken(place: str, grads: dict[str, Any], like: dict[str, Any]) -> list[Leaf]:
    """A failed row for every leaf that lacks the tree, shape or dtype the contract asks for.

    `like` holds what was differentiated. Integer leaves of it have the cotangent None, and so may
    parameters that are frozen.
    """
    rows = []
    for name, tree in grads.items():
        if name == "dparams":
            tree = zeros_where_frozen(tree, like[name])
        wanted = jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, like[name])
        given_tree, wanted_tree = jax.tree.structure(tree), jax.tree.structure(wanted)
        if given_tree != wanted_tree:
            told = spell(tree), spell(wanted)
            if told[0] == told[1]:
                told = given_tree, wanted_tree
            rule = f"contract: backward returned {name} as {told[0]}, wanted {told[1]}"
            if wanted is None:
                rule += f": {name[1:]} is {spell(like[name])}, and integers have no gradient"
            rows.append(Leaf(place, name, (), "", False, rule, np.inf, np.inf))
            continue
        pairs = zip(named_leaves({name: tree}), jax.tree.leaves(wanted), strict=True)
        for (path, leaf), want in pairs:
            shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
            if (shape, dtype) != (want.shape, want.dtype):
                rule = f"contract: backward returned {spell(leaf)}, wanted {spell(want)}"
                row = Leaf(place, path, want.shape, str(want.dtype), False, rule, np.inf, np.inf)
                rows.append(row)
    return rows


NO_PATTERN = "no pattern recognized"
Place = tuple[str, ...]


class Broken(Exception):
    """A layer's backward broke the contract: its rows say how."""

    def __init__(self, rows: list[Leaf]) -> None:
        super().__init__(rows[0].rule)
        self.rows = rows


def with_reason(place: str, run: Callable[[], Any]) -> Any:
    """`run()`, with whatever a backward raises told as a broken contract."""
    try:
        return run()
    except Broken:
        raise
    except jax.errors.UnexpectedTracerError as error:
        rule = "backward reads a value that forward left behind: put it into the residuals"
        raise Broken([broke(place, "backward", rule)]) from error
    except Exception as error:
        rule = f"backward raised {type(error).__name__}: {error}"
        raise Broken([broke(place, "backward", rule)]) from error


def broke(place: str, path: str, rule: str) -> Leaf:
    """A failed row of no leaf."""
    return Leaf(place, path, (), "", False, f"contract: {rule}", np.inf, np.inf)


def place_name(layer: Layer, place: Place) -> str:
    """`Serial[2] Dense`."""
    return " ".join((*place, type(layer).__name__))
