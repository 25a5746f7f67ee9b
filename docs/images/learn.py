"""The pictures of the tutorial, beside this file: one a chapter, and the network of the seeds.

python docs/images/learn.py [FOLDER]
"""

import sys
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import funcprop as fp
from funcprop.data import load

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, BLUE, RED, PALE = "#24292f", "#3f51b5", "#d1242f", "#c5cae9"
sys.path.append(str(Path(__file__).parent.parent.parent / "examples"))
plt.rcParams.update(
    {"font.size": 9, "text.color": INK, "axes.edgecolor": INK, "savefig.dpi": 110}
    | {f"axes.spines.{side}": False for side in ("top", "right")}
)


def bare(ax, title=""):
    ax.set_title(title, fontsize=9)
    ax.axis("off")
    return ax


def circle(ax, x, y, text, color=PALE, radius=0.27):
    ax.add_patch(plt.Circle((x, y), radius, color=color, ec=INK, zorder=2))
    ax.text(x, y, text, ha="center", va="center", fontsize=8, zorder=3)


def arrow(ax, start, end, text="", color=INK, offset=(0, 0.12), gap=14):
    (x0, y0), (x1, y1) = start, end
    ax.annotate(
        "",
        end,
        start,
        arrowprops={"arrowstyle": "->", "color": color, "shrinkA": gap, "shrinkB": gap},
    )
    where = ((x0 + x1) / 2 + offset[0], (y0 + y1) / 2 + offset[1])
    ax.text(*where, text, ha="center", va="center", fontsize=8, color=color)


def one_neuron():
    """Nielsen's neuron from two starts, by two costs."""
    figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
    for (w0, b0), color in (((0.6, 0.9), BLUE), ((2.0, 2.0), RED)):
        for entropy, style in ((False, "-"), (True, "--")):
            w, b, seen = w0, b0, []
            for _ in range(301):
                a = 1 / (1 + np.exp(-(w + b)))
                seen.append(a)
                delta = a if entropy else a * a * (1 - a)
                w, b = w - 0.15 * delta, b - 0.15 * delta
            name = f"from w = {w0}, b = {b0}" + (", cross-entropy" if entropy else "")
            ax.plot(seen, style, color=color, label=name)
    ax.set(xlabel="step", ylabel="output, wanted 0", ylim=(0, 1))
    ax.legend(frameon=False, fontsize=8)
    return figure


def chain_rule():
    """e = (a + b)(b + 1): the value of every node, the slope of every edge."""
    figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
    bare(ax).set(xlim=(-0.5, 4.5), ylim=(-0.5, 2.6), aspect="equal")
    a, b, c, d, e = (0, 2), (0, 0), (2, 2), (2, 0), (4, 1)
    for place, text in (
        (a, "a\n2"),
        (b, "b\n1"),
        (c, "c = a+b\n3"),
        (d, "d = b+1\n2"),
        (e, "e = cd\n6"),
    ):
        circle(ax, *place, text, radius=0.36)
    arrow(ax, a, c, "∂c/∂a = 1", gap=26)
    arrow(ax, b, c, "∂c/∂b = 1", RED, (-0.42, 0.1), gap=26)
    arrow(ax, b, d, "∂d/∂b = 1", BLUE, gap=26)
    arrow(ax, c, e, "∂e/∂c = d = 2", RED, (0.3, 0.25), gap=26)
    arrow(ax, d, e, "∂e/∂d = c = 3", BLUE, (-0.35, 0.22), gap=26)
    ax.text(3.6, -0.2, "∂e/∂b = 1·2 + 1·3 = 5", ha="center", fontweight="bold")
    return figure


def block(ax, x, y, width, height, text, color=PALE):
    ax.add_patch(plt.Rectangle((x, y - height / 2), width, height, fc=color, ec=INK))
    ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=8)
    return x + width


def layer():
    """The three products of a dense layer as blocks, and [in, out] against [out, in]."""
    unit = 0.32
    batch, inputs, outputs = 2 * unit, 3 * unit, 2 * unit
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    rows = [
        ("z = x w", [("x", inputs, batch), ("w", outputs, inputs)], ("z", outputs, batch)),
        ("dx = dz wᵀ", [("dz", outputs, batch), ("wᵀ", inputs, outputs)], ("dx", inputs, batch)),
        ("dw = xᵀ dz", [("xᵀ", batch, inputs), ("dz", outputs, batch)], ("dw", outputs, inputs)),
    ]
    for ax, title in ((left, "here: a row is an example, w [in, out]"),
                      (right, "PyTorch's Linear: the same w, kept as [out, in]")):  # fmt: skip
        bare(ax, title).set(xlim=(-0.1, 5.6), ylim=(-3.2, 0.8), aspect="equal")
    for index, (name, factors, result) in enumerate(rows):
        y, x = -1.25 * index, 1.5
        left.text(0, y, name, va="center")
        for text, width, height in factors:
            x = block(left, x, y, width, height, text) + 0.25
        left.text(x, y, "=", va="center")
        block(left, x + 0.3, y, *result[1:], result[0], "#ffffff")
    for index, (text, (height, width)) in enumerate(
        [("w [in 3, out 2]", (inputs, outputs)), ("weight [out 2, in 3]", (outputs, inputs))]
    ):
        y = -1.4 * index
        for i in range(round(height / unit)):
            for j in range(round(width / unit)):
                place = (i, j) if index == 0 else (j, i)
                color = RED if place == (1, 0) else PALE
                corner = (0.3 + j * unit, y + height / 2 - (i + 1) * unit)
                right.add_patch(plt.Rectangle(corner, unit, unit, fc=color, ec=INK))
        right.text(1.7, y, text, va="center", fontweight="bold")
    right.text(
        0.3, -2.5, "red: from feature 1 to neuron 0.   w = weight.T,   dw = dweight.T", fontsize=8
    )
    return figure


def vanishing():
    """examples/vanishing.py, drawn."""
    run, data = import_module("vanishing"), load("digits")
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True, layout="constrained")
    for ax, name in zip(axes, run.ACTIVATIONS, strict=True):
        seen, accuracy = run.train(name, data)
        for number, sizes in enumerate(np.asarray(seen).T):
            shade = plt.get_cmap("viridis")(number / run.LAYERS)
            ax.semilogy(sizes, color=shade, label=f"layer {number + 1}")
        ax.set(xlabel="epoch", title=f"{name}: knows {accuracy:.0%} in the end")
    axes[0].set_ylabel("‖δ‖, mean of 200 digits")
    axes[-1].legend(frameon=False, fontsize=7)
    return figure


def check():
    """The error of a central difference of tanh over its step."""
    figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
    z, steps = 0.7, np.logspace(-12, 0, 100)
    true = 1 - np.tanh(z) ** 2
    for kind, color in ((np.float32, RED), (np.float64, BLUE)):
        h = steps.astype(kind)
        up, down = kind(z) + h, kind(z) - h
        error = np.abs((np.tanh(up) - np.tanh(down)) / (2 * h) - kind(true))
        ax.loglog(steps, np.maximum(error, 1e-13), color=color, label=kind.__name__)
    ax.axhspan(1e-3, 2, color=PALE, alpha=0.4, lw=0)
    ax.text(2e-12, 4e-3, "what a real mistake looks like", fontsize=8)
    ax.set(xlabel="h", ylabel="error of the slope", ylim=(1e-13, 2))
    ax.legend(frameon=False, loc="lower left")
    return figure


def batches():
    """How far a mini-batch's gradient is from the whole one's, by its size."""
    model = fp.Serial(fp.Dense(8), fp.Tanh(), fp.Dense(3))
    x = jax.random.normal(jax.random.key(0), (400, 4))
    labels = jnp.argmax(x[:, :3], -1)
    params = model.init(jax.random.key(1), x)
    gradient = fp.backprop(model, fp.SoftmaxCrossEntropy(reduction="sum"))
    _, each = jax.vmap(gradient, (None, 0))(params, (x, labels))
    flat = np.concatenate([np.asarray(g).reshape(len(x), -1) for g in jax.tree.leaves(each)], 1)
    whole, random, sizes = flat.mean(0), np.random.default_rng(0), 2 ** np.arange(0, 9)
    figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
    first = 0.0
    for m in sizes:
        tries = flat[random.integers(0, len(x), (200, m))].mean(1)
        error = np.linalg.norm(tries - whole, axis=1) / np.linalg.norm(whole)
        ax.scatter(np.full(200, m), error, s=4, color=PALE)
        first = error.mean() if m == 1 else first
        ax.scatter(m, error.mean(), color=BLUE, zorder=3)
    ax.plot(sizes, first / np.sqrt(sizes), color=RED, label="1/√m")
    ax.set(xscale="log", yscale="log", xlabel="m, examples in the mini-batch",
           ylabel="‖g_m − g‖ / ‖g‖")  # fmt: skip
    ax.legend(frameon=False)
    return figure


def convolution():
    """A digit, a kernel, what it sees, and what comes back for a δ at one place."""
    digit = load("digits").train.x[0, ..., 0]
    kernel = np.array([[-1.0, 1], [-1, 1]])
    params = fp.layers.Kernel(jnp.asarray(kernel, jnp.float32)[..., None, None], None)
    conv = fp.Conv(1, (2, 2), padding="VALID", bias=False)
    y, kept = conv.forward(params, jnp.asarray(digit, jnp.float32)[None, ..., None])
    dy = np.zeros(y.shape, np.float32)
    dy[0, 2, 3, 0], dy[0, 5, 4, 0] = 1, -1
    dx, dparams = conv.backward(params, kept, jnp.asarray(dy))
    values = (digit, kernel, y[0, ..., 0], dy[0, ..., 0], dx[0, ..., 0], dparams.w[..., 0, 0])
    titles = ("x", "w, looks for a step up", "y = what w sees", "δ, at two places",
              "dx: w at both, added", "dw: x at both, added")  # fmt: skip
    figure, axes = plt.subplots(1, 6, figsize=(10, 2), layout="constrained")
    for ax, title, value in zip(axes, titles, map(np.asarray, values), strict=True):
        top, grey = np.abs(value).max(), ax is axes[0]
        bare(ax, title).imshow(
            value, "Greys" if grey else "RdBu_r", vmin=0 if grey else -top, vmax=top
        )
    return figure


def attention():
    """p and ds of a head that learned to copy the token three places back."""
    time, width, vocabulary = 10, 24, 8
    random = np.random.default_rng(0)
    x = jnp.asarray(random.integers(0, vocabulary, (256, time)), jnp.int32)
    y = jnp.roll(x, 3, 1).at[:, :3].set(0)
    head = fp.SelfAttention(width, heads=1, causal=True)
    model = fp.Serial(
        fp.Embedding(vocabulary, width), fp.LearnedPositions(time), head, fp.Dense(vocabulary)
    )
    optimizer, loss = optax.adam(1e-2), fp.SoftmaxCrossEntropy()
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    one_epoch = fp.epoch(fp.train_step(fp.backprop(model, loss), optimizer), 32)
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
    for stage, epochs in enumerate((6, 40)):
        for _ in range(epochs):
            state, _ = one_epoch(state, (x, y))
        p, ds = weights(model, state.params, (x[:1], y[:1]))
        axes[2 * stage].imshow(p, "Blues", vmin=0, vmax=1)
        axes[2 * stage + 1].imshow(ds, "RdBu_r", vmin=-np.abs(ds).max(), vmax=np.abs(ds).max())
        axes[2 * stage].set_title(f"p after {(6, 46)[stage]} epochs", fontsize=9)
        axes[2 * stage + 1].set_title(f"−ds, at most {np.abs(ds).max():.0e}", fontsize=9)
    for ax in axes:
        ax.set(xlabel="looks at", ylabel="word")
    return figure


def weights(model, params, batch):
    """p [T, T] and −ds of the one head, by hand from what `trace` saw of its core."""
    traced = fp.backprop(fp.collect(model, fp.collectors.trace), fp.SoftmaxCrossEntropy())
    found = fp.collectors.records(traced(params, batch)[1])
    core = next(r.value for r in found if "DotProductAttention" in r.path)
    q, k, v = (np.asarray(part, np.float64)[0, :, 0] for part in core.x)
    s = np.where(np.tril(np.ones((len(q),) * 2)) > 0, q @ k.T / np.sqrt(q.shape[-1]), -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = np.asarray(core.dy, np.float64)[0, :, 0] @ v.T
    return p, -p * (dp - (p * dp).sum(-1, keepdims=True))


def gpt():
    """The cost of a small GPT over training, and what it writes on the way."""
    rhyme = import_module("character_gpt")
    x, y = rhyme.windows(rhyme.RHYME)
    model = fp.gpt(256, rhyme.LENGTH, width=32, depth=1)
    optimizer, loss = optax.adam(3e-3), fp.SoftmaxCrossEntropy()
    state = fp.init_state(model, optimizer, jax.random.key(1), x[:1])
    one_epoch = fp.epoch(fp.train_step(fp.backprop(model, loss), optimizer), 32)
    prompt = jnp.asarray(list(b"this is the"))
    costs, said = [], []
    for number in range(60):
        if number in (0, 8, 20, 59):
            drawn = fp.generate(model, state.params, prompt, 36, jax.random.key(2), temperature=0)
            said.append((number, "".join(chr(i) if 32 <= i < 127 else "·" for i in drawn)))
        state, metrics = one_epoch(state, (x, y))
        costs.append(float(metrics.loss.mean()))
    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    ax.plot(costs, color=BLUE)
    for number, _ in said:
        ax.plot(number, costs[number], "o", color=RED)
    lines = [f"{number:>2}: this is the{words}" for number, words in said]
    ax.text(0.98, 0.95, "\n".join(lines), transform=ax.transAxes, ha="right", va="top",
            family="monospace", fontsize=7)  # fmt: skip
    ax.set(xlabel="epoch", ylabel="nats a letter", ylim=(0, None))
    return figure


def beyond():
    """The angle between feedback alignment's update and the gradient, over training."""
    data = load("digits").train
    x, y = jnp.asarray(data.x).reshape(len(data.x), -1), jnp.asarray(data.y)
    model = fp.rewire(
        fp.Serial(fp.Dense(64), fp.Tanh(), fp.Dense(32), fp.Tanh(), fp.Dense(10)),
        {fp.Dense: fp.rewiring.feedback_alignment()},
    )
    loss, optimizer = fp.SoftmaxCrossEntropy(), optax.sgd(0.1)
    angles = jax.jit(fp.rewiring.alignment(model, loss))
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    one_epoch = fp.epoch(fp.train_step(fp.backprop(model, loss), optimizer), 32)
    seen = []
    for _ in range(25):
        seen.append([float(angles(state.params, (x, y))[f"[{i}].w"]) for i in (0, 2, 4)])
        state, _ = one_epoch(state, (x, y))
    figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
    for values, name, color in zip(np.array(seen).T, ("first", "second", "last"),
                                   (BLUE, RED, INK), strict=True):  # fmt: skip
        ax.plot(values, color=color, label=f"{name} layer")
    ax.axhline(90, color=PALE)
    ax.text(0, 91.5, "90°: no help at all", fontsize=8)
    ax.set(xlabel="epoch", ylabel="angle to the gradient, °", ylim=(-3, 105))
    ax.legend(frameon=False)
    return figure


def seeds():
    """The 3-2-1 network of the second seed: one arrow worked out, and one a layer below it."""
    figure, ax = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
    bare(ax).set(xlim=(-0.6, 9), ylim=(-0.6, 3.2), aspect="equal")
    inputs, hidden, out = [(0, 2.6), (0, 1.3), (0, 0)], [(2.2, 2), (2.2, 0.6)], (4.4, 1.3)
    for i, place in enumerate(inputs):
        circle(ax, *place, f"x{'₁₂₃'[i]}")
        for j, other in enumerate(hidden):
            special = (i, j) == (1, 0)
            arrow(ax, place, other, color=BLUE if special else "#b0b0b0")
    for j, place in enumerate(hidden):
        circle(ax, *place, f"a¹{'₁₂'[j]}")
        arrow(ax, place, out, color=RED if j == 0 else "#b0b0b0")
    circle(ax, *out, "a²")
    ax.text(1.0, 1.95, "w¹₂₁", color=BLUE, fontsize=9)
    ax.text(3.3, 1.95, "w²₁", color=RED, fontsize=9)
    words = [("the arrow into the output:", INK), ("δ² = (a² − y) · a²(1 − a²)", RED),
             ("∂C/∂w²₁ = a¹₁ δ²", RED), ("", INK), ("an arrow one layer down:", INK),
             ("δ¹₁ = δ² w²₁ · a¹₁(1 − a¹₁)", BLUE), ("∂C/∂w¹₂₁ = x₂ δ¹₁", BLUE)]  # fmt: skip
    for line, (text, color) in enumerate(words):
        ax.text(5.2, 2.7 - 0.42 * line, text, color=color, fontsize=10)
    return figure


PICTURES = {
    "one-neuron": one_neuron, "chain-rule": chain_rule, "layer": layer, "vanishing": vanishing,
    "check": check, "batches": batches, "convolution": convolution, "attention": attention,
    "gpt": gpt, "beyond": beyond, "seeds": seeds,
}  # fmt: skip


def main(folder: Path = Path(__file__).parent) -> None:
    for name, picture in PICTURES.items():
        figure = picture()
        figure.savefig(folder / f"{name}.png")
        plt.close(figure)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
