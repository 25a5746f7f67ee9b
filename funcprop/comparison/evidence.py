"""What the witnesses say of a layer, as plain data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp

from funcprop.comparison.programs import Programs, cast, shapes
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.subject.without_rules import narrowest
from funcprop.comparison.witnesses.gradients import (
    Grads,
    all_finite,
    automatic_pass,
    differentiable,
    frozen_by,
    passed,
    truth_of,
    working_pass,
)
from funcprop.comparison.witnesses.points import SCALES, Point, points, spread, times
from funcprop.comparison.witnesses.slopes import Slope, along
from funcprop.gradient import partition
from funcprop.layer import Context, Layer, Params


@dataclass(frozen=True)
class Found:
    """Gradients at one point, NumPy arrays [probes, ...]: by hand, and the truth of the witness."""

    point: Point
    given: Grads
    truth: Grads


@dataclass(frozen=True)
class Evidence:
    """What the witnesses say.

    exact      in float64, at every point
    scaled     the same at the first point, under cotangents of other sizes (`SCALES`)
    value      of a function where it is differentiated, at the first point; None for a layer
    rounded    in the working dtype by hand; None where that is float64
    automatic  the same automatically, when it is called: a program that most verdicts never need
    slopes     along directions in float64: ⟨gradient, v⟩ and what finite differences, near and
               far, and `jax.jvp` make of it (None where it cannot differentiate the forward)
    moves      those directions, leaves [directions, ...]
    dys        the cotangents of `exact`, in float64
    numerical  the truth comes from finite differences, since JAX cannot differentiate the forward;
               `automatic` is then None, as it is where `rounded` is
    residuals  what the backward pass reads, as shapes: its size is what a layer keeps
    left_out   changed inputs at which the forward raises, or is not finite
    """

    exact: tuple[Found, ...]
    scaled: tuple[Found, ...]
    value: Any
    rounded: Grads | None
    automatic: Callable[[], Grads] | None
    slopes: tuple[Slope, ...]
    moves: Any
    dys: Any
    numerical: bool
    residuals: Any
    left_out: tuple[str, ...] = ()


def observe(subject: Subject, dys: Any, programs: Programs | None = None) -> Evidence:
    """Both rules under all cotangents and at all points, and the slopes of the forward.

    In float64 forward and backward are programs of their own, as they are in use: a backward that
    reads what a forward pass left behind has nothing to read there. `dys` [probes, ...] are in the
    working dtype; in float64 there are one-hot and scaled ones besides. `programs` serve again
    where they fit.
    """
    run = Programs() if programs is None else programs
    layer, peer = subject.layer, subject.peer
    places, more = points(subject), spread(dys, subject.key)

    def forward(params: Params, x: Any, context: Context) -> Any:
        return layer.forward(params, x, context)

    def backward(params: Params, residuals: Any, dys: Any) -> tuple[Any, Grads]:
        return passed(layer, params, residuals, dys)

    with jax.enable_x64(True):
        more = cast(more, jnp.float64)
        first = subject.in_float64()

        def attempt() -> None:
            run.prepare("truth", truth_of(peer, True), *first.given, more)

        by_jax = run.once("differentiable", differentiable, peer, *first.given, attempt)
        exact = subject.rtol if by_jax else max(subject.rtol, rounding_in(peer, *first.given))
        truth = truth_of(peer, by_jax, exact)

        def found_at(place: Point) -> tuple[Found, Any, Any] | None:
            """-> what is found, the value, and the residuals; None where the input is none that the
            forward takes: it raises, or it says NaN."""
            there = subject.at(place.x, place.context).in_float64()
            y, kept = run("forward", forward, *there.given)
            if place.name and not all_finite(y):
                return None
            value, by_hand = run("backward", backward, first.params, kept, more)
            return Found(place, by_hand, run("truth", truth, *there.given, more)), value, kept

        here = found_at(places[0])
        assert here is not None
        (one, value, kept), left_out = here, list[str]()
        exact = [one]
        for place in places[1:] if by_jax else ():  # finite differences visit every coordinate
            try:
                found = found_at(place)
            except Exception:  # of an input that nobody gave
                found = None
            if found is None:
                left_out.append(place.name)
            else:
                exact.append(found[0])
        scaled = tuple(
            Found(
                Point(f"{scale:g} dy", subject.x, subject.context),
                run("backward", backward, first.params, kept, times(scale, more))[1],
                times(scale, exact[0].truth),
            )
            for scale in SCALES
        )
        one = jax.tree.map(lambda dy: dy[0], more)
        frozen = run.once("frozen", frozen_by, layer, first.params, kept, one)
        still = frozen | subject.ignored
        slopes, moves = along(first, more, exact[0].given, frozen=still, run=run)
    rounded = automatic = None
    floats = jax.tree.leaves(partition((subject.params, subject.x))[0])
    if not all(leaf.dtype == jnp.float64 for leaf in floats):
        rounded = working_pass(subject, dys, run)[1]
        if by_jax:
            automatic = functools.cache(lambda: automatic_pass(subject, dys, run))
    return Evidence(
        tuple(exact), scaled, value, rounded, automatic, slopes, moves, more, not by_jax,
        shapes(kept), tuple(left_out),
    )  # fmt: skip


def rounding_in(layer: Layer, params: Params, x: Any, context: Context) -> float:
    """eps of the narrowest dtype that a forward rounds to inside, in float64; 0 where it does not:
    finite differences of it take longer steps."""
    narrow = narrowest(layer.forward, params, x, context)
    return 0.0 if narrow is None else float(jnp.finfo(narrow).eps)


def bytes_of(tree: Any) -> int:
    """What arrays of these shapes and dtypes hold."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
