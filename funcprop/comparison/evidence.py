"""What the witnesses say of a layer, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp

from funcprop.comparison.programs import Programs, cast, shapes
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.gradients import (
    Grads,
    all_finite,
    differentiable,
    frozen_by,
    in_working_dtype,
    pulled,
    truth_of,
)
from funcprop.comparison.witnesses.points import SCALES, Point, points, spread, times
from funcprop.comparison.witnesses.slopes import Slope, along
from funcprop.gradient import partition
from funcprop.layer import Context, Params


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
    rounded    in the working dtype, by hand and automatically; None where that is float64
    slopes     along directions in float64: ⟨gradient, v⟩ and what finite differences, near and
               far, and `jax.jvp` make of it (None where it cannot differentiate the forward)
    moves      those directions, leaves [directions, ...]
    dys        the cotangents of `exact`, in float64
    numerical  the truth comes from finite differences, since JAX cannot differentiate the forward;
               `automatic` is then None
    residuals  what the backward pass reads, as shapes: its size is what a layer keeps
    """

    exact: tuple[Found, ...]
    scaled: tuple[Found, ...]
    rounded: Grads | None
    automatic: Grads | None
    slopes: tuple[Slope, ...]
    moves: Any
    dys: Any
    numerical: bool
    residuals: Any


def observe(subject: Subject, dys: Any, programs: Programs | None = None) -> Evidence:
    """Both rules under all cotangents and at all points, and the slopes of the forward.

    In float64 forward and backward are programs of their own, as they are in use: a backward that
    reads what a forward pass left behind has nothing to read there. `dys` [probes, ...] are in the
    working dtype; in float64 there are one-hot and scaled ones besides. `programs` serve again
    where they fit.
    """
    run = Programs() if programs is None else programs
    layer, peer = subject.layer, subject.peer
    places, more = points(subject.x, subject.context), spread(dys, subject.key)

    def forward(params: Params, x: Any, context: Context) -> Any:
        return layer.forward(params, x, context)

    def backward(params: Params, residuals: Any, dys: Any) -> Grads:
        return pulled(layer, params, residuals, dys)

    with jax.enable_x64(True):
        more = cast(more, jnp.float64)
        wide = [subject.at(place.x, place.context).in_float64() for place in places]
        first = wide[0]

        def attempt() -> None:
            run.prepare("truth", truth_of(peer, True), *first.given, more)

        by_jax = run.once("differentiable", differentiable, peer, *first.given, attempt)
        truth = truth_of(peer, by_jax)
        if not by_jax:  # finite differences visit every coordinate: once is enough
            places, wide = places[:1], wide[:1]
        passes = [run("forward", forward, *each.given) for each in wide]
        kept = [residuals for _, residuals in passes]
        # an input that was changed may be none that the layer takes: it says so by NaN
        taken = [i for i, (y, _) in enumerate(passes) if i == 0 or all_finite(y)]

        def by_hand(residuals: Any, dys: Any) -> Grads:
            return run("backward", backward, first.params, residuals, dys)

        exact = tuple(
            Found(places[i], by_hand(kept[i], more), run("truth", truth, *wide[i].given, more))
            for i in taken
        )
        scaled = tuple(
            Found(
                Point(f"{scale:g} dy", subject.x, subject.context),
                by_hand(kept[0], times(scale, more)),
                times(scale, exact[0].truth),
            )
            for scale in SCALES
        )
        one = jax.tree.map(lambda dy: dy[0], more)
        frozen = run.once("frozen", frozen_by, layer, first.params, kept[0], one)
        slopes, moves = along(first, more, exact[0].given, frozen=frozen, run=run)
    found = Evidence(exact, scaled, None, None, slopes, moves, more, not by_jax, shapes(kept[0]))
    floats = jax.tree.leaves(partition((subject.params, subject.x))[0])
    if all(leaf.dtype == jnp.float64 for leaf in floats):
        return found
    rounded, automatic = in_working_dtype(subject, by_jax, dys, run)
    return replace(found, rounded=rounded, automatic=automatic)


def bytes_of(tree: Any) -> int:
    """What arrays of these shapes and dtypes hold."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
