"""Every control of a page does what it says."""

import pytest

from funcprop.explorer.arrays import unpacked

from .browsing import choose, state


def test_the_steps_of_a_pass(show):
    tab, _ = show("nand")
    words = ["forward 1", "forward 2", "cost", "backward 2", "backward 1", "update"]
    assert tab.locator(".phases button").all_inner_texts() == words
    tab.get_by_role("button", name="forward 1").click()
    assert "Forward, layer 1" in tab.locator("#said").inner_text()
    hidden = tab.locator('[data-node="1.0"]')
    assert "slope" in hidden.get_attribute("aria-label")
    assert "error" not in hidden.get_attribute("aria-label")
    assert "not computed yet" in tab.locator('[data-node="2.0"]').get_attribute("aria-label")
    for word in words[1:]:
        tab.locator("#next").click()
        assert tab.locator('.phases [aria-current="step"]').inner_text() == word
    assert "error δ" in hidden.get_attribute("aria-label")
    tab.locator("#next").click()  # the next step of training
    assert state(tab, "[s.phase, s.at]") == [0, 1]
    tab.locator("#previous").click()
    assert state(tab, "[s.phase, s.at]") == [5, 0]
    tab.locator("#play").click()
    assert (
        state(tab, "[s.phase, s.at]") == [0, 1] and tab.locator("#play").inner_text() == "❚❚ pass"
    )
    tab.wait_for_function("explorer.phase === 1", timeout=20_000)
    tab.locator("#play").click()
    assert tab.locator("#play").inner_text() == "▶ pass"


def test_training_is_played_and_scrubbed(show):
    tab, data = show("nand")
    last = len(data["steps"]) - 1
    tab.locator("#training").fill(str(last))
    assert "600 of 600" in tab.locator("#training-words").inner_text()
    assert "100 % of the batch" in tab.locator("#accuracy").inner_text()
    assert tab.locator("#training").get_attribute("aria-valuetext") == "step 600"
    tab.locator("#back").click()
    assert state(tab, "s.at") == last - 1
    tab.locator("#play-training").click()
    tab.wait_for_function(f"explorer.at === {last}", timeout=20_000)
    assert tab.locator(".chart").count() == 2 and tab.locator("#plane .point").count() == 4
    before = tab.locator("#plane canvas").evaluate("c => c.toDataURL()")
    tab.locator("#training").fill("0")
    assert tab.locator("#plane canvas").evaluate("c => c.toDataURL()") != before


def test_keys_alone_are_enough(show):
    tab, _ = show("nand")
    tab.keyboard.press("n")
    assert state(tab, "[s.phase, s.at]") == [0, 1]
    tab.keyboard.press("p")
    tab.keyboard.press("]")
    assert state(tab, "s.at") == 1
    tab.keyboard.press("[")
    tab.keyboard.press("v")
    assert state(tab, "[s.at, s.view].join()") == "0,errors"
    tab.locator('.network [tabindex="0"]').focus()
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowDown")
    assert state(tab, "s.chosen") == {"kind": "node", "layer": 1, "j": 1}
    tab.keyboard.press("e")
    assert state(tab, "s.chosen") == {"kind": "edge", "layer": 0, "i": 0, "j": 1}
    tab.keyboard.press("e")
    assert state(tab, "s.chosen.i") == 1
    tab.keyboard.press("ArrowLeft")
    assert state(tab, "s.chosen") == {"kind": "node", "layer": 0, "j": 1}
    tab.keyboard.press(" ")
    assert tab.locator("#play").inner_text() == "❚❚ pass"
    tab.keyboard.press(" ")


def test_a_weight_is_changed_and_everything_follows(show):
    tab, data = show("nand")
    tab.evaluate("explorer.set({chosen: {kind: 'edge', layer: 0, i: 0, j: 0}})")
    tab.locator("#inspector .change input[type=number]").fill("2.5")
    tab.locator("#inspector .change input[type=number]").press("Enter")
    assert "in your browser" in tab.locator("#training-words").inner_text()
    w, b = (unpacked(data["params"][0][k])[0] for k in ("w", "b"))
    z = 2.5 + w[1, 0] + b[0]  # of the example (1, 1)
    assert state(tab, "s.pass().layers[0].z[0]") == pytest.approx(z, rel=1e-12)
    assert "a difference" in tab.locator("#inspector .agrees").inner_text()
    assert "the same" in tab.locator("#inspector .agrees").inner_text()
    tab.locator("#inspector .change input[type=range]").fill("-1")
    assert state(tab, "s.params()[0].w[0]") == -1
    tab.evaluate("explorer.set({chosen: {kind: 'node', layer: 0, j: 1}})")
    tab.locator("#inspector .change input[type=number]").fill("0.5")
    tab.locator("#inspector .change input[type=number]").press("Enter")
    assert state(tab, "s.pass().layers[0].x[1]") == 0.5
    tab.locator("#activation").select_option("relu")
    assert state(tab, "s.net().activations") == ["relu", "sigmoid"]
    assert tab.locator(".network .heading").nth(1).text_content() == "layer 1 · ReLU"
    tab.locator("#restore").click()
    assert state(tab, "s.own") is None and tab.locator("#restore").is_disabled()
    assert state(tab, "s.pass().source") == "record"


def test_training_in_the_page_is_the_librarys(show):
    tab, data = show("nand")
    at = data["steps"].index(next(s for s in data["steps"] if s >= 100))
    tab.locator("#train-many").click()
    for _ in range(data["steps"][at] - 100):
        tab.locator("#train-one").click()
    found = state(tab, "Array.from(s.params()[0].w)")
    assert found == pytest.approx(unpacked(data["params"][0]["w"])[at].ravel(), rel=1e-6)
    tab.locator("#rate").fill("0")
    tab.locator("#rate").press("Enter")
    tab.locator("#train-one").click()
    assert state(tab, "Array.from(s.params()[0].w)") == found
    tab.locator("#from-start").click()
    assert state(tab, "s.step()") == 0


def test_a_planted_slip_is_seen_and_explained(show):
    tab, _ = show("nand")
    tab.locator("#slip").select_option("ascent")
    words = tab.locator("#slip-words").inner_text()
    assert "of a layer of three units" in words and "dw: sign flipped" in words
    choose(tab, 1, 0)
    assert tab.locator("#inspector tr.wrong").count() == 3
    before = state(tab, "s.own.history.at(-1).cost")
    tab.locator("#train-many").click()
    assert state(tab, "s.own.history.at(-1).cost") > before
    options = tab.locator("#slip option").evaluate_all("all => all.map(o => o.value)")
    assert "not-transposed" not in options and "wrong-factor" in options  # no layer is square
    tab.locator("#slip").select_option("wrong-factor")
    assert "n = 1: every error is 2 times" in tab.locator("#slip-words").inner_text()
    tab.locator("#slip").select_option("updated-too-early")
    tab.locator("#rate").fill("4")
    tab.locator("#rate").press("Enter")
    assert "Here η = 4." in tab.locator("#slip-words").inner_text()
    tab.locator("#slip").select_option("bias-not-summed")
    assert state(tab, "s.example") == -1
    choose(tab, 1, 0)
    assert "not summed" in tab.locator("#inspector .warning").inner_text()
    tab.locator("#train-one").click()
    assert state(tab, "s.params()[0].b.length") == 12
    tab.locator("#slip").select_option("")
    assert tab.locator("#slip-words").inner_text() == ""
    assert state(tab, "s.params()[0].b.length") == 3


# Rows of numbers alone, and what stands behind their next sign of equality: both evaluated.
SUMS = """() => {
  const words = (e) => {
    if (e.dataset?.value) return e.dataset.value;
    const parts = Array.from(e.children, words);
    if (e.tagName === "mfrac") return `(${parts[0]}) / (${parts[1]})`;
    if (e.tagName === "msup") return `${parts[0]} ** ${parts[1]}`;
    return parts.length ? parts.join("") : e.textContent;
  };
  const rows = Array.from(document.querySelectorAll("#inspector mtr"), (r) => words(r.lastChild));
  const signs = [["·", "*"], ["−", "-"], [")(", ")*("]];
  const plain = rows.map((r) => signs.reduce((s, [a, b]) => s.replaceAll(a, b), r));
  return plain.slice(0, -1).flatMap((r, k) => /[*()]|. - ./.test(r) && /^[-+*/(). \\de]+$/.test(r)
    ? [[r, eval(r), Number(plain[k + 1])]] : []);
}"""


@pytest.mark.parametrize(("name", "count"), [("neuron", 5), ("square", 8)])
def test_every_equation_is_true_and_every_slip_marks_a_gradient(show, name, count):
    tab, data = show(name)
    slips = tab.locator("#slip option").evaluate_all("all => all.map(o => o.value)")
    assert len(slips) == count, slips
    for slip in slips:
        tab.locator("#slip").select_option(slip)
        marked = tab.locator("#inspector tr.wrong").count()
        assert (marked > 0) == bool(slip), slip
        many = data["x"]["shape"][0] > 1
        assert state(tab, "s.example") == (-1 if slip and many else state(tab, "s.example"))
        tab.evaluate("explorer.set({example: 0})")
        seen = 0
        for layer, size in enumerate(data["sizes"]):
            for j in range(size):
                choose(tab, layer, j)
                found = tab.evaluate(SUMS)
                for words, one, other in found:
                    assert one == pytest.approx(other, rel=1e-6, abs=1e-12), (slip, layer, words)
                seen += len(found)
                if layer:
                    edge = f"{{kind: 'edge', layer: {layer - 1}, i: 0, j: {j}}}"
                    tab.evaluate(f"explorer.set({{chosen: {edge}}})")
                    found = tab.evaluate(SUMS)
                    assert len(found) == 2  # of the gradient and of the update
                    for words, one, other in found:
                        assert one == pytest.approx(other, rel=1e-6, abs=1e-12), (slip, words)
        assert seen >= 3 * sum(data["sizes"][1:]), slip
        tab.evaluate("explorer.restore()")


def test_the_new_weight_that_is_announced_is_that_after_a_step(show):
    tab, data = show("nand")
    for slip, example in (("", -1), ("", 3), ("wrong-factor", 3), ("ascent", 0)):
        tab.locator("#restore").click() if state(tab, "s.own !== null") else None
        if slip:
            tab.locator("#slip").select_option(slip)
        for layer in (0, 1):
            edge = f"{{kind: 'edge', layer: {layer}, i: 1, j: 0}}"
            tab.evaluate(f"explorer.set({{example: {example}, phase: 5, chosen: {edge}}})")
            update = tab.get_by_role("group", name="update of the weight")
            new = float(update.locator("mn[data-value]").last.get_attribute("data-value"))
            alone = tab.locator("#alone")
            assert alone.count() == (example >= 0)
            if example == 3:
                assert float(alone.locator("data").get_attribute("value")) != new
                assert "mean of all 4" in tab.locator("#inspector").inner_text()
            tab.locator("#train-one").click()
            at = data["sizes"][layer + 1]
            assert state(tab, f"s.params()[{layer}].w[{at}]") == pytest.approx(new, rel=1e-12)


def test_the_input_that_a_weight_multiplies_stands_beside_it(show):
    tab, _ = show("neuron")
    assert "0.8176" in tab.locator("#inspector").inner_text()
    heads = tab.locator("#inspector thead th").all_inner_texts()
    assert heads[:4] == ["parameter", "value", "x", "∂C/∂ by hand"]
    assert tab.locator("#inspector .enters").all_inner_texts() == ["1", "1"]
    assert tab.locator("#inspector .hand").all_inner_texts() == ["0.1219", "0.1219"]


def test_nothing_is_written_over_the_edge_of_the_drawing(show):
    """The longest words beside an output are its share of 100 %."""
    for width in (390, 1440):
        tab, _ = show("wide", width)
        tab.evaluate("explorer.edit(own => own.params.at(-1).b.fill(50))")
        edge = tab.locator("svg.network").first.bounding_box()
        right = edge["x"] + edge["width"]
        name = tab.locator(".network .name", has_text="100 %")
        box = name.bounding_box()
        assert box["x"] + box["width"] <= right, (width, name.text_content())


def test_views_examples_and_themes(show):
    tab, _ = show("nand")
    tab.locator('[data-view="errors"]').click()
    assert tab.locator(".edge.error").count() == 9 and tab.locator(".edge.value").count() == 0
    tab.locator("#example").select_option("-1")
    assert state(tab, "s.pass().rows") == 4
    assert "mean a" in tab.locator("#inspector").inner_text()
    tab.locator("#example").select_option("1")
    assert state(tab, "Array.from(s.looked().x)") == [0, 1]
    tab.locator("#plane .point").nth(2).click()
    assert state(tab, "s.example") == 2
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.locator("#theme").click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert tab.locator("#theme").inner_text() == "Light"


def test_dead_and_saturated_neurons_are_marked(show):
    tab, _ = show("nand")
    tab.locator("#activation").select_option("relu")
    tab.evaluate("explorer.edit(own => { own.params[0].w[0] = own.params[0].w[3] = -5; })")
    assert "dead" in tab.locator('[data-node="1.0"]').get_attribute("class")
    tab.locator("#activation").select_option("sigmoid")
    tab.evaluate("explorer.edit(own => { own.params[0].w[1] = own.params[0].w[4] = 9; })")
    assert "saturated" in tab.locator('[data-node="1.1"]').get_attribute("class")
    assert "saturated" in tab.locator('[data-node="1.1"]').get_attribute("aria-label")
