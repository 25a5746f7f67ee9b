"""A picture of every example, beside this file: example-NAME.png.

    python docs/images/examples.py [NAME ...]

Each example is run as it stands, and what it prints or passes on is drawn. Minutes in all.
"""

import contextlib
import importlib.util
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

import funcprop as fp
from funcprop.collectors.accounting import epsilon

matplotlib.use("Agg")
from matplotlib.figure import Figure

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
NUMBER = r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?"
LETTERS = {"F": "#9ecae1", "B": "#fdae6b", "W": "#a1d99b", "f": "#9ecae1", "b": "#fdae6b"}


class Run:
    """An example that was run: its module, and what it printed."""

    def __init__(self, name: str, *arguments: Any) -> None:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec and spec.loader
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.passed: list[Any] = []
        if hasattr(self.module, "total"):  # what it makes of its records
            whole = self.module.total
            self.module.total = lambda *given: self.passed.append(whole(*given)) or self.passed[-1]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            self.module.main(*arguments)
        self.text = printed.getvalue()

    def table(self, pattern: str) -> list[tuple[str, ...]]:
        """The groups of every line in which the pattern is found."""
        found = [re.search(pattern, line) for line in self.text.splitlines()]
        return [match.groups() for match in found if match]

    def columns(self) -> np.ndarray:
        """The lines that are numbers alone, as [lines, numbers]; missing ones are NaN."""
        rows = [re.findall(NUMBER, line) for line in self.text.splitlines()
                if re.fullmatch(rf"(?:\s*{NUMBER})+\s*", line)]  # fmt: skip
        width = max(map(len, rows))
        return np.array([[*map(float, row), *[np.nan] * (width - len(row))] for row in rows])


def bars(axes: Any, names: list[str], sizes: list[float], of: str, digits: int = 4) -> None:
    axes.bar(names, sizes, color="#3f51b5", width=0.6)
    for i, size in enumerate(sizes):
        axes.text(i, size, f"{size:.{digits}g}", ha="center", va="bottom", fontsize="small")
    axes.set(ylabel=of)
    axes.margins(y=0.15)


def percent(text: str) -> float:
    return float(text.rstrip("%"))


def from_scratch(axes: Any, run: Run) -> None:
    m = run.module
    params, _ = m.MODEL.init(jax.random.key(0), 2)
    params = jax.jit(lambda p: m.descend(m.MODEL, p, m.X, m.Y, 4.0, 2000))(params)
    fp.plots.decision_boundary(axes, lambda x: m.MODEL.forward(params, x)[0], m.X, m.Y)


def own_framework(axes: Any, run: Run) -> None:
    rows = run.table(rf"(\d NAND \d) = ({NUMBER})")
    bars(axes, [name for name, _ in rows], [float(a) for _, a in rows], "output")


def network(axes: Any, run: Run) -> None:
    rows = run.table(r"Epoch (\d+): (\d+) / (\d+)")
    share = [100 * int(right) / int(of) for _, right, of in rows]
    fp.plots.curves(axes, [int(n) + 1 for n, *_ in rows], {"test": share}, "epochs", "accuracy (%)")


def manual_and_automatic(axes: Any, run: Run) -> None:
    table = run.columns()
    lines = {"by hand": table[:, 1], "automatic": table[:, 2]}
    fp.plots.curves(axes, table[:, 0], lines, "step", "loss")


def mazur(axes: Any, run: Run) -> None:
    m = run.module
    names = ["E = ", "after one update", "with the page's bug"]
    found = [float(run.table(rf"^{re.escape(name)}\s*(?:=\s*)?({NUMBER})")[0][0])
             for name in ("E = ", "E after one update", "with the page's bug")]  # fmt: skip
    assert m.model and len(found) == len(names)
    bars(axes, ["E before", "after one update", "with the bug"], found, "error", digits=9)
    axes.set(ylim=(0.28, 0.30))


def convnet(axes: Any, run: Run) -> None:
    rows = run.table(rf"after epoch (\d+): loss {NUMBER}, ({NUMBER}%)")
    share = [percent(right) for _, right in rows]
    fp.plots.curves(axes, [int(n) for n, _ in rows], {"test": share}, "epochs", "accuracy (%)")


def lstm(axes: Any, run: Run) -> None:
    rows = run.table(rf"^(before|after) training, .* ({NUMBER}%)")
    bars(axes, [f"{when} training" for when, _ in rows], [percent(share) for _, share in rows],
         "of the error that arrives, at the first step (%)")  # fmt: skip


def character_gpt(axes: Any, run: Run) -> None:
    rows = run.table(rf"after epoch (\d+), ({NUMBER}) nats")
    fp.plots.curves(axes, [int(n) for n, _ in rows], {"training": [float(c) for _, c in rows]},
                    "epochs", "nats a byte", log=True)  # fmt: skip


def ensemble(axes: Any, run: Run) -> None:
    alone = [percent(word) for word in run.table(r"alone\s+(.*)")[0][0].split()]
    together = percent(run.table(r"together\s+(\S+)")[0][0])
    names = [str(i + 1) for i in range(len(alone))]
    bars(axes, [*names, "all"], [*alone, together], "of the test set right (%)")
    axes.set(ylim=(min(alone) - 2, 100))


def binarized_weights(axes: Any, run: Run) -> None:
    rows = run.table(rf"(\d+) bits a hidden weight: ({NUMBER}%)")
    bars(axes, [f"{bits} bits" for bits, _ in rows], [percent(share) for _, share in rows],
         "of the test set right (%)")  # fmt: skip


def transformer(axes: Any, run: Run) -> None:
    rows = run.table(rf"^  (\S.*?)\s{{2,}}({NUMBER})")
    names = [" ".join(path.split()[-2:]) for path, _ in rows]
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [float(ratio) for _, ratio in rows], color="#3f51b5")
    axes.set_yticks(places, names, fontsize="small")
    axes.set(xlabel="‖dw‖ / ‖w‖", xscale="log")


def norms(axes: Any, run: Run) -> None:
    fp.plots.per_example_norms(axes, np.sqrt(np.asarray(run.passed[-1], np.float64)))


def kfac(axes: Any, run: Run) -> None:
    table = run.columns()
    lines = {"SGD": table[:, 1], "K-FAC": table[:, 2]}
    fp.plots.curves(axes, table[:, 0], lines, "step", "loss", log=True)


def lifted_kfac(axes: Any, run: Run) -> None:
    table = run.columns()
    for name, column in (("Adam", 1), ("K-FAC", 2)):
        known = ~np.isnan(table[:, column])
        axes.plot(table[known, 0], table[known, column], ".-", label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()


def less_memory(axes: Any, run: Run) -> None:
    rows = run.table(rf"^(\S.*?)\s+({NUMBER}) MB")
    bars(axes, [name for name, _ in rows], [float(size) for _, size in rows],
         "MB beside the state")  # fmt: skip


def feedback_alignment(axes: Any, run: Run) -> None:
    rows = run.table(rf"^(.+?)\s+({NUMBER}) %\s+({NUMBER}) °\s+({NUMBER}) °")
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [float(after) for *_, after in rows], color="#3f51b5")
    for place, (_, wrong, _, after) in zip(places, rows, strict=True):
        axes.text(float(after) + 1, place, f"{wrong} % wrong", va="center", fontsize="small")
    axes.set_yticks(places, [name for name, *_ in rows])
    axes.set(xlabel="angle to the gradient after training (°)", xlim=(0, 110))


def zero_bubble(axes: Any, run: Run) -> None:
    """The timelines, a row a stage: forward, input half, weight half."""
    blocks = [block.splitlines() for block in run.text.split("\n\n")[1:]]
    top = 0.0
    for title, *rows in blocks:
        axes.text(0, top - 0.6, title, fontsize="x-small", va="bottom")
        for row in rows:
            words = row.rpartition("  ")[2] if "  " in row.strip() else row
            for i, letter in enumerate(words):
                if letter.upper() in LETTERS:
                    axes.barh(top, 1, left=i, color=LETTERS[letter.upper()], height=0.9)
            top += 1
        top += 1.8
    axes.invert_yaxis()
    axes.set_axis_off()


def private_training(axes: Any, run: Run) -> None:
    """What a step more costs, at the noise that the example took."""
    noise = float(run.table(rf"noise multiplier ({NUMBER})")[0][0])
    steps = np.unique(np.geomspace(1, 170, 12).astype(int))
    spent = [epsilon(noise, 256 / 1437, int(n), 1e-5) for n in steps]
    fp.plots.curves(axes, list(steps), {f"noise {noise:g}": spent}, "steps", "ε at δ = 1e-5")


PICTURES: dict[str, Callable[[Any, Run], None]] = {
    "from_scratch": from_scratch,
    "own_framework": own_framework,
    "network": network,
    "manual_and_automatic": manual_and_automatic,
    "mazur": mazur,
    "convnet": convnet,
    "lstm": lstm,
    "character_gpt": character_gpt,
    "transformer": transformer,
    "ensemble": ensemble,
    "binarized_weights": binarized_weights,
    "from_flax": norms,
    "from_equinox": norms,
    "kfac": kfac,
    "lifted_kfac": lifted_kfac,
    "less_memory": less_memory,
    "feedback_alignment": feedback_alignment,
    "zero_bubble": zero_bubble,
    "private_training": private_training,
    "flax_private": private_training,
}
# Drawn elsewhere: by the examples themselves, and by learn.py.
OTHERS = {"computation_graph": "graph.png", "per_example": "suspects.png",
          "vanishing": "vanishing.png"}  # fmt: skip


def main(*names: str) -> None:
    for name in names or PICTURES:
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        PICTURES[name](figure.subplots(), Run(name))
        figure.savefig(HERE / f"example-{name}.png", dpi=110)
        print(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
