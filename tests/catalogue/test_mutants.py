"""The score of a checker: what counts as a mutant, and what as caught."""

import jax
import jax.numpy as jnp
import numpy as np

import funcprop as fp
from funcprop.catalogue.mutants import LEAVES, same, wrong_leaves
from funcprop.catalogue.row import Mutant
from funcprop.catalogue.score import mutation_score

X = jax.random.normal(jax.random.key(0), (5, 4))


def test_every_mutant_of_a_dense_layer_is_killed_by_each_witness():
    layer = fp.Dense(3)
    score = fp.mutation_score(layer, layer.init(jax.random.key(1), X), X)
    assert score.share == 1 and score.survivors == () and score.mutants > 30
    assert all("jax.vjp" in witnesses for name, witnesses in score.killed.items())
    assert sum("finite differences" in each for each in score.killed.values()) > 30
    assert "killed" in str(score)


def test_what_equals_the_right_rule_is_counted_apart():
    score = mutation_score(fp.Tanh(), (), X[:4, :4])
    assert "dx transposed" in score.killed and "dx transposed" not in score.equivalent
    score = mutation_score(fp.Tanh(), (), X)
    assert "dx transposed" in score.equivalent  # 5 x 4 is not square: nothing to exchange


def test_own_mutants_are_scored():
    right = Mutant("the right one", lambda layer, p, a, da: layer.backward(p, a, da))
    wrong = Mutant("the square forgotten", lambda layer, p, a, da: (da * (1 - a), ()))
    score = mutation_score(fp.Tanh(), (), X, mutants=(right, wrong))
    assert "the right one" in score.equivalent
    assert set(score.killed["the square forgotten"]) == {"jax.vjp", "finite differences", "jax.jvp"}


def test_every_mistake_changes_something():
    leaf = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    for mistake in LEAVES:
        assert mistake(leaf).shape == leaf.shape and not np.allclose(mistake(leaf), leaf), mistake
    grads = {"dx": leaf, "dparams": {"w": 2 * leaf}}
    names = [name for name, _ in wrong_leaves(grads)]
    assert len(names) == 2 * len(LEAVES) + 1 and len(set(names)) == len(names)
    assert same(grads, grads, grads)


def test_parameters_after_the_update_are_a_mutant():
    layer = fp.Dense(4)
    params = layer.init(jax.random.key(1), X)
    assert "updated parameters used" in mutation_score(layer, params, X).killed
    moved = jax.tree.map(jnp.zeros_like, params)
    assert "δ of the next step" in mutation_score(layer, moved, X[None]).killed
