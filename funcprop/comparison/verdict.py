"""One leaf of a gradient against its truth: how far off, and which rule decides.

An error is judged against truth computed in float64 and against the error that automatic
differentiation itself makes in the working dtype. No tolerance grows with the size of an array.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import is_float, spell

EXACT = 1e-10  # relative norm in float64: forty times the square root of eps would be 6e-7
NUMERICAL = 1e-6  # the same where finite differences are the only witness
FACTOR = 2.0  # times the error that automatic differentiation makes in the working dtype
FLOOR = 8.0  # eps of the leaf's largest gradient: rounding of the last operations
ALONE = 1000.0  # eps, where there is no automatic differentiation to compare with
ZERO = 64.0  # eps of the target's largest gradient: a leaf below it is zero but for rounding


@dataclass(frozen=True)
class Leaf:
    """One leaf of a gradient in one dtype, judged.

    place, path  where: "Serial[2] Dense", "dw"
    error        the largest absolute error over all probes
    relative     the norm of the error over the norm of the truth, the worst of the probes
    index        where the largest error lies; by_hand and expected: both values there
    allowed      what the rule allows, of `error` or of `relative`
    rule         which rule decided, in words
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

    @property
    def name(self) -> str:
        """`Serial[2] Dense: dw`."""
        return f"{self.place}: {self.path}" if self.place else self.path


def named_leaves(grads: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """{"dx": ..., "dparams": ...} -> (`dx[0]`, leaf), (`dw`, leaf), (`dparams[0].w`, leaf)."""
    for name, tree in grads.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            words = jax.tree_util.keystr(path)
            short = name == "dparams" and words.startswith(".")
            yield ("d" + words[1:] if short else name + words), leaf


def broken(place: str, grads: dict[str, Any], like: dict[str, Any]) -> list[Leaf]:
    """A failed row for every leaf that lacks the tree, shape or dtype the contract asks for.

    `like` holds what was differentiated. Integer leaves of it have the cotangent None.
    """
    rows = []
    for name, tree in grads.items():
        wanted = jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, like[name])
        given_tree, wanted_tree = jax.tree.structure(tree), jax.tree.structure(wanted)
        if given_tree != wanted_tree:
            rule = f"contract: backward returned {name} as {given_tree}, wanted {wanted_tree}"
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


def judge_exact(
    place: str, manual: dict[str, Any], truth: dict[str, Any], numerical: bool = False
) -> list[Leaf]:
    """Rows in float64, leaves [probes, ...]: the relative norm decides."""
    largest, rows = _largest(truth), []
    limit = NUMERICAL if numerical else EXACT
    witness = ", finite differences" if numerical else ""
    zero = ZERO * float(jnp.finfo(jnp.float64).eps) * largest
    for (path, given), (_, wanted) in zip(named_leaves(manual), named_leaves(truth), strict=True):
        row = _measure(place, path, given, wanted)
        small = row.error <= zero
        rule = f"relative norm <= {limit:g}{witness}"
        if small and not row.relative <= limit:
            rule = f"error <= {ZERO:g} eps of the largest gradient of the target"
        rows.append(_decide(row, bool(row.relative <= limit or small), rule, wanted))
    return rows


def judge_rounded(
    place: str,
    manual: dict[str, Any],
    automatic: dict[str, Any] | None,
    truth: dict[str, Any],
    floor: float = FLOOR,
) -> list[Leaf]:
    """Rows in the working dtype, leaves [probes, ...]: automatic differentiation's error decides.

    `automatic=None` says that the forward cannot be differentiated automatically.
    """
    largest, rows = _largest(truth), []
    peers = [None] * len(jax.tree.leaves(truth))
    if automatic is not None:
        peers = [leaf for _, leaf in named_leaves(automatic)]
    triples = zip(named_leaves(manual), peers, named_leaves(truth), strict=True)
    for (path, given), peer, (_, wanted) in triples:
        row = _measure(place, path, given, wanted)
        eps = float(jnp.finfo(given.dtype).eps)
        scale = float(np.max(np.abs(_finite(wanted)), initial=0.0))
        allowed = [
            (floor * eps * scale, f"error <= {floor:g} eps of the leaf's largest gradient"),
            (eps * largest, "error <= eps of the largest gradient of the target"),
        ]
        if peer is None:
            allowed.append((ALONE * eps * scale, f"error <= {ALONE:g} eps: no automatic peer"))
        else:
            own = _measure(place, path, _where_finite(peer, wanted), wanted).error
            allowed.append((FACTOR * own, f"error <= {FACTOR:g} x automatic's own, {own:.1e}"))
        limit, rule = max(allowed)
        rows.append(_decide(row, row.error <= limit, rule, wanted))
    return rows


def _decide(row: Leaf, ok: bool, rule: str, wanted: np.ndarray) -> Leaf:
    """The row with its verdict; what is not finite decides first."""
    if wanted.size and not np.isfinite(np.asarray(wanted, np.float64)).any():
        ok, rule = False, "no element of the truth is finite: nothing can be judged here"
    elif not np.isfinite(row.error):
        ok, rule = False, "finite where the truth is finite"
    return Leaf(**{**vars(row), "ok": bool(ok), "rule": rule})


def _measure(place: str, path: str, given: np.ndarray, wanted: np.ndarray) -> Leaf:
    """Errors of [probes, ...] arrays where the truth is finite."""
    dtype, shape = str(given.dtype), given.shape[1:]
    given, wanted = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    if given.size == 0:
        return Leaf(place, path, shape, dtype, True, "")
    known = np.isfinite(wanted)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(known, np.abs(given - wanted), 0)
    off = np.where(np.isnan(off), np.inf, off)
    index = np.unravel_index(np.argmax(off), off.shape)
    peak = max(float(off.max()), float(np.abs(_finite(wanted)).max(initial=0.0)), 1e-300)
    axes = tuple(range(1, off.ndim))  # norms of numbers scaled to 1: squares must not underflow
    bad = off.max() == np.inf
    above = np.sqrt(np.sum(np.square(off / peak), axes)) if not bad else np.full(len(off), np.inf)
    below = np.sqrt(np.sum(np.square(np.where(known, wanted, 0) / peak), axes))
    ratio = np.where(above == 0, 0, above / np.maximum(below, 1e-300))
    place_in_leaf = tuple(map(int, index[1:]))
    return Leaf(
        place, path, shape, dtype, True, "", float(off.max()), float(ratio.max()),
        place_in_leaf, float(given[index]), float(wanted[index]),
    )  # fmt: skip


def _where_finite(peer: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The peer, forgiven where it is not finite itself: there only the floor counts."""
    peer = np.asarray(peer, np.float64)
    return np.where(np.isfinite(peer), peer, np.asarray(wanted, np.float64))


def _finite(wanted: np.ndarray) -> np.ndarray:
    wanted = np.asarray(wanted, np.float64)
    return wanted[np.isfinite(wanted)]


def _largest(truth: dict[str, Any]) -> float:
    """The largest gradient of the whole target."""
    tops = [np.abs(_finite(leaf)).max(initial=0.0) for leaf in jax.tree.leaves(truth)]
    return float(max(tops, default=0.0))
