"""Rows of functions that are right, and written as one seldom writes them."""

import jax
import jax.numpy as jnp
from jax import lax

from .table import EXAMPLES as B
from .table import normal, row


@row("a matrix that lies turned in a parameter of another shape")
def turned():
    def loss(p, x):
        view = p.reshape(2, 2, 3).transpose(2, 0, 1).reshape(3, 4)
        return jnp.sin(x @ p).sum() + jnp.sin(x @ view).sum()

    return loss, normal(3, 4), normal(B, 5, 3)


@row("such a matrix alone")
def turned_alone():
    def loss(p, x):
        return jnp.sin(x @ p.reshape(4, 3).T).sum()

    return loss, normal(3, 4), normal(B, 5, 3)


@row("an operation that hands a parameter through beside data")
def barrier():
    def loss(p, x):
        y, b = lax.optimization_barrier((x @ p["w"], p["b"]))
        return jnp.sin(y * b).sum()

    return loss, {"w": normal(3, 4), "b": normal(4)}, normal(B, 5, 3)


@row("a kernel that is larger than the image")
def nowhere():
    def loss(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x[None], p["k"], (1, 1), "VALID", dimension_numbers=numbers)
        return jnp.sin(y).sum() + jnp.sin(x * p["g"]).sum()

    return loss, {"k": normal(5, 5, 3, 4), "g": normal(3)}, normal(B, 3, 3, 3)


# --- rules that are not linear in their cotangent -------------------------------------------------
# Of examples together they send back something else than the sum of what they send for each.


def rule(back):
    @jax.custom_vjp
    def same(w):
        return w

    same.defvjp(lambda w: (w, w), lambda w, d: (back(w, d),))
    return same


RULES = {
    "that clips": lambda w, d: jnp.clip(d, -0.1, 0.1),
    "that adds a decay": lambda w, d: d + 0.1 * w,
    "that rounds": lambda w, d: (8 * d).astype(int).astype(d.dtype) / 8,
    "straight through": lambda w, d: jnp.where(jnp.abs(w) < 1, d, 0),
}


def many(same):
    """At the top, in a checkpoint, on what a loop slices and on what it reads at every step."""

    def loss(p, x):
        w, v = same(p["w"]), jnp.tanh(same(jnp.sin(p["v"])))
        again = jax.checkpoint(lambda v: same(v) @ v)(v)

        def step(h, u):
            return jnp.tanh(h @ same(u) + h @ again), h @ same(p["c"])

        h, ys = lax.scan(step, (jnp.sin(x @ w) + jnp.cos(x @ w)) @ v, p["u"])
        made = lax.scan(lambda c, u: (same(c @ u), None), v, p["u"])[0]
        return h.sum() + ys.sum() + (x @ w * same(p["b"])).sum() + (h @ made).sum()

    square = {"v": normal(4, 4), "u": normal(2, 4, 4), "c": normal(4, 4, seed=3)}
    return loss, {"w": normal(3, 4), "b": normal(4), **square}, normal(B, 5, 3)


for name, back in RULES.items():
    row(f"a rule of parameters alone {name}")(lambda back=back: many(rule(back)))
