"""Wrong derivatives of activations: the right words, and never wrong ones; numbers to redo them."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.comparison.explanation.diagnosis import problem_of
from funcprop.comparison.explanation.elementwise import formula_of
from funcprop.comparison.explanation.samples import elementwise_rule
from funcprop.comparison.leaf import NO_PATTERN
from funcprop.comparison.programs import cast
from funcprop.comparison.witnesses.gradients import gradients
from funcprop.gradient import autodiff
from funcprop.sheets.curves import svg, ticks

X = jax.random.normal(jax.random.key(0), (5, 4))
BOTH = "; z is the input, a the output"
A, Z = "; a is the output", "; z is the input"
LAMBDA, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
ITSELF = "the activation itself in the place of its derivative"
NOT_LINEAR = "backward is not linear in dy"
sigma = jax.nn.sigmoid


def silu(z):
    return z * sigma(z)


def cumulative(z):
    return 0.5 * jax.scipy.special.erfc(-z / np.sqrt(2).astype(z.dtype))


def density(z):
    return jnp.exp(-z * z / 2) / np.sqrt(2 * np.pi).astype(z.dtype)


def gelu(z):
    return z * cumulative(z)


def relu(z):
    return jnp.where(z > 0, z, 0)


def leaky(z):
    return jnp.where(z > 0, z, 0.2 * z)


def elu(z):
    return jnp.where(z > 0, z, 1.5 * jnp.expm1(jnp.where(z > 0, 0, z)))


def selu(z):
    return LAMBDA * jnp.where(z > 0, z, ALPHA * jnp.expm1(jnp.where(z > 0, 0, z)))


def mish(z):
    return z * jnp.tanh(jax.nn.softplus(z))


def by_rule(function, backward):
    """The function with a rule of its own: backward(z, a, dy) -> dx."""

    @jax.custom_vjp
    def ruled(z):
        return function(z)

    ruled.defvjp(
        lambda z: (function(z), z), lambda z, dy: (backward(z, function(z), dy).astype(z.dtype),)
    )
    return ruled


def layer_with(base, backward):
    """A layer with another backward: backward(layer, residuals, da) -> dz."""

    @dataclasses.dataclass(frozen=True)
    class Slip(base):
        def backward(self, params, residuals, da):
            return backward(self, residuals, da), ()

    return Slip


# name, function, backward, words
WRONG = [
    ("tanh: 1 − z²", jnp.tanh, lambda z, a, dy: dy * (1 - z * z),
     f"1 − z² in the place of 1 − a²{BOTH}"),
    ("tanh: 1 − a", jnp.tanh, lambda z, a, dy: dy * (1 - a),
     f"1 − a in the place of 1 − a²: the square is forgotten{A}"),
    ("tanh: 1 + a²", jnp.tanh, lambda z, a, dy: dy * (1 + a * a),
     f"1 + a² in the place of 1 − a²{A}"),
    ("tanh: a", jnp.tanh, lambda z, a, dy: dy * a, f"{ITSELF} 1 − a²{A}"),
    ("tanh: that of σ", jnp.tanh, lambda z, a, dy: dy * a * (1 - a),
     f"a(1 − a) in the place of 1 − a²{A}"),
    ("σ: a(1 − z)", sigma, lambda z, a, dy: dy * a * (1 - z),
     f"a(1 − z) in the place of a(1 − a){BOTH}"),
    ("σ: a", sigma, lambda z, a, dy: dy * a, f"{ITSELF} a(1 − a){A}"),
    ("σ: z(1 − z)", sigma, lambda z, a, dy: dy * z * (1 - z),
     f"z(1 − z) in the place of a(1 − a){BOTH}"),
    ("σ: 1 − a", sigma, lambda z, a, dy: dy * (1 - a),
     f"1 − a in the place of a(1 − a){A}"),
    ("σ: that of tanh", sigma, lambda z, a, dy: dy * (1 - a * a),
     f"1 − a² in the place of a(1 − a){A}"),
    ("σ: da squared", sigma, lambda z, a, dy: dy * dy * a * (1 - a),
     f"dy squared: {NOT_LINEAR}"),
    ("σ: |da|", sigma, lambda z, a, dy: jnp.abs(dy) * a * (1 - a),
     f"|dy| in the place of dy: {NOT_LINEAR}"),
    ("σ²: the square forgotten", lambda z: sigma(z) ** 2,
     lambda z, a, dy: dy * 2 * sigma(z) * (1 - sigma(z)),
     f"the factor σ(z) is missing: 2 σ′(z) alone{Z}"),
    ("σ³: a forgotten square", lambda z: sigma(z) ** 3 / 3,
     lambda z, a, dy: dy * sigma(z) ** 2 * (1 - sigma(z)),
     f"the factor σ(z) of the derivative is missing{Z}"),
    ("z³: the square forgotten", lambda z: z**3, lambda z, a, dy: dy * 3 * z,
     f"3z in the place of 3z²: the square is forgotten{Z}"),
    ("softsign: the square forgotten", lambda z: z / (1 + jnp.abs(z)),
     lambda z, a, dy: dy * (1 - jnp.abs(a)),
     f"1 − |a| in the place of (1 − |a|)²: the square is forgotten{A}"),
    ("ReLU: a da", relu, lambda z, a, dy: dy * a, f"{ITSELF} [z > 0]{Z}"),
    ("ReLU: the sides exchanged", relu, lambda z, a, dy: jnp.where(z > 0, 0, dy),
     f"[z < 0] in the place of [z > 0]{Z}"),
    ("ReLU: only where dy > 0", relu, lambda z, a, dy: jnp.where((z > 0) & (dy > 0), dy, 0),
     f"dy only where it is positive: {NOT_LINEAR}"),
    ("LeakyReLU: as ReLU", leaky, lambda z, a, dy: jnp.where(z > 0, dy, 0),
     f"the slope 0.2 for z < 0 is forgotten: 0 there{Z}"),
    ("LeakyReLU: the sides exchanged", leaky, lambda z, a, dy: jnp.where(z > 0, 0.2 * dy, dy),
     f"the sides are exchanged: 1 for z < 0 and 0.2 for z > 0{Z}"),
    ("ELU: α forgotten", elu, lambda z, a, dy: dy * jnp.where(z > 0, 1, jnp.exp(z)),
     f"the factor 1.5 is forgotten for z < 0{Z}"),
    ("ELU: a below 0", elu, lambda z, a, dy: dy * jnp.where(z > 0, 1, a), f"{ITSELF} for z < 0{Z}"),
    ("SELU: α forgotten", selu, lambda z, a, dy: dy * LAMBDA * jnp.where(z > 0, 1, jnp.exp(z)),
     f"the factor α = 1.673 is forgotten for z < 0{Z}"),
    ("SELU: λ forgotten above 0", selu,
     lambda z, a, dy: dy * jnp.where(z > 0, 1, LAMBDA * ALPHA * jnp.exp(z)),
     f"the λ 1.0507 for z > 0 is forgotten: 1 there{Z}"),
    ("SiLU: the second term", silu, lambda z, a, dy: dy * sigma(z),
     f"the term z · σ′(z) is missing{Z}"),
    ("SiLU: the first term", silu, lambda z, a, dy: dy * z * sigma(z) * (1 - sigma(z)),
     f"the term σ(z) is missing{Z}"),
    ("SiLU: without the factor z", silu, lambda z, a, dy: dy * sigma(z) * (2 - sigma(z)),
     f"the factor z is missing in the term z · σ′(z){Z}"),
    ("SiLU: z(1 − σ)", silu, lambda z, a, dy: dy * (sigma(z) + z * (1 - sigma(z))),
     f"z(1 − σ(z)) in the place of the term z · σ′(z){Z}"),
    ("SiLU: a minus", silu, lambda z, a, dy: dy * sigma(z) * (1 - z * (1 - sigma(z))),
     f"the term z · σ′(z) has the wrong sign{Z}"),
    ("SiLU: no dy at the last term", silu,
     lambda z, a, dy: dy * sigma(z) + z * sigma(z) * (1 - sigma(z)),
     f"the term z · σ′(z) is not multiplied by dy: {NOT_LINEAR}{Z}"),
    ("GELU: the second term", gelu, lambda z, a, dy: dy * cumulative(z),
     f"the term z · Φ′(z) is missing{Z}"),
    ("GELU: without the factor z", gelu, lambda z, a, dy: dy * (cumulative(z) + density(z)),
     f"the factor z is missing in the term z · Φ′(z){Z}"),
    ("Mish: the second term", mish, lambda z, a, dy: dy * jnp.tanh(jax.nn.softplus(z)),
     f"the term z · h′(z) is missing, where a = z · h(z){BOTH}"),
    ("sin: f for f′", jnp.sin, lambda z, a, dy: dy * a, f"{ITSELF} cos z{Z}"),
    ("ELU: e^a below 0", elu, lambda z, a, dy: dy * jnp.where(z > 0, 1, 1.5 * jnp.exp(a)),
     f"1.5 e^a in the place of the derivative for z < 0{BOTH}"),
    ("ELU: the sides exchanged", elu,
     lambda z, a, dy: dy * jnp.where(z > 0, 1.5 * jnp.exp(z), 1),
     f"the sides are exchanged: 1 for z < 0 and 1.5 e^z for z > 0{Z}"),
    ("SELU: a + α", selu, lambda z, a, dy: dy * jnp.where(z > 0, LAMBDA, a + ALPHA),
     f"a + α in the place of a + λα for z < 0{BOTH}"),
    ("Mish: σ forgotten", mish, lambda z, a, dy: dy * (
        jnp.tanh(jax.nn.softplus(z)) + z * (1 - jnp.tanh(jax.nn.softplus(z)) ** 2)),
     f"t + z (1 − t²) in the place of t + z (1 − t²) σ(z), t = tanh(softplus(z)){Z}"),
    ("Mish: a for tanh(softplus(z))", mish, lambda z, a, dy: dy * (
        jnp.tanh(jax.nn.softplus(z)) + z * (1 - a * a) * sigma(z)),
     f"t + z (1 − a²) σ(z) in the place of t + z (1 − t²) σ(z), t = tanh(softplus(z)){BOTH}"),
    ("softplus: e^z", jax.nn.softplus, lambda z, a, dy: dy * jnp.exp(z),
     f"e^z in the place of σ(z){Z}"),
    ("softplus: σ of the output", jax.nn.softplus, lambda z, a, dy: dy * sigma(a),
     f"σ(a) in the place of σ(z){BOTH}"),
    ("log(1 + z²): the inner derivative", lambda z: jnp.log(1 + z * z),
     lambda z, a, dy: dy * 2 / (1 + z * z), f"the factor z is missing: 2/(1 + z²) alone{Z}"),
    ("z² + 2z: 2 is forgotten", lambda z: z * z + 2 * z, lambda z, a, dy: dy * 2 * z,
     f"2z in the place of 2(1 + z){Z}"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "backward", "words"), [row[1:] for row in WRONG],
                         ids=[row[0] for row in WRONG])  # fmt: skip
def test_a_wrong_derivative_is_said(function, backward, words):
    (row,) = {row.words for row in fp.compare(by_rule(function, backward), X, probes=2).wrong}
    assert row == words


# the same of layers, whose settings have names
LAYERS = [
    (layer_with(fp.LeakyReLU, lambda s, a, da: jnp.where(a > 0, da, 0))(0.05),
     f"the slope 0.05 for z < 0 is forgotten: 0 there{Z}"),
    (layer_with(fp.ELU, lambda s, a, da: jnp.where(a > 0, da, (a + 1) * da))(1.5),
     f"1 + a in the place of a + alpha for z < 0{BOTH}"),
    (layer_with(fp.ELU, lambda s, a, da: jnp.where(a > 0, da, (a / s.alpha + 1) * da))(1.7),
     f"the factor alpha = 1.7 is forgotten for z < 0{Z}"),
    (layer_with(fp.GELU, lambda s, r, da: da * r.a), ITSELF),
    (layer_with(fp.HardTanh, lambda s, a, da: da * a), f"{ITSELF} [|z| < 1]{Z}"),
    (layer_with(fp.Tanh, lambda s, a, da: da * (1 - a * a) ** 2),
     "the derivative is applied twice"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "words"), LAYERS)
def test_a_wrong_derivative_of_a_layer_is_said(layer, words):
    layer = layer() if isinstance(layer, type) else layer
    (row,) = {row.words for row in fp.compare(layer, (), X, probes=2).wrong}
    assert row == words


# --- never wrong words ----------------------------------------------------------------------------

NEARLY = [
    ("noise", jnp.tanh, lambda z, a, dy: dy * (1 - a * a) * (1 + 0.1 * jnp.sin(77 * z))),
    ("a coefficient off by 1e-7", jnp.tanh, lambda z, a, dy: dy * (1 - (1 + 1e-7) * z * z)),
    ("nearly ELU's", elu, lambda z, a, dy: dy * jnp.where(z > 0, 1, 1.001 * jnp.exp(z) - 0.01 * z)),
    ("nearly not linear", jnp.tanh, lambda z, a, dy: dy * (1 - z * z * z + 1e-6 * jnp.cos(z))),
]


@pytest.mark.parametrize(("function", "backward"), [row[1:] for row in NEARLY],
                         ids=[row[0] for row in NEARLY])  # fmt: skip
def test_what_fits_no_formula_has_no_words(function, backward):
    found = fp.compare(by_rule(function, backward), X, probes=2)
    assert {row.words for row in found.wrong} == {NO_PATTERN}
    assert found.curve is not None


def problem(layer, x, params=(), context=fp.Context()):
    with jax.enable_x64(True):
        params, x = cast(params, np.float64), cast(x, np.float64)
        y = jax.eval_shape(lambda *args: layer.forward(*args)[0], params, x, context)
        dys = np.random.default_rng(1).normal(size=(4, *y.shape))
        both = [gradients(one, params, x, context, dys) for one in (layer, autodiff(layer))]
        given, truth = jax.tree.map(np.asarray, both)
        return problem_of(layer, params, x, context, dys, given, truth)


@pytest.mark.parametrize("layer", [fp.Tanh(), fp.ReLU(), fp.GELU(), fp.ELU(1.5), fp.HardTanh()])
def test_a_right_rule_has_no_words(layer):
    rule = elementwise_rule(problem(layer, X))
    assert rule is not None and rule.uniform and rule.linear
    assert formula_of(rule, layer) is None


@pytest.mark.parametrize("layer", [fp.Softmax(), fp.LayerNorm(), fp.Dense(4)])
def test_what_mixes_elements_is_not_elementwise(layer):
    x = jnp.asarray(X)
    assert elementwise_rule(problem(layer, x, layer.init(jax.random.key(1), x))) is None


def test_few_values_prove_nothing():
    """At 0 z, z² and a are one thing; from two values on there are others in between."""
    slip = layer_with(fp.Tanh, lambda s, a, da: da * (0.3 + a))()
    rule = elementwise_rule(problem(slip, jnp.zeros((2, 3))))
    assert rule is not None and formula_of(rule, slip) is None
    wrong = by_rule(jnp.tanh, lambda z, a, dy: dy * (1 - z * z))
    two = fp.compare(wrong, jnp.array([0.5, -1.5, 0.5]))
    assert {row.words for row in two.wrong} == {f"1 − z² in the place of 1 − a²{BOTH}"}


def test_elements_that_are_not_alike_have_words_and_no_curve():
    """A rule with dropout inside: z is no more all that the derivative hangs on."""

    @dataclasses.dataclass(frozen=True)
    class Dropped(fp.Layer):
        def forward(self, params, z, context=fp.Context()):
            a = jnp.tanh(z)
            kept = jax.random.bernoulli(context.key, 0.5, z.shape)
            return jnp.where(kept, a, 0), (kept, a)

        def backward(self, params, residuals, dy):
            kept, a = residuals
            return jnp.where(kept, dy * jnp.sin(7 * a), 0), ()

    found = fp.compare(Dropped(), (), X, context=fp.Context(jax.random.key(1)))
    assert not found.ok and found.curve is None


# --- nine points ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slip():
    return fp.compare(by_rule(jnp.tanh, lambda z, a, dy: dy * (1 - z * z)), X)


def test_a_curve_is_the_derivative_by_hand_and_the_right_one(slip):
    curve = slip.curve
    z = np.array(curve.z)
    assert len(z) == 9 and (np.diff(z) > 0).all() and z[0] < 0 < z[-1]
    low, high = float(X.min()), float(X.max())
    np.testing.assert_allclose([z[0], z[-1]], [low, high], rtol=5e-3)
    assert all(value == float(f"{value:.3g}") for value in curve.z)  # can be written down
    np.testing.assert_allclose(curve.a, np.tanh(z), rtol=1e-12)
    np.testing.assert_allclose(curve.by_hand, 1 - z**2, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(curve.automatic, 1 - np.tanh(z) ** 2, rtol=1e-12)
    assert {type(value) for value in (*curve.z, *curve.by_hand)} == {float}


def test_a_curve_is_in_the_text_and_in_json(slip):
    lines = str(slip).splitlines()
    at = lines.index("dx[0] / dy at dy = 1:")
    assert lines[at + 1].split() == ["z", "a", "by", "hand", "automatic"]
    rows = [list(map(float, line.split())) for line in lines[at + 2 : at + 11]]
    np.testing.assert_allclose([row[2] for row in rows], slip.curve.by_hand, rtol=1e-5)
    plain = json.loads(slip.to_json())["curve"]
    assert plain["z"] == list(slip.curve.z) and plain["automatic"] == list(slip.curve.automatic)
    with pytest.raises(fp.GradientError, match="dx\\[0\\] / dy at dy = 1"):
        slip.raise_if_wrong()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def test_a_curve_is_drawn(slip):
    page = Page(slip.to_html())
    tags = [tag for tag, _ in page.found]
    assert tags.count("svg") == 2 and tags.count("polyline") == 2 and "script" not in tags
    assert {"by hand", "automatic", "z", "0"} <= set(page.words)
    labels = [attributes["aria-label"] for tag, attributes in page.found if tag == "svg"]
    assert labels[0] == "how far every gradient is off"
    assert labels[1] == "dx[0] / dy at dy = 1, by hand and automatic"
    drawn = [attributes["points"].split() for tag, attributes in page.found if tag == "polyline"]
    assert [len(points) for points in drawn] == [9, 9] and drawn[0] != drawn[1]


def test_where_a_rule_is_not_linear_its_curve_is_at_another_dy():
    found = fp.compare(by_rule(jnp.sin, lambda z, a, dy: dy * dy * jnp.cos(z)), X)
    assert found.curve.dy == 2
    np.testing.assert_allclose(found.curve.by_hand, 2 * np.cos(found.curve.z), rtol=1e-12)


def test_there_is_no_curve_where_nothing_is_wrong_or_nothing_elementwise():
    right = fp.compare(fp.Tanh(), (), X)
    assert right.curve is None and right.as_dict()["curve"] is None
    mixing = layer_with(fp.Softmax, lambda s, a, da: da * a)()
    assert fp.compare(mixing, (), X).curve is None


def test_one_number_has_a_curve_too():
    found = fp.compare(by_rule(jnp.sin, lambda z, a, dy: dy * a), jnp.float32(0.7))
    assert found.curve is not None and len(set(found.curve.z)) == len(found.curve.z)


# --- the worst element ----------------------------------------------------------------------------


def test_the_worst_element_comes_with_what_made_it(slip):
    for row in slip.wrong:
        assert row.by_hand == pytest.approx(row.dy * (1 - row.x**2), rel=1e-5)
        assert row.expected == pytest.approx(row.dy * (1 - np.tanh(row.x) ** 2), rel=1e-5)
    text = str(slip)
    told = re.findall(r"at x = (\S+), dy = (\S+)", text)
    assert len(told) == len(slip.wrong)
    plain = json.loads(slip.to_json())["rows"]
    assert [row["x"] for row in plain] == [row.x for row in slip.rows]


def test_the_worst_element_inside_a_model():
    slip = layer_with(fp.Tanh, lambda s, a, da: da * (1 - a))()
    model = fp.Serial(fp.Dense(3), slip, fp.Dense(2))
    found = fp.compare(model, model.init(jax.random.key(1), X), X)
    first = found.wrong[0]
    assert first.place == "Serial[1] Slip"
    assert first.by_hand == pytest.approx(first.dy * (1 - np.tanh(first.x)), rel=1e-6)
    assert found.curve.place == "Serial[1] Slip"
    dense = [row for row in found.wrong if row.path.startswith("dparams")]
    assert dense and all(row.x is None and row.dy is None for row in dense)


def test_right_rows_have_no_x(slip):
    found = fp.compare(fp.Tanh(), (), X)
    assert all(row.x is None and row.dy is None for row in found.rows)


# --- drawing --------------------------------------------------------------------------------------


def test_ticks_are_round_and_hold_all_values():
    for values in ([-1.3, 2.71], [0.0, 1e-7], [5.0, 5.0], [0.0], [-3e8, 1.0], [math.nan, 1.0, 2.0]):
        found = np.array(ticks(values))
        known = [value for value in values if math.isfinite(value)]
        assert 2 <= len(found) <= 8 and found[0] <= min(known) and max(known) <= found[-1]
        steps = np.diff(found)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        assert float(f"{steps[0]:.1g}") == pytest.approx(steps[0], rel=1e-6)


def test_lines_are_drawn_where_they_are_finite():
    text = svg("a <title>", [0.0, 1.0, 2.0], {"one": [0.0, math.inf, 2.0], "two": [1.0, 1.0, 1.0]},
               "z", "dx / dy")  # fmt: skip
    page = Page(text)
    drawn = [attributes["points"].split() for tag, attributes in page.found if tag == "polyline"]
    assert [len(points) for points in drawn] == [2, 3]
    heights = {float(point.split(",")[1]) for point in drawn[1]}
    assert len(heights) == 1 and page.found[0][1]["aria-label"] == "a <title>"
    (x0, y0), (x2, y2) = (map(float, point.split(",")) for point in drawn[0])
    assert x0 < x2 and y0 > heights.pop() > y2  # up is up
    with pytest.raises(ValueError, match="0 points and 1 lines were given, wanted at least one"):
        svg("", [], {"one": []}, "z", "y")
