"""A layer with a wrong gradient, evaluated anew with something exchanged."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcprop.comparison.explanation.arrays import stacked
from funcprop.comparison.programs import named_leaves, quick_options
from funcprop.comparison.witnesses.gradients import Grads
from funcprop.gradient import autodiff
from funcprop.layer import Context, Layer, Params

Leaves = dict[str, np.ndarray]  # [probes, ...] by name
Guess = tuple[str, Leaves]  # words, and the leaves that they predict


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

    def dys_from(self, dy: Any) -> Any:
        """That cotangent in place of the only one."""
        return jax.tree.unflatten(jax.tree.structure(self.dys), [dy])

    def at(self, **changed: Any) -> Leaves:
        """The truth, had the layer been given other params [probes, ...], x, context or dys."""
        return self._evaluate(self._truth, **changed)

    def own(self, **changed: Any) -> Leaves:
        """What the layer's own backward returns, had it been given another x, context or dys."""
        return self._evaluate(self._own, **changed)

    def repaired(self, params: Params) -> Leaves:
        """The layer's own backward, handed other params [probes, ...] after the right forward.

        Told as a prediction: it is what was given where this change makes the leaf right.
        """
        own = self.own(params=params)
        return {name: self.as_prediction(name, own[name]) for name in self.reproduced}

    def as_prediction(self, name: str, repaired: np.ndarray) -> np.ndarray:
        """What was given, where the repaired leaf is the truth."""
        return self.given[name] + self.truth[name] - repaired

    @functools.cached_property
    def reproduced(self) -> list[str]:
        """The wrong leaves that the layer's own backward returns here as well."""
        own = self.own()
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
