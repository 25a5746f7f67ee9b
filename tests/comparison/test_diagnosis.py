"""The diagnosis of a wrong gradient: the right words, and never wrong ones."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.inputs import Classes, Fixed, Normal
from funcprop.catalogue.mutants import Mutated, noisy, one_wrong_element
from funcprop.catalogue.row import Mutant, Row
from funcprop.catalogue.rows.activations import diagonal_softmax, sigma_prime_of_activation
from funcprop.catalogue.table import ROWS
from funcprop.comparison.explanation.diagnosis import diagnose, diagnose_shape
from funcprop.comparison.leaf import NO_PATTERN
from funcprop.comparison.programs import cast, computed, named_leaves
from funcprop.comparison.witnesses.gradients import differentiable, gradients, numerical
from funcprop.comparison.witnesses.points import cotangents

KEY = jax.random.key(5)
ROW = {row.name: row for row in ROWS}
PROBES = 5


@functools.cache
def right(row):
    """-> arguments, dys, truth of a row in float64, and what the wrong backwards of it give."""
    with jax.enable_x64(True):
        wide = [cast(tree, np.float64) for tree in row.arguments(KEY)]
        dys = cotangents(row.subject(tuple(wide), KEY), PROBES)
        for dy in jax.tree.leaves(dys):
            dy[1] *= np.exp(2 * dy[0])  # of very uneven sizes
            dy[2].reshape(-1)[1:] = 0  # one number alone
        rule, layer = (gradients, fp.autodiff(row.layer))
        if not differentiable(row.layer, *wide):
            rule, layer = numerical, row.layer
        wrong = [mutated(row, backward) for backward in backwards_of(row)]

        def run(*given):
            return rule(layer, *given), [gradients(each, *given) for each in wrong]

        truth, found = computed(run, *wide, dys)
        return wide, dys, truth, dict(zip(backwards_of(row), found, strict=True))


def backwards_of(row):
    """All that are wrong in some test: what one row's have in common is compiled once."""
    slips = [back for _, other, back, _ in SLIPS if other == row]
    named = [name for other, name, _ in MUTANTS if other == row.name]
    own = [mutant.backward for mutant in row.mutants if mutant.name in named]
    return [*slips, *own, *(back for other, back, _ in BACKWARDS if other == row.name)]


def mutated(row, backward):
    return Mutated(row.layer, Mutant("", backward))


def by_backward(row, backward):
    """The words for a wrong backward of a row's layer."""
    wide, dys, truth, given = right(row)
    wrong = mutated(row, backward)
    return diagnose(wrong, *wide, dys, given[backward], truth, peer=row.layer)


def by_edit(row, name, edit):
    """The words for one leaf of a right gradient edited: edit(leaf, all leaves by name)."""
    wide, dys, truth, _ = right(row)
    leaves, tree = jax.tree.flatten(truth)
    named = dict(named_leaves(truth))
    edited = [edit(leaf, named) if n == name else leaf for n, leaf in named.items()]
    assert name in named and len(leaves) == len(edited)
    return diagnose(row.layer, *wide, dys, jax.tree.unflatten(tree, edited), truth)


def verdict(wanted, words):
    """`right`, `none` (no pattern where one was wanted), or what was said wrongly."""
    if words.keys() != wanted.keys():
        return f"leaves {sorted(words)}, wanted {sorted(wanted)}: {words}"
    wrong = [f"{name}: {words[name]}" for name in wanted if wanted[name] not in words[name]]
    if not wrong:
        return "right"
    silent = all(wanted[n] in words[n] or words[n] == NO_PATTERN for n in wanted)
    return "none" if silent else "; ".join(wrong)


def counted(what, cases):
    """Print the score of (name, wanted, words), and hold it: nine of ten, and no wrong words."""
    verdicts = {name: verdict(wanted, words) for name, wanted, words in cases}
    wrong = {name: v for name, v in verdicts.items() if v not in ("right", "none")}
    silent = [name for name, v in verdicts.items() if v == "none"]
    number = sum(v == "right" for v in verdicts.values())
    print(f"\n{what}: {number} of {len(verdicts)} right, {len(silent)} without a pattern "
          f"({', '.join(silent)}), {len(wrong)} wrong")  # fmt: skip
    assert not wrong, wrong
    assert number >= 0.9 * len(verdicts)


# --- slips of tutorials and learners --------------------------------------------------------------


def slip(name, layer, x, backward, wanted):
    row = Row("", layer, x)  # of one layer and input it is one row, with one truth
    return name, row, backward, wanted


def of_dx(change):
    """A slip that changes dx alone: change(dx, params, residuals, dy)."""

    def backward(layer, params, residuals, dy):
        dx, dparams = layer.backward(params, residuals, dy)
        return change(dx, params, residuals, dy), dparams

    return backward


def of_dparams(change):
    """A slip that changes dparams alone: change(dparams, params, residuals, dy)."""

    def backward(layer, params, residuals, dy):
        dx, dparams = layer.backward(params, residuals, dy)
        return dx, change(dparams, params, residuals, dy)

    return backward


def scaled(factor):
    return of_dx(lambda dx, p, r, dy: jax.tree.map(lambda leaf: leaf * factor, dx))


def softmax_over_rows(layer, params, a, da):
    return a * (da - (a * da).sum(0)), ()


def softmax_twice(layer, params, a, da):
    once, _ = layer.backward(params, a, da)
    return layer.backward(params, a, once)


def overflowing(layer, params, a, da):
    e = jnp.exp(-jnp.log(a / (1 - a)))  # σ′ = e⁻ᶻ / (1 + e⁻ᶻ)²
    return da * e / (1 + e) ** 2, ()


def tanh_of_activation(layer, params, a, da):
    return da * (1 - jnp.tanh(a) ** 2), ()


def updated_first(dx, params, x, dz):
    return dz @ (params.w - 0.5 * (x.T @ dz)).T


PAIR = (Normal((5, 3)), Normal((5, 3)))
CLASSES = (Normal((5, 7)), Classes((5,), 7))
ROWS_4 = Normal((6, 4))  # w is square for Dense(4)
FLIPPED, BOTH = "sign flipped", ("dx[0]", "dx[1]")
A_DENSE = (fp.Dense(3), Normal((5, 4)))
AT_OUTPUT = "at the output in place of the input"

SLIPS = [
    slip(
        "gradient ascent",
        *A_DENSE,
        of_dparams(lambda d, p, x, dz: jax.tree.map(jnp.negative, d)),
        {"dw": FLIPPED, "db": FLIPPED},
    ),
    slip("δ = y − a", fp.QuadraticCost(), PAIR, scaled(-1), dict.fromkeys(BOTH, FLIPPED)),
    slip(
        "db not summed over the batch",
        *A_DENSE,
        of_dparams(lambda d, p, x, dz: d._replace(b=dz)),
        {"db": "not summed over axis 0"},
    ),
    slip(
        "σ′ of the activation",
        fp.Sigmoid(),
        Normal((5, 7)),
        sigma_prime_of_activation,
        {"dx": AT_OUTPUT},
    ),
    slip("tanh′ of the activation", fp.Tanh(), Normal((5, 7)), tanh_of_activation,
         {"dx": AT_OUTPUT}),
    slip(
        "dw = δ",
        *A_DENSE,
        of_dparams(lambda d, p, x, dz: d._replace(w=jnp.zeros_like(d.w) + dz.sum(0))),
        {"dw": "as if x were 1"},
    ),
    slip("w not transposed", fp.Dense(4), ROWS_4, of_dx(lambda dx, p, x, dz: dz @ p.w),
         {"dx": "w is not transposed"}),
    slip(
        "dw transposed, square",
        fp.Dense(4),
        ROWS_4,
        of_dparams(lambda d, p, x, dz: d._replace(w=d.w.T)),
        {"dw": "transposed"},
    ),
    slip(
        "dw = δᵀ x, of the column-major text",
        *A_DENSE,
        of_dparams(lambda d, p, x, dz: d._replace(w=dz.T @ x)),
        {"dw": "transposed"},
    ),
    slip("w updated before dx reads it", *A_DENSE, of_dx(updated_first),
         {"dx": "weights already updated, with a learning rate of 0.5"}),
    slip(
        "a − y for the derivative of a mean",
        fp.MeanSquaredError(),
        PAIR,
        scaled(1.5),
        dict.fromkeys(BOTH, "a factor of 1.5 = n/2"),
    ),
    slip("1/m forgotten", fp.QuadraticCost(), PAIR, scaled(5),
         dict.fromkeys(BOTH, "a factor of 5 = B ")),
    slip("1/m twice", fp.QuadraticCost(), PAIR, scaled(0.2),
         dict.fromkeys(BOTH, "a factor of 0.2 = 1/B ")),
    slip("2/n", fp.QuadraticCost(), PAIR, scaled(2 / 3),
         dict.fromkeys(BOTH, "a factor of 0.6667 = 2/n")),
    slip("the ½ kept", fp.QuadraticCost(), PAIR, scaled(0.5),
         dict.fromkeys(BOTH, "a factor of 1/2")),
    slip(
        "db averaged",
        *A_DENSE,
        of_dparams(lambda d, p, x, dz: d._replace(b=dz.mean(0))),
        {"db": "a factor of 0.2 = 1/B (B = 5, axis 0 of x), perhaps averaged, not summed"},
    ),
    slip("1/m forgotten, softmax", fp.SoftmaxCrossEntropy(), CLASSES, scaled(5),
         {"dx[0]": "a factor of 5 = B "}),
    slip("y − p", fp.SoftmaxCrossEntropy(), CLASSES, scaled(-1), {"dx[0]": FLIPPED}),
    slip("the softmax's diagonal", fp.Softmax(), Normal((5, 7)), diagonal_softmax,
         {"dx": "the Jacobian's diagonal alone"}),
    slip("the softmax along the wrong axis", fp.Softmax(), Normal((5, 7)), softmax_over_rows,
         {"dx": "a sum over the last axis but one in place of the last"}),
    slip("the softmax twice", fp.Softmax(), Normal((5, 7)), softmax_twice,
         {"dx": "applied twice"}),
    slip(
        "the neuron's output for its input",
        fp.Dense(4),
        ROWS_4,
        of_dparams(lambda d, p, x, dz: d._replace(w=(x @ p.w + p.b).T @ dz)),
        {"dw": AT_OUTPUT},
    ),
    slip("σ′ forgotten", fp.Sigmoid(), Normal((5, 7)), lambda layer, p, a, da: (da, ()),
         {"dx": "dy itself"}),
    slip("e⁻ᶻ overflows", fp.Sigmoid(), Fixed.of([[-800.0, -30, 0, 1e-8]]), overflowing,
         {"dx": "not finite where the truth is, first at (0, 0)"}),
    slip("· for matrix product", fp.Dense(4), Normal((4, 4)),
         of_dx(lambda dx, p, x, dz: dz * p.w), {"dx": "each element from its own dy alone"}),
    slip("a for a(1 − a)", fp.Sigmoid(), Normal((5, 7)), lambda layer, p, a, da: (da * a, ()),
         {"dx": "the activation itself in the place of its derivative a(1 − a)"}),
]  # fmt: skip


def test_the_slips_of_tutorials_and_learners():
    counted("slips", [(name, want, by_backward(row, back)) for name, row, back, want in SLIPS])


# --- held out: layers that no pattern was written around ------------------------------------------


def edit(change):
    return lambda leaf, named: change(leaf)


def rolled(leaf, axis):
    moved = np.roll(leaf, 1, axis)
    np.moveaxis(moved, axis, 0)[0] = 0
    return moved


def in_order(order):
    def change(leaf):
        parts = np.split(leaf, len(order), -1)
        return np.concatenate([parts[k] for k in order], -1)

    return edit(change)


def single(leaf):
    return leaf.astype(np.float32).astype(np.float64)


EDITS = [
    ("Conv", "dw", edit(np.negative), FLIPPED),
    ("Conv", "db", edit(np.zeros_like), "zero everywhere"),
    ("Conv", "dw", edit(lambda v: v.swapaxes(-1, -2)), "transposed"),
    ("Conv", "dx", edit(lambda v: np.flip(v, 2)), "reversed along axis 1"),
    ("Conv", "db", edit(lambda v: v / 60), "a factor of 0.01667 = 1/R (R = 60, the rows of"),
    ("Conv", "dw", edit(noisy), "every element is off by about 1 %"),
    ("Conv", "dx", edit(one_wrong_element), "wrong at "),
    ("GRU", "dw_x", in_order((1, 0, 2)), "blocks of its last axis in the order (1, 0, 2)"),
    ("GRU", "dw_h", in_order((0, 2, 1)), "blocks of its last axis in the order (0, 2, 1)"),
    ("GRU", "dx", edit(lambda v: rolled(v, 2)), "shifted by +1 along axis 1"),
    ("GRU", "dx", edit(lambda v: np.roll(v, -1, 2)), "shifted by -1 along axis 1, round its end"),
    ("GRU", "db_n", edit(lambda v: v / 2), "a factor of 1/2"),
    ("GRU", "dw_h", edit(lambda v: -v / 3), "sign flipped, and a factor of 0.3333 = 1/B"),
    ("GRU", "dw_x", edit(single), "rounded to float32"),
    ("GroupNorm", "dscale", lambda v, named: named["dbias"], "the gradient of dbias"),
    ("GroupNorm", "dx", edit(lambda v: v + v.max((2, 3, 4), keepdims=True)),
     "its mean over axes 1 and 2 and 3 is not subtracted"),
    ("GroupNorm", "dx", edit(lambda v: v * math.pi), "a factor of 3.142"),
    ("InstanceNorm", "dx", edit(lambda v: v + v.max((2, 3), keepdims=True)),
     "its mean over axes 1 and 2 is not subtracted"),
    ("BatchNorm on images", "dx", edit(lambda v: v + v.max((1, 2, 3), keepdims=True)),
     "its mean over axes 0 and 1 and 2 is not subtracted"),
    ("DotProductAttention, short", "dx[1]", edit(lambda v: v * 4), "a factor of 4"),
    ("DotProductAttention, short", "dx[1]", lambda v, named: named["dx[2]"],
     "the gradient of dx[2]"),
    ("DotProductAttention, short", "dx[0]", edit(lambda v: v.swapaxes(2, 1)),
     "its axes in the order (1, 0, 2, 3)"),
    ("DotProductAttention, grouped queries", "dx[0]", edit(lambda v: v / math.sqrt(7)),
     "a factor of 0.378 = 1/√7"),
    ("LinearCrossEntropy", "dw", edit(lambda v: v * 9), "a factor of 9 = R"),
    ("LinearCrossEntropy", "dx[0]", edit(lambda v: np.flip(v, -1)), "reversed along axis 2"),
    ("LinearCrossEntropy", "dw", edit(lambda v: v.astype(jnp.bfloat16).astype(np.float64)),
     "rounded to bfloat16"),
    ("Embedding", "dw", edit(lambda v: rolled(v, 1)), "shifted by +1 along axis 0"),
    ("Embedding", "dw", edit(lambda v: np.repeat(v.sum(1, keepdims=True), 7, 1)),
     "summed over axis 0"),
    ("FixedPoint", "dx", edit(lambda v: 2 * v), "a factor of 2"),
    ("FixedPoint", "dx", edit(np.negative), FLIPPED),
    ("FixedPoint", "dx", edit(lambda v: v - v.mean(2, keepdims=True)),
     "its mean over axis 1 is subtracted, and should not be"),
    ("RMSNorm", "dx", lambda v, named: v + np.cos(v[..., :1]) * right(ROW["RMSNorm"])[0][1],
     "off by a multiple of x along axis 2"),
    ("GELU", "dx", lambda v, named: right(ROW["GELU, approximate"])[2]["dx"],
     "the gradient of GELU(approximate=True)"),
    ("MaxPool", "dx", edit(lambda v: v / 4), "a factor of 0.25"),
    ("LinearRecurrence", "dx[0]", edit(lambda v: rolled(v, 2)), "shifted by +1 along axis 1"),
]  # fmt: skip
MUTANTS = [
    ("Conv", "kernel not flipped in dx", {"dx": "w is not reversed along axes 0 and 1"}),
    ("Conv", "w not transposed in dx", {"dx": "w is not transposed"}),
    ("Conv", "dw flipped", {"dw": "reversed along axes 0 and 1"}),
    ("Conv", "dw averaged over positions", {"dw": "1/R (R = 60, the rows of the output)"}),
    ("ConvTranspose", "w not transposed in dx", {"dx": "w is not transposed"}),
    ("RNN", "w_h not transposed", dict.fromkeys(("dx", "dw_x", "dw_h", "db"),
                                                "w_h is not transposed")),
    ("GRU", "w_h not transposed", dict.fromkeys(("dx", "dw_x", "dw_h", "db", "db_n"),
                                                "w_h is not transposed, block by block")),
    ("BatchNorm", "mean and deviation taken for constants", {"dx": "each element from its own"}),
    ("BatchNorm", "scale left out of dx", {"dx": "as if scale were 1"}),
    ("BatchNorm", "the mean's derivative forgotten", {"dx": "its mean over axis 0 is not sub"}),
    ("GroupNorm", "mean and deviation taken for constants", {"dx": "each element from its own"}),
    ("GroupNorm", "scale left out of dx", {"dx": "as if scale were 1"}),
    ("Rotary", "pairs of the other convention", {"dx": "the gradient of Rotary(interleaved=True)"}),
    ("Multiply", "each by itself", dict.fromkeys(BOTH, "exchanged with dx[")),
    ("Multiply", "the gate taken for a constant", {"dx[0]": "zero everywhere"}),
    ("Concatenate", "pieces from the end", dict.fromkeys(("dx[0]", "dx[1]", "dx[2]"),
                                                         "as if dy were reversed along axis 1")),
    ("DotProductAttention, grouped queries", "means over the group",
     dict.fromkeys(("dx[1]", "dx[2]"), "a factor of 0.3333")),
    ("LinearCrossEntropy, everything", "weight gradient of a uniform cotangent",
     dict.fromkeys(("dw", "db"), "as if dy were its mean everywhere")),
    ("SpatialDropout", "not scaled", {"dx": "a factor of 0.6 = 1 − rate"}),
    ("SpatialDropout", "not masked", {"dx": "dy times 1.667 = 1/(1 − rate)"}),
    ("Remat of Dropout", "other numbers in the second pass", {
        "dx": NO_PATTERN, "dparams[0][0].w": NO_PATTERN, "dparams[0][0].b": NO_PATTERN}),
    ("OverTime", "the last step's gradient alone", dict.fromkeys(
        ("dparams[0][0].w", "dparams[0][0].b"), "from the last index of axis 1 of dy alone")),
    ("Scale and bias", "scale not applied to dx", {"dx": "dy itself"}),
    ("Scale and bias", "dscale = Σ dy", {"dscale": "the gradient of dbias"}),
    ("SinusoidalPositions", "scaled by √D", {"dx": "a factor of 2.236 = √5"}),
    ("SinusoidalPositions", "the first position lost",
     {"dx": "wrong at index 0 of axis 1 alone, and zero there"}),
    ("Repeat", "gradients in the order of the walk", dict.fromkeys(
        ("dparams[0][0][0].w", "dparams[0][0][0].b"), "reversed along axis 0")),
    ("GlobalAvgPool", "divided by the rows alone", {"dx": "a factor of 7"}),
    ("CTC", "the share of the blanks left out", {"dx[0]": "wrong at index 0 of axis 2 alone"}),
    ("CosineDistance", "the norm held constant", {"dx[0]": "off by a multiple of x[0]"}),
]  # fmt: skip


def other_mask(layer, params, kept, dy):
    return layer.backward(params, jax.random.bernoulli(jax.random.key(9), 0.6, kept.shape), dy)


def dropped_for_kept(layer, params, kept, dy):
    return layer.backward(params, ~kept, dy)


def all_counted(layer, params, residuals, dy):
    return layer.backward(params, residuals._replace(counted=None), dy)


def without_skip(layer, params, residuals, dy):
    dx, dparams = layer.backward(params, residuals, dy)
    return dx - dy, dparams


BACKWARDS = [
    ("Dropout", other_mask, {"dx": "other elements are dropped than in forward"}),
    ("Dropout", dropped_for_kept, {"dx": "kept and dropped are exchanged"}),
    ("SpatialDropout", other_mask, {"dx": "other elements are dropped than in forward"}),
    ("QuadraticCost, masked", all_counted, dict.fromkeys(BOTH, "the mask is ignored")),
    ("Skip", without_skip, {"dx": "dy is not added"}),
]


def test_layers_that_no_pattern_was_written_around():
    cases = [
        (f"{row}: {name} {number}", {name: wanted}, by_edit(ROW[row], name, change))
        for number, (row, name, change, wanted) in enumerate(EDITS)
    ]
    for row, mutant, wanted in MUTANTS:
        (backward,) = (m.backward for m in ROW[row].mutants if m.name == mutant)
        cases.append((f"{row}: {mutant}", wanted, by_backward(ROW[row], backward)))
    cases += [(f"{row}: {back.__name__}", want, by_backward(ROW[row], back))
              for row, back, want in BACKWARDS]  # fmt: skip
    counted("held out", cases)


# --- right gradients, chance, shapes --------------------------------------------------------------

A_FEW = ("Dense", "Softmax", "LayerNorm", "Conv", "RNN", "SoftmaxCrossEntropy", "Embedding", "Skip")


@pytest.mark.parametrize("name", A_FEW)
def test_a_right_gradient_needs_no_words(name):
    wide, dys, truth, _ = right(ROW[name])
    assert diagnose(ROW[name].layer, *wide, dys, truth, truth) == {}
    nearly = jax.tree.map(lambda leaf: leaf * (1 + 1e-10), truth)
    assert diagnose(ROW[name].layer, *wide, dys, nearly, truth) == {}


@pytest.mark.parametrize("name", A_FEW)
def test_what_is_wrong_at_random_has_no_pattern(name):
    wide, dys, truth, _ = right(ROW[name])
    draw = np.random.default_rng(0).normal
    for size in (0.03, 1.0):
        wrong = jax.tree.map(lambda v, s=size: v + s * v.std() * draw(size=v.shape), truth)
        words = diagnose(ROW[name].layer, *wide, dys, wrong, truth)
        assert words == dict.fromkeys(dict(named_leaves(truth)), NO_PATTERN)
    fixed = jax.tree.map(lambda v: v * (1 + 0.5 * draw(size=v.shape[1:])), truth)  # linear in dy
    words = diagnose(ROW[name].layer, *wide, dys, fixed, truth)
    assert words == dict.fromkeys(dict(named_leaves(truth)), NO_PATTERN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: np.repeat(v[:, None] / 4, 4, 1), "not summed over axis 0"),
        (lambda v: np.repeat(v[:, None], 4, 1), "not averaged over axis 0"),
        (lambda v: np.repeat(np.repeat(v[:, None], 4, 1)[..., None], 5, -1) / 20,
         "not summed over axes 0 and 3"),
        (lambda v: v.swapaxes(1, 2), "transposed"),
        (lambda v: v.sum(1), "summed over axis 0 too"),
        (lambda v: v.mean(2, keepdims=True), "averaged over axis 1 too"),
        (lambda v: v[:, None], "axes of size 1 too many or too few"),
        (lambda v: v.reshape(len(v), -1), "the right numbers in another shape"),
        (lambda v: np.ones((len(v), 5)), NO_PATTERN),
    ],
)  # fmt: skip
def test_leaves_of_another_shape(change, words):
    wanted = np.random.default_rng(0).normal(size=(5, 3, 2))
    assert diagnose_shape(change(wanted), wanted) == words


def test_on_one_number_the_plainest_is_said():
    row = Row("", fp.Dense(1), Normal((5, 1)))
    assert by_edit(row, "db", edit(lambda v: 2 * v)) == {"db": "a factor of 2"}
    assert by_edit(row, "dw", edit(np.negative)) == {"dw": FLIPPED}
    alone = Row("", fp.Sigmoid(), Normal((1,)))  # dx = c dy, whatever the slope
    assert by_edit(alone, "dx", edit(lambda v: 0.37 * v)) == {"dx": NO_PATTERN}


def test_trees_that_differ_are_refused():
    wide, dys, truth, _ = right(ROW["Dense"])
    with pytest.raises(ValueError, match="given has the leaves"):
        diagnose(ROW["Dense"].layer, *wide, dys, {"dx": truth["dx"]}, truth)
