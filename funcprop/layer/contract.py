"""The contract: a layer is a value with two pure functions, `forward` and `backward`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import jax
import jax.numpy as jnp

from funcprop.arguments import (
    check_constructed,
    check_methods,
    converted,
    is_foreign,
    is_key,
    native,
)
from funcprop.layer.errors import LayerError, describe, spell
from funcprop.sheets.nested import nested

Array = jax.Array
Params = (
    Any  # a pytree of arrays: a NamedTuple for a leaf layer, one entry per child for a composite
)
Residuals = Any  # a pytree of arrays: what backward needs from forward


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """What a forward pass may read and nobody differentiates.

    key     a scalar key of `jax.random.key`, or None: randomness
    mask    bool [...], or None: True where attention and sequence losses may look
    raises  LayerError in `key_for`, where there is no such key

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> mask = jnp.array([True, True, False])  # the third step is padding
    >>> context = fp.Context(key=jax.random.key(0), mask=mask)
    >>> y, _ = fp.LastStep().forward((), jnp.array([[1.0], [2.0], [3.0]]), context)
    >>> y
    Array([2.], dtype=float32)
    """

    key: Array | None = None
    mask: Array | None = None

    def split(self, n: int) -> tuple[Context, ...]:
        """n contexts with the same mask and independent keys."""
        if self.key is None:
            return (self,) * n
        return tuple(Context(key, self.mask) for key in jax.random.split(self.key, n))

    def key_for(self, layer: Layer) -> Array:
        """The key. Raises LayerError where there is none."""
        if self.key is None:
            raise LayerError(
                layer,
                "draws random numbers and was given no key",
                "pass one: forward(params, x, Context(key=jax.random.key(0)))",
            )
        if not jnp.issubdtype(jnp.result_type(self.key), jax.dtypes.prng_key):
            raise LayerError(
                layer,
                f"context.key is {spell(self.key)}, wanted a key made by jax.random.key",
                "write Context(key=jax.random.key(0))",
            )
        return self.key


class Layer:
    """A pure function with parameters, and its derivative, side by side.

    Subclasses are frozen dataclasses that hold configuration only: hashable, comparable, and
    their `repr` is the call that makes them. `backward` reads only its three arguments and is
    linear in `dy`. Leading axes are batch axes.

    init      key, x -> params: a tree of arrays, () where there are none
    forward   params, x [..., in], context -> y [..., out], residuals; x and y may be trees
    backward  params, residuals, dy [..., out] -> dx [..., in], dparams
    dtypes    y and dx have that of x, dparams those of params; sums over 16-bit floats are made in
              float32
    raises    NotImplementedError where forward or backward is not defined; LayerError from
              `inference`, where a layer holds layers and is no Composite

    >>> from dataclasses import dataclass
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> @dataclass(frozen=True)
    ... class Square(fp.Layer):
    ...     def forward(self, params, x, context=fp.Context()):
    ...         return x * x, x
    ...
    ...     def backward(self, params, x, dy):
    ...         return 2 * x * dy, ()
    >>> y, residuals = Square().forward((), jnp.array([3.0]))
    >>> Square().backward((), residuals, jnp.ones(1))[0]
    Array([6.], dtype=float32)
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        # @dataclass leaves a __repr__ that stands in the class itself: Dense(10), not all fields
        if "__repr__" not in cls.__dict__ and cls.__repr__ is Layer.__repr__:
            cls.__repr__ = Layer.__repr__  # type: ignore[method-assign]
        check_methods(cls)
        for name in ("init", "forward", "backward"):
            if inspect.isfunction(method := cls.__dict__.get(name)):
                setattr(cls, name, _at_the_door(name, method))

    def __new__(cls, *args: Any, **options: Any) -> Self:
        given, mistake = check_constructed(cls, args, options)
        self = super().__new__(cls)
        if mistake is not None:
            for field in dataclasses.fields(cls):  # type: ignore[arg-type]
                default = () if field.default is dataclasses.MISSING else field.default
                object.__setattr__(self, field.name, given.get(field.name, default))
            raise LayerError(self, mistake)
        return self

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        """A layer is no function, since parameters are no part of it: raises TypeError."""
        raise TypeError(
            f"{describe(self)} is called, and a layer is no function: write "
            "y, residuals = layer.forward(params, x)"
        )

    def __repr__(self) -> str:
        """The call that makes the layer, without the arguments that equal their defaults."""
        words, named = [], False
        for field in dataclasses.fields(self) if dataclasses.is_dataclass(self) else ():
            value = getattr(self, field.name, None)
            if not field.init or _same(value, field.default):
                named = True  # after an omitted argument the others go by name
            else:
                named = named or field.kw_only or len(words) > 0
                words.append(f"{field.name}={value!r}" if named else repr(value))
        return f"{type(self).__name__}({', '.join(words)})"

    def _repr_html_(self) -> str:
        """In a notebook: what the layer is made of."""
        return nested(self)

    def init(self, key: Array, x: Any) -> Params:
        """x: arrays or ShapeDtypeStructs -> params, in the dtype of x. () where there are none."""
        return ()

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        """-> y, residuals: the output, and what backward needs to remember."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        """-> dx, dparams: the trees, shapes and dtypes of x and params; None for integer leaves.

        None in dparams for a float, or for all below, freezes it: forward then reads it through
        `lax.stop_gradient`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define backward")

    def statistics(self, residuals: Residuals) -> Any:
        """What the layer observed on the way (batch norm's mean and variance), or ()."""
        return ()

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        """The layer and parameters for prediction, given averaged statistics."""
        for value in vars(self).values():
            parts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(part, Layer) for part in parts):
                raise LayerError(
                    self,
                    "holds layers, and does not say what becomes of them in prediction",
                    "subclass fp.Composite, or define inference(params, statistics)",
                )
        return self, params


def _same(value: Any, default: Any) -> bool:
    """Whether a field has its default; one that is no value (an array) has not."""
    return value is default or (type(value) is type(default) and bool(value == default))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Shape:
    """Feature sizes that backward needs: residuals without arrays, never a batch size."""

    sizes: tuple[int, ...]


def output_shape(layer: Layer, params: Params, x: Any) -> Any:
    """ShapeDtypeStructs of layer.forward(params, x)[0], by abstract evaluation."""
    context = Context(key=jax.random.key(0))
    return jax.eval_shape(lambda p, v: layer.forward(p, v, context)[0], params, x)


def two(layer: Layer, function: str, result: Any) -> tuple[Any, Any]:
    """What forward or backward returned, checked to be a pair."""
    if not isinstance(result, tuple) or len(result) != 2:
        wanted = "(y, residuals)" if function == "forward" else "(dx, dparams)"
        raise LayerError(
            layer,
            f"{function} returned {spell(result)}, wanted the pair {wanted}",
            "() stands for no residuals, and for the gradient of no parameters",
        )
    return result


# What JAX says where Python or NumPy is handed a value that is not known yet.
NOT_KNOWN_YET = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _at_the_door(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """init, forward or backward, behind a look at the key and the context.

    x and dy become JAX's arrays where they are another library's, and what JAX says of NumPy or
    Python inside of the method is said in words. Raises LayerError.
    """

    @functools.wraps(method)
    def checked(self: Layer, *args: Any, **options: Any) -> Any:
        if name == "init":
            key = args[0] if args else options.get("key")
            if not is_key(key):
                problem = f"key is {spell(key)}, wanted one key"
                raise LayerError(self, problem, "write layer.init(jax.random.key(0), x)")
        elif name == "forward":
            context = args[2] if len(args) > 2 else options.get("context", _NO_CONTEXT)
            if not isinstance(context, Context):
                problem = f"context is {spell(context)}, wanted a Context"
                raise LayerError(self, problem, "write fp.Context(key=jax.random.key(0))")
            if is_foreign(context.mask):
                context = dataclasses.replace(context, mask=native(context.mask))
                if len(args) > 2:
                    args = (*args[:2], context, *args[3:])
                else:
                    options["context"] = context
        position, called = (2, "dy") if name == "backward" else (1, "x")
        if len(args) > position and not isinstance(args[position], jax.Array):
            args = (*args[:position], converted(args[position]), *args[position + 1 :])
        elif called in options:
            options[called] = converted(options[called])
        try:
            return method(self, *args, **options)
        except NOT_KNOWN_YET as error:
            raise LayerError(
                self,
                f"{name} hands a value that is not known yet, under jit, vmap or grad, to NumPy or "
                "to Python's if, for or int",
                "write jnp.tanh for np.tanh, and jnp.where(x > 0, a, b) for if x > 0",
            ) from error

    return checked


_NO_CONTEXT = Context()
