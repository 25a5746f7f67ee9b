"""The arguments of a call: what is differentiated stands in x, the rest is closed over.

A comparison works on real numbers. Complex ones go through it as their two parts, and JAX's own
rules for `lax.complex`, `real` and `imag` say what a gradient by them is: for a cotangent ȳ of a
complex output the parts of y have the cotangents Re ȳ and −Im ȳ, since JAX pairs Re(ȳ · y) and
conjugates nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import is_key
from funcprop.gradient import without_float0
from funcprop.layer import spell


class Complex(NamedTuple):
    """A complex array as two real ones."""

    real: Any
    imag: Any


@dataclass(frozen=True)
class Static:
    """An argument that is no array, or that a rule has among its `nondiff_argnums`."""

    value: Any


@dataclass(frozen=True, eq=False)
class Arguments:
    """How a call is made of x.

    tree    of (args, kwargs)
    leaves  for each of them: a Static, or whether it is complex
    """

    tree: Any
    leaves: tuple[Static | bool, ...]

    def call(self, x: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """-> args and kwargs."""
        parts = iter(jax.tree.leaves(x))
        values = []
        for leaf in self.leaves:
            if isinstance(leaf, Static):
                values.append(leaf.value)
            elif leaf:
                values.append(jax.lax.complex(next(parts), next(parts)))
            else:
                values.append(next(parts))
        return jax.tree.unflatten(self.tree, values)

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of x, with complex outputs in two parts."""

        def of_x(*x: Any) -> Any:
            args, kwargs = self.call(x)
            return in_parts(function(*args, **kwargs))

        return named(of_x, function)

    def bound_pair(
        self, forward: Callable[..., Any], backward: Callable[..., Any]
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The two functions of a rule, of x and of cotangents in two parts."""

        def forward_of_x(*x: Any) -> Any:
            args, kwargs = self.call(x)
            result = forward(*args, **kwargs)
            if not isinstance(result, tuple) or len(result) != 2:
                return result  # told where it is called
            return in_parts(result[0]), result[1]

        def backward_of_parts(kept: Any, dy: Any) -> Any:
            dy = jax.tree.map(
                lambda leaf: jax.lax.complex(leaf.real, -leaf.imag) if is_parts(leaf) else leaf,
                dy, is_leaf=is_parts,
            )  # fmt: skip
            given = without_float0(backward(kept, dy))
            return jax.tree.map(
                lambda leaf: Complex(leaf.real, -leaf.imag) if is_complex(leaf) else leaf, given
            )

        return named(forward_of_x, forward), named(backward_of_parts, backward)


def arguments_of(
    args: Sequence[Any],
    kwargs: dict[str, Any],
    fixed: Sequence[int] = (),
    numbers: bool = True,
) -> tuple[Arguments, tuple[Any, ...]]:
    """-> how a call is made, and x: the arrays among the arguments, a tuple with one entry each.

    fixed    positions of arguments that are no data, as `nondiff_argnums` has them
    numbers  whether Python's floats are data

    Integers, booleans, strings, functions and None of Python are what they are; NumPy's numbers and
    arrays, and those of other libraries, become JAX's. Keyword arguments are a dict at the end.

    Raises TypeError where nothing is given, and for arrays that JAX does not take.
    """
    if not args and not kwargs:
        raise TypeError("there are no example arguments: write compare(jax.nn.relu, x)")
    paths, tree = jax.tree.flatten_with_path((tuple(args), kwargs))
    count, leaves, values = len(args), [], []
    for path, leaf in paths:
        position = path[1].idx - count if path[0].idx == 0 else None
        is_fixed = position is not None and {position, position + count} & set(fixed)
        if is_fixed or not is_data(leaf, numbers):
            leaves.append(Static(leaf))
            values.append(None)
            continue
        array = as_array(leaf, f"args{jax.tree_util.keystr(path[1:])}")
        leaves.append(is_complex(array))
        values.append(in_parts(array))
    args, kwargs = jax.tree.unflatten(tree, values)
    x = (*args, kwargs) if jax.tree.leaves(kwargs) else tuple(args)
    return Arguments(tree, tuple(leaves)), x


def is_data(leaf: Any, numbers: bool = True) -> bool:
    """Whether a leaf is an array, or a number that may be differentiated."""
    if isinstance(leaf, (bool, int, np.bool_, np.integer, str, bytes)) or leaf is None:
        return False
    if isinstance(leaf, (float, complex)):
        return numbers
    return any(hasattr(leaf, name) for name in ("dtype", "__array__", "__dlpack__"))


def as_array(leaf: Any, place: str) -> Any:
    """A JAX array. Raises TypeError where there is none."""
    if isinstance(leaf, jax.Array) and is_key(leaf):
        return leaf
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{place} is {spell(leaf)}, wanted an array") from error


def is_complex(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.complexfloating)


def is_parts(leaf: Any) -> bool:
    return isinstance(leaf, Complex)


def in_parts(tree: Any) -> Any:
    """Complex leaves as `Complex`."""

    def one(leaf: Any) -> Any:
        return Complex(jnp.real(leaf), jnp.imag(leaf)) if is_complex(leaf) else leaf

    return jax.tree.map(one, tree)


def named(wrapper: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The wrapper, by the name of what it wraps."""
    while isinstance(function, functools.partial):
        function = function.func
    wrapper.__name__ = getattr(function, "__name__", type(function).__name__)
    wrapper.__wrapped__ = function  # type: ignore[attr-defined]
    return wrapper
