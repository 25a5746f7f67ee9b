"""Which exercises there are, and the file that a student is given: the solved one, made blank."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

SOLVED = Path(__file__).parent / "solved"
YOURS = (
    "# your lines in place of this one",
    'raise NotImplementedError("backward is not written yet")',
)


@dataclass(frozen=True)
class Task:
    """A layer to write the backward of.

    name   what it is called for: "softmax-ce"
    layer  the name of its class, by which a student's file is known
    teaches  what is new in it
    page   the derivation, docs/derivations/PAGE.md
    letters  what its file calls that which compare calls dx and dy, in pairs
    """

    name: str
    layer: str
    teaches: str
    page: str
    letters: tuple[tuple[str, str], ...] = ()

    def spoken(self, words: str) -> str:
        """Words of compare in the letters of the file: dx of an activation is its dz."""
        said = words.replace(f", {self.layer}: ", ", ")
        if not self.letters:
            return said
        letters = dict(self.letters)
        names = "|".join(map(re.escape, sorted(letters, key=len, reverse=True)))
        return re.sub(rf"\b({names})(?!\w)", lambda found: letters[found[1]], said)

    @property
    def file(self) -> str:
        """The name of its file: softmax_ce.py."""
        return f"{self.name.replace('-', '_')}.py"

    @property
    def solution(self) -> str:
        """The whole file."""
        return (SOLVED / self.file).read_text(encoding="utf-8")

    @property
    def blank(self) -> str:
        """The file, with the docstring of backward and none of its lines."""
        return without_backward(self.solution)


ACTIVATION = (("dx", "dz"), ("dy", "da"))
DENSE = (("dy", "dz"),)
COST = (("dx[0]", "da"), ("dx[1]", "dy"), ("dy", "dcost"))
CLASSES = (("dx[0]", "dz"), ("dy", "dcost"))
STEP = (("dx[0]", "dread"), ("dx[1]", "dmemory"), ("dy", "dh"))
THREE = (("dx[0]", "dq"), ("dx[1]", "dk"), ("dx[2]", "dv"))

EXERCISES = (
    Task("sigmoid", "Sigmoid", "a slope, written with what was kept", "activations", ACTIVATION),
    Task("tanh", "Tanh", "the same with another slope", "activations", ACTIVATION),
    Task("relu", "ReLU", "a kink, and what is said there", "activations", ACTIVATION),
    Task("dense", "Dense", "paths add: a transpose, and a sum over the batch", "dense", DENSE),
    Task("quadratic", "Quadratic", "where ½ and 1/m go; a cost on a pair", "losses", COST),
    Task("softmax-ce", "SoftmaxCE", "p − y, and labels without a gradient", "losses", CLASSES),
    Task("batch-norm", "BatchNorm", "three paths, two of them through a mean", "normalization"),
    Task("layer-norm", "LayerNorm", "the same along the other axis", "normalization"),
    Task("dropout", "Dropout", "random numbers are kept, not drawn again", "stochastic"),
    Task("conv", "Conv", "one weight at many places", "convolution"),
    Task("max-pool", "MaxPool", "an index is kept, and a gradient finds its way", "pooling"),
    Task("rnn", "RNNStep", "two inputs and three parameters share one dz", "recurrence", STEP),
    Task("attention", "Attention", "a softmax inside, three inputs", "attention", THREE),
)


def without_backward(source: str) -> str:
    """The source, every `backward` of it with its docstring and the line that says it is blank."""
    lines = source.splitlines()
    methods = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "backward"
    ]
    for method in sorted(methods, key=lambda node: -node.lineno):
        first, last = method.body[0], method.body[-1]
        indent = " " * first.col_offset
        lines[first.end_lineno : last.end_lineno] = [indent + line for line in YOURS]
    return "\n".join(lines) + "\n"
