"""What a layer's constructor and its three functions take: checked in one place, for all layers;
and what becomes an array.

The first arguments, without which there is no layer, go by position; the others by name. So what
other libraries put first (the size of the input, the number of features, "in place") is never
taken for something else.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# What other libraries' layers of these names want first is read from x here.
INPUT_SIZE = {"Dense", "Conv", "ConvLocal", "ConvTranspose", "LSTM", "GRU", "RNN", "LoRA"}
WHAT_TO_WRITE = {
    "BatchNorm": "the number of features is read from x: write BatchNorm()",
    "LayerNorm": "the number of features is read from x: write LayerNorm()",
    "RMSNorm": "the number of features is read from x: write RMSNorm()",
    "InstanceNorm": "the number of features is read from x: write InstanceNorm()",
    "GroupNorm": "the number of features is read from x: write GroupNorm({0})",
    "Bilinear": "the sizes of the inputs are read from x: write Bilinear({2})",
    "Normal": "the mean is 0: write Normal({1})",
    "Uniform": "it draws from [-limit, limit]: write Uniform({1})",
    "Rotary": "sizes are read from x: write Rotary()",
    "SinusoidalPositions": "sizes are read from x: write SinusoidalPositions()",
    "Softmax": "it is over the last axis: write Softmax(), or by name Softmax(axis=-2)",
    "LogSoftmax": "it is over the last axis: write LogSoftmax(), or by name LogSoftmax(axis=-2)",
    "Concatenate": "it is along the last axis: write Concatenate()",
    "Flatten": "axes counts those of one example: write Flatten(axes=3) for images",
    "GlobalAvgPool": "one number a channel is left: write GlobalAvgPool(), axes=1 for sequences",
    "GlobalMaxPool": "one number a channel is left: write GlobalMaxPool(), axes=1 for sequences",
}

METHODS = {
    "init": ("key", "x"),
    "forward": ("params", "x", "context=fp.Context()"),
    "backward": ("params", "residuals", "dy"),
}


def check_methods(cls: type) -> None:
    """Raises TypeError where a method of the class does not take what the contract hands it."""
    for name, wanted in METHODS.items():
        method = cls.__dict__.get(name)
        if not inspect.isfunction(method):
            continue
        code, defaults = method.__code__, method.__defaults__ or ()
        given, number = code.co_argcount - 1, len(wanted)
        open_ended = code.co_flags & inspect.CO_VARARGS
        if (given < number and not open_ended) or given - len(defaults) > number:
            names = ", ".join(code.co_varnames[1 : code.co_argcount])
            raise TypeError(
                f"{cls.__name__}.{name} takes ({names}), and is given {number} arguments: "
                f"write def {name}(self, {', '.join(wanted)})"
            )


def check_constructed(
    cls: type, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """Raises TypeError where a class is no frozen dataclass, or these are not its arguments.

    -> the arguments by name, and what is wrong with one of them, or None
    """
    check_declared(cls)
    if not args and not options:
        return {}, None
    args, options = plain((args, options))
    parameters = parameters_of(cls)
    call = f"{cls.__name__}({spell_arguments(args, options)})"
    by_position = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    endless = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    first = [p.name for p in by_position]
    if (len(args) > len(first) and not endless) or set(first[: len(args)]) & set(options):
        raise TypeError(f"{call}: {what_to_write(cls, args, options, first, named)}")
    known = [*first, *(p.name for p in named)]
    unknown = [name for name in options if name not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        only = f", only {', '.join(known)}" if known else ""
        raise TypeError(f"{call}: it has no argument {unknown[0]!r}{only}")
    given = dict(zip(first, args, strict=False)) | options
    wrong = [mistake(p, given[p.name]) for p in parameters if p.name in given]
    return given, next(filter(None, wrong), None)


@functools.lru_cache(maxsize=1024)
def check_declared(cls: type) -> None:
    """A layer that holds something is a frozen dataclass: else its repr and == would not show it.

    Raises TypeError.
    """
    try:
        annotations = inspect.get_annotations(cls)
    except NameError:  # of a type that is not defined yet
        annotations = {}
    declared = {
        name
        for name, kind in annotations.items()
        if not any(word in str(kind) for word in ("ClassVar", "KW_ONLY"))
    }
    known = set(getattr(cls, "__dataclass_fields__", ()))
    own = cls.__dict__.get("__dataclass_params__")
    writes_itself = "__init__" in cls.__dict__ and not hasattr(cls, "__dataclass_fields__")
    if declared - known or (own is not None and not own.frozen) or writes_itself:
        what = ", ".join(sorted(declared - known)) or "what it is made of"
        raise TypeError(
            f"{cls.__name__} is no frozen dataclass, and holds {what}: "
            f"write @dataclass(frozen=True) above class {cls.__name__}, with a line for each "
            "field, as in features: int"
        )
    owner = next(base for base in cls.__mro__ if "__init__" in base.__dict__)
    if owner is not object and not hasattr(owner.__init__, "takes_plain"):
        owner.__init__ = with_plain(owner.__init__)


def with_plain(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that keeps Python's numbers: np.int64(3) would be another repr."""

    @functools.wraps(init)
    def taken(self: Any, *args: Any, **options: Any) -> None:
        args, options = plain((args, options))
        init(self, *args, **options)

    taken.takes_plain = True  # type: ignore[attr-defined]
    return taken


def plain(value: Any) -> Any:
    """Python's numbers for NumPy's, in tuples too; all else as it is."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    if type(value) is tuple:
        return tuple(map(plain, value))
    if type(value) is dict:
        return {name: plain(entry) for name, entry in value.items()}
    return value


@functools.lru_cache(maxsize=1024)
def parameters_of(cls: type) -> tuple[inspect.Parameter, ...]:
    """What the constructor takes, without self."""
    if cls.__init__ is object.__init__:
        return ()
    return tuple(inspect.signature(cls.__init__).parameters.values())[1:]


def what_to_write(
    cls: type,
    args: Sequence[Any],
    options: dict[str, Any],
    first: list[str],
    named: list[inspect.Parameter],
) -> str:
    """The line to write instead of a call with too many arguments by position."""
    name, sizes = cls.__name__, [_is_whole(arg) for arg in args]
    if name in INPUT_SIZE and len(args) > 1 and sizes[0] and sizes[1]:
        kept = [repr(arg) for arg in args[1 : len(first) + 1]]
        if first[1:] == ["kernel_size"]:
            size = args[2] if len(args) > 2 else options.get("kernel_size", 3)
            kept = [repr(args[1]), repr((size, size) if _is_whole(size) else size)]
        return f"the input size is read from x: write {name}({', '.join(kept)})"
    surplus = args[len(first) :]
    if name in WHAT_TO_WRITE and not any(isinstance(arg, bool) for arg in args):
        return WHAT_TO_WRITE[name].format(*args)
    words = [spell_argument(arg) for arg in args[: len(first)]]
    takes = ", ".join(first) or "nothing"
    if not named:
        in_place = len(surplus) == 1 and isinstance(surplus[0], bool)
        takes = "nothing is changed in place" if in_place else f"it takes {takes}"
        return f"{takes}: write {name}({', '.join(words)})"
    for arg in surplus:
        fitting = [p.name for p in named if fits(p, arg)]
        if not fitting:
            by_name = ", ".join(p.name for p in named)
            return f"by position it takes {takes}, and by name {by_name}"
        words.append(f"{fitting[0]}={spell_argument(arg)}")
        named = [p for p in named if p.name != fitting[0]]
    return f"by position it takes {takes}, and by name the rest: write {name}({', '.join(words)})"


def fits(parameter: inspect.Parameter, value: Any) -> bool:
    """Whether the value may have been meant for it, as its annotation and default say."""
    kind, default = str(parameter.annotation), parameter.default
    if isinstance(value, str):
        among = repr(value) in kind.replace('"', "'")
        return among or (isinstance(default, str) and "Literal" not in kind)
    if isinstance(value, bool) or kind == "bool":
        return isinstance(value, bool) and kind == "bool"
    if _is_whole(value):
        return kind.startswith("int")
    if isinstance(value, float):
        return kind.startswith("float")
    return type(value) is type(default) or (isinstance(value, tuple) and "tuple" in kind)


def mistake(parameter: inspect.Parameter, value: Any) -> str | None:
    """A flag is True or False, and an initializer a function: what is wrong, in words."""
    kind = parameter.annotation
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    if kind == "bool" and not isinstance(value, bool):
        wanted = "True or False"
    elif kind == "Initializer" and not _draws(value):
        wanted = f"a function (key, shape, dtype): {parameter.name}=HeNormal()"
    else:
        return None
    return f"{parameter.name} is {spell_argument(value)}, wanted {wanted}"


def spell_argument(value: Any) -> str:
    """repr, or the type's name where that is long."""
    if isinstance(value, type):
        return value.__name__
    words = repr(value) if not hasattr(value, "__array__") else "\n"
    return words if len(words) <= 60 and "\n" not in words else f"a {type(value).__name__}"


def spell_arguments(args: Sequence[Any], options: dict[str, Any]) -> str:
    """`784, 30, bias=False`."""
    named = [f"{name}={spell_argument(value)}" for name, value in options.items()]
    return ", ".join([*map(spell_argument, args), *named])


def _draws(value: Any) -> bool:
    """Whether it may be an initializer: a class or a layer can be called too, and is none."""
    return callable(value) and not isinstance(value, type) and not hasattr(value, "forward")


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


# --- arrays ---------------------------------------------------------------------------------------


def arrays(place: str, tree: Any) -> Any:
    """The tree with every leaf an array: those of other libraries, and lists of numbers, converted.

    JAX's arrays, its ShapeDtypeStructs and NumPy's arrays stay what they are; where JAX keeps 32
    bits, 64 become 32, as `jnp.asarray` has it. Raises TypeError for what is no array.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=_is_list_of_numbers)
    if all(isinstance(leaf, jax.Array) for leaf in leaves):
        return tree
    return jax.tree.unflatten(structure, [array(place, leaf) for leaf in leaves])


def converted(tree: Any) -> Any:
    """As `arrays`, and what is no array of anybody stays for a layer's own checks."""
    return jax.tree.map(
        lambda leaf: array("x", leaf) if is_foreign(leaf) or _is_wide(leaf) else leaf, tree
    )


def native(tree: Any) -> Any:
    """JAX's arrays for those of other libraries, and all else as it is, NumPy's float64 too."""
    return jax.tree.map(lambda leaf: array("x", leaf) if is_foreign(leaf) else leaf, tree)


def is_array(value: Any) -> bool:
    """Whether it is an array that JAX takes, or the shape and dtype of one."""
    dtype = getattr(value, "dtype", None)
    known = isinstance(dtype, np.dtype) or type(dtype).__module__.startswith("jax.")
    return known and hasattr(value, "shape")  # jax: of keys


def _is_wide(leaf: Any) -> bool:
    """Whether it is NumPy's, or the type of an array, in more bits than JAX keeps."""
    if isinstance(leaf, jax.Array) or not isinstance(leaf, (np.ndarray, np.generic)):
        return False
    return jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype


def array(place: str, leaf: Any) -> Any:
    """One leaf of `arrays`."""
    if isinstance(leaf, (jax.Array, bool, int, float)):
        return leaf
    dtype = getattr(leaf, "dtype", None)
    if isinstance(leaf, (np.ndarray, np.generic)) and dtype is not None:
        if dtype.kind in "OUSMmV" and not jnp.issubdtype(dtype, np.number):
            raise TypeError(f"{place} is an array of {dtype}, wanted one of numbers")
        return leaf if jax.dtypes.canonicalize_dtype(dtype) == dtype else jnp.asarray(leaf)
    if hasattr(leaf, "aval") or isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if isinstance(dtype, np.dtype) and hasattr(leaf, "shape") and not hasattr(leaf, "__array__"):
        return leaf  # an abstract value
    if not is_foreign(leaf) and not _is_list_of_numbers(leaf):
        given = repr(leaf) if isinstance(leaf, str) else f"a {type(leaf).__name__}"
        raise TypeError(f"{place} is {given}, wanted arrays: write jnp.asarray(...)")
    leaf = getattr(leaf, "detach", lambda: leaf)()  # PyTorch's, of its gradient
    try:
        values = np.asarray(leaf)
    except (TypeError, ValueError, RuntimeError) as error:
        if not hasattr(leaf, "__dlpack__"):
            raise TypeError(
                f"{place} is a {type(leaf).__name__}, and cannot be made an array: {error}"
            ) from error
        return jnp.from_dlpack(leaf, copy=True)  # of dtypes that NumPy does not have
    if values.dtype == object and hasattr(leaf, "__dlpack__") and not hasattr(leaf, "__array__"):
        return jnp.from_dlpack(leaf, copy=True)
    # TensorFlow ends the process where words go through DLPack
    return jnp.asarray(array(place, values))


def is_foreign(leaf: Any) -> bool:
    """Whether it is another library's array (PyTorch's, TensorFlow's, a column of pandas)."""
    known = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct, type)
    return not isinstance(leaf, known) and (
        hasattr(leaf, "__array__") or hasattr(leaf, "__dlpack__")
    )


def is_key(value: Any) -> bool:
    """Whether it is one key of `jax.random.key`, or the pair of numbers that stood for one once."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return True
    if not isinstance(value, (jax.Array, np.ndarray)):
        return False
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.shape == ()
    return value.dtype == np.uint32 and value.ndim == 1


def _is_list_of_numbers(value: Any) -> bool:
    """[[1.0, 2.0], [3.0]]: a list that holds nothing but numbers, at any depth."""
    if not isinstance(value, list) or not value:
        return False
    return all(
        (isinstance(v, (int, float)) and not isinstance(v, bool)) or _is_list_of_numbers(v)
        for v in value
    )
