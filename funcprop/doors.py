"""The door of public functions: what is given to them becomes arrays, or is answered in words.

`door` stands above a function and reads its signature: what an argument has to be is said by its
annotation and, for numbers and arrays, by its name, which means the same everywhere here.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np

from funcprop.arguments import arrays, is_array, is_key
from funcprop.layer import Context, Layer, concrete, spell

F = TypeVar("F", bound=Callable[..., Any])

# low, high: of the numbers whose range nobody else looks at.
RANGES = {
    "depth": (1, math.inf),
    "steps": (1, math.inf),
    "examples": (1, math.inf),
    "runs": (1, math.inf),
    "chunks": (1, math.inf),
    "seed": (0, math.inf),
    "seconds": (0, 1e6),
    "communication": (0, math.inf),
    "delta": (1e-300, 1 - 1e-12),
    "rate": (1e-300, 1),
    "epsilon": (1e-300, math.inf),
    "factor": (-math.inf, math.inf),
}
ARRAYS = {"x", "batch", "data", "prompt", "params", "statistics"}
ARRAYS |= {"collected", "factors", "inverses"}
ALIKE = {"v": "params", "moment": "gradient"}  # trees of the same structure, shapes and dtypes


def door(function: F) -> F:
    """The function behind a look at its arguments.

    Called, it raises TypeError for an argument of another kind, ValueError for a number out of
    range; what other libraries call arrays arrives as JAX's.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        try:
            bound = signature.bind(*args, **options)
        except TypeError as error:
            raise TypeError(f"{name}: {error}: {how_to_call(name, signature)}") from None
        for key, value in bound.arguments.items():
            bound.arguments[key] = admitted(name, signature, signature.parameters[key], value)
        for one, other in ALIKE.items():
            if one in bound.arguments and other in bound.arguments:
                check_alike(name, one, bound.arguments[one], other, bound.arguments[other])
        return function(*bound.args, **bound.kwargs)

    name = "gradient" if function.__name__ == "__call__" else function.__name__
    return cast(F, checked)


def admitted(name: str, signature: inspect.Signature, parameter: Any, value: Any) -> Any:
    """The value of one argument, arrays converted. Raises TypeError and ValueError."""
    kind, called = str(parameter.annotation), parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return value
    if value is None and (kind.endswith("| None") or parameter.default is None):
        return value
    kind = kind.removesuffix("| None").strip()
    place = f"{name}: {called}"
    wanted = None
    if kind == "Layer" or (called in ("model", "layer", "loss") and kind == "Any"):
        wanted = None if isinstance(value, Layer) else "a layer"
        if isinstance(value, type) and issubclass(value, Layer):
            wanted = f"a layer and not its class: {value.__name__}(...)"
    elif kind == "bool":
        wanted = None if isinstance(value, bool) else "True or False"
    elif kind in ("int", "float"):
        check_number(place, called, kind, value)
    elif kind == "Context":
        wanted = None if isinstance(value, Context) else "fp.Context(key=..., mask=...)"
    elif called == "key":
        wanted = None if is_key(value) else "one key, as jax.random.key(0)"
    elif kind == "optax.GradientTransformation":
        right = callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))
        wanted = None if right else "an optimizer of optax, as optax.sgd(0.1)"
        if right and isinstance(value, (Layer, type)):
            wanted = "an optimizer of optax, as optax.sgd(0.1)"
    elif kind == "GradientFunction":
        wanted = None if is_function(value) else "a gradient function, as backprop(model, loss)"
    elif kind == "Step":
        wanted = None if is_function(value) else "a step, as train_step(gradient, optimizer)"
    elif kind == "str | Path":
        wanted = None if isinstance(value, (str, os.PathLike)) else "a path"
    elif kind == "TrainState":
        right = hasattr(value, "params") and hasattr(value, "opt_state")
        wanted = None if right else "a TrainState, as init_state(model, optimizer, key, x)"
    elif isinstance(value, Layer) and (kind in ("Params", "Array") or called in ARRAYS):
        wanted = "arrays"  # arguments in another order
    elif kind in ("Params", "Array") or called in ARRAYS:
        value = arrays(place, value)
        wanted = None if kind != "Array" or is_array(value) else "an array"
    if wanted is not None:
        given = repr(value) if isinstance(value, (str, bool, int, float)) else spell(value)
        raise TypeError(f"{place} is {given}, wanted {wanted}: {how_to_call(name, signature)}")
    return value


def check_number(place: str, called: str, kind: str, value: Any) -> None:
    """A number of Python or NumPy, or an array [] of one, in its range where it is known."""
    low, high = RANGES.get(called, (-math.inf, math.inf))
    wanted = "a whole number" if kind == "int" else "a number"
    if isinstance(value, (jax.Array, np.ndarray)) and value.shape == ():
        value = concrete(value)
        if value is None and kind == "float":
            return
        value = None if value is None else value[()]
    right = isinstance(value, numbers.Integral if kind == "int" else numbers.Real)
    if not right or isinstance(value, (bool, np.bool_)):
        given = repr(value) if isinstance(value, (str, bool, int, float)) else spell(value)
        raise TypeError(f"{place} is {given}, wanted {wanted}")
    number = float(value)
    if not low <= number <= high or number == math.inf:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        bounds = "greater than 0" if 0 < low < 1 and high == math.inf else bounds
        bounds = "between 0 and 1" if 0 < low < 1 and high <= 1 else bounds
        raise ValueError(f"{place} is {value!r}, wanted {wanted} {bounds}")


def check_alike(name: str, one: str, tree: Any, other: str, wanted: Any) -> None:
    """Raises ValueError where two trees differ in structure, shapes or dtypes."""

    def types(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(np.shape(leaf), jax.dtypes.result_type(leaf)) for leaf in leaves]

    if types(tree) != types(wanted):
        raise ValueError(
            f"{name}: {one} is {spell(tree)}, wanted a tree like {other}, {spell(wanted)}, of its "
            "shapes and dtypes"
        )


def is_function(value: Any) -> bool:
    """Whether it can be called, and is neither a class nor a layer, whose call raises."""
    return callable(value) and not isinstance(value, (type, Layer))


def how_to_call(name: str, signature: inspect.Signature) -> str:
    """`write step(state, (x, target))`."""
    needed = [
        "(x, target)" if p.name == "batch" else p.name
        for p in signature.parameters.values()
        if p.name == "loss" or (p.default is p.empty and p.kind is not p.VAR_KEYWORD)
    ]
    return f"write {name}({', '.join(word for word in needed if word != 'self')})"
