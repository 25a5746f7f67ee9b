"""The pages in a browser: every number is the library's, nothing sticks out, an audit."""

import os
from pathlib import Path

import numpy as np
import pytest

from funcprop.explorer.arrays import unpacked

from .browsing import choose, state, value

AUDIT = """axe.run().then(
    (found) => found.violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 200))]),
)"""
AXE = os.environ.get("FUNCPROP_AXE", "node_modules/axe-core/axe.min.js")


def test_the_default_page_is_made_painted_and_small(show, pages, record_property):
    path, (seconds, processor) = pages("default")
    tab, _ = show("default")
    entry = "performance.getEntriesByName('first-contentful-paint')[0]"
    tab.wait_for_function(f"{entry} !== undefined")  # a busy machine tells of it late
    paint = tab.evaluate(f"{entry}.startTime")
    size = path.stat().st_size
    print(
        f"\nfuncprop explain: {seconds:.1f} s ({processor:.1f} s of processor), "
        f"{size / 1000:.0f} kB, first paint {paint:.0f} ms"
    )
    assert processor < 20 and size < 1_000_000 and paint < 1000
    assert tab.locator("h1").inner_text() == "Handwritten digits"
    assert tab.locator(".cell").count() == 64 and tab.locator(".images canvas").count() == 2
    tab.locator('[data-node="1.7"]').hover()
    assert "Neuron 8 of layer 1" in tab.locator("#inspector h2").inner_text()
    tab.locator(".images canvas").first.click(position={"x": 20, "y": 20})
    assert state(tab, "s.chosen.kind") == "edge"
    assert "Weight from" in tab.locator("#inspector h2").inner_text()
    check_widths(show, "default")
    if Path(AXE).is_file():
        audit(tab)


def test_numbers_on_the_page_are_the_librarys(show):
    tab, data = show("nand")
    for at in (0, len(data["steps"]) - 1):
        tab.evaluate(f"explorer.set({{at: {at}, example: 3}})")
        place = data["each"]["examples"].index(3)
        assert state(tab, "s.pass().source") == "record"
        for layer in (1, 2):
            for j in range(data["sizes"][layer]):
                choose(tab, layer, j)
                seen = {
                    k: unpacked(data["each"][k][layer - 1])[at, place, j]
                    for k in ("z", "a", "delta")
                }
                shown = tab.locator("#inspector mn[data-value]").evaluate_all(
                    "all => all.map(e => Number(e.dataset.value))"
                )
                for key, v in seen.items():
                    assert np.isclose(shown, v, rtol=1e-12).any(), (layer, j, key)
                grads = unpacked(data["each"]["automatic"][layer - 1]["w"])[at, place, :, j]
                table = "#inspector tbody tr"
                for i in range(data["sizes"][layer - 1]):
                    hand = value(tab, f"{table}:nth-child({i + 1}) .hand data")
                    jax_ = value(tab, f"{table}:nth-child({i + 1}) .witness data")
                    assert jax_ == grads[i]
                    assert hand == pytest.approx(grads[i], rel=1e-6)
    tab.evaluate("explorer.set({example: -1, at: 5})")
    choose(tab, 1, 2)
    manual, automatic = (unpacked(data[w][0]["w"])[5, :, 2] for w in ("manual", "automatic"))
    for i in range(2):
        assert value(tab, f"#inspector tbody tr:nth-child({i + 1}) .hand data") == manual[i]
        assert value(tab, f"#inspector tbody tr:nth-child({i + 1}) .witness data") == automatic[i]


def test_the_graph_of_three_nodes(show):
    tab, _ = show("olah")
    assert tab.locator('[data-node="b"]').get_attribute("aria-label") == "b: value 1, slope of e 5"
    assert "jax.grad says 5" in tab.locator("#inspector").inner_text()
    tab.locator("#in-a").fill("3")
    assert "slope of e 6" in tab.locator('[data-node="b"]').get_attribute("aria-label")
    for _ in range(6):
        tab.locator("#previous").click()
    assert tab.locator("#said").inner_text() == "Start: a = 3, b = 1"
    tab.locator("#next").click()
    assert "Forward: c = a + b = 4" in tab.locator("#said").inner_text()


def test_blocks_tell_what_a_layer_saw_sent_and_kept(show):
    tab, data = show("blocks")
    layers = data["runs"][0]["layers"]
    assert tab.locator(".block").count() == len(layers)
    names = [layer["name"] for layer in layers]
    attention = names.index("DotProductAttention")
    assert tab.locator("#inspector h2").inner_text() == "DotProductAttention"  # it has pictures
    assert tab.locator("#inspector .maps canvas").count() == 4
    for place in (0, attention, len(layers) - 1):
        tab.locator(f'[data-block="{place}"]').click()
        for at in (0, 2):
            tab.locator("#training").fill(str(at))
            for key in ("y", "dy"):
                wanted = unpacked(layers[place]["norms"][key])[at]
                shown = value(tab, f'[data-block="{place}"] .{key} data')
                assert shown == pytest.approx(wanted, rel=1e-12)
        kept = tab.locator(f'#inspector data[value="{layers[place]["kept"]}"]')
        assert kept.count() == 1 and "B" in kept.inner_text().upper()
    tab.locator("#back").click()
    assert tab.locator("#training-words").inner_text() == "step 1 of 2"
    tab.keyboard.press("]")
    assert tab.locator("#training-words").inner_text() == "step 2 of 2"
    tab.locator("#play-training").click()
    tab.wait_for_function("explorer.state.at === 2 && explorer.state.run === 0", timeout=20_000)
    for _ in range(3):
        tab.locator("#previous").click()
    assert "Backward, 4 " in tab.locator("#said").inner_text()
    assert tab.locator(".block[data-known]").count() == len(layers)
    assert tab.locator(".block[data-back]").count() == len(layers) - 3
    tab.locator("#play").click()
    tab.wait_for_function(f"explorer.state.phase === {2 * len(layers)}", timeout=20_000)
    tables = tab.locator(".panel table")
    assert tables.count() == 2 and "automatic" in tables.first.inner_text()
    rows = tables.nth(1).locator("tbody tr")
    assert rows.count() == len(data["leaves"])
    assert value(tab, ".panel:last-child tbody data") == data["leaves"][0]["manual"]


WALK = """() => {
  const store = explorer;
  for (const example of [-1, 0, 3]) {
    store.set({ example });
    for (let phase = 0; phase < store.phases.length; phase++) {
      store.set({ phase, view: phase % 2 ? "errors" : "values" });
      store.data.sizes.forEach((count, layer) => {
        for (let j = 0; j < count; j++) store.set({ chosen: { kind: "node", layer, j } });
      });
      store.set({ chosen: { kind: "edge", layer: 0, i: 0, j: 0 } });
    }
  }
  const pick = (select, value) => {
    select.value = value;
    select.dispatchEvent(new Event("change"));
    store.train(2);
    return document.querySelectorAll("#inspector .wrong").length;
  };
  const [slip, activation] = ["slip", "activation"].map((id) => document.getElementById(id));
  store.set({ chosen: { kind: "node", layer: 1, j: 0 } });
  const wrong = Array.from(activation.options, (o) => pick(activation, o.value));
  Array.from(slip.options, (o) => pick(slip, o.value));
  return [wrong, document.body.innerText.match(/NaN|undefined|Infinity/g)];
}"""


def test_everything_can_be_looked_at_under_every_activation_and_slip(show):
    """In the browser the gradient of every activation is that of a difference quotient."""
    tab, _ = show("nand")
    wrong, words = tab.evaluate(WALK)
    assert len(wrong) == 10 and not any(wrong) and words is None


def check_widths(show, name):
    """Nothing sticks out, from a phone to a screen."""
    for width in (390, 820, 1440):
        tab, _ = show(name, width, 844)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def audit(tab):
    """axe-core: roles, names, contrasts, in both themes."""
    path = Path(AXE)
    if not path.is_file():
        pytest.skip("axe-core is not here: npm install axe-core, and FUNCPROP_AXE=.../axe.min.js")
    tab.add_script_tag(content=path.read_text("utf-8"))
    for theme in ("light", "dark"):
        assert tab.evaluate("document.documentElement.dataset.theme ?? 'light'") == theme
        assert tab.evaluate(AUDIT) == []
        tab.locator("#theme").click()


def test_a_lifted_function_is_a_graph(show):
    tab, data = show("lifted")
    assert data["flow"] == [[0, 2], [0, 2], [-1], [1]]  # u and v read u and w, w the data
    assert tab.locator(".flow path").count() == 6
    tab.locator('.flow [data-use="0"]').click()
    assert tab.locator("#inspector h2").inner_text() == "u"
    chosen = tab.locator(".flow .node.chosen")
    assert "1 u reads 3 w, and receives an error of norm" in chosen.get_attribute("aria-label")


@pytest.mark.parametrize("name", ["nand", "olah", "blocks", "lifted"])
def test_nothing_sticks_out(show, name):
    check_widths(show, name)


@pytest.mark.parametrize("name", ["nand", "olah", "blocks", "lifted"])
def test_the_audit_finds_nothing(show, name):
    audit(show(name)[0])
