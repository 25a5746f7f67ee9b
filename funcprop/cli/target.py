"""What `funcprop compare module:attribute` compares, and the inputs that --x describes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.catalogue.comparisons import Effort, compare_row
from funcprop.catalogue.discovery import attribute
from funcprop.catalogue.inputs import Spec, draw
from funcprop.catalogue.row import Row
from funcprop.cli.errors import UsageError
from funcprop.comparison.front import compare
from funcprop.comparison.programs import generator
from funcprop.comparison.report.comparison import Comparison
from funcprop.comparison.subject.targets import adapted
from funcprop.exercises import own_layer
from funcprop.layer import Context, Layer, spell

WORD = re.compile(r"(?:(?P<dtype>[a-z]+\d*):)?(?P<shape>[1-9]\d*(?:x[1-9]\d*)*)(?:<(?P<high>\d+))?")
FLOATS = ("float32", "bfloat16", "float16")  # what float64 would say is told by every comparison
INTEGERS = ("int32", "int16", "int8", "uint32", "uint16", "uint8")
HOW = "write --x 8x4 for normal floats, --x 'int32:8<10' for integers below 10"


@dataclass(frozen=True)
class Input(Spec):
    """What one --x says: N(0, 1) in `dtype`, integers below `high`, or fair coins for bool."""

    dtype: str = "float32"
    high: int | None = None

    def kind(self, dtype: Any) -> Any:
        return self.dtype

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        if self.high is not None:
            values = random.integers(0, self.high, self.shape)
        elif self.dtype == "bool":
            values = random.integers(0, 2, self.shape)
        else:
            values = random.normal(size=self.shape)
        return np.asarray(values).astype(self.dtype)


@dataclass(frozen=True)
class Given(Spec):
    """An array that a file holds."""

    value: Any = None

    def kind(self, dtype: Any) -> Any:
        return self.value.dtype

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        return np.asarray(self.value)


class Subject(NamedTuple):
    """Something to compare.

    row      its name, and what its cost is measured at
    compare  (how) -> what was found
    own      whether it is the user's, and not of the catalogue
    """

    row: Row
    compare: Callable[[Effort], Comparison]
    own: bool = False


def inputs(words: Sequence[str]) -> tuple[Input, ...]:
    """`8x4`, `bfloat16:8x4`, `int32:8<10`, `bool:8` -> what to draw. Raises UsageError."""
    return tuple(map(_input, words))


def _input(word: str) -> Input:
    found = WORD.fullmatch(word)
    dtype = (found["dtype"] or "float32") if found else ""
    if found is None or dtype not in (*FLOATS, *INTEGERS, "bool"):
        kinds = ", ".join((*FLOATS, *INTEGERS, "bool"))
        raise UsageError(f"--x is {word!r}: {HOW}; there are {kinds}")
    shape, high = tuple(map(int, found["shape"].split("x"))), found["high"]
    if dtype not in INTEGERS:
        if high is not None:
            raise UsageError(f"--x is {word!r}, and {dtype} takes no bound: {HOW}")
        return Input(shape, dtype)
    if high is None:  # unquoted, `<10` is taken by the shell
        raise UsageError(
            f"--x is {word!r}, and integers need a bound: write --x '{word}<10', quoted"
        )
    top = min(int(jnp.iinfo(dtype).max) + 1, 2**31 - 1)
    if not 1 <= int(high) <= top:
        raise UsageError(f"--x is {word!r}, wanted a bound from 1 to {top}")
    return Input(shape, dtype, int(high))


def subject(
    name: str, words: Sequence[str], against: str | None, surrogate: str | None = None
) -> Subject:
    """What `module:attribute` names, with the inputs of --x and the truth of --against, or of
    --surrogate, whose gradients alone are.

    Raises TargetError or UsageError, in one line that says what to write.
    """
    value, specs = attribute(name), inputs(words)
    if against is not None and surrogate is not None:
        raise UsageError("--against and --surrogate are both the truth: leave one out")
    option, given = ("against", against) if surrogate is None else ("surrogate", surrogate)
    peer = None if given is None else attribute(given)
    if given is not None and not callable(peer):
        raise UsageError(f"--{option}: {given} is {spell(peer)}, wanted a function of the inputs")
    if isinstance(value, (Row, Layer)) and given is not None:
        raise UsageError(f"--{option} is for functions, and {name} is {spell(value)}: leave it out")
    if isinstance(value, Row):
        if specs:
            raise UsageError(f"--x: {name} is a Row, which has its own input: leave --x out")
        return of_row(replace(value, name=name), name)
    if isinstance(value, type) and issubclass(value, Layer):
        raise UsageError(
            f"{name} is a class, wanted a layer: write `layer = {value.__name__}(...)` beside it, "
            "and name that"
        )
    pair = isinstance(value, tuple) and len(value) == 2 and all(map(callable, value))
    if not (isinstance(value, Layer) or pair or callable(value)):
        raise UsageError(
            f"{name} is {spell(value)}, wanted a layer, a Row, a pair (forward, backward) "
            "or a function"
        )
    if not specs:
        raise UsageError(f"{name} needs inputs: {HOW}, once for each input")
    tried = f"{name} at --x {' --x '.join(words)}"
    if isinstance(value, Layer):
        x = specs[0] if len(specs) == 1 else specs
        return of_row(Row(name, value, x, large=(value, x)), tried)
    return of_function(name, value, specs, {option: peer}, tried)


def of_row(row: Row, tried: str) -> Subject:
    """A layer at an input."""

    def found(how: Effort) -> Comparison:
        return reported(tried, lambda: compare_row(row, **how.of_row))

    return Subject(row, found, own=True)


def of_file(name: str) -> Subject:
    """The layer of a file, at the x and in the context that stand there. Raises FileError."""
    layer, x, context = own_layer(Path(name))
    specs = jax.tree.map(lambda leaf: Given(np.shape(leaf), np.asarray(leaf)), x)
    row = Row(name, layer, specs, large=(layer, specs))

    def found(how: Effort) -> Comparison:
        def run() -> Comparison:
            params = layer.init(jax.random.key(0), x)
            return compare(layer, params, x, context=context, **how.of_function)

        return reported(name, run)

    return Subject(row, found, own=True)


def of_function(
    name: str, value: Any, specs: Sequence[Input], peer: dict[str, Any], tried: str
) -> Subject:
    """A pair or a function; its cost is measured beside what it is compared with.

    peer   {"against": function or None}, or {"surrogate": function}
    """
    args = draw(tuple(specs), generator(jax.random.key(0)), jnp.float32)
    (against,) = peer.values()
    layer, _, truth = reported(tried, lambda: adapted(value, args, against)[:3])

    def plain(params: Any, x: Any, context: Context) -> Any:
        return truth.forward(params, x, context)[0]

    row = Row(name, layer, tuple(specs), plain=plain, large=(layer, tuple(specs)))

    def found(how: Effort) -> Comparison:
        return reported(tried, lambda: compare(value, *args, **peer, **how.of_function))

    return Subject(row, found, own=True)


def reported(tried: str, run: Callable[[], Any]) -> Any:
    """`run()`, with whatever a target raises told as bad input: a wrong gradient raises nothing."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        reason = str(error).partition("\n\n")[0]  # what follows in JAX's is advice on tracebacks
        raise UsageError(f"{tried}: {type(error).__name__}: {reason}") from error
