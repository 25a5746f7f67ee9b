"""A stage: layers in a row, and of the last one the loss; forward, and backward in two halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from funcprop.collectors.split import InputHalf, WeightHalf
from funcprop.composites import Repeat, Serial
from funcprop.layer import Array, Context, Layer, Params, Residuals, inside, two
from funcprop.pipelines.cutting import Route, Run, params_at


@dataclass(frozen=True)
class Stage:
    """Runs one after the other, then the loss where there is one. A value: equal stages are one.

    Parameters, residuals and what is kept between the halves are pairs: a tuple with one entry a
    run, and that of the loss, () where there is none.
    """

    runs: tuple[Run, ...]
    loss: Layer | None
    loss_route: Route

    @property
    def body(self) -> Serial:
        """What is split: the runs as one layer."""
        return Serial(*(run.layer for run in self.runs))

    def params(self, body: Params, loss: Params, firsts: Any) -> Params:
        """The stage's own among the parameters of all; firsts: the first step of each run."""
        own = []
        for run, first in zip(self.runs, firsts, strict=True):
            found = params_at(body, run.path)
            if run.steps and not run.apart:
                found = jax.tree.map(lambda p, i=first, r=run: part(p, i, r.layer), found)
            own.append(found)
        return tuple(own), loss if self.loss is not None else ()

    def forward(
        self, params: Params, x: Any, target: Any, context: Context, firsts: Any
    ) -> tuple[Any, Residuals, Any]:
        """-> y, or the loss's value; residuals; the statistics of every run."""
        own, loss_params = params
        kept, loss_kept, statistics = [], (), []
        for number, (run, p, first) in enumerate(zip(self.runs, own, firsts, strict=True)):
            key = routed(context.key, run.route)
            with inside(self.body, number):
                if isinstance(run.layer, Repeat) and run.steps:
                    keys = None if key is None else jax.random.split(key, run.steps)
                    keys = None if keys is None else part(keys, first, run.layer)
                    x, residuals = run.layer.forward_steps(p, x, keys, context.mask)
                else:
                    given = run.layer.forward(p, x, Context(key, context.mask))
                    x, residuals = two(run.layer, "forward", given)
            kept.append(residuals)
            statistics.append(run.layer.statistics(residuals))
        if self.loss is not None:
            context = Context(routed(context.key, self.loss_route), context.mask)
            given = self.loss.forward(loss_params, (x, target), context)
            x, loss_kept = two(self.loss, "forward", given)
        return x, (tuple(kept), loss_kept), tuple(statistics)

    def input_half(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        """-> dx, kept: what the stage before waits for."""
        (own, loss_params), (kept, loss_kept), between = params, residuals, ()
        if self.loss is not None:
            (dy, _), between = InputHalf(self.loss)(loss_params, loss_kept, dy)
        dx, own_between = InputHalf(self.body)(own, kept, dy)
        return dx, (own_between, between)

    def weight_half(self, params: Params, kept: Any) -> Params:
        """-> dparams."""
        (own, loss_params), (own_between, between) = params, kept
        loss = () if self.loss is None else WeightHalf(self.loss)(loss_params, between)
        return WeightHalf(self.body)(own, own_between), loss


def part(stack: Array, first: Any, layer: Layer) -> Array:
    """The steps of a Repeat, among all of a longer one."""
    assert isinstance(layer, Repeat)
    return lax.dynamic_slice_in_dim(stack, first, layer.length, 0)


def routed(key: Array | None, route: Route) -> Array | None:
    """The key that composites hand down along a route."""
    for n, i in route:
        key = None if key is None else jax.random.split(key, n)[i]
    return key
