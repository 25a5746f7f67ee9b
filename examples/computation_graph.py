"""The chain rule on a graph of three nodes, and why it is programmable.

    e = (a + b)(b + 1)        c = a + b        d = b + 1        e = c d

How does e move when b moves? There are two paths from b to e, one through c and one through d.
Along a path the derivatives multiply, and over paths they add:

    ∂e/∂b = ∂e/∂c · ∂c/∂b + ∂e/∂d · ∂d/∂b = d · 1 + c · 1

Nothing in that sentence knows the whole formula. Each node knows its own derivative and nothing
else, so each node can be written by itself: a forward, and a backward below it.

    python examples/computation_graph.py [graph.png]
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp

import funcprop as fp
from funcprop.collectors import records, trace


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


def draw(path: str, params, x) -> None:
    """The graph of one pass: above an edge the value that goes up, below it the slope that comes
    down, as `trace` saw them."""
    from matplotlib.figure import Figure

    traced = fp.collect(graph, trace)
    y, residuals = traced.forward(params, x)
    found = traced.backward(params, residuals, jnp.ones_like(y))[1]
    _, add, _, one, multiply = (record.value for record in records(found))
    (a, b), (c, d), e = add.x, multiply.x, multiply.y
    places = {"a": (0, 1), "b": (0, 0), "c": (1, 1), "d": (1, 0), "e": (2, 0.5)}
    names = {"a": f"a = {a:g}", "b": f"b = {b:g}", "c": f"c = a + b\n= {c:g}",
             "d": f"d = b + 1\n= {d:g}", "e": f"e = c d\n= {e:g}"}  # fmt: skip
    edges = {("a", "c"): (a, add.dx[0]), ("b", "c"): (b, add.dx[1]), ("b", "d"): (b, one.dx),
             ("c", "e"): (c, multiply.dx[0]), ("d", "e"): (d, multiply.dx[1])}  # fmt: skip
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axes = figure.subplots()
    for (start, end), (value, slope) in edges.items():
        (x0, y0), (x1, y1) = places[start], places[end]
        arrow = {"arrowstyle": "-|>", "shrinkA": 26, "shrinkB": 34, "color": "0.6"}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
        at = x0 + 0.5 * (x1 - x0), y0 + 0.5 * (y1 - y0)
        clear = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        words = {"ha": "center", "va": "center", "bbox": clear}
        axes.text(at[0], at[1] + 0.09, f"{value:g} →", color="#1f5fbf", **words)
        axes.text(at[0], at[1] - 0.09, f"← ∂e = {slope:g}", color="#b3136b", **words)
    for node, place in places.items():
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "0.3"}
        axes.text(*place, names[node], ha="center", va="center", bbox=box)
    axes.set(xlim=(-0.3, 2.3), ylim=(-0.25, 1.25))
    axes.set_axis_off()
    figure.savefig(path, dpi=150)


def main(picture: str | None = None) -> None:
    x = (jnp.float32(2), jnp.float32(1))
    params = graph.init(jax.random.key(0), x)

    e, residuals = graph.forward(params, x)
    (de_da, de_db), _ = graph.backward(params, residuals, jnp.float32(1))
    print(f"e = {e:g}   ∂e/∂a = {de_da:g}   ∂e/∂b = {de_db:g}")

    def formula(a, b):
        return (a + b) * (b + 1)

    automatic = jax.grad(formula, argnums=(0, 1))(*x)
    print(f"jax.grad says  ∂e/∂a = {automatic[0]:g}   ∂e/∂b = {automatic[1]:g}")
    if picture:
        draw(picture, params, x)


if __name__ == "__main__":
    main(*sys.argv[1:2])
