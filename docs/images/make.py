"""The three pictures of the README, beside this file.

    python docs/images/make.py [FOLDER]

Each is made by what its door shows: a trace of one backward pass, a comparison with a slip in it,
and the gradient norms of single examples. curves.png is of
`funcprop train --out FOLDER`, boundary.png of the second command in docs/guides/training.md.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import funcprop as fp
from funcprop.collectors import records, squared_norms, total, trace
from funcprop.data import load

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, RIGHT, WRONG, PALE = "#24292f", "#3f51b5", "#d1242f", "#c5cae9"
plt.rcParams.update(
    {"font.size": 9, "text.color": INK, "axes.edgecolor": INK, "savefig.dpi": 160}
    | {f"{axis}.color": INK for axis in ("xtick", "ytick")}
)


def taught(model, x, y, epochs):
    """The state after some epochs."""
    optimizer = optax.adam(1e-2)
    step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
    one_epoch = fp.epoch(step, 64)
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    for _ in range(epochs):
        state, _ = one_epoch(state, (x, y))
    return state


def digits():
    """x [n, 64], labels and images [n, 8, 8]."""
    data = load("digits").train
    return jnp.asarray(data.x).reshape(-1, 64), jnp.asarray(data.y), data.x[..., 0]


def understand():
    """One image through a small network, and its error on the way back."""
    x, y, _ = digits()
    model = fp.Serial(fp.Dense(16), fp.Tanh(), fp.Dense(16), fp.Tanh(), fp.Dense(10))
    params = taught(model, x, y, 1).params
    logits = np.array(model.forward(params, x)[0], np.float64)
    of_label = np.take_along_axis(logits, np.array(y)[:, None], 1)[:, 0]
    one = int(np.argsort(of_label - logits.max(1))[5])  # one that it takes for another digit
    loss = fp.SoftmaxCrossEntropy(reduction="sum")
    gradient = fp.backprop(fp.collect(model, trace), loss)
    passed = [r.value for r in records(gradient(params, (x[one : one + 1], y[one : one + 1]))[1])]

    forward = [passed[0].x, *(p.y for p in passed)]
    backward = [passed[0].dx, *(p.dy for p in passed)]
    above = [
        "x",
        "z¹ = x w¹ + b¹",
        "a¹ = tanh z¹",
        "z² = a¹ w² + b²",
        "a² = tanh z²",
        "z³ = a² w³ + b³",
    ]
    below = ["∂C/∂x = δ¹ w¹ᵀ", "δ¹ = ∂C/∂a¹ ⊙ (1 − a¹⊙a¹)", "∂C/∂a¹ = δ² w²ᵀ",
             "δ² = ∂C/∂a² ⊙ (1 − a²⊙a²)", "∂C/∂a² = δ³ w³ᵀ", "δ³ = softmax(z³) − y"]  # fmt: skip
    figure, axes = plt.subplots(2, 6, figsize=(11, 4.7))
    figure.subplots_adjust(0.03, 0.05, 0.995, 0.94, 0.08, 0.3)
    for row, values, titles in zip(axes, (forward, backward), (above, below), strict=True):
        for ax, value, title in zip(row, values, titles, strict=True):
            value = np.asarray(value, np.float64).ravel()
            ax.set_title(title, fontsize=9)
            if value.size == 10:
                colors = [WRONG if j == int(y[one]) else PALE for j in range(10)]
                ax.bar(range(10), value, color=colors)
                ax.axhline(0, color=INK, linewidth=0.6)
                ax.set_xticks(range(10))
                ax.get_xticklabels()[int(y[one])].set(color=WRONG, fontweight="bold")
                ax.set_yticks([])
                ax.spines[["top", "right", "left"]].set_visible(False)
                continue
            side = int(value.size**0.5)
            top = np.abs(value).max()
            map_ = "Greys" if ax is axes[0, 0] else "RdBu_r"
            low = 0 if ax is axes[0, 0] else -top
            ax.imshow(value.reshape(side, side), cmap=map_, vmin=low, vmax=top)
            ax.set_xticks([])
            ax.set_yticks([])
    axes[0, 0].set_ylabel("forward  →", fontsize=11, fontweight="bold")
    axes[1, 0].set_ylabel("←  backward", fontsize=11, fontweight="bold")
    return figure


@dataclass(frozen=True)
class Slip(fp.Dense):
    """Dense, with a slip that shapes do not show."""

    def backward(self, params, x, dz):
        return dz @ params.w, super().backward(params, x, dz)[1]  # not w.T


def verify():
    """Every leaf's distance from automatic differentiation, in float64."""
    block = fp.Skip(fp.Serial(fp.LayerNorm(), Slip(16), fp.GELU()))
    model = fp.Serial(fp.Dense(16), block, fp.Dense(3))
    x = jax.random.normal(jax.random.key(0), (8, 4))
    report = fp.compare(model, model.init(jax.random.key(1), x), x)
    rows = [row for row in report.rows if row.dtype == "float64" and row.place != "Serial"]
    places = np.arange(len(rows))[::-1]
    error = np.clip([row.relative for row in rows], 1e-17, None)
    colors = [RIGHT if row.ok else WRONG for row in rows]

    figure, ax = plt.subplots(figsize=(9, 0.24 * len(rows) + 0.8), layout="constrained")
    ax.hlines(places, 1e-17, error, color=colors, linewidth=2.5)
    ax.scatter(error, places, color=colors, s=26, zorder=3)
    ax.axvline(1e-10, color=INK, linewidth=0.8, linestyle="--")
    ax.text(1.4e-10, places[0] + 0.55, "what is allowed", fontsize=8)
    for place, row, value in zip(places, rows, error, strict=True):
        if not row.ok and row.words:
            ax.text(value * 3, place, row.words, va="center", color=WRONG, fontweight="bold")
    ax.set_xscale("log")
    ax.set_xlim(1e-17, 1e6)
    ax.set_yticks(places, [row.name for row in rows], fontsize=8)
    for label, color in zip(ax.get_yticklabels(), colors, strict=True):
        label.set_color(INK if color == RIGHT else WRONG)
    ax.set_xlabel("‖by hand − automatic‖ / ‖automatic‖, float64")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def collect():
    """‖g_b‖ of every example, of which some have a wrong label, and the largest ones."""
    x, y, images = digits()
    random = np.random.default_rng(0)
    wrong = random.random(len(y)) < 0.05
    labels = jnp.where(wrong, (y + random.integers(1, 10, len(y))) % 10, y)
    model = fp.Serial(fp.Dense(64), fp.Tanh(), fp.Dense(10))
    params = taught(model, x, labels, 3).params
    loss = fp.SoftmaxCrossEntropy(reduction="sum")
    norms = jax.jit(fp.backprop(fp.collect(model, squared_norms), loss))
    norms = np.sqrt(np.asarray(total(norms(params, (x, labels))[1])))

    figure = plt.figure(figsize=(11, 3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    ax = left.subplots()
    bins = np.geomspace(norms.min(), norms.max() * 1.001, 40)
    ax.hist([norms[~wrong], norms[wrong]], bins, stacked=True, color=[PALE, WRONG],
            label=["labeled right", "labeled wrong"])  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("‖g_b‖, the gradient of one example")
    ax.set_ylabel("examples")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    for ax, b in zip(right.subplots(2, 8).flat, np.argsort(-norms), strict=False):
        ax.imshow(images[b], cmap="Greys")
        ax.set_title(f"“{int(labels[b])}”", color=WRONG if wrong[b] else INK, fontsize=11)
        ax.set_xticks([])
        ax.set_yticks([])
    right.suptitle("the sixteen largest, with the labels they came with", fontsize=9)
    return figure


def main(folder: Path = Path(__file__).parent) -> None:
    for picture in (understand, verify, collect):
        figure = picture()
        figure.savefig(folder / f"{picture.__name__}.png")
        plt.close(figure)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
