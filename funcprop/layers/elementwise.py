"""Lambda: an elementwise function of your own, with its derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_input,
    spell,
)


@dataclass(frozen=True)
class Elementwise:
    """A function of one number and its derivative: `Elementwise(jnp.sin, jnp.cos)`.

    f   z [...] -> a [...], of the same shape and dtype
    df  z [...] -> f′(z) [...], likewise; compare finds out where it is not the derivative of f

    Two pairs are equal where their functions are the same objects: name the functions.

    dtypes  any float; f and df return that of z, or Lambda raises LayerError

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.Elementwise(jnp.sin, jnp.cos)
    Elementwise(sin, cos)
    """

    f: Callable[[Array], Array]
    df: Callable[[Array], Array]

    def __repr__(self) -> str:
        names = (getattr(f, "__name__", repr(f)) for f in (self.f, self.df))
        return f"Elementwise({', '.join(names)})"


@dataclass(frozen=True)
class Lambda(Layer):
    """a = f(z), elementwise, with the derivative that you give.

    forward   z [...] -> a [...]
    keeps     z: the derivative is taken of it
    backward  dz = da · f′(z)
    dtypes    any float; a and dz have that of z
    raises    LayerError where elementwise is no Elementwise, z is not a float array, f or df
              changes its shape or dtype, or da has not those of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> sine = fp.Lambda(fp.Elementwise(jnp.sin, jnp.cos))
    >>> a, residuals = sine.forward((), jnp.zeros(2))
    >>> sine.backward((), residuals, jnp.ones(2))[0]
    Array([1., 1.], dtype=float32)
    """

    elementwise: Elementwise

    def __post_init__(self) -> None:
        if not isinstance(self.elementwise, Elementwise):
            raise LayerError(
                self,
                f"elementwise is {spell(self.elementwise)}, wanted a function and its derivative",
                "write Lambda(Elementwise(jnp.sin, jnp.cos))",
            )

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return self._values("f", self.elementwise.f, z), z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        return da * self._values("df", self.elementwise.df, z), ()

    def _values(self, name: str, f: Callable[[Array], Array], z: Array) -> Array:
        values = f(z)
        given = (getattr(values, "shape", None), getattr(values, "dtype", None))
        if given != (z.shape, z.dtype):
            raise LayerError(
                self,
                f"{name}(z) is {spell(values)} for z {spell(z)}: shape and dtype must agree",
                "f and df work element by element; a constant derivative is jnp.ones_like(z)",
            )
        return values
