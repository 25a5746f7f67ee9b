"""What may be kept of an argument when the call is over: values, or shapes and dtypes, no tracer.

Nothing here runs an operation of JAX: while a program is traced, it would become part of it.
"""

from __future__ import annotations

import gc
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Jaxpr

from funcprop.testing.places import contents

MANY = 20_000  # objects, after which a search is given up


NUMBERS = (bool, int, float, complex)


class Unseen(NamedTuple):
    """An array of which a trace told the shape and the dtype alone."""

    shape: tuple[int, ...]
    dtype: Any


class Unusable(Exception):
    """A call cannot be made again: why."""


def kept(leaf: Any) -> Any:
    """A copy of the values on the host, `Unseen`, or a number of Python. Raises Unusable."""
    if isinstance(leaf, NUMBERS):
        return leaf
    if isinstance(leaf, Tracer):
        values = concrete(leaf)
        return type_of(leaf) if values is None else values
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
        raise Unusable(f"an argument holds {type(leaf).__name__}, which is no array")
    return unwrapped(leaf)


def unwrapped(leaf: Any) -> Any:
    """The values of an array that is no tracer; its type where they are elsewhere."""
    like = type_of(leaf)
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return leaf
    try:
        return np.array(leaf, like.dtype)
    except RuntimeError:  # deleted, or on another host
        return like


def type_of(leaf: Any) -> Unseen:
    """Shape and dtype, as JAX takes them now. Raises Unusable for what is no array."""
    seen = jax.typeof(leaf)
    if type(seen) is not type(jax.typeof(np.float32(0))):
        raise Unusable(f"an argument is a {type(seen).__name__}, and no array")
    return Unseen(seen.shape, seen.dtype)


def concrete(leaf: Any) -> Any:
    """The values under a tracer of jax.grad or jax.jvp, or an example's under one of jax.vmap;
    None where there are none, as under jit and scan."""
    wanted = jax.typeof(leaf).shape
    taken: list[int] = []  # the mapped axes, the innermost first
    while isinstance(leaf, Tracer):
        if hasattr(type(leaf), "primal"):
            leaf = leaf.primal  # type: ignore[attr-defined]
        elif hasattr(type(leaf), "batch_dim"):
            axis = leaf.batch_dim  # type: ignore[attr-defined]
            leaf = leaf.val  # type: ignore[attr-defined]
            if isinstance(axis, int):
                taken.append(axis)
            elif axis is not None:
                return None
        else:
            return None
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, *NUMBERS)):
        return None
    values = unwrapped(leaf)
    if isinstance(values, np.ndarray):
        for axis in reversed(taken):
            values = np.asarray(values.take(0, axis))
    return values if getattr(values, "shape", None) == wanted else None


def is_known(leaf: Any) -> bool:
    """Whether a float's values were seen, all of them finite; true of all else."""
    if isinstance(leaf, Unseen):
        return False
    measured = isinstance(leaf, float) or (isinstance(leaf, np.ndarray) and is_differentiable(leaf))
    return not measured or is_finite(leaf)


def is_differentiable(leaf: Any) -> bool:
    """Whether it is an array of floats, or of complex numbers, seen or not."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, np.inexact)


def is_finite(values: Any) -> bool:
    """Whether no float is infinite or NaN; bfloat16 too, which NumPy does not know."""
    values = np.asarray(values)
    kind = np.complex128 if values.dtype.kind == "c" else np.float64
    return bool(np.isfinite(values.astype(kind)).all())


def holds_tracer(*roots: Any) -> bool:
    """Whether a tracer can be reached from the objects: what functions close over, attributes,
    items. What is too large to be searched counts as holding one."""
    seen, queue = set(), list(roots)
    while queue:
        value = queue.pop()
        if isinstance(value, Tracer):
            return True
        if id(value) in seen or isinstance(value, WITHOUT_REFERENCES):
            continue
        seen.add(id(value))
        if len(seen) > MANY:
            return True
        if isinstance(value, types.FunctionType):
            queue += [*contents(value), *vars(value).values()]
        elif type(value).__name__ == "PjitFunction":  # its caches are JAX's
            queue.append(value.__wrapped__)
        else:
            queue += gc.get_referents(value)
    return False


# Without references, or with references to the whole process.
WITHOUT_REFERENCES = (
    *(type, types.ModuleType, types.CodeType, types.BuiltinFunctionType, types.FrameType),
    *(str, bytes, *NUMBERS, np.ndarray, np.generic, np.dtype, jax.Array, Jaxpr),
)
