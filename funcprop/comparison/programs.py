"""How a comparison runs what it compares: small programs, each compiled once."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, is_float

SMALL = 100_000  # numbers: above, an unoptimized program costs more than its compilation saves
REMEMBERED = 256  # compiled programs
LONGEST = 2_000_000  # characters of a program that is remembered
compiled: OrderedDict[Any, Any] = OrderedDict()
QUICK: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,  # jax 0.10 only
    "xla_cpu_parallel_codegen_split_count": 1,  # in parts, as many threads work, and longer
}


def cast(tree: Any, dtype: Any) -> Any:
    """Float leaves in `dtype`, as NumPy arrays: nothing is compiled. The others unchanged."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).astype(dtype) if is_float(leaf) else leaf, tree
    )


def generator(key: Array) -> np.random.Generator:
    """Random numbers drawn by NumPy from a JAX key: probes compile nothing."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def program(function: Callable[..., Any], *arguments: Any, quick: bool = True) -> Any:
    """The function compiled for such arguments.

    Traced anew every time, so that a backward that was edited in place is seen; what comes out is
    compiled once. `quick` leaves out the optimizations that take most of the compile time: for
    small float64 truths.
    """
    traced = jax.jit(lambda *given: function(*given)).trace(*arguments)
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(arguments))
    small = quick and size <= SMALL and jax.default_backend() == "cpu"
    options = quick_options() if small else None
    lowered = traced.lower()
    key = fingerprint(traced, lowered, small)
    if key is None:
        return lowered.compile(compiler_options=options)
    if key not in compiled:
        compiled[key] = lowered.compile(compiler_options=options)
        while len(compiled) > REMEMBERED:
            compiled.popitem(last=False)
    compiled.move_to_end(key)
    return compiled[key]


def fingerprint(traced: Any, lowered: Any, small: bool) -> Any:
    """What tells a program from any other; None where that takes too long, or cannot be told: a
    callback is another one in the same place."""
    constants = traced.jaxpr.consts
    if any(is_key(leaf) or np.size(leaf) > SMALL for leaf in constants):
        return None
    text = lowered.as_text()
    if "callback" in text or len(text) > LONGEST:
        return None
    values = tuple(np.asarray(leaf).tobytes() for leaf in constants)
    # what a function does not read stands in no program, and is an argument of it all the same
    # (the trees themselves: a class that is defined anew, in a notebook, prints as the old one did)
    types = str(traced.jaxpr.in_avals), lowered.in_tree, lowered.out_tree
    return hash(text), len(text), values, small, types


class Raised(NamedTuple):
    """What stands for a result where the program of it raised, in one line."""

    words: str


def raised(error: Exception) -> Raised:
    """`TypeError: the first line of what it says`."""
    first = (str(error).strip() or "no words").splitlines()[0].strip()
    return Raised(f"{type(error).__name__}: {first if len(first) <= 200 else first[:200] + '…'}")


class Programs:
    """Programs by name, each compiled once: for other values of the same shapes and dtypes.

    Beside them what is found out of shapes and dtypes alone, by tracing: `once`.

    A comparison makes its own, so that a backward edited in place is never met in its old form.

    thorough  whether those in the working dtype are compiled as a training step is
    """

    def __init__(self, thorough: bool = False) -> None:
        self.thorough = thorough
        self.made: dict[str, Any] = {}
        self.known: dict[str, Any] = {}

    def once(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`, or what it was when last asked by that name."""
        if name not in self.known:
            self.known[name] = function(*arguments)
        return self.known[name]

    def __call__(
        self, name: str, function: Callable[..., Any], *arguments: Any, quick: bool = True
    ) -> Any:
        """`function(*arguments)` by the program of that name, as NumPy arrays."""
        return arrays(self.on_device(name, function, *arguments, quick=quick))

    def each(
        self, name: str, parts: dict[str, Callable[..., Any]], *arguments: Any
    ) -> dict[str, Any]:
        """Every part of the arguments, by one program; where that raises each by its own, and
        `Raised` for those that do."""

        def every(*arguments: Any) -> dict[str, Any]:
            return {key: part(*arguments) for key, part in parts.items()}

        try:
            return self(name, every, *arguments)
        except Exception:  # of whatever kind: a rule raises what it likes
            self.made.pop(name, None)
        found: dict[str, Any] = {}
        for key, part in parts.items():
            try:
                found[key] = self(f"{name}: {key}", part, *arguments)
            except Exception as error:
                found[key] = raised(error)
        return found

    def on_device(
        self, name: str, function: Callable[..., Any], *arguments: Any, quick: bool = True
    ) -> Any:
        """The same as JAX arrays."""
        self.prepare(name, function, *arguments, quick=quick)
        return self.made[name](*arguments)

    def prepare(
        self, name: str, function: Callable[..., Any], *arguments: Any, quick: bool = True
    ) -> None:
        """Compiles the program of that name, if there is none."""
        if name not in self.made:
            self.made[name] = program(function, *arguments, quick=quick)


def on_device(function: Callable[..., Any], *arguments: Any) -> Any:
    """The results of `program`."""
    return program(function, *arguments)(*arguments)


@functools.cache
def quick_options() -> dict[str, Any]:
    """Those of QUICK that this version of XLA knows."""
    known = {}
    for name, value in QUICK.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
            known[name] = value
    return known


def computed(function: Callable[..., Any], *arguments: Any) -> Any:
    """The same as NumPy arrays."""
    return arrays(on_device(function, *arguments))


def arrays(tree: Any) -> Any:
    """The leaves as NumPy arrays; random keys as they are."""
    return jax.tree.map(lambda leaf: leaf if is_key(leaf) else np.asarray(leaf), tree)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def dtypes(tree: Any) -> str:
    """Those of the floats: "float32", or "bfloat16/float32"."""
    return "/".join(sorted({str(leaf.dtype) for leaf in jax.tree.leaves(tree) if is_float(leaf)}))


def shapes(tree: Any) -> Any:
    """The leaves as shapes and dtypes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def named_leaves(grads: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """{"dx": ..., "dparams": ...} -> (`dx[0]`, leaf), (`dw`, leaf), (`dparams[0].w`, leaf)."""
    for name, tree in grads.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            words = jax.tree_util.keystr(path)
            short = name == "dparams" and words.startswith(".")
            yield ("d" + words[1:] if short else name + words), leaf
