"""How tests read a page."""


def value(tab, selector):
    return float(tab.locator(selector).first.get_attribute("value"))


def state(tab, expression):
    return tab.evaluate(f"(() => {{ const s = globalThis.explorer; return {expression}; }})()")


def choose(tab, layer, j):
    tab.evaluate(f"explorer.set({{chosen: {{kind: 'node', layer: {layer}, j: {j}}}}})")
