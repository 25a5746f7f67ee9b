"""`explain`: a model, its parameters and a batch as a page that shows the backward pass."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcprop.doors import door
from funcprop.explorer.blocks import record_blocks, trained
from funcprop.explorer.chain import Chain, chain
from funcprop.explorer.page import Page
from funcprop.explorer.recording import record
from funcprop.gradient import objective
from funcprop.layer import Context, Layer, Params, describe


@door
def explain(
    model: Layer,
    params: Params,
    batch: Any,
    loss: Layer | None = None,
    context: Context = Context(),
    learning_rate: float = 0.1,
    steps: int | None = None,
    examples: int = 4,
    title: str = "",
    costs: bool = True,
) -> Page:
    """A page on which one sees the backward pass: value, error and slope in the same place.

    model, params  any model. Networks of Dense layers with up to 20 neurons in a layer are drawn
                   neuron by neuron, and computed again in the browser when something is changed;
                   of all others, lifted functions too, each layer is a block
    batch, loss    as for `backprop`: (x, target), or what a model that is an objective reads
    context        key and mask
    steps          of gradient descent on the batch, with `learning_rate`, that are recorded; None:
                   the parameters as they are
    examples       of the batch, that are recorded one by one
    title          of the page; the model's own words without one
    costs          also measure time and memory by hand and automatic, where layers are blocks

    Returns a Page: `page.save("page.html")` writes one file that needs no network. Small networks
    are computed in float64.

    raises  what `backprop` raises; ValueError for `steps` or `examples` below 1, for a cost that is
            not finite, at the start or after some steps, and a learning rate that is none

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> page = fp.explain(model, params, (x, y), fp.SoftmaxCrossEntropy(), steps=2)
    >>> page.data["sizes"], page.data["steps"], page.data["worst"] < 1e-12
    ([2, 3, 2], [0, 1, 2], True)
    """
    title, count = title or describe(model), steps or 0
    check_rate(learning_rate)
    check_cost(model, loss, params, batch, context)
    found = chain(model, params, loss) if context.mask is None else None
    if found is not None and loss is not None and is_drawn(found, model, params, batch):
        x, target = batch
        data = record(found, loss, (x, target), learning_rate, count, examples=examples)
        image = image_of(x.shape[1:]) if found.before else None
        return network_page(title, data, image=image)
    states = trained(model, loss, params, batch, context, optax.sgd(learning_rate), count)
    data = record_blocks(model, loss, states, batch, context, costs)
    return Page(title, blocks_words(data), data)


def check_rate(rate: float) -> None:
    """Raises ValueError for what is no learning rate."""
    if not (math.isfinite(rate) and rate >= 0):
        raise ValueError(f"learning_rate is {rate}, wanted a finite number of at least 0")


def check_cost(
    model: Layer, loss: Layer | None, params: Params, batch: Any, context: Context
) -> None:
    """Raises what `backprop` raises, and ValueError where the cost is not finite."""
    cost = objective(model, loss)
    jax.eval_shape(cost, params, batch, context)
    value = float(jax.jit(cost)(params, batch, context))
    if not math.isfinite(value):
        raise ValueError(
            f"the cost is {value} at these parameters, and there is nothing to see: give finite "
            "parameters, and labels that are classes"
        )


def is_drawn(found: Chain, model: Layer, params: Params, batch: Any) -> bool:
    """Whether the page can compute the model itself: x [examples, features] of real numbers, and
    parameters as the model's own."""
    if len(batch) != 2:
        return False
    x = batch[0]
    wanted = jax.eval_shape(model.init, jax.random.key(0), x)
    for layer in found.before:
        x = jax.eval_shape(lambda x, layer=layer: layer.forward((), x)[0], x)
    own = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params)]
    fit = own == [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(wanted)]
    same = jax.tree.structure(params) == jax.tree.structure(wanted)
    return fit and same and x.ndim == 2 and jnp.isrealobj(x)


def image_of(shape: tuple[int, ...]) -> list[int] | None:
    """[height, width] of an example, where it is an image of one channel."""
    if len(shape) == 3 and shape[2] == 1 and np.prod(shape) <= 400:
        return [shape[0], shape[1]]
    return None


def network_page(
    title: str,
    data: dict[str, Any],
    about: str = "",
    image: list[int] | None = None,
    names: dict[str, list[str]] | None = None,
) -> Page:
    """The page of a network, with what its inputs and outputs are called."""
    sizes = " → ".join(map(str, data["sizes"]))
    words = (
        f"{sizes}, {data['steps'][-1]:,} steps of gradient descent with η = "
        f"{data['learningRate']:g}. The hand-written gradient and jax.grad "
        f"{distance(data['worst'], 'largest entry')}."
    )
    data = {**data, "image": image, "names": names or {}}
    return Page(title, f"{about} {words}".strip(), data)


def distance(worst: float, of: str) -> str:
    """How far by hand and `jax.grad` are apart, in words."""
    return f"differ by at most {rounded(worst)} of a leaf's {of}" if worst else "are exactly equal"


def rounded(v: float) -> str:
    """`3 × 10⁻¹⁶`, which no line breaks."""
    head, power = f"{v:.0e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{head}\u00a0×\u00a010{raised}"


def blocks_words(data: dict[str, Any]) -> str:
    """A sentence on what is on the page."""
    run = data["runs"][0]
    what = "uses of parameters" if data["heading"] else "layers"
    words = f"{len(run['layers'])} {what} in one pass of forward and backward"
    worst = max((leaf["apart"] for leaf in data["leaves"]), default=None)
    if worst is not None:
        words += f"; by hand and jax.grad {distance(worst, 'norm')}"
    return words + "."
