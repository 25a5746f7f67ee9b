"""Pages in a browser: Chromium, driven by Playwright; where one is missing, tests skip."""

import os
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.explorer.lessons import lesson
from funcprop.explorer.worked import neuron, olah

NAMES = ("chromium", "chromium-browser", "google-chrome")


def blocks():
    """A page of a small model with attention, two steps of training and what they cost."""
    model = fp.Serial(fp.SelfAttention(8, heads=2, causal=True), fp.Tanh(), fp.Dense(3))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32))
    batch = x, jnp.asarray(np.arange(10, dtype=np.int32).reshape(2, 5) % 3)
    params = model.init(jax.random.key(0), x)
    return fp.explain(model, params, batch, fp.SoftmaxCrossEntropy(), steps=2, title="Blocks")


def lifted():
    """A page of a recurrent function that was written without this library."""

    def network(p, x):
        def step(h, row):
            h = jnp.tanh(row @ p["w"] + h @ p["u"])
            return h, None

        start = jnp.zeros((x.shape[0], 4))
        return jax.lax.scan(step, start, jnp.moveaxis(x, 1, 0))[0] @ p["v"]

    random = np.random.default_rng(0)
    shapes = {"u": (4, 4), "v": (4, 1), "w": (3, 4)}
    params = {k: random.standard_normal(shape, np.float32) for k, shape in shapes.items()}
    x, y = random.standard_normal((5, 7, 3), np.float32), np.ones((5, 1), np.float32)
    model = fp.lift(network, params, x)
    return fp.explain(model, params, (x, y), fp.MeanSquaredError(), steps=1, costs=False)


MADE = {
    "nand": lambda: lesson("nand"),
    "neuron": neuron,
    "square": lambda: lesson("xor", layers=(2, 2), steps=2),
    "wide": lambda: lesson("moons", layers=(12,), steps=1),
    "olah": olah,
    "blocks": blocks,
    "lifted": lifted,
}


def processor_seconds():
    """Of the processes that were started and have ended: others may share the machine."""
    return sum(os.times()[2:4])


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
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
            page = MADE[name]()
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
