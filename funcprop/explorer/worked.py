"""Worked examples as pages: a neuron, a graph of three nodes, Mazur's network, vanishing δ."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.collectors import collect, records, trace
from funcprop.composites import Serial
from funcprop.data import Dataset
from funcprop.explorer.arrays import packed, unpacked
from funcprop.explorer.chain import ACTIVATIONS, Chain
from funcprop.explorer.explaining import network_page
from funcprop.explorer.page import Page
from funcprop.explorer.recording import record
from funcprop.gradient import backprop
from funcprop.initializers import Normal, VarianceScaling
from funcprop.layer import Layer, Params
from funcprop.layers import Affine, Dense
from funcprop.losses import BinaryCrossEntropy, QuadraticCost


def neuron(steps: int = 300) -> Page:
    """One sigmoid neuron, w = 0.6 and b = 0.9, that should say 0 where x = 1; η = 0.15.

    Small enough to be recomputed by hand. Nielsen (Neural Networks and Deep Learning, chapter 3)
    trains it so, for 300 epochs.
    """
    with jax.enable_x64(True):
        found = Chain((), ("sigmoid",), (Affine(jnp.array([[0.6]]), jnp.array([0.9])),))
    batch = np.array([[1.0]]), np.array([[0.0]])
    data = record(found, QuadraticCost(), batch, 0.15, steps)  # type: ignore[arg-type]
    z, a = (float(unpacked(data["each"][key][0]).flat[0]) for key in ("z", "a"))
    cost, slope = (float(unpacked(v).flat[0]) for v in (data["cost"], data["manual"][0]["w"]))
    about = (
        f"Recompute it by hand: x = 1, w = 0.6, b = 0.9, and y = 0 is wanted. z = w x + b = {z:g}, "
        f"a = σ(z) = {a:.4f}, C = ½(a − y)² = {cost:.4f}, "
        f"∂C/∂w = (a − y) a (1 − a) x = {slope:.4f}. After Nielsen, Neural Networks and Deep "
        "Learning, chapter 3."
    )
    return network_page("One neuron: error times slope", data, about)


# e = (a + b)(b + 1)
OLAH = [
    {"name": "c", "operation": "add", "from": ["a", "b"]},
    {"name": "d", "operation": "add-one", "from": ["b"]},
    {"name": "e", "operation": "multiply", "from": ["c", "d"]},
]


def olah() -> Page:
    """The chain rule on a graph of three nodes, at a = 2, b = 1."""
    inputs = {"a": 2.0, "b": 1.0}
    with jax.enable_x64(True):
        by_a, by_b = jax.grad(lambda a, b: (a + b) * (b + 1), (0, 1))(*inputs.values())
    data = {
        "kind": "graph",
        "nodes": OLAH,
        "inputs": inputs,
        "places": {"a": [0, 0.2], "b": [0, 1.8], "c": [1, 0.2], "d": [1, 1.8], "e": [2, 1]},
        "automatic": {"a": float(by_a), "b": float(by_b)},
    }
    about = (
        "How does e move when b moves? Two paths lead from b to e. Along a path slopes multiply, "
        "and over paths they add. No node knows the whole formula. After Olah, Calculus on "
        "Computational Graphs, 2015."
    )
    return Page("The chain rule on a graph: e = (a + b)(b + 1)", about, data)


def mazur(steps: int = 10_000) -> Page:
    """Mazur's 2-2-2 network, one example, η = ½; its biases stay, as on his page."""
    w1 = np.array([[0.15, 0.20], [0.25, 0.30]]).T  # his rows are neurons
    w2 = np.array([[0.40, 0.45], [0.50, 0.55]]).T
    with jax.enable_x64(True):
        layers = tuple(Affine(jnp.asarray(w), jnp.full(2, b)) for w, b in ((w1, 0.35), (w2, 0.60)))
    found = Chain((), ("sigmoid", "sigmoid"), layers)
    batch = np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]])
    loss = QuadraticCost(reduction="sum")
    data = record(found, loss, batch, 0.5, steps, train_bias=False)  # type: ignore[arg-type]
    about = (
        "A step by step backpropagation example (Mazur, 2015), number by number: E = 0.298371109, "
        "after one update 0.291027774. The page itself prints 0.291027924: its code overwrote the "
        "output weights before the hidden layer had read them. Plant that slip and see."
    )
    names = {"inputs": ["i1", "i2"], "outputs": ["o1", "o2"]}
    return network_page("Mazur's 2-2-2 network", data, about, names=names)


# Nielsen's figures: the norms of the four hidden layers at the start, as chapter 5 prints them, and
# the smallest and largest share of the first in the last over 500 epochs, of its picture's data
# (fig/norms_during_training_4_layers.json in the repository of the book).
PUBLISHED = (0.00298, 0.0171, 0.0695, 0.2851)
RANGE = (0.0089, 0.0203)
RATE, PENALTY = 0.1, 5 / 1000  # his η, and his λ = 5 over 1,000 images


def nielsen(dataset: Dataset, steps: int = 500, examples: int = 1000, seed: int = 5) -> Page:
    """[n, 30, 30, 30, 30, 10] by gradient descent on 1,000 images, sigmoid and ReLU side by side.

    As fig/generate_gradient.py of his book does it: cross-entropy, η = 0.1, λ = 5, weights
    N(0, 1/n), biases N(0, 1). ‖δ‖ is the norm of the mean of δ over the images, which is ∂C/∂b.
    """
    x = np.asarray(dataset.train.x[:examples], np.float32).reshape(examples, -1)
    x = x / 255 if dataset.train.x.dtype == np.uint8 else x
    y = np.eye(10, dtype=np.float32)[dataset.train.y[:examples]]
    runs = [vanishing(name, (x, y), steps, seed) for name in ("sigmoid", "relu")]
    first, shares = runs[0].pop("first"), runs[0].pop("shares")
    del runs[1]["first"], runs[1]["shares"]
    said = ", ".join(f"{v:.3g}" for v in first)
    published = ", ".join(f"{v:.3g}" for v in PUBLISHED)
    about = (
        f"[{x.shape[1]}, 30, 30, 30, 30, 10] on {len(x):,} images of {dataset.name}. At the start "
        f"‖δ‖ of the four hidden layers is {said}; Nielsen (Neural Networks and Deep Learning, "
        f"chapter 5, on MNIST) prints {published}. The first over the last: {shares[0]:.4f} at "
        f"the start and {shares.min():.4f} to {shares.max():.4f} over training; in his picture "
        f"{PUBLISHED[0] / PUBLISHED[-1]:.4f}, and {RANGE[0]} to {RANGE[1]}. Each sigmoid takes "
        "three quarters of the error away, or more; a ReLU lets it pass or stops it."
    )
    data = {"kind": "blocks", "runs": runs, "costs": None, "leaves": []}
    return Page("Why δ vanishes: sigmoid against ReLU", about, data)


def vanishing(name: str, batch: tuple[Any, Any], steps: int, seed: int) -> dict[str, Any]:
    """‖mean δ‖ of each Dense layer at every fifth step, as one run of a page of blocks."""
    scaled, spread = VarianceScaling(1.0, "fan_in", "normal"), Normal()
    if name == "relu":
        scaled = VarianceScaling(2.0, "fan_in", "normal")

    def dense(size: int) -> Dense:
        return Dense(size, w_init=scaled, b_init=spread)

    hidden = [layer for _ in range(4) for layer in (dense(30), ACTIVATIONS[name])]
    model, loss = Serial(*hidden, dense(10)), BinaryCrossEntropy()
    norms, passes = descent(model, loss, batch, steps, seed)
    layers = []
    for place, (seen, after) in enumerate(itertools.zip_longest(passes[::2], passes[1::2])):
        word = f"layer {place + 1}" if place < 4 else "output"
        layers.append(
            {
                "name": word,
                "line": word,
                "repr": repr(model.layers[2 * place]).partition(",")[0] + ", …)",
                "shape": "×".join(map(str, seen["shape"])),
                "parameters": seen["parameters"],
                "output": "‖z‖",
                "norms": {
                    "y": packed(seen["y"]),
                    "dy": packed(norms["delta"][:, place]),
                    "x": packed(seen["x"]),
                    "params": packed(seen["params"]),
                    "dparams": packed(seen["dparams"]),
                },
                "saturated": None if after is None else packed(after["saturated"]),
                "dead": None if after is None else packed(after["dead"]),
            }
        )
    at = [5 * k for k in range(len(norms["cost"]))]
    ratio = norms["delta"][:, 0] / norms["delta"][:, 3]
    words = (
        f"First hidden layer over last: {ratio[0]:.3g} at the start, {ratio[-1]:.3g} after "
        f"{at[-1]} steps. Weights N(0, {'2' if name == 'relu' else '1'}/n), biases N(0, 1)."
    )
    return {
        "name": "sigmoid" if name == "sigmoid" else "ReLU",
        "note": words,
        "steps": at,
        "cost": packed(norms["cost"]),
        "layers": layers,
        "first": norms["delta"][0, :4],
        "shares": ratio,
    }


def stepped(p: Any, g: Any) -> Any:
    """One step with a penalty on the weights, not on biases."""
    if not isinstance(p, Affine):
        return p
    return Affine(p.w * (1 - RATE * PENALTY) - RATE * g.w, p.b - RATE * g.b)


def descent(
    model: Serial, loss: Layer, batch: tuple[Any, Any], steps: int, seed: int
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Gradient descent: every fifth step ‖∂C/∂b‖ and cost, and a trace of every layer."""
    gradient = backprop(model, loss)
    traced = backprop(collect(model, trace), loss)
    params = model.init(jax.random.key(seed), batch[0])

    def five(params: Params, _: Any) -> tuple[Params, Any]:
        cost, grads = gradient(params, batch)
        delta = jnp.stack([jnp.linalg.norm(g.b) for g in grads if isinstance(g, Affine)])
        seen = [r.value for r in records(traced(params, batch)[1])]
        told = [{**s.norms, "saturated": s.saturated, "dead": s.dead} for s in seen]

        def one(_: Any, p: Params) -> Params:
            pairs = zip(p, gradient(p, batch)[1], strict=True)
            return tuple(stepped(own, g) for own, g in pairs)

        return jax.lax.fori_loop(0, 5, one, params), ({"cost": cost, "delta": delta}, told)

    walk = jax.jit(lambda p: jax.lax.scan(five, p, None, steps // 5 + 1)[1])
    norms, told = jax.tree.map(np.asarray, walk(params))
    shapes = jax.eval_shape(lambda p: records(traced(p, batch)[1]), params)
    for one, record_, p in zip(told, shapes, params, strict=True):
        one["shape"] = record_.value.y.shape
        one["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(p))
    return norms, told
