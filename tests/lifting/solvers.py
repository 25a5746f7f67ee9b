"""Rows of plain functions with solvers in them, decompositions, chance, and attention."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.ode import odeint
from jax.experimental.sparse import BCOO

from .table import EXAMPLES as B
from .table import normal, row, whole


@row("a linear system that a parameter is in")
def system():
    def loss(p, x):
        matrix = jnp.eye(3) * 4 + p["a"]
        y = lax.custom_linear_solve(
            lambda v: matrix @ v + x[1] * v,
            x[0] * p["g"],
            solve=lambda _, b: jnp.linalg.solve(matrix + jnp.diag(x[1]), b),
            transpose_solve=lambda _, b: jnp.linalg.solve((matrix + jnp.diag(x[1])).T, b),
        )
        return jnp.sin(y).sum() + jnp.sin(jnp.linalg.solve(matrix, x[1])).sum()

    return loss, {"a": normal(3, 3), "g": normal(3)}, jnp.abs(normal(B, 2, 3))


@row("a fixed point")
def fixed_point():
    def loss(p, x):
        def distance(z):
            return jnp.tanh(0.2 * p["w"] @ z + p["u"] @ x) - z

        def solve(f, z):
            return lax.fori_loop(0, 40, lambda _, z: z + f(z), z)

        def tangent_solve(g, y):
            return jnp.linalg.solve(jax.jacobian(g)(y), y)

        return jnp.sin(lax.custom_root(distance, jnp.zeros(3), solve, tangent_solve)).sum()

    return loss, {"w": normal(3, 3), "u": normal(3, 2)}, normal(B, 2)


@row("dropout, its key in the example")
def dropout():
    def loss(p, x):
        key, x = x
        x = jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0)
        return jnp.sin(x @ p["w"] + p["b"]).sum()

    x = (jax.random.split(jax.random.key(0), B), normal(B, 4, 3))
    return loss, {"w": normal(3, 4), "b": normal(4)}, x


@row("decompositions of a parameter, and products around")
def decompositions():
    def loss(p, x):
        lower = jnp.linalg.cholesky(p["a"] @ p["a"].T + jnp.eye(3))
        y = jax.scipy.linalg.solve_triangular(lower, x.T, lower=True)
        skew = p["b"] - p["b"].T
        return (
            jnp.sin(y).sum()
            + jnp.sin(x @ jnp.linalg.solve(jnp.eye(3) + skew, jnp.eye(3) - skew)).sum()
        )

    return loss, {"a": normal(3, 3), "b": normal(3, 3, seed=1)}, normal(B, 4, 3)


@row("attention, causal, rotary, with grouped heads")
def attention():
    def loss(p, x):
        steps = jnp.arange(4.0)
        angles = steps[:, None] * jnp.array([1.0, 0.1])

        def rotated(y):  # [T, ..., 4]
            first, second = jnp.split(y, 2, -1)
            turn = angles.reshape(4, *(1,) * (y.ndim - 2), 2)
            return jnp.concatenate(
                [
                    first * jnp.cos(turn) - second * jnp.sin(turn),
                    first * jnp.sin(turn) + second * jnp.cos(turn),
                ],
                -1,
            )

        q, k = rotated(jnp.einsum("td,dghk->tghk", x, p["q"])), rotated(x @ p["k"])
        logits = jnp.where(jnp.tri(4, dtype=bool), jnp.einsum("tghk,sk->ghts", q, k), -1e9)
        y = jnp.einsum("ghts,sk->tghk", jax.nn.softmax(logits), x @ p["v"])
        return jnp.sin(jnp.einsum("tghk,ghkd->td", y, p["o"])).sum()

    params = {"q": normal(5, 2, 1, 4), "k": normal(5, 4), "v": normal(5, 3)}
    return loss, params | {"o": normal(2, 1, 3, 5)}, normal(B, 4, 5)


@row("ids beside numbers, in a tree of examples")
def trees():
    def loss(p, example):
        h = jnp.concatenate([p[0][example["id"]], example["x"] @ p[1]["w"]])
        return -jax.nn.log_softmax(h * p[1]["g"])[example["target"]]

    params = (normal(5, 2), {"w": normal(3, 2), "g": normal(4)})
    return loss, params, {"id": whole(5, B), "x": normal(B, 3), "target": whole(4, B)}


# --- rules that close over constants --------------------------------------------------------------
# Of what a rule closes over there is no derivative: JAX raises where one is asked for.


@row("an equation in time, by odeint")
def in_time():
    def loss(p, x):
        def slope(y, t, w, u):
            return jnp.tanh(y @ w) + t * u

        ys = odeint(slope, p["g"], jnp.array([0.0, 0.5, 1.0]), p["w"], x, rtol=1e-3)
        return jnp.sin(ys @ p["w"]).sum()

    return loss, {"w": normal(3, 3), "g": normal(3)}, normal(B, 3)


@row("a rule that closes over an array, and goes through one that it is given")
def closing():
    table = normal(4, seed=3)

    @jax.custom_vjp
    def weighted(w, x, steps):
        return jnp.sin(x @ w) * table

    def back(kept, d):
        w, x, steps = kept

        def add(total, i):
            return total + steps[i] * jnp.outer(x, d * table), None

        return lax.scan(add, jnp.zeros_like(w), jnp.arange(3))[0], 2 * w @ d, None

    weighted.defvjp(lambda *given: (weighted(*given), given), back)

    def loss(p, x):
        steps = jnp.array([0.1, 0.2, 0.4])
        y = weighted(p["w"], x, steps) + weighted(p["w"], p["v"], steps)
        return jnp.sin(y).sum() + jnp.square(y @ weighted(p["u"], x, steps))

    params = {"w": normal(3, 4), "u": normal(3, 4, seed=1), "v": normal(3)}
    return loss, params, normal(B, 3)


@row("a sparse matrix on both sides of a product")
def sparse_matrix():
    def loss(p, x):
        return jnp.sin(jnp.tanh(p["m"] @ x) @ p["m"] * p["g"]).sum()

    return loss, {"m": sparse_of(4, 3), "g": normal(3)}, normal(B, 3)


def sparse_of(*shape):
    """Five numbers in a matrix of that shape."""
    places = np.random.default_rng(0).permutation(shape[0] * shape[1])[:5]
    indices = np.stack(np.unravel_index(places, shape), -1).astype(np.int32)
    return BCOO((normal(5), jnp.asarray(indices)), shape=shape)
