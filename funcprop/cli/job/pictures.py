"""The pictures of a run: what `--plots` writes beside its curves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcprop import plots
from funcprop.cli.job.run import Record
from funcprop.collectors import (
    collect,
    collect_all,
    gradient,
    records,
    second_moment,
    squared_norms,
    total,
    trace,
    values,
    variance,
)
from funcprop.costs import measure
from funcprop.costs.cost import Costs
from funcprop.data import Dataset
from funcprop.extras import require
from funcprop.gradient import backprop
from funcprop.layer import Context, Layer, Params
from funcprop.layers import Affine
from funcprop.layers.convolution import Kernel
from funcprop.losses.loss import Loss
from funcprop.prediction import inference
from funcprop.training.state import TrainState

CURVES = "curves.png"
BOUNDARY, CONFUSION, WRONG = "boundary.png", "confusion.png", "wrong.png"
DELTAS, FILTERS, COSTS = "deltas.png", "filters.png", "costs.png"
NORMS, NOISE = "norms.png", "noise.png"
PICTURES = (CURVES, BOUNDARY, CONFUSION, WRONG, DELTAS, FILTERS, COSTS, NORMS, NOISE)
AT_ONCE = 1024  # examples that are classified in one call
SUSPECTS = 500  # training examples whose gradients' norms are drawn


def saved(path: Path, draw: Callable[[Any], Any], size: tuple[float, float] = (6, 4.5)) -> None:
    """One picture: a Figure of its own, without a display and without the state of pyplot."""
    figure = require("matplotlib.figure", "train").Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    figure.savefig(path, dpi=150)


def draw_curves(path: Path, seen: Sequence[Record], held_out: str, title: str = "") -> None:
    """Loss and accuracy after each epoch; `held_out` names the examples looked at."""
    figure = require("matplotlib.figure", "train").Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    after = [record.epoch + 1 for record in seen]
    losses = {
        "training": [record.loss for record in seen],
        held_out: [record.held_out_loss for record in seen],
    }
    plots.curves(left, after, losses, "epochs of training", "loss", log=True)
    shares = {
        "training": [100 * record.training_accuracy for record in seen],
        held_out: [100 * record.accuracy for record in seen],
    }
    plots.curves(right, after, shares, "epochs of training", "accuracy (%)")
    best = int(np.argmax(shares[held_out]))
    right.axvline(after[best], color="0.5", linewidth=0.8, linestyle="--")
    right.set_title(f"best after {after[best]}: {shares[held_out][best]:.2f} %", fontsize="medium")
    left.set_title("cost", fontsize="medium")
    if title:
        figure.suptitle(title)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=150)


def classified(model: Layer, state: TrainState, x: np.ndarray) -> np.ndarray:
    """The class that the model gives to each example."""
    predictor, params = inference(model, state.params, state.statistics)
    parts = [
        np.asarray(_outputs(predictor, params, x[start : start + AT_ONCE]))
        for start in range(0, len(x), AT_ONCE)
    ]
    return np.concatenate(parts).argmax(-1)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(model: Layer, params: Params, x: Any) -> Any:
    return model.forward(params, x)[0]


def draw_predictions(
    folder: Path, data: Dataset, model: Layer, state: TrainState, start: str = ""
) -> list[str]:
    """What became of the test set: a confusion matrix, the images that were taken for others, and
    of points in a plane the boundary between the classes. -> the names of the files.

    start  of the names: those of other data stand beside those of the training
    """
    if data.text:
        return []
    test, labels, written = data.test, data.labels, [start + CONFUSION]
    found = classified(model, state, test.x)
    side = min(12.0, 3 + 0.4 * data.classes)
    saved(
        folder / (start + CONFUSION),
        lambda axes: plots.confusion_matrix(axes, test.y, found, labels),
        (side, side),
    )
    wrong = np.flatnonzero(found != test.y)[:25]
    if test.x.ndim == 4 and test.x.shape[-1] == 1 and len(wrong):
        names = labels or tuple(map(str, range(data.classes)))
        words = [f"{names[test.y[i]]} → {names[found[i]]}" for i in wrong]

        def draw(axes: Any) -> None:
            plots.images(axes, test.x[wrong], words).set_title("what it is → what it was taken for")

        saved(folder / (start + WRONG), draw, (6, 6.5))
        written.append(start + WRONG)
    if test.x.shape[1:] == (2,):
        predictor, params = inference(model, state.params, state.statistics)

        def predict(x: np.ndarray) -> Any:
            return _outputs(predictor, params, x)

        saved(
            folder / (start + BOUNDARY),
            lambda axes: plots.decision_boundary(axes, predict, test.x, test.y),
            (6, 5),
        )
        written.append(start + BOUNDARY)
    return written


def delta_norms_of(model: Layer, loss: Layer | None, batch: Any) -> Callable[[Params, Any], Any]:
    """(params, context) -> ([layers], their names): ‖δ‖ of every layer with parameters."""
    traced = jax.jit(backprop(collect(model, trace), loss))

    def norms(params: Params, context: Any) -> tuple[np.ndarray, list[str]]:
        found = [r for r in records(traced(params, batch, context)[1]) if r.value is not None]
        own = [r for r in found if jax.tree.leaves(r.value.dparams)]
        # of the blocks of a Repeat together
        each = [float(np.linalg.norm(np.asarray(r.value.norms["dy"], np.float64))) for r in own]
        return np.array(each), [r.path for r in own]

    return norms


def draw_deltas(path: Path, seen: Sequence[tuple[np.ndarray, list[str]]]) -> None:
    """‖δ‖ of every layer after each epoch."""
    names = [" ".join(name.split()[-2:]) for name in seen[0][1]]
    table = np.stack([norms for norms, _ in seen])
    saved(
        path,
        lambda axes: plots.delta_norms(axes, table, names, "epochs of training"),
        (7, 4.5),
    )


def draw_filters(path: Path, params: Params, example: tuple[int, ...]) -> bool:
    """What the first layer with weights looks for; False where that is no picture."""
    kinds = (Affine, Kernel)
    found = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, kinds))
    first = next((node for node in found if isinstance(node, kinds)), None)
    if first is None:
        return False
    w = np.asarray(first.w, np.float64)
    if w.ndim == 2 and len(example) == 3 and example[2] == 1 and len(w) == np.prod(example):
        w = w[:, :100]
        saved(path, lambda axes: plots.filters(axes, w, image=example[:2]))
        return True
    if w.ndim == 4:
        saved(path, lambda axes: plots.filters(axes, w[..., :100]))
        return True
    return False


def draw_costs(path: Path, model: Layer, loss: Layer | None, *given: Any) -> bool:
    """Time and memory of one mini-batch's gradient, by hand and by automatic differentiation; False
    where the two differ by more than rounding here, so that no cost is to be told.

    given  params, batch and context, as the gradient takes them
    """
    params, batch, context = given
    try:
        found = measure(backprop(model, loss), params, batch, context=context, seconds=0.2)
    except ValueError:
        return False
    named = tuple(dataclasses.replace(profile, name="") for profile in found.profiles)
    figure = require("matplotlib.figure", "train").Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, 2)
    for one, quantity in zip(axes, ("time", "memory"), strict=True):
        plots.costs(one, Costs(named, found.machine), quantity).set_title(quantity)
        one.margins(x=0.4)  # room for the legend
        one.set_yticks([])
    figure.suptitle("the gradient of one mini-batch")
    figure.savefig(path, dpi=150)
    return True


def single_examples(
    model: Layer, loss: Loss, params: Params, batch: Any, context: Context
) -> tuple[np.ndarray, Params, Params] | None:
    """‖g_b‖ [B] of every example's gradient, and trees like the parameters: their mean, and their
    variance around it; None where the model mixes examples, as under BatchNorm.

    loss  that of the training: here its sum is differentiated, whose gradients are those of single
          examples, and not divided by their number
    """
    rules = collect_all(norms=squared_norms, gradient=gradient, moment=second_moment)
    summed = dataclasses.replace(loss, reduction="sum")
    try:
        found = jax.jit(backprop(collect(model, rules), summed))(params, batch, context)[1]
    except ValueError:
        return None
    norms = np.sqrt(np.asarray(total(found, "norms"), np.float64))
    sums, examples = values(found, "gradient"), len(norms)
    spread = variance(sums, values(found, "moment"), examples)
    return norms, jax.tree.map(lambda leaf: leaf / examples, sums), spread


def draw_examples(
    folder: Path, model: Layer, loss: Loss, params: Params, batch: Any, context: Context, size: int
) -> list[str]:
    """How the gradients of single training examples differ: their norms, the largest of them named
    by their place, and how much of a mini-batch's gradient is noise. -> the names of the files.

    loss  that of the training
    size  of a mini-batch
    """
    found = single_examples(model, loss, params, batch, context)
    if found is None:
        return []
    norms, mean, spread = found
    saved(folder / NORMS, lambda axes: plots.per_example_norms(axes, norms))

    def draw(axes: Any) -> None:
        plots.gradient_noise(axes, mean, spread, size).tick_params(axis="x", rotation=60)
        axes.set_title(f"noise in the gradient of {size} examples")

    saved(folder / NOISE, draw, (max(6.0, 0.35 * len(jax.tree.leaves(mean))), 4.5))
    return [NORMS, NOISE]
