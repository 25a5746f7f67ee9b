"""The pages in a browser: every control does what it says, and every number is the library's.

Chromium is driven by Playwright; where one of them is missing these tests are skipped.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.explorer.arrays import unpacked
from funcprop.explorer.lessons import lesson
from funcprop.explorer.worked import olah

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
if CHROMIUM is None:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)
AUDIT = """axe.run().then(
    (found) => found.violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 200))]),
)"""
AXE = os.environ.get("FUNCPROP_AXE", "node_modules/axe-core/axe.min.js")


def blocks():
    """A page of a small model with attention, two steps of training and what they cost."""
    model = fp.Serial(fp.SelfAttention(8, heads=2, causal=True), fp.Tanh(), fp.Dense(3))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32))
    batch = x, jnp.asarray(np.arange(10, dtype=np.int32).reshape(2, 5) % 3)
    params = model.init(jax.random.key(0), x)
    return fp.explain(model, params, batch, fp.SoftmaxCrossEntropy(), steps=2, title="Blocks")


def processor_seconds():
    """Of the processes that were started and have ended: others may share the machine."""
    return sum(os.times()[2:4])


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """name -> (path, data): made once, digits by the command as a user would."""
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def of(name):
        if name in made:
            return made[name]
        path = folder / f"{name}.html"
        if name == "default":
            start, began = time.perf_counter(), processor_seconds()
            words = [sys.executable, "-m", "funcprop.cli", "explain", "--out", str(path)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - start, processor_seconds() - began
            assert done.returncode == 0, done.stderr
            made[name] = (path, seconds)
        else:
            page = {"nand": lambda: lesson("nand"), "olah": olah, "blocks": blocks}[name]()
            page.save(path)
            made[name] = (path, page.data)
        return made[name]

    return of


@pytest.fixture
def show(browser, pages):
    """A page, opened; at the end there was no word on its console and no request."""
    opened = []

    def of(name, width=1440, height=1000, theme="light"):
        path, data = pages(name)
        tab = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
        )
        words: list[str] = []
        tab.on("console", lambda message: words.append(message.text))
        tab.on("pageerror", lambda error: words.append(str(error)))
        tab.on("request", lambda r: r.url.startswith(("file:", "data:")) or words.append(r.url))
        tab.goto(path.as_uri())
        opened.append((tab, words))
        return tab, data

    yield of
    for tab, words in opened:
        assert words == []
        tab.close()


def value(tab, selector):
    return float(tab.locator(selector).first.get_attribute("value"))


def state(tab, expression):
    return tab.evaluate(f"(() => {{ const s = globalThis.explorer; return {expression}; }})()")


def choose(tab, layer, j):
    tab.evaluate(f"explorer.set({{chosen: {{kind: 'node', layer: {layer}, j: {j}}}}})")


def test_the_default_page_is_made_painted_and_small(show, pages, record_property):
    path, (seconds, processor) = pages("default")
    tab, _ = show("default")
    paint = tab.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 1e9"
    )
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
    assert "dw: sign flipped" in tab.locator("#slip-words").inner_text()
    choose(tab, 1, 0)
    assert tab.locator("#inspector tr.wrong").count() == 3
    before = state(tab, "s.own.history.at(-1).cost")
    tab.locator("#train-many").click()
    assert state(tab, "s.own.history.at(-1).cost") > before
    options = tab.locator("#slip option").evaluate_all("all => all.map(o => o.value)")
    assert "not-transposed" not in options and "wrong-factor" in options  # no layer is square
    tab.locator("#slip").select_option("bias-not-summed")
    tab.evaluate("explorer.set({example: -1})")
    choose(tab, 1, 0)
    assert "not summed" in tab.locator("#inspector .warning").inner_text()
    tab.locator("#train-one").click()
    assert state(tab, "s.params()[0].b.length") == 12
    tab.locator("#slip").select_option("")
    assert tab.locator("#slip-words").inner_text() == ""
    assert state(tab, "s.params()[0].b.length") == 3


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


@pytest.mark.parametrize("name", ["nand", "olah", "blocks"])
def test_nothing_sticks_out(show, name):
    check_widths(show, name)


@pytest.mark.parametrize("name", ["nand", "olah", "blocks"])
def test_the_audit_finds_nothing(show, name):
    audit(show(name)[0])
