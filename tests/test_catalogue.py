"""One test a property, over every row of the table of layers.

What a row's tests share (arguments, programs, gradients) is computed once and cached, and float64
programs are compiled without optimisation: compiling is nearly all that these tests cost.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.comparison.catalogue import ROWS
from funcprop.comparison.compare import contract
from funcprop.comparison.mutants import Mutated, systematic
from funcprop.comparison.table import compare_row, drawn
from funcprop.comparison.truth import (
    cast,
    cotangents,
    differentiable,
    gradients,
    measured,
    numerical,
    quick_options,
)
from funcprop.comparison.verdict import judge_exact, judge_rounded, named_leaves
from funcprop.composites import Composite
from funcprop.gradient import combine, partition
from funcprop.layer import is_float

KEY = jax.random.key(11)
PROBES = 10
ROW = {row.name: row for row in ROWS}
every_row = pytest.mark.parametrize("name", ROW)


def test_names_are_unique():
    assert len(ROW) == len(ROWS)


class Case:
    """A row with its arguments and gradients, each computed when first asked for."""

    def __init__(self, name):
        self.row = ROW[name]
        self.layer = self.row.layer
        self.arguments = drawn(self.row, KEY)
        dys = cotangents(self.layer, *self.arguments, PROBES, KEY)
        # multiples of 1/64, so that the third is exactly 2 x the first - 3 x the second
        dys = jax.tree.map(lambda dy: (np.round(dy * 64) / 64).astype(dy.dtype), dys)
        for dy in jax.tree.leaves(dys):
            dy[2] = 2 * dy[0] - 3 * dy[1]
        self.dys = dys
        floats = jax.tree.leaves(partition(self.arguments[:2])[0])
        self.differentiable = bool(floats and jax.tree.leaves(dys))
        if not self.differentiable:
            pytest.skip("no float goes in, or none comes out")

    @functools.cached_property
    def automatic(self):
        return differentiable(self.layer, *self.arguments)

    def _both(self, params, x, context, dys):
        """Gradients by hand, and by JAX where it can."""
        by_hand = gradients(self.layer, params, x, context, dys)
        if self.automatic:
            peer = fp.autodiff(self.layer)
            return by_hand, gradients(peer, params, x, context, dys)
        wide = any(dy.dtype == jnp.float64 for dy in jax.tree.leaves(dys))
        return by_hand, numerical(self.layer, params, x, context, dys) if wide else None

    @functools.cached_property
    def program(self):
        return jax.jit(self._both, compiler_options=quick_options())

    def at(self, dtype, arguments=None, dys=None):
        """(by hand, by JAX) in a dtype, as NumPy arrays."""
        given = (*(arguments or self.arguments), self.dys if dys is None else dys)
        with jax.enable_x64(dtype == jnp.float64):
            given = [cast(tree, dtype) for tree in given]
            return jax.tree.map(np.asarray, self.program(*given))

    @functools.cached_property
    def exact(self):
        return self.at(jnp.float64)

    @functools.cached_property
    def rounded(self):
        return self.at(jnp.float32)

    def wide(self):
        """The arguments and cotangents in float64; only inside jax.enable_x64."""
        return [cast(tree, jnp.float64) for tree in (*self.arguments, self.dys)]


@functools.lru_cache(maxsize=2)
def case(name):
    return Case(name)


def quick(function, *arguments):
    """In float64, without optimisation."""
    with jax.enable_x64(True):
        return measured(function, *arguments, quick=True)


def off(given, wanted, floor=1e-5):
    """The worst relative norm over the leaves, over a share `floor` of the largest of all."""
    pairs = list(zip(named_leaves(given), named_leaves(wanted), strict=True))
    tops = [np.abs(np.asarray(leaf, np.float64)).max(initial=0) for _, (_, leaf) in pairs]
    worst = 0.0
    for (name, a), (other, b) in pairs:
        assert name == other and a.shape == b.shape, (name, other, a.shape, b.shape)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        known = np.isfinite(b)
        a, b = np.where(known, a, 0), np.where(known, b, 0)
        least = floor * max(tops) * np.sqrt(max(b.size, 1)) + 1e-300
        worst = max(worst, float(np.linalg.norm(a - b) / max(np.linalg.norm(b), least)))
    return worst


def wrong(rows):
    return [f"{row.name} {row.dtype}: {row.relative:.1e}, {row.error:.1e}, {row.rule}"
            for row in rows if not row.ok]  # fmt: skip


@every_row
def test_gradients_have_the_tree_shapes_and_dtypes_of_what_they_belong_to(name):
    c = case(name)

    def whole(params, x, context, dy):
        _, residuals = c.layer.forward(params, x, context)
        dx, dparams = c.layer.backward(params, residuals, dy)
        fp.gradient.check_gradients(c.layer, "dx", dx, x)
        fp.gradient.check_gradients(c.layer, "dparams", dparams, params)

    first = jax.tree.map(lambda dy: dy[0], c.dys)
    jax.eval_shape(whole, *c.arguments, first)
    rows, notes = contract(c.layer, lambda *_: None, *c.arguments, first)
    assert wrong(rows) == [] and notes == []


@every_row
def test_float64_agrees_with_jax_vjp(name):
    c = case(name)
    assert c.automatic == c.row.automatic
    assert wrong(judge_exact(name, *c.exact, numerical=not c.automatic)) == []


@every_row
def test_float32_is_as_exact_as_automatic_differentiation(name):
    c = case(name)
    rows = judge_rounded(name, *c.rounded, c.exact[1], c.row.floor)
    assert wrong(rows) == []


@every_row
def test_finite_differences_agree(name):
    """⟨gradient, u⟩ is the slope of ⟨dy, y⟩ along random u, by differences of fourth order."""
    c, h = case(name), 1e-4
    params, x, context = c.arguments
    floats, rest = partition((params, x))
    random = np.random.default_rng(0)
    ways = jax.tree.map(lambda leaf: random.normal(size=(3, *leaf.shape)), floats)

    def values(floats, rest, context, ways, dy):
        def at(way, step):
            moved = jax.tree.map(lambda leaf, u: leaf + step * u, floats, way)
            y = partition(c.layer.forward(*combine(moved, rest), context)[0])[0]
            return sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (y, dy)), strict=True))

        steps = h * jnp.arange(-2.0, 3.0)
        return jax.vmap(lambda way: jax.vmap(lambda step: at(way, step))(steps))(ways)

    dy = jax.tree.map(lambda leaf: leaf[0], c.dys)
    with jax.enable_x64(True):
        wide = [cast(tree, jnp.float64) for tree in (floats, rest, context, ways, dy)]
        f = measured(values, *wide, quick=True)
    slope = (8 * (f[:, 3] - f[:, 1]) - (f[:, 4] - f[:, 0])) / (12 * h)
    bend = np.abs(f[:, 3] + f[:, 1] - 2 * f[:, 2]) / h  # of order h where smooth, 1 at a kink
    grads = c.exact[0]
    terms = [
        np.tensordot(u, g[0], g.ndim - 1)
        for u, g in zip(
            jax.tree.leaves(ways), jax.tree.leaves((grads["dparams"], grads["dx"])), strict=True
        )
    ]
    scale = np.sqrt(sum(float(np.sum(g[0] ** 2)) for g in jax.tree.leaves(grads))) + 1e-12
    smooth = (bend < 0.02 * scale) & np.isfinite(f).all(1)
    assert np.abs(sum(terms) - slope)[smooth].max(initial=0) <= 1e-6 * scale + 1e-12 / h * np.abs(
        f[np.isfinite(f)]
    ).max(initial=0)


@every_row
def test_backward_is_linear_in_dy(name):
    manual = case(name).exact[0]
    sums = jax.tree.map(lambda leaf: 2 * leaf[0] - 3 * leaf[1], manual)
    assert off(sums, jax.tree.map(lambda leaf: leaf[2], manual)) <= 1e-10


@every_row
def test_vmap_over_examples_is_the_batch(name):
    """Losses are compared as sums: a mean over a batch is another number than one of examples."""
    c = case(name)
    if not c.row.batched:
        pytest.skip(c.row.reason or "has no example axis")
    layer = c.layer
    if getattr(layer, "reduction", None) == "mean":
        layer = dataclasses.replace(layer, reduction="sum")

    def both(params, x, context, dys):
        y, residuals = layer.forward(params, x, context)
        dy = jax.tree.map(lambda leaf: leaf[0], dys)
        dx, dparams = layer.backward(params, residuals, dy)
        size = jax.tree.leaves(x)[0].shape[0]
        reduced = any(leaf.shape[:1] != (size,) for leaf in jax.tree.leaves(y))

        def one(x, mask, dy):
            y, residuals = layer.forward(params, x, fp.Context(context.key, mask))
            return (y, *layer.backward(params, residuals, dy))

        ys, dxs, each = jax.vmap(one, (0, 0, None if reduced else 0))(x, context.mask, dy)
        ys = jax.tree.map(lambda leaf: leaf.sum(0), ys) if reduced else ys
        summed = jax.tree.map(lambda leaf: leaf.sum(0), each)
        return {"y": y, "dx": dx, "dparams": dparams}, {"y": ys, "dx": dxs, "dparams": summed}

    with jax.enable_x64(True):
        batch, examples = measured(both, *c.wide(), quick=True)
    assert off(examples, batch) <= 1e-10


@every_row
def test_inside_scan_checkpoint_and_grad(name):
    """`as_function` under jax.checkpoint and jax.vjp, one cotangent a step of lax.scan."""
    c = case(name)

    def scanned(params, x, context, dys):
        floats, rest = partition((params, x))
        function = jax.checkpoint(fp.as_function(c.layer))

        def step(carry, dy):
            def f(floats):
                return partition(function(*combine(floats, rest), context))[0]

            dparams, dx = jax.vjp(f, floats)[1](dy)[0]
            return carry, {"dx": dx, "dparams": dparams}

        return jax.lax.scan(step, None, dys)[1]

    with jax.enable_x64(True):
        found = measured(scanned, *c.wide(), quick=True)
    assert off(found, c.exact[0]) <= 1e-10


@every_row
def test_eager_is_jit_and_a_second_call_compiles_nothing(name):
    c = case(name)
    params, x, context = c.arguments
    dy = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), c.dys)
    traces = []

    def run(params, x, context, dy):
        traces.append(1)
        y, residuals = c.layer.forward(params, x, context)
        dx, dparams = c.layer.backward(params, residuals, dy)
        return y, dx, dparams

    y, residuals = c.layer.forward(params, x, context)
    dx, dparams = c.layer.backward(params, residuals, dy)
    eager = {"y": y, "dx": dx, "dparams": dparams}
    for kept in jax.tree.leaves(residuals):
        for leaf in jax.tree.leaves(params):
            same = kept.shape == leaf.shape and kept.dtype == leaf.dtype and leaf.size > 3
            assert kept is not leaf, "a parameter is among the residuals"
            assert not (same and is_float(leaf) and np.array_equal(kept, leaf))

    jitted = jax.jit(run, compiler_options=quick_options())
    found = dict(zip(("y", "dx", "dparams"), jitted(params, x, context, dy), strict=True))
    assert off(eager, found, floor=1e-2) <= 1e-4
    # a step along the gradient keeps every dtype and weak type, so nothing is traced again
    moved = jax.tree.map(
        lambda leaf, d: leaf if d is None else leaf - d,
        params, found["dparams"], is_leaf=lambda leaf: leaf is None,
    )  # fmt: skip
    jitted(moved, x, context, dy)
    assert len(traces) == 1


@every_row
def test_bfloat16(name):
    c = case(name)
    narrow = [cast(tree, jnp.bfloat16) for tree in (*c.arguments, c.dys)]
    given, automatic = c.at(jnp.bfloat16, narrow[:3], narrow[3])
    _, truth = c.at(jnp.float64, narrow[:3], narrow[3])
    assert {leaf.dtype for leaf in jax.tree.leaves(given)} == {jnp.dtype(jnp.bfloat16)}
    for (path, leaf), (_, wanted) in zip(named_leaves(given), named_leaves(truth), strict=True):
        assert np.isfinite(np.asarray(leaf, np.float64))[np.isfinite(wanted)].all(), path
    own = 0.0 if automatic is None else off(automatic, truth)
    assert off(given, truth) <= max(0.05, 2 * own)


@every_row
def test_systematic_mutants_are_all_caught(name):
    c = case(name)
    manual, truth = c.exact
    numeric = not c.automatic
    for words, mutant in systematic(manual):
        if off(mutant, manual) <= 1e-10:
            continue  # the right rule: of a leaf that is zero but for rounding, say
        assert wrong(judge_exact(name, mutant, truth, numeric)), f"survived: {words}"


@pytest.mark.parametrize(
    ("name", "position"), [(row.name, i) for row in ROWS for i in range(len(row.mutants))]
)
def test_the_rows_own_mutants_are_all_caught(name, position):
    c = case(name)
    layer = Mutated(c.layer, c.row.mutants[position])
    first = jax.tree.map(lambda dy: dy[0], c.dys)
    rows, _ = contract(layer, lambda *_: None, *c.arguments, first)
    if not rows:
        with jax.enable_x64(True):
            given = measured(functools.partial(gradients, layer), *c.wide(), quick=True)
        rows = judge_exact(name, given, c.exact[1], not c.automatic)
    assert wrong(rows), f"survived: {c.row.mutants[position].name}"


@pytest.mark.parametrize("name", [row.name for row in ROWS if isinstance(row.layer, Composite)])
def test_every_layer_inside_a_composite_is_looked_at(name):
    found = compare_row(ROW[name])
    found.raise_if_wrong()
    assert not any("look inside" in note for note in found.notes)
