"""Networks that learn a small problem while one looks: NAND, XOR, moons, spiral, digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.composites import Serial
from funcprop.data import DataError, load_digits
from funcprop.explorer import planes
from funcprop.explorer.chain import ACTIVATIONS, LOSSES, Chain, flat
from funcprop.explorer.explaining import network_page
from funcprop.explorer.page import Page
from funcprop.explorer.recording import record
from funcprop.initializers import GlorotUniform, HeNormal, Normal
from funcprop.layer import Layer
from funcprop.layers import Affine, Dense


class Lesson(NamedTuple):
    """A problem, and a network that learns it."""

    title: str
    points: Callable[[], planes.Points] | None  # None: the digits
    layers: tuple[int, ...]
    activation: str
    loss: str
    learning_rate: float
    steps: int
    snapshots: int = 41


LESSONS = {
    "nand": Lesson(
        "NAND by three hidden neurons", planes.nand, (3,), "sigmoid", "quadratic", 8, 600
    ),
    "xor": Lesson("XOR: no line divides it", planes.xor, (3,), "sigmoid", "quadratic", 8, 2000),
    "moons": Lesson("Two moons", planes.moons, (6, 4), "tanh", "binary-cross-entropy", 0.5, 1500),
    "spiral": Lesson(
        "A spiral", planes.spiral, (12, 12), "tanh", "binary-cross-entropy", 0.3, 8000
    ),
    "digits": Lesson("Handwritten digits", None, (12,), "tanh", "cross-entropy", 0.5, 400),
}
SEEN = 360  # digits that are trained on, and in the page


def lesson(
    name: str,
    layers: Sequence[int] | None = None,
    activation: str | None = None,
    loss: str | None = None,
    learning_rate: float | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Page:
    """The page of a problem; what is None is the lesson's own.

    Raises DataError for a problem that there is not.
    """
    if name not in LESSONS:
        raise DataError(f"unknown data {name!r}: the names are {', '.join(LESSONS)}")
    own = LESSONS[name]
    sizes = own.layers if layers is None else tuple(layers)
    kind, cost = activation or own.activation, loss or own.loss
    x, y, held = digits() if own.points is None else (*own.points(), None)
    outputs = 10 if own.points is None else 1
    if cost != "cross-entropy" and own.points is None:
        y = np.eye(10)[y]
    last = kind if kind == "sigmoid" and cost in ("quadratic", "mean-squared-error") else "identity"
    if own.points is not None and cost == "cross-entropy":
        y, outputs = y[:, 0].astype(np.int32), 2
    kinds = (*(kind for _ in sizes), last)
    found = started((*sizes, outputs), kinds, x, seed)
    rate = own.learning_rate if learning_rate is None else learning_rate
    count = own.steps if steps is None else steps
    batch: Any = (x, y)
    examples = 4 if len(x) == 4 or own.points is None else 6
    data = record(found, LOSSES[cost](), batch, rate, count, own.snapshots, examples, held_out=held)
    names = {"outputs": list("0123456789")} if own.points is None else None
    image = [8, 8] if own.points is None else None
    changed = layers is not None and sizes != own.layers
    title = f"{name}, {' → '.join(map(str, data['sizes']))}" if changed else own.title
    return network_page(title, data, image=image, names=names)


def digits() -> tuple[np.ndarray, np.ndarray, Any]:
    """x [360, 64] and labels, and the test set of scikit-learn's digits."""
    data = load_digits()
    x, held = (part.x.reshape(len(part.x), -1) for part in (data.train, data.test))
    return x[:SEEN], data.train.y[:SEEN], (held, data.test.y)


def started(sizes: Sequence[int], kinds: Sequence[str], x: np.ndarray, seed: int) -> Chain:
    """The network before its first step."""
    scale = {"sigmoid": Normal(), "relu": HeNormal(), "leaky-relu": HeNormal()}
    layers: list[Layer] = []
    for size, kind in zip(sizes, kinds, strict=True):
        layers += [Dense(size, w_init=scale.get(kind, GlorotUniform())), ACTIVATIONS[kind]]
    model = Serial(*layers)
    start = jax.jit(lambda key: model.init(key, jnp.asarray(x[:1], jnp.float32)))
    params = start(jax.random.key(seed))
    affine = tuple(p for _, p in flat(model, params) if isinstance(p, Affine))
    return Chain((), tuple(kinds), affine)
