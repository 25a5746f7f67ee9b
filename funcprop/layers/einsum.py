"""Einsum: any product of x with one array of parameters, by its letters."""

from __future__ import annotations

import string
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.initializers import GlorotUniform, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_count,
    check_input,
    check_params,
    spell,
)
from funcprop.layers.dense import Affine
from funcprop.sharding import beside, entries, out_as, out_like, placed


@dataclass(frozen=True)
class Einsum(Layer):
    """z = einsum(equation, x, w) + b: "...i,ij->...j" is a Dense, in the letters of `jnp.einsum`.

    Each gradient is one more product of the same letters: dx that of dz and w, dw that of x and dz.
    b has the axes of z whose letters are in w.

    equation  "x,w->z", with "..." in front of x and z for batch axes; each letter once in each, and
              in two of them at least
    shape     of w

    forward   x [*the axes of x] -> z [*the axes of z]
    keeps     x
    backward  dx = einsum("z,w->x", dz, w)    dw = einsum("x,z->w", x, dz)
              db = Σ dz over the axes that b has not
    dtypes    any float, one for x, w and b; z and all gradients have it
    raises    LayerError where equation is none of this kind, shape has not one positive whole
              number a letter of w, x is not a float array of these axes, params is no Affine of
              that shape and dtype, or dz has not the shape and dtype of z

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.Einsum("...hi,hij->...hj", (2, 3, 4)), jnp.ones((8, 2, 3))
    >>> params = layer.init(jax.random.key(0), x)
    >>> layer.forward(params, x)[0].shape, params.b.shape
    ((8, 2, 4), (2, 4))
    """

    equation: str
    shape: tuple[int, ...]
    _: KW_ONLY
    bias: bool = True
    w_init: Initializer = GlorotUniform()
    b_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        x, w, z = self._terms()
        terms = {"x": x, "w": w, "z": z}
        for name, term in terms.items():
            letters = term.removeprefix("..." if name != "w" else "")
            others = "".join(other for key, other in terms.items() if key != name)
            wrong = [c for c in letters if c not in string.ascii_letters]
            if wrong or len(set(letters)) < len(letters):
                self._wrong(f"{name} is {term!r}, wanted letters, each once")
            alone = [c for c in letters if c not in others]
            if alone:
                self._wrong(f"{alone[0]!r} is in {name} alone")
        if x.startswith("...") != z.startswith("..."):
            self._wrong("batch axes, '...', stand in front of both x and z, or of none")
        if not isinstance(self.shape, tuple) or len(self.shape) != len(w):
            example = (3,) * len(w)
            raise LayerError(
                self,
                f"shape is {self.shape!r}, wanted {len(w)} sizes, of {w!r}",
                f"write Einsum({self.equation!r}, {example})",
            )
        for size in self.shape:
            check_count(self, "a size", size)

    def init(self, key: Array, x: Any) -> Affine:
        check_input(self, x)
        w_key, b_key = jax.random.split(key)
        w = self.w_init(w_key, self.shape, x.dtype)
        letters = self._of_bias()
        sizes = dict(zip(self._terms()[1], self.shape, strict=True))
        b = self.b_init(b_key, tuple(sizes[c] for c in letters), x.dtype) if self.bias else None
        return Affine(w, b)

    def forward(
        self, params: Affine, x: Array, context: Context = Context()
    ) -> tuple[Array, Array]:
        check_input(self, x)
        check_params(self, params, Affine, like=x)
        xs, ws, zs = self._letters(x)
        if params.w.shape != self.shape or any(
            x.shape[xs.index(c)] != n for c, n in zip(ws, self.shape, strict=True) if c in xs
        ):
            raise LayerError(
                self,
                f"x is {spell(x)} and w {spell(params.w)}: sizes of one letter differ, or w is not "
                f"{self.shape}",
                "make parameters with layer.init(key, x)",
            )
        w = beside(params.w, x)
        places = dict(zip(ws, entries(w), strict=True)) | dict(zip(xs, entries(x), strict=True))
        spec = tuple(places[c] for c in zs)
        z = jnp.einsum(f"{xs},{ws}->{zs}", x, w, **out_as(spec, x, w))
        if params.b is None:
            return z, x
        sizes = (n if c in ws else 1 for c, n in zip(zs, z.shape, strict=True))
        return z + beside(params.b, z).reshape(tuple(sizes)), x

    def backward(self, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
        xs, ws, zs = self._letters(x)
        sizes = dict(zip(ws, self.shape, strict=True)) | dict(zip(xs, x.shape, strict=True))
        check_cotangent(self, dz, tuple(sizes[c] for c in zs), x.dtype)
        w = beside(params.w, x)
        dx = jnp.einsum(f"{zs},{ws}->{xs}", dz, w, **out_like(x, dz, w))
        dw = jnp.einsum(f"{xs},{zs}->{ws}", x, dz, **out_like(params.w, x, dz))
        shared = tuple(axis for axis, c in enumerate(zs) if c not in ws)
        db = None if params.b is None else dz.sum(shared)
        return dx, placed(Affine(dw, db), params)

    def _terms(self) -> tuple[str, str, str]:
        """x, w and z of the equation."""
        text = self.equation.replace(" ", "") if isinstance(self.equation, str) else ""
        inputs, arrow, z = text.partition("->")
        x, comma, w = inputs.partition(",")
        if not arrow or not comma or "," in w:
            self._wrong("it has not the form 'x,w->z'")
        return x, w, z

    def _letters(self, x: Array) -> tuple[str, str, str]:
        """x, w and z with a letter for every batch axis."""
        xs, ws, zs = self._terms()
        named = len(xs.removeprefix("..."))
        if x.ndim < named or (x.ndim > named and not xs.startswith("...")):
            raise LayerError(
                self, f"x is {spell(x)}, wanted the axes {xs!r}", f"write '...{xs}' for batch axes"
            )
        free = [c for c in string.ascii_letters if c not in xs + ws + zs]
        batch = "".join(free[: x.ndim - named])
        return xs.replace("...", batch), ws, zs.replace("...", batch)

    def _of_bias(self) -> str:
        _, w, z = self._terms()
        return "".join(c for c in z if c in w)

    def _wrong(self, problem: str) -> None:
        raise LayerError(
            self,
            f"equation is {self.equation!r}: {problem}",
            'write Einsum("...i,ij->...j", (3, 4)), for a product of rows with a matrix',
        )
