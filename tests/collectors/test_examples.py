"""Per-example rules against their definition, over every row of the table of layers.

The definition: g_b is the gradient by `jax.vjp` of the layer's own forward under a cotangent that
is zero for every example but b.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.catalogue.table import ROWS
from funcprop.collectors import (
    book_keeping,
    collect,
    collect_all,
    gradients,
    inner_products,
    second_moment,
    squared_norms,
    squared_total,
    total,
    update,
    values,
    weighted_sum,
)
from funcprop.collectors.held import without_held
from funcprop.collectors.record import is_record
from funcprop.comparison.programs import cast, computed
from funcprop.composites import RewiredParams
from funcprop.layer import LayerError, is_float

KEY = jax.random.key(5)
ROW = {row.name: row for row in ROWS}
# what mixes the examples has no gradients of single ones; what is given a single one neither, nor
# what is frozen
UNDEFINED = {
    "Frozen",
    "BatchNorm",
    "BatchNorm on images",
    "Conv, one image",
    "Dense, one example",
    "OverTime, one sequence",
}


def summed(layer):
    """The layer with every mean in it a sum."""
    if getattr(layer, "reduction", None) == "mean":
        return dataclasses.replace(layer, reduction="sum")
    if isinstance(layer, fp.Composite):
        return layer.rebuild(tuple(map(summed, layer.layers)))
    return layer


def drawn(row):
    """Everything by NumPy: nothing is compiled."""
    layer, random = summed(row.layer), np.random.default_rng(3)
    x, context = cast(row.inputs(KEY), jnp.float64)
    params, y = jax.eval_shape(
        lambda x, c: (params := layer.init(KEY, x), layer.forward(params, x, c)[0]), x, context
    )

    def parameter(leaf):
        if leaf.ndim < 2:  # scales and biases
            return random.normal(0.5, 0.1, leaf.shape)
        return random.normal(0, 0.5 / np.sqrt(leaf.shape[-2]), leaf.shape)

    params = jax.tree.map(parameter, params)
    dy = jax.tree.map(lambda y: random.normal(size=y.shape) if is_float(y) else None, y)
    return layer, params, x, context, dy


def brute_force(row, layer, params, x, context, dy):
    """g_b of every example, [B, *shape] for every parameter."""
    examples = jax.tree.leaves(x)[0].shape[0]
    layer = row.surrogate or layer
    if getattr(layer, "reduction", None) == "sum":
        layer = dataclasses.replace(layer, reduction="none")
        dy = jnp.broadcast_to(dy, layer.forward(params, x, context)[0].shape)

    def floats(params):
        y = layer.forward(params, x, context)[0]
        return jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, y)

    if row.automatic:
        pullback = jax.vjp(floats, params)[1]
    else:
        residuals = layer.forward(params, x, context)[1]

        def pullback(dy):
            return layer.backward(params, residuals, dy)[1:]

    def of_one(b):
        def only(leaf):
            chosen = (jnp.arange(examples) == b).reshape(-1, *[1] * (leaf.ndim - 1))
            return jnp.where(chosen, leaf, 0)

        return pullback(jax.tree.map(only, dy))[0]

    return jax.lax.map(of_one, jnp.arange(examples))


def weights(x):
    """Weights of the examples."""
    return np.linspace(0.1, 2.0, jax.tree.leaves(x)[0].shape[0])


def off(given, wanted):
    given, wanted = np.asarray(given), np.asarray(wanted)
    assert given.shape == wanted.shape
    return np.linalg.norm(given - wanted) / max(np.linalg.norm(wanted), 1e-300)


def close(given, wanted):
    """Trees of one structure; the largest difference over the norm of all."""
    assert jax.tree.structure(given) == jax.tree.structure(wanted)
    flat = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t)]) for t in (given, wanted)]
    assert off(*flat) < 1e-9


def seen(given, wanted):
    """`wanted` without what `given` has not: frozen parameters, and feedback that is no layer's."""
    if not isinstance(given, RewiredParams):  # the records of a rewired layer are the inner one's
        wanted = jax.tree.map(
            lambda w: w.params if isinstance(w, RewiredParams) else w,
            wanted, is_leaf=lambda w: isinstance(w, RewiredParams),
        )  # fmt: skip
    return jax.tree.map(
        lambda g, w: None if g is None else w, given, wanted, is_leaf=lambda g: g is None
    )


def examples_first(found):
    """g_b of every layer with the axes that loops put in front behind the examples'."""

    def moved(record):
        record = record.named("each")
        return jax.tree.map(lambda g: np.moveaxis(g, record.stacked, 0), record.value)

    return jax.tree.map(moved, found, is_leaf=is_record)


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_rules_equal_their_definition(name):
    with jax.enable_x64(True):
        layer, params, x, context, dy = drawn(ROW[name])
        if not jax.tree.leaves(params):
            pytest.skip("no parameters")
        if name == "Parallel":
            pytest.skip("its inputs have different numbers of examples")
        if name == "KolenPollack":
            with pytest.raises(LayerError, match="feedback that learns"):
                collect(layer, squared_norms)
            return
        rules = {"norms": squared_norms, "products": inner_products, "moment": second_moment}
        rule = collect_all(**rules, each=gradients, kept=book_keeping)
        model = collect(layer, rule)

        # a rule that holds something sees single parameters tied, and a layer's
        raised = {"Tied layers": "cannot see", "DirectFeedback": "parameters of its own"}
        updates = name not in raised
        if not updates:
            with pytest.raises(LayerError, match=raised[name]):
                collect(layer, update(optax.sgd(0.5)))
        updated = collect(layer, update(optax.sgd(0.5))) if updates else layer

        def run(params, x, context, dy):
            _, residuals = model.forward(params, x, context)
            found = model.backward(params, residuals, dy)[1]
            norms = total(found, "norms")
            # a composite's feedback is no record
            own = found.params if isinstance(found, RewiredParams) else found
            new, kept = None, jax.tree.map(lambda r: r.named("kept"), own, is_leaf=is_record)
            if updates:
                held = updated.hold(params)
                _, residuals = updated.forward(held, x, context)
                new = without_held(updated.backward(held, residuals, dy)[1])
            wanted = brute_force(ROW[name], layer, params, x, context, dy)
            combined = weighted_sum(kept, weights(x))
            sums = total(found, "products"), norms, squared_total(kept), combined
            return found, new, wanted, sums

        if name in UNDEFINED:
            with pytest.raises((LayerError, ValueError)):
                jax.eval_shape(run, params, x, context, dy)
            return
        found, new, every, sums = computed(run, params, x, context, dy)
        if updates:
            stepped = jax.tree.map(lambda p, g: p - 0.5 * g.sum(0), params, every)
            close(new, stepped)
        if isinstance(found, RewiredParams):
            found, every = found.params, every.params
        wanted = seen(examples_first(found), every)
        sizes = [
            sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(tree)) for tree in (every, wanted)
        ]
        np.testing.assert_allclose(*sizes)
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(wanted)]
        flat = np.concatenate(flat, 1)
        dots, norms, kept_norms, summed_up = sums
        assert off(dots, flat @ flat.T) < 1e-9
        assert off(norms, np.square(flat).sum(1)) < 1e-9
        assert off(kept_norms, np.square(flat).sum(1)) < 1e-9
        close(examples_first(found), wanted)
        close(values(found, "moment"), jax.tree.map(lambda g: np.square(g).sum(0), wanted))
        every = jax.tree.map(lambda g: np.tensordot(weights(x), g, 1), every)
        close(summed_up, seen(summed_up, every))
