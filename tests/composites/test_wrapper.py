"""Every layer around another passes on what it observed, and predicts as it does."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.mutants import Mutated
from funcprop.catalogue.row import Mutant
from funcprop.collectors.collecting import Collecting, Finishing
from funcprop.collectors.protocol import Checked, Marking, Seeing
from funcprop.collectors.rule import Gradient
from funcprop.collectors.split import Deferred
from funcprop.comparison.witnesses.records import Recorder
from funcprop.composites import Wrapper
from funcprop.inspection.taps import Tapped

X = jax.random.normal(jax.random.key(1), (6, 3))
STATISTICS = fp.layers.Statistics(jnp.array([1.0, -2.0, 0.5]), jnp.array([0.5, 4.0, 1.0]))


class Weighted(NamedTuple):
    w: jax.Array
    gain: fp.layers.Gain


@dataclass(frozen=True)
class Observing(fp.Layer):
    """BatchNorm(x w): a layer with weights that observes its batch."""

    norm = fp.BatchNorm()

    def init(self, key, x):
        return Weighted(jax.random.normal(key, (x.shape[-1], 3)), self.norm.init(key, x))

    def forward(self, params, x, context=fp.Context()):
        y, kept = self.norm.forward(params.gain, x @ params.w)
        return y, (x, kept)

    def backward(self, params, residuals, dy):
        x, kept = residuals
        dz, dgain = self.norm.backward(params.gain, kept, dy)
        return dz @ params.w.T, Weighted(x.T @ dz, dgain)

    def statistics(self, residuals):
        return self.norm.statistics(residuals[1])

    def inference(self, params, statistics):
        norm, gain = self.norm.inference(params.gain, statistics)
        dense = fp.Serial(fp.Dense(3, bias=False), norm)
        return dense, (fp.layers.Affine(params.w, None), gain)


RULE = Gradient()
NORM, WEIGHTS = fp.BatchNorm(), Observing()
WRAPPED = [
    fp.autodiff(NORM),
    fp.collect(NORM, RULE),
    fp.collect(NORM, lambda layer, params, residuals, dy: layer.backward(params, residuals, dy)),
    Checked(fp.Serial(NORM), fp.Serial(NORM)),
    Collecting(NORM, RULE, ()),
    Deferred(NORM),
    Finishing(NORM, RULE, ()),
    Marking(NORM),
    Seeing(NORM, []),
    Tapped(NORM),
    Mutated(NORM, Mutant("", lambda layer, *given: layer.backward(*given))),
    Recorder(NORM, NORM, ()),
    fp.rewiring.Frozen(NORM),
    fp.rewiring.Clipped(NORM, max_abs=1.0),
    fp.rewiring.Noisy(NORM, 0.1),
    fp.rewiring.Reversed(NORM),
    fp.rewiring.StraightThrough(NORM),
    fp.rewiring.FeedbackAligned(WEIGHTS),
    fp.rewiring.KolenPollack(WEIGHTS),
    fp.rewiring.SignSymmetric(WEIGHTS),
    fp.WeightStandardized(WEIGHTS),
    fp.Remat(NORM),
    fp.Cast(NORM, "float32"),
    fp.Tied(NORM, pairs=()),
    fp.StochasticDepth(NORM, 0.0),
]


def kinds(kind):
    """The concrete subclasses."""
    below = [other for child in kind.__subclasses__() for other in kinds(child)]
    return below if kind.__name__ in ("Wrapper", "Rewired", "OtherWeights") else [kind, *below]


def test_every_wrapper_is_tried():
    ours = [kind for kind in kinds(Wrapper) if kind.__module__.startswith("funcprop.")]
    assert set(ours) <= set(map(type, WRAPPED))


def of(params):
    """The parameters of the layer inside."""
    while not isinstance(params, (fp.layers.Gain, Weighted)):
        params = params[0]
    return params


@pytest.mark.parametrize("wrapper", WRAPPED, ids=lambda wrapper: type(wrapper).__name__)
def test_statistics_and_inference_are_the_layers(wrapper):
    params = wrapper.init(jax.random.key(0), X)
    plain = NORM if isinstance(of(params), fp.layers.Gain) else WEIGHTS
    _, kept = wrapper.forward(params, X, fp.Context(jax.random.key(2)))
    found = wrapper.statistics(kept)
    _, own = plain.forward(of(params), X)
    if not isinstance(wrapper, fp.WeightStandardized):  # which observes other numbers
        for a, b in zip(jax.tree.leaves(found), plain.statistics(own), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    averages = jax.tree.unflatten(jax.tree.structure(found), STATISTICS)

    predictor, fitted = fp.inference(wrapper, params, averages)
    y, _ = predictor.forward(fitted, X, fp.Context(jax.random.key(2)))
    if not isinstance(wrapper, fp.WeightStandardized):
        plain, given = fp.inference(plain, of(params), STATISTICS)
        np.testing.assert_allclose(y, plain.forward(given, X)[0], rtol=1e-5, atol=1e-6)
    else:
        assert y.shape == X.shape and not isinstance(predictor, fp.WeightStandardized)
