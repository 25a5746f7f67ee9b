"""One test a property, over every row of the table of layers.

What a row's tests share (arguments, programs, gradients) is computed once and cached, and float64
programs are compiled without optimization: compiling is nearly all that these tests cost.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.comparisons import compare_row, drawn
from funcprop.catalogue.score import mutation_score
from funcprop.catalogue.table import ROWS
from funcprop.comparison.evidence import observe
from funcprop.comparison.programs import Programs, cast, computed, named_leaves
from funcprop.comparison.verdict.contract import check_contract
from funcprop.comparison.verdict.rules import judge_exact, judge_slopes
from funcprop.comparison.verdict.verdict import judged_in_working_dtype
from funcprop.comparison.witnesses.points import cotangents
from funcprop.gradient import combine, partition, zeros_where_frozen
from funcprop.layer import is_float

KEY = jax.random.key(11)
PROBES = 10
ROW = {row.name: row for row in ROWS}
every_row = pytest.mark.parametrize("name", ROW)


def test_names_are_unique():
    assert len(ROW) == len(ROWS)


class Case:
    """A row with what the witnesses say of it; every program is compiled when first asked for."""

    def __init__(self, name):
        self.row = ROW[name]
        self.layer = self.row.layer
        self.programs, self.found, self.drawn = Programs(), {}, {}
        self.arguments, dys = self.given()
        floats = jax.tree.leaves(partition(self.arguments[:2])[0])
        if not floats or not jax.tree.leaves(dys):
            pytest.skip("no float goes in, or none comes out")

    def given(self, dtype="float32"):
        """-> the arguments, and cotangents of the output."""
        if dtype not in self.drawn:
            arguments = drawn(self.row, KEY, dtype, self.programs)
            dys = cotangents(self.row.subject(arguments, KEY), PROBES)
            self.drawn[dtype] = arguments, dys
        return self.drawn[dtype]

    def evidence(self, dtype="float32"):
        if dtype not in self.found:
            given, dys = self.given(dtype)
            subject = self.row.subject(given, KEY)
            self.found[dtype] = observe(subject, dys, self.programs)
        return self.found[dtype]

    @property
    def exact(self):
        return self.evidence().exact[0]

    def in_float64(self):
        """y, and dx and dparams under the first cotangent, by the programs of the witnesses."""
        first = jax.tree.map(lambda leaf: leaf[0], self.exact.given)
        with jax.enable_x64(True):
            y = self.programs("forward", self.layer.forward, *self.wide()[:3])[0]
        return {"dparams": first["dparams"], "dx": first["dx"], "y": y}  # as JAX sorts

    def rounded_rows(self, dtype):
        subject = self.row.subject(self.given(dtype)[0], KEY)
        return judged_in_working_dtype(subject, self.evidence(dtype), self.row.floor, self.programs)

    def wide(self):
        """The arguments and cotangents in float64; only inside jax.enable_x64."""
        given = [cast(tree, jnp.float64) for tree in self.arguments]
        return [*given, self.evidence().dys]


@functools.lru_cache(maxsize=2)
def case(name):
    return Case(name)


def first_dy(c):
    """A cotangent in float32."""
    return jax.tree.map(lambda dy: dy[0].astype(np.float32), c.evidence().dys)


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
    given = *c.arguments, first_dy(c)
    rows, notes = check_contract(c.row.subject(c.arguments, KEY), given[-1], c.programs)
    assert wrong(rows) == [] and notes == []


@every_row
def test_float64_agrees_with_jax_vjp(name):
    c = case(name)
    assert c.evidence().numerical == (not c.row.automatic)
    assert wrong(judge_exact(name, c.exact.given, c.exact.truth, not c.row.automatic)) == []


@every_row
def test_float32_is_as_exact_as_automatic_differentiation(name):
    assert wrong(case(name).rounded_rows("float32")) == []


@every_row
def test_bfloat16_is_as_exact_as_automatic_differentiation(name):
    c = case(name)
    rows = c.rounded_rows("bfloat16")
    narrow = [row for row in rows if row.dtype == "bfloat16"]
    assert narrow and wrong(rows) == []


@every_row
def test_finite_differences_and_forward_mode_agree(name):
    c = case(name)
    assert wrong(judge_slopes(name, c.evidence().slopes, not c.row.automatic)[0]) == []


@every_row
def test_backward_is_linear_in_dy(name):
    c = case(name)
    found = c.evidence()
    assert len(found.scaled) == 2
    for each in found.scaled:
        assert wrong(judge_exact(name, each.given, each.truth, found.numerical)) == []


@every_row
def test_vmap_over_examples_is_the_batch(name):
    """Losses are compared as sums: a mean over a batch is another number than one of examples."""
    c = case(name)
    if not c.row.batched:
        pytest.skip(c.row.reason or "has no example axis")
    layer, mean = c.layer, getattr(c.layer, "reduction", None) == "mean"
    if mean:
        layer = dataclasses.replace(layer, reduction="sum")

    def batch(params, x, context, dy):
        y, residuals = layer.forward(params, x, context)
        dx, dparams = layer.backward(params, residuals, dy)
        return {"y": y, "dx": dx, "dparams": zeros_where_frozen(dparams, params)}

    def examples(params, x, context, dy):
        size = jax.tree.leaves(x)[0].shape[0]
        reduced = any(leaf.shape[:1] != (size,) for leaf in jax.tree.leaves(dy))

        def one(x, mask, dy):
            return batch(params, x, fp.Context(context.key, mask), dy)

        found = jax.vmap(one, (0, 0, None if reduced else 0))(x, context.mask, dy)
        added = ("y", "dparams") if reduced else ("dparams",)
        summed = {name: jax.tree.map(lambda leaf: leaf.sum(0), found[name]) for name in added}
        return found | summed

    *given, dys = c.wide()
    dy = jax.tree.map(lambda leaf: leaf[0], dys)
    with jax.enable_x64(True):
        wanted = computed(batch, *given, dy) if mean else c.in_float64()
        found = computed(examples, *given, dy)
    assert off(found, wanted) <= 1e-10


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
        found = computed(scanned, *c.wide())
    assert off(found, c.exact.given) <= 1e-10


@pytest.mark.parametrize("name", {type(row.layer): row.name for row in reversed(ROWS)}.values())
def test_eager_is_jit(name):
    """Of every layer its first row: op by op there is much to compile."""
    c = case(name)
    params, x, context = c.arguments
    dy = jax.tree.map(jnp.asarray, first_dy(c))

    def run(params, x, context, dy):
        y, residuals = c.layer.forward(params, x, context)
        dx, dparams = c.layer.backward(params, residuals, dy)
        return {"dparams": zeros_where_frozen(dparams, params), "dx": dx, "y": y}

    y, residuals = c.layer.forward(params, x, context)
    dx, dparams = c.layer.backward(params, residuals, dy)
    for kept in jax.tree.leaves(residuals):
        for leaf in jax.tree.leaves(params):
            same = kept.shape == leaf.shape and kept.dtype == leaf.dtype and leaf.size > 3
            assert kept is not leaf, "a parameter is among the residuals"
            assert not (same and is_float(leaf) and np.array_equal(kept, leaf))
    eager = {"dparams": zeros_where_frozen(dparams, params), "dx": dx, "y": y}
    if off(eager, c.in_float64(), floor=1e-2) > 1e-4:  # rounding, or other random numbers
        jitted = computed(run, params, x, context, dy)
        assert off(eager, jitted, floor=1e-2) <= 1e-4


@every_row
def test_a_step_along_the_gradient_compiles_nothing_anew(name):
    """It keeps every shape, dtype and weak type, so that a second call is the first one's program.

    That two passes have residuals of one structure is part of the contract, above.
    """
    c = case(name)

    def step(params, x, context, dy):
        _, residuals = c.layer.forward(params, x, context)
        _, dparams = c.layer.backward(params, residuals, dy)
        return jax.tree.map(
            lambda d, leaf: leaf if d is None else leaf - d,
            dparams, params, is_leaf=lambda d: d is None,
        )  # fmt: skip

    params = c.arguments[0]
    moved = jax.eval_shape(step, *c.arguments, first_dy(c))
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(moved), strict=True):
        assert (before.aval.shape, before.aval.dtype) == (after.shape, after.dtype)
        assert before.aval.weak_type == after.weak_type


@every_row
def test_compare_accuses_no_right_row_and_catches_every_mutant(name, record_property):
    """At one seed: `tests/benchmarks/mutation.py` takes twenty."""
    c, key = case(name), jax.random.key(1)
    found = [
        compare_row(c.row, key, PROBES, dtype, programs=c.programs)
        for dtype in ("float32", "bfloat16")  # and float64 in each
    ]
    given = drawn(c.row, key, programs=c.programs)
    score = mutation_score(
        c.layer, *given, mutants=c.row.mutants, probes=PROBES, key=key, programs=c.programs,
        against=c.row.surrogate,
    )  # fmt: skip
    record_property("right", sum(len(each.rows) for each in found))
    record_property("accused", sum(len(each.wrong) for each in found))
    record_property("mutants", score.mutants)
    record_property("killed", len(score.killed))
    for each in found:
        each.raise_if_wrong()
        assert not any("look inside" in note for note in each.notes)
    assert score.survivors == () and score.share == 1
    assert {mutant.name for mutant in c.row.mutants} <= score.killed.keys()
