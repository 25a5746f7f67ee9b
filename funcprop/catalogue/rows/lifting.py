"""Functions that are lifted: as a whole, and by what their uses say of single examples.

In the first case backward is `jax.vjp` of the function. In the second every use of a parameter is
asked, its closed form for the gradients of single examples, and their sum is the gradient: a use
that is wrong shows. So the mutants are of uses. `Weight`, `Call` and `Calls` have no rows: they are
entries of a lifted function, and of no use without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.catalogue.inputs import Classes, Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.collectors import gradients
from funcprop.collectors.form import Form
from funcprop.collectors.forms import Outer
from funcprop.initializers import Normal as NormalInit
from funcprop.layer import Array, Layer, Params, is_float
from funcprop.lifting import per_example
from funcprop.lifting.lifted import Lifted
from funcprop.lifting.pullback import Kept
from funcprop.lifting.tracing import untraced
from funcprop.lifting.uses import Use

Form_of = Callable[..., Form]

# --- functions ------------------------------------------------------------------------------------


def shared(p: Any, x: Array) -> Array:
    """x [..., 4] -> [..., 3]: a matrix used twice, the second time transposed."""
    h = jnp.tanh(x @ p["w"] + p["b"])
    return jnp.tanh(h @ p["w"].T) @ p["v"]


def stacked(p: Any, x: Array) -> Array:
    """x [..., 4] -> [..., 4]: a loop over layers, whose weights it slices, and one it shares."""

    def layer(x: Array, own: Any) -> tuple[Array, None]:
        return jnp.tanh(x @ own["w"] + own["b"]) @ p["u"], None

    return lax.scan(layer, x, p["layers"])[0]


def seen_in_order(p: Any, x: Array) -> Array:
    """x [T, W, C], an image -> [4]: a convolution, and a recurrence over its rows."""
    kernel = p["kernel"]
    numbers = ("NHWC", "HWIO", "NHWC")
    z = lax.conv_general_dilated(x[None], kernel, (1, 1), "VALID", dimension_numbers=numbers)[0]

    def step(h: Array, row: Array) -> tuple[Array, None]:
        return jnp.tanh(row.reshape(-1) @ p["w"] + h @ p["u"] + p["b"]), None

    return lax.scan(step, jnp.zeros(4, x.dtype), jax.nn.silu(z))[0]


def next_token(p: Any, example: Any) -> Array:
    """ids [T], weights [T] -> []: an embedding, tied to the logits, of normalized rows."""
    ids, weights = example
    table = p["table"]
    h = table[ids] @ p["w"]
    h = p["scale"] * h / jnp.sqrt(1 + jnp.square(h).sum(-1, keepdims=True))
    losses = jax.nn.logsumexp(h @ table.T, -1)
    return (weights * losses).sum()


def is_shape(leaf: Any) -> bool:
    return isinstance(leaf, tuple)


def lifted(function: Callable[..., Any], shapes: Any) -> Lifted:
    """A function as a layer, with parameters N(0, 1/4) of these shapes. As `fp.lift` makes it, but
    not traced yet: the catalogue is imported in no time, and starts no device."""

    def start(key: Array, x: Any) -> Params:
        leaves, tree = jax.tree.flatten(shapes, is_leaf=is_shape)
        dtype = next((leaf.dtype for leaf in jax.tree.leaves(x) if is_float(leaf)), jnp.float32)
        keys = jax.random.split(key, len(leaves))
        rows = zip(keys, leaves, strict=True)
        return tree.unflatten([NormalInit(0.5)(key, shape, dtype) for key, shape in rows])

    given = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=is_shape
    )
    return untraced(function, given, start)


def by_uses(function: Callable[..., Any], shapes: Any) -> Layer:
    """A function of one example, whose gradient is the sum of those of single examples."""
    return lifted(per_example(function, "none"), shapes).under(gradients)


# --- mutants --------------------------------------------------------------------------------------


def at_use(number: int, change: Callable[[Use], Form_of]) -> Callable[..., Any]:
    """A backward pass with another form at one use, the others as they are."""

    def backward(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
        kept = residuals.seen.static
        uses = list(kept.plan.uses)
        wrong = replace(uses[number].primitive, form=change(uses[number]))
        uses[number] = replace(uses[number], primitive=wrong)
        static = Kept(replace(kept.plan, uses=tuple(uses)), kept.size)
        seen = residuals.seen._replace(static=static)
        return layer.backward(params, residuals._replace(seen=seen), dy)

    return backward


def scaled_by(factor: float) -> Callable[[Use], Form_of]:
    """δ times a number: −1 for a wrong sign, 0 for a use that is forgotten."""

    def change(use: Use) -> Form_of:
        return lambda eqn, position, operands, d: use.primitive.form(
            eqn, position, operands, factor * d
        )

    return change


def not_transposed(use: Use) -> Form_of:
    """δᵀa for aᵀδ: goes unnoticed by shapes where the matrix is square."""

    def form(*given: Any) -> Form:
        right: Any = use.primitive.form(*given)
        return Outer(right.d, right.a)  # type: ignore[call-arg]

    return form


def flipped(use: Use) -> Form_of:
    """dw flipped: both images turned round."""

    def form(eqn: Any, position: int, operands: Any, d: Array) -> Form:
        (x,) = operands
        turned = x[:, :, ::-1, ::-1], d[:, :, ::-1, ::-1]
        return use.primitive.form(eqn, position, turned[:1], turned[1])

    return form


def ids_shifted(use: Use) -> Form_of:
    """The rows of the next id."""

    def form(eqn: Any, position: int, operands: Any, d: Array) -> Form:
        (ids,) = operands
        return use.primitive.form(eqn, position, (jnp.roll(ids, 1, 1),), d)

    return form


def state_after(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """The state after the step, in place of that before it, beside δ."""
    kept = [
        operands and [jnp.roll(x, -1, 1) if use.loops and x.shape[2:] == (4,) else x
                      for x in operands]
        for use, operands in zip(residuals.seen.static.plan.uses, residuals.seen.kept, strict=True)
    ]  # fmt: skip
    seen = residuals.seen._replace(kept=kept)
    return layer.backward(params, residuals._replace(seen=seen), dy)


def one_layer_for_all(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """The gradient of every layer of the loop that of the last."""
    dx, dparams = layer.backward(params, residuals, dy)
    last = jax.tree.map(lambda d: jnp.broadcast_to(d[-1:], d.shape), dparams["layers"])
    return dx, {**dparams, "layers": last}


# --- rows -----------------------------------------------------------------------------------------

ONE = "a function of one example, which is mapped: without a batch it has no input"
SQUARE = {"w": (4, 4), "b": (4,), "v": (4, 3)}
DEEP = {"layers": {"w": (2, 4, 5), "b": (2, 5)}, "u": (5, 4)}
SEEN = {"kernel": (2, 3, 2, 3), "w": (6, 4), "u": (4, 4), "b": (4,)}
TIED = {"table": (6, 3), "w": (3, 3), "scale": (3,)}
X, SEQUENCE, IMAGE = Normal((5, 4)), Normal((3, 2, 4)), Normal((3, 4, 4, 2))
TOKENS = (Classes((3, 4), 6), Normal((3, 4)))
LIFTING: tuple[Row, ...] = (
    Row(
        "Lifted",
        by_uses(shared, SQUARE),
        X,
        batched=False,
        reason=ONE,
        mutants=(
            Mutant("a use of a shared matrix forgotten", at_use(0, scaled_by(0))),
            Mutant("the other use forgotten", at_use(1, scaled_by(0))),
            Mutant("a use with the wrong sign", at_use(1, scaled_by(-1))),
            Mutant("a use counted twice", at_use(0, scaled_by(2))),
            Mutant("dw of a use not transposed", at_use(1, not_transposed)),
        ),
    ),
    Row("Lifted, a whole batch", lifted(shared, SQUARE), X),
    Row(
        "Lifted, a loop over layers",
        by_uses(stacked, DEEP),
        SEQUENCE,
        batched=False,
        reason=ONE,
        mutants=(
            Mutant("the last layer's gradient for all", one_layer_for_all),
            Mutant("a mean over the layers", at_use(1, scaled_by(1 / 2))),
        ),
    ),
    Row(
        "Lifted, a convolution and a recurrence",
        by_uses(seen_in_order, SEEN),
        IMAGE,
        batched=False,
        reason=ONE,
        mutants=(
            Mutant("dw of the convolution flipped", at_use(0, flipped)),
            Mutant("the state after the step", state_after),
        ),
    ),
    Row(
        "Lifted, losses with a tied table",
        by_uses(next_token, TIED),
        TOKENS,
        batched=False,
        reason=ONE,
        mutants=(
            Mutant("rows that are read forgotten", at_use(0, scaled_by(0))),
            Mutant("rows of the id before", at_use(0, ids_shifted)),
            Mutant("the logits' use forgotten", at_use(2, scaled_by(0))),
        ),
    ),
)
