"""The wrong layer of a deep model is named exactly."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.comparison.subject.door import of_layer
from funcprop.comparison.verdict.inside import localize
from funcprop.comparison.witnesses.records import model_of
from funcprop.models import gpt, gpt_objective
from funcprop.models.transformer import transformer_block

DEPTH, WIDTH, LENGTH, VOCABULARY = 12, 8, 6, 11


@dataclass(frozen=True)
class WrongGELU(fp.GELU):
    """Three per cent off."""

    def backward(self, params, residuals, da):
        dz, _ = super().backward(params, residuals, da)
        return 1.03 * dz, ()


@dataclass(frozen=True)
class WrongLayerNorm(fp.LayerNorm):
    """Its scale's gradient has the wrong sign."""

    def backward(self, params, residuals, dy):
        dx, dparams = super().backward(params, residuals, dy)
        return dx, dparams._replace(scale=-dparams.scale)


WRONG = {"GELU": WrongGELU(), "LayerNorm": WrongLayerNorm()}


def planted(layer, kind):
    """The layer with the first one of that type, depth first, exchanged for a wrong one."""
    done = []

    def walk(layer):
        if not done and type(layer).__name__ == kind:
            done.append(layer)
            return WRONG[kind]
        if isinstance(layer, fp.composites.Composite):
            return layer.rebuild(tuple(map(walk, layer.layers)))
        return layer

    return walk(layer)


def test_in_any_of_twelve_blocks():
    block = transformer_block(WIDTH, 2, causal=True)
    blocks = [block] * DEPTH
    wrong = {0: "GELU", 6: "LayerNorm", 11: "GELU"}
    for depth, kind in wrong.items():
        blocks[depth] = planted(block, kind)
    model = fp.Serial(*blocks)
    x = jax.random.normal(jax.random.key(0), (1, LENGTH, WIDTH))
    params = model.init(jax.random.key(1), x)
    inner = of_layer(model, params, x, fp.Context(), jax.random.key(2)).inner
    rows, notes = localize(model_of(inner), inner, jnp.ones_like(x))
    assert notes == []
    places = dict.fromkeys(row.place for row in rows if not row.ok)
    for place, (depth, kind) in zip(places, wrong.items(), strict=True):
        assert place.startswith(f"Serial[{depth}] ") and place.endswith(f" Wrong{kind}")


def test_under_repeat_and_in_the_objective_of_a_gpt():
    kind = "LayerNorm"
    model = planted(gpt(VOCABULARY, LENGTH, WIDTH, DEPTH, 2), kind)
    objective = gpt_objective(model)
    tokens = jax.random.randint(jax.random.key(0), (2, LENGTH + 1), 0, VOCABULARY)
    batch = tokens[:, :-1], tokens[:, 1:]
    params = objective.init(jax.random.key(1), batch)
    found = fp.compare(fp.backprop(objective), params, batch, probes=1)
    place = found.wrong[0].place
    assert place.endswith(f" Wrong{kind}") and "Repeat[0]" in place
    assert jnp.isfinite(found.wrong[0].error)


@pytest.mark.parametrize("around", [fp.Remat, fp.Skip, lambda layer: fp.Branch(layer, fp.Tanh())])
def test_inside_other_composites(around):
    model = fp.Serial(fp.Dense(4), around(fp.Serial(fp.Dense(4), WrongGELU())))
    x = jax.random.normal(jax.random.key(0), (3, 4))
    found = fp.compare(model, model.init(jax.random.key(1), x), x, probes=1)
    assert found.wrong[0].place.endswith("Serial[1] WrongGELU")
    assert "a factor of 1.03" in found.headline
