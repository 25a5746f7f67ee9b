"""What a page is made of: a network in training as plain data, and what is not drawn so."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.data import DataError, load_digits
from funcprop.explorer.arrays import levels, packed, picture, unpacked
from funcprop.explorer.chain import ACTIVATIONS, chain
from funcprop.explorer.lessons import lesson
from funcprop.explorer.page import SCRIPTS, asset, script
from funcprop.explorer.planes import moons, nand, spiral, xor
from funcprop.explorer.recording import spaced
from funcprop.explorer.slips import SLIPPED, SLIPS
from funcprop.explorer.worked import PUBLISHED, RANGE, mazur, nielsen, olah

KEY = jax.random.key(0)


def test_arrays_come_back():
    array = np.linspace(-1, 1, 12).reshape(3, 4)
    assert (unpacked(packed(array)) == array).all()
    assert (
        np.abs(unpacked(packed(np.tile(array, (400, 1)))) - np.tile(array, (400, 1))).max() < 1e-7
    )
    assert np.abs(unpacked(picture(array)) - array).max() < 1 / 127
    grays = np.arange(17) / 16
    assert "u1" in levels(grays, 16) and (unpacked(levels(grays, 16)) == grays).all()
    assert (unpacked(levels(array, 16)) == array).all()


def test_steps_are_closer_in_the_beginning():
    assert spaced(0, 9) == [0]
    assert spaced(3, 9) == [0, 1, 2, 3]
    steps = spaced(1000, 11)
    assert steps[:2] == [0, 1] and steps[-1] == 1000 and len(steps) <= 13
    assert sorted(steps) == steps


@pytest.fixture(scope="module")
def one_step():
    return mazur(2).data


def test_mazurs_numbers(one_step):
    """shared reference: his page, recomputed in float64."""
    cost = unpacked(one_step["cost"])
    assert cost[0] == pytest.approx(0.2983711087600027, rel=1e-14)
    assert cost[1] == pytest.approx(0.29102777369359933, rel=1e-14)
    each = one_step["each"]
    z1, z2 = (unpacked(z)[0, 0] for z in each["z"])
    assert z1 == pytest.approx([0.3775, 0.3925], rel=1e-14)
    assert z2 == pytest.approx([1.105905967064, 1.224921404096], rel=1e-11)
    delta1, delta2 = (unpacked(d)[0, 0] for d in each["delta"])
    assert delta2 == pytest.approx([0.138498561629, -0.038098236517], rel=1e-10)
    assert delta1 == pytest.approx([0.008771354689, 0.009954254705], rel=1e-9)
    w2 = unpacked(one_step["params"][1]["w"])[1]  # [in, out]: his rows are neurons
    assert w2.T[0] == pytest.approx([0.35891647971788465, 0.4086661860762334], rel=1e-14)
    b = unpacked(one_step["params"][0]["b"])
    assert (b == 0.35).all()  # his biases stay


def test_by_hand_and_jax_grad_agree(one_step):
    assert one_step["worst"] < 1e-12
    for way in ("manual", "automatic"):
        dw1 = unpacked(one_step[way][0]["w"])[0]
        assert dw1.T[0] == pytest.approx([0.0004385677344743465, 0.000877135468948693], rel=1e-10)
    delta = unpacked(one_step["each"]["delta"][0])[0, 0]
    x = unpacked(one_step["x"])[0]
    single = unpacked(one_step["each"]["automatic"][0]["w"])[0, 0]
    assert np.outer(x, delta) == pytest.approx(single, rel=1e-12)


def test_the_recorded_steps_are_steps_of_gradient_descent(one_step):
    w, dw = (unpacked(one_step[name][1]["w"]) for name in ("params", "manual"))
    assert w[1] == pytest.approx(w[0] - 0.5 * dw[0], rel=1e-14)
    assert w[2] == pytest.approx(w[1] - 0.5 * dw[1], rel=1e-14)


def test_a_lesson_is_learned():
    page = lesson("nand", steps=300)
    curve = page.data["curve"]
    assert unpacked(curve["cost"])[-1] < 0.01 and unpacked(curve["accuracy"])[-1] == 1
    assert unpacked(curve["norms"]).shape == (len(curve["steps"]), 2)
    with pytest.raises(DataError, match="unknown data 'nad'"):
        lesson("nad")


def test_points_are_balanced_and_always_the_same():
    for make in (nand, xor, moons, spiral):
        (x, y), (again, _) = make(), make()
        assert x.shape == (len(y), 2) and y.shape == (len(x), 1) and (x == again).all()
    assert moons()[1].mean() == spiral()[1].mean() == 0.5


LOSS = fp.SoftmaxCrossEntropy()


@pytest.mark.parametrize(
    ("model", "loss", "drawn"),
    [
        (fp.mlp([3], classes=2, axes=1), LOSS, ("sigmoid", "identity")),
        (fp.Serial(fp.Serial(fp.Dense(3), fp.Tanh()), fp.Dense(2)), LOSS, ("tanh", "identity")),
        (fp.Serial(fp.Dense(21), fp.Tanh(), fp.Dense(2)), LOSS, None),  # too wide to be drawn
        (fp.Serial(fp.Dense(3), fp.LayerNorm(), fp.Dense(2)), LOSS, None),
        (fp.Serial(fp.Dense(3), fp.Dense(2)), fp.SoftmaxCrossEntropy(label_smoothing=0.1), None),
        (fp.Serial(fp.Dense(3), fp.Skip(fp.Tanh())), LOSS, None),
    ],
)
def test_networks_of_neurons_are_told_from_others(model, loss, drawn):
    params = model.init(KEY, jnp.ones((2, 4)))
    found = chain(model, params, loss)
    assert (found and found.activations) == drawn


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.name)
def test_compare_says_what_the_page_says_it_does(slip):
    layer = SLIPPED[slip.name]
    x = jax.random.normal(KEY, (4, 3))
    x = (x, jnp.asarray(np.zeros((4, 3), np.float32))) if slip.needs == "quadratic" else x
    report = fp.compare(layer, layer.init(KEY, x), x)
    assert f"{report.wrong[0].path}: {report.wrong[0].words}" == slip.says


def test_the_graph_of_three_nodes():
    page = olah()
    assert page.data["automatic"] == {"a": 2.0, "b": 5.0}
    assert "Two paths" in page.html


def test_nielsens_page_has_both_networks_and_says_its_data():
    page = nielsen(load_digits(), steps=10, examples=50)
    assert [run["name"] for run in page.data["runs"]] == ["sigmoid", "ReLU"]
    assert "50 images of digits" in page.about and f"{RANGE[0]} to {RANGE[1]}" in page.about
    shares = [unpacked(run["layers"][0]["norms"]["dy"])[0] for run in page.data["runs"]]
    assert shares[0] < 0.1 * shares[1]  # δ vanishes in the one, and not in the other
    assert PUBLISHED[0] / PUBLISHED[-1] == pytest.approx(0.0104, abs=1e-4)


def test_a_page_needs_nothing_from_the_network():
    html = olah().html
    assert not re.search(r"(src|href)\s*=|@import|url\(|fetch\(|XMLHttp|import\(", html)
    for address in re.findall(r"https?://[^\"' ]+", html):
        assert address.startswith("http://www.w3.org/")  # names of SVG and MathML
    data = re.search(r'id="data">(.*?)</script>', html, re.S)[1]
    assert json.loads(data)["kind"] == "graph"


def test_the_modules_fit_into_one_script():
    """No name twice at the top, and every import from a module that stands before."""
    names, seen = [], set()
    for name in SCRIPTS:
        text = asset(name)
        assert text.count("\n") < 350, name
        for other in re.findall(r'^import .* from "\./([\w-]+\.js)";$', text, re.M):
            assert other in seen, f"{name} imports {other}, which comes later"
        top = r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+|\[[^\]]*\])"
        names += re.findall(top, text, re.M)
        seen.add(name)
    flat = [word for name in names for word in re.findall(r"\w+", name)]
    assert sorted(flat) == sorted(set(flat))
    assert "import {" not in script() and "\nexport " not in script()


def test_activations_are_those_of_the_engine():
    text = asset("engine.js").partition("export const ACTIVATIONS")[2].partition("\n};")[0]
    found = re.findall(r'^  "?([a-z-]+)"?: \{', text, re.M)
    assert found == list(ACTIVATIONS)
