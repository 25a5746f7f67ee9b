"""What a layer is tried on where nobody says: rows of its own package, or plain inputs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import jax

from funcprop.catalogue.inputs import Classes, Normal
from funcprop.catalogue.row import Row
from funcprop.gradient import partition
from funcprop.layer import Context, Layer

PLAIN = (  # four examples: two would unpack as if they were a pair
    Normal((4, 6)),  # features
    Normal((4, 5, 6)),  # sequences
    Normal((4, 8, 8, 4)),  # images
    (Normal((4, 6)), Normal((4, 6))),  # a prediction and its target
    (Normal((4, 6)), Classes((4,), 6)),  # logits and labels
    Classes((4, 5), 6),  # tokens
)


class NoExample(ValueError):
    """Nothing says what to try a layer on; the text shows the Row to write."""


def examples(kind: type[Layer], rows: Sequence[Row], package: str) -> list[Row]:
    """The rows whose layer is of exactly this type, or one of a plain input that fits.

    kind     made without arguments where there is no row
    package  where the rows come from, for the error
    Raises NoExample.
    """
    own = [row for row in rows if type(row.layer) is kind]
    if own:
        return own
    name = kind.__name__
    try:
        layer = kind()
    except Exception as error:
        raise _missing(kind, package, f"{name}() raised {_words(error)}") from error
    reasons = []
    for x in PLAIN:
        row = Row(name, layer, x)
        try:
            if differentiable(row):
                return [row]
        except Exception as error:
            reasons.append(error)
    why = f"plain inputs do not fit: {_words(reasons[0])}" if reasons else "no float comes out"
    raise _missing(kind, package, why)


def differentiable(row: Row) -> bool:
    """Whether floats go in and come out; raises what init and forward raise. Nothing is run."""

    x, context = row.inputs(jax.random.key(0))

    def run(x: object, context: Context) -> tuple[object, object]:
        params = row.layer.init(jax.random.key(0), x)
        return partition((params, x))[0], partition(row.layer.forward(params, x, context)[0])[0]

    into, out = jax.eval_shape(run, x, context)
    return bool(jax.tree.leaves(into) and jax.tree.leaves(out))


def _missing(kind: type[Layer], package: str, reason: str) -> NoExample:
    name = kind.__name__
    given = [
        f"{parameter.name}=..."
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    return NoExample(
        f"no Row in {package} has a layer of the type {name}, and {reason}\n"
        f"say what to try it on, at the top level of a module of {package}:\n\n"
        "    from funcprop.catalogue import Normal, Row\n\n"
        f'    EXAMPLE = Row("{name}", {name}({", ".join(given)}), Normal((4, 6)))\n\n'
        f"or call it _{name}, if it is only there for other layers to build on"
    )


def _words(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
