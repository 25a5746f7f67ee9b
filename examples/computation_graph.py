"""The chain rule on a graph of three nodes, and why it is programmable.

    e = (a + b)(b + 1)        c = a + b        d = b + 1        e = c d

How does e move when b moves? There are two paths from b to e, one through c and one through d.
Along a path the derivatives multiply, and over paths they add:

    ∂e/∂b = ∂e/∂c · ∂c/∂b + ∂e/∂d · ∂d/∂b = d · 1 + c · 1

Nothing in that sentence knows the whole formula. Each node knows its own derivative and nothing
else, so each node can be written by itself: a forward, and a backward below it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import funcprop as fp


@dataclass(frozen=True)
class Add(fp.Layer):
    """c = a + b: what arrives is passed on to both."""

    def forward(self, params, x, context=fp.Context()):
        a, b = x
        return a + b, ()

    def backward(self, params, residuals, dc):
        return (dc, dc), ()


@dataclass(frozen=True)
class AddOne(fp.Layer):
    """d = b + 1"""

    def forward(self, params, b, context=fp.Context()):
        return b + 1, ()

    def backward(self, params, residuals, dd):
        return dd, ()


@dataclass(frozen=True)
class Multiply(fp.Layer):
    """e = c d: each factor receives the other one, so both are kept."""

    def forward(self, params, x, context=fp.Context()):
        c, d = x
        return c * d, (c, d)

    def backward(self, params, residuals, de):
        c, d = residuals
        return (de * d, de * c), ()


@dataclass(frozen=True)
class Second(fp.Layer):
    """b of (a, b): nothing flows back to a."""

    def forward(self, params, x, context=fp.Context()):
        a, b = x
        return b, jnp.zeros_like(a)

    def backward(self, params, zero, db):
        return (zero, db), ()


@dataclass(frozen=True)
class Fork(fp.Layer):
    """(a, b) -> (a, b), (a, b): a value used twice receives the sum of two gradients."""

    def forward(self, params, x, context=fp.Context()):
        return (x, x), ()

    def backward(self, params, residuals, dy):
        (da1, db1), (da2, db2) = dy
        return (da1 + da2, db1 + db2), ()


graph = fp.Serial(
    Fork(),
    fp.Parallel(Add(), fp.Serial(Second(), AddOne())),
    Multiply(),
)


def main() -> None:
    x = (jnp.float32(2), jnp.float32(1))
    params = graph.init(jax.random.key(0), x)

    e, residuals = graph.forward(params, x)
    (de_da, de_db), _ = graph.backward(params, residuals, jnp.float32(1))
    print(f"e = {e:g}   ∂e/∂a = {de_da:g}   ∂e/∂b = {de_db:g}")

    def formula(a, b):
        return (a + b) * (b + 1)

    automatic = jax.grad(formula, argnums=(0, 1))(*x)
    print(f"jax.grad says  ∂e/∂a = {automatic[0]:g}   ∂e/∂b = {automatic[1]:g}")


if __name__ == "__main__":
    main()
