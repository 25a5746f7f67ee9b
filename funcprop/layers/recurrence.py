"""What RNN, GRU and LSTM share: the walk along time, forward and back.

A cell says what one step does (`step`), which elementwise factors its backward needs (`factors`)
and how a cotangent goes back through one step (`step_backward`). Whatever does not depend on the
state is done for many steps at once: the projection of the inputs before the scan, the factors
before the reverse scan, and the gradients of weights and inputs after it, one matmul each. "Many"
is a stretch of up to 16 steps, not all T: the projections, the factors and dz are then never as
long as the sequence, and what stays in memory is what the cell keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.initializers import GlorotUniform, Initializer, Orthogonal, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Shape,
    check_cotangent,
    check_count,
    check_input,
    check_params,
    spell,
    widen,
)
from funcprop.layers.steps import (
    State,
    contract,
    cut,
    piece,
    project,
    select,
    stretches,
    visible,
    wide,
)
from funcprop.sharding import entries, fresh, placed, varying, whole


class RecurrentWeights(NamedTuple):
    """The parameters of z = x w_x + h w_h + b, all of one float dtype; G gates side by side.

    w_x  [in, G H]
    w_h  [H, G H]
    b    [G H], or None where the layer has no bias

    G is 1 for RNN and 4 for LSTM.
    """

    w_x: Array
    w_h: Array
    b: Array | None


class RecurrentResiduals(NamedTuple):
    """What a recurrent layer keeps. `more` and `gates` have time first and are float32 at least."""

    x: Array  # [..., T, in]: dw_x is its product with dz
    h: Array  # [..., T, H]: dw_h is its product with dz. It is the output where nothing is masked
    initial: Array  # [..., H]: h before the first step
    more: State  # the other states before each step, [T, ..., H]: c for the LSTM
    gates: Array | None  # [T, ..., G H]: the activations that the derivative is written with
    mask: Array | None  # bool [T, ...]: the steps that count, where a mask was given
    stateful: Shape | None  # marks, in the tree structure, that x came with an initial state


@dataclass(frozen=True)
class Recurrent(Layer):
    """A cell applied along time. Subclasses define the cell.

    forward   xs [..., T, in] -> ys [..., T, H], from a zero state; or
              (xs, h0) -> (ys, hT), for the LSTM (xs, (h0, c0)) -> (ys, (hT, cT))
    """

    features: int
    reverse: bool = field(default=False, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    x_init: Initializer = field(default=GlorotUniform(), kw_only=True)
    h_init: Initializer = field(default=Orthogonal(), kw_only=True)
    b_init: Initializer = field(default=Zeros(), kw_only=True)

    blocks: ClassVar[int] = 1  # G, the number of gates
    states: ClassVar[tuple[str, ...]] = ("h",)
    weights: ClassVar[type] = RecurrentWeights

    def __post_init__(self) -> None:
        check_count(self, "features", self.features)

    # --- the cell ---------------------------------------------------------------------------------

    def step(self, params: Params, z: Array, state: State) -> tuple[State, Array | None]:
        """z = x w_x + b of one step, [..., G H] -> the next state, and the gates to keep."""
        raise NotImplementedError(f"{type(self).__name__} does not define step")

    def factors(self, gates: Array | None, before: State, h: Array) -> Any:
        """What `step_backward` multiplies with: elementwise, for any number of steps at once."""
        raise NotImplementedError(f"{type(self).__name__} does not define factors")

    def step_backward(self, w_t: Array, factors: Any, dstate: State) -> tuple[Array, State]:
        """The cotangent of the state after a step -> dz, and that of the state before it.

        w_t is w_h transposed, [G H, H].
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step_backward")

    def sides(self, dz: Array) -> tuple[Array, Array]:
        """dz -> the cotangents of x w_x + b and of h w_h: the same, but for the GRU."""
        return dz, dz

    # --- the walk ---------------------------------------------------------------------------------

    def init(self, key: Array, x: Any) -> Params:
        xs = x[0] if isinstance(x, tuple) else x
        check_input(self, xs, rank=2)
        x_key, h_key, b_key = jax.random.split(key, 3)

        def draw(init: Initializer, key: Array, *leading: int) -> Array:
            # gate by gate: a gate's fan-out is H, and only a square block is orthogonal
            keys = jax.random.split(key, self.blocks)
            blocks = [init(k, (*leading, self.features), wide(xs.dtype)) for k in keys]
            return jnp.concatenate(blocks, -1).astype(xs.dtype)

        w_x = draw(self.x_init, x_key, xs.shape[-1])
        w_h = draw(self.h_init, h_key, self.features)
        return RecurrentWeights(w_x, w_h, draw(self.b_init, b_key) if self.bias else None)

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, RecurrentResiduals]:
        params = whole(params)  # the gates lie side by side in them, and are cut apart
        xs, state = self._input(params, x)
        mask = self._mask(xs, context)
        state = varying(state, xs, mask, params)
        count, size = stretches(xs.shape[-2])

        def step(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, Any]:
            z, counts = inputs
            after, gates = self.step(params, z, state)
            after = select(counts, after, state)
            return after, (after[0], state[1:], gates)

        def stretch(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, Any]:
            k, counts = inputs
            z = project(visible(piece(xs, k, size), counts), params.w_x)
            z = z if params.b is None else z + widen(params.b)
            return jax.lax.scan(step, state, (z, counts), reverse=self.reverse)

        inputs = (jnp.arange(count), cut(mask, size))
        final, kept = jax.lax.scan(stretch, state, inputs, reverse=self.reverse)
        h, more, gates = jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), kept)
        h = jnp.moveaxis(h, 0, -2).astype(xs.dtype)
        ys = h if mask is None else visible(h, jnp.moveaxis(mask, 0, -1))
        initial, stateful = state[0].astype(xs.dtype), Shape(()) if isinstance(x, tuple) else None
        residuals = RecurrentResiduals(xs, h, initial, more, gates, mask, stateful)
        if stateful is None:
            return ys, residuals
        return (ys, self._outer(final, xs.dtype)), residuals

    def backward(
        self, params: Params, residuals: RecurrentResiduals, dy: Any
    ) -> tuple[Any, Params]:
        dx, dparams, _ = self._walk_back(params, residuals, dy, weights=True)
        return dx, dparams

    def cotangents(
        self, params: Params, residuals: RecurrentResiduals, dy: Any
    ) -> tuple[Any, Array]:
        """-> dx, and dz [T, ..., G H] of every step in place of its products with x and h."""
        dx, _, dz = self._walk_back(params, residuals, dy, weights=False)
        return dx, dz.reshape(dz.shape[0] * dz.shape[1], *dz.shape[2:])

    def _walk_back(
        self, params: Params, residuals: RecurrentResiduals, dy: Any, weights: bool
    ) -> tuple[Any, Params, Any]:
        """-> dx, and dparams or dz."""
        given, params = params, whole(params)
        xs, h, initial, more, gates, mask, stateful = residuals
        dys, dstate = self._cotangent(xs, dy, stateful)
        dstate = varying(dstate, residuals, dys, params)
        count, size = stretches(xs.shape[-2])
        # transposed once: without the barrier XLA would do it again in every step of the loop
        w_t = jax.lax.optimization_barrier(params.w_h.T)

        def step(dstate: State, inputs: Any) -> tuple[State, Array]:
            dy, factors, counts = inputs
            dz, dbefore = self.step_backward(w_t, factors, (dstate[0] + dy, *dstate[1:]))
            # a masked step hands the state on: its output is a constant, its dz is zero
            return select(counts, dbefore, dstate), dz if counts is None else visible(dz, counts)

        def stretch(carry: Any, inputs: Any) -> tuple[Any, Any]:
            (dstate, dxs, dparams), (k, more, gates, counts) = carry, inputs
            x, after, dy = (piece(a, k, size) for a in (xs, h, dys))
            before = self._before(after, h, initial, k)
            factors = self.factors(gates, (widen(before), *more), widen(after))
            dstate, dz = jax.lax.scan(
                step, dstate, (widen(dy), factors, counts), reverse=not self.reverse
            )
            dx = project(self.sides(dz)[0], params.w_x.T).astype(xs.dtype)
            dxs = jax.lax.dynamic_update_slice_in_dim(
                dxs, jnp.moveaxis(dx, 0, -2), k * size, dxs.ndim - 2
            )
            if not weights:
                return (dstate, dxs, dparams), dz
            part = self.weights_backward(params, visible(x, counts), before, dz)
            return (dstate, dxs, jax.tree.map(jnp.add, dparams, part)), None

        dparams = jax.tree.map(lambda w: jnp.zeros_like(widen(w)), params) if weights else ()
        dparams = jax.tree.map(
            lambda w: fresh(w, (None,) * w.ndim, residuals, dys, params), dparams
        )
        dxs = fresh(jnp.zeros_like(xs), entries(xs), xs, residuals, dys, params)
        (dstate, dxs, dparams), dz = jax.lax.scan(
            stretch,
            (dstate, dxs, dparams),
            (jnp.arange(count), *cut((more, gates, mask), size)),
            reverse=not self.reverse,
        )
        if weights:
            dparams = jax.tree.map(lambda w, dw: dw.astype(w.dtype), params, dparams)
            dparams = placed(dparams, given)
        dx = dxs if stateful is None else (dxs, self._outer(dstate, xs.dtype))
        return dx, dparams, dz

    def states_before(self, h: Array, initial: Array) -> Array:
        """h after each step, [..., T, H] -> h before each step."""
        first = jnp.expand_dims(initial, -2)
        parts = (h[..., 1:, :], first) if self.reverse else (first, h[..., :-1, :])
        return jnp.concatenate(parts, -2)

    def weights_backward(self, params: Params, x: Array, h: Array, dz: Array) -> Params:
        """x, h [t, ..., in or H] and dz of t steps -> their part of dparams."""
        dz_x, dz_h = self.sides(dz)
        db = None if params.b is None else dz_x.sum(range(dz_x.ndim - 1))
        dtype = params.w_x.dtype
        return RecurrentWeights(contract(x, dz_x, dtype), contract(h, dz_h, dtype), db)

    # --- checks and small change ------------------------------------------------------------------

    def _before(self, after: Array, h: Array, initial: Array, k: Array) -> Array:
        """h before each step of stretch k, from h after each step of it."""
        size, steps = after.shape[0], h.shape[-2]
        edge = (k + 1) * size if self.reverse else k * size - 1
        outside = (edge < 0) | (edge >= steps)
        neighbor = jax.lax.dynamic_index_in_dim(h, edge, h.ndim - 2, keepdims=False)
        first = jnp.where(outside, initial, neighbor)[None]
        parts = (after[1:], first) if self.reverse else (first, after[:-1])
        return jnp.concatenate(parts)

    def _outer(self, state: State, dtype: Any) -> Any:
        """A state as the caller writes it: h, or (h, c)."""
        state = tuple(part.astype(dtype) for part in state)
        return state if len(self.states) > 1 else state[0]

    def _mask(self, xs: Array, context: Context) -> Array | None:
        if context.mask is None:
            return None
        if context.mask.shape != xs.shape[:-1] or context.mask.dtype != bool:
            raise LayerError(
                self,
                f"context.mask is {spell(context.mask)}, wanted "
                f"bool[{', '.join(map(str, xs.shape[:-1]))}]: one truth value for each step",
            )
        return jnp.moveaxis(context.mask, -1, 0)

    def _input(self, params: Params, x: Any) -> tuple[Array, State]:
        """xs, and the initial state in the dtype of the accumulation."""
        xs: Any = x
        state: Any = None
        if isinstance(x, tuple) and len(x) == 2:
            xs, state = x
        check_input(self, xs, rank=2)
        xs, state = whole(xs, -2), whole(state, -1)
        check_params(self, params, self.weights, like=xs)
        check_input(self, xs, features=params.w_x.shape[0], rank=2)
        if params.w_h.shape != (self.features, self.blocks * self.features):
            raise LayerError(
                self,
                f"w_h is {spell(params.w_h)}, wanted [{self.features}, "
                f"{self.blocks * self.features}]",
                "make new parameters: layer.init(key, x)",
            )
        if xs.shape[-2] == 0:
            raise LayerError(self, f"x is {spell(xs)}: it has no steps", "give at least one")
        shape = (*xs.shape[:-2], self.features)
        if state is None:
            return xs, self._zeros(xs)
        parts = state if len(self.states) > 1 else (state,)
        wanted = jax.ShapeDtypeStruct(shape, xs.dtype)
        if (
            not isinstance(parts, tuple)
            or len(parts) != len(self.states)
            or any(spell(part) != spell(wanted) for part in parts)
        ):
            names = " and ".join(f"{name}0" for name in self.states)
            pair = f"({', '.join(f'{name}0' for name in self.states)})"
            raise LayerError(
                self,
                f"the initial state is {spell(state)}, wanted {names} as {spell(wanted)}",
                f"give x as (xs, {pair if len(self.states) > 1 else 'h0'}), or xs alone to "
                "start from zero",
            )
        return xs, tuple(widen(part) for part in parts)

    def _zeros(self, xs: Array) -> State:
        """A state of zeros for each sequence."""
        shape, spec = (*xs.shape[:-2], self.features), (*entries(xs)[:-2], None)
        return tuple(fresh(jnp.zeros(shape, wide(xs.dtype)), spec, xs) for _ in self.states)

    def _cotangent(self, xs: Array, dy: Any, stateful: Shape | None) -> tuple[Array, State]:
        """dys, and the cotangent of the final state in the dtype of the accumulation."""
        shape = (*xs.shape[:-2], self.features)
        if stateful is None:
            dys, dstate = dy, self._zeros(xs)
        else:
            if not isinstance(dy, tuple) or len(dy) != 2:
                raise LayerError(
                    self, f"dy is {spell(dy)}, wanted a tuple (dys, dstate) like the output"
                )
            dys, dstate = dy
            dstate = dstate if len(self.states) > 1 else (dstate,)
            if not isinstance(dstate, tuple) or len(dstate) != len(self.states):
                raise LayerError(
                    self,
                    f"the state's cotangent is {spell(dstate)}, wanted one for each of "
                    f"{', '.join(self.states)}",
                )
            for part in dstate:
                check_cotangent(self, part, shape, xs.dtype)
            dstate = tuple(widen(part) for part in dstate)
        check_cotangent(self, dys, (*xs.shape[:-1], self.features), xs.dtype)
        return whole(dys, -2), whole(dstate, -1)
