"""Per-example gradients of any layer at all: its own backward, one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from funcprop.collectors.form import Form, by_example, registered, scaled, squares
from funcprop.collectors.forms import Full
from funcprop.layer import Array, Layer, LayerError, Params, Residuals, is_float, spell
from funcprop.sharding import entries, is_spread, on_each_device, one_each


@registered("layer", "axes")
class Generic:
    """A layer's own backward, asked for one example at a time: exact for every layer.

    Stands for the gradients of all its parameters. `axes` says for every leaf of the residuals
    whether it has the example axis (0) or belongs to all examples (None).
    """

    params: Params
    residuals: Residuals
    dy: Any
    layer: Layer
    axes: tuple[int | None, ...]

    def one(self, residuals: Residuals, dy: Any) -> Params:
        return self.layer.backward(self.params, residuals, dy)[1]

    def mapped(self, function: Callable[[Params], Any]) -> Any:
        """function(dparams of an example), for every example: [B, ...]."""
        leaves, tree = jax.tree.flatten(self.residuals)
        numbers = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        rows = list(zip(leaves, self.axes, strict=True))
        each = [leaf for leaf, axis in rows if axis == 0], self.dy
        shared = self.params, [leaf for leaf, axis in rows if axis is None]
        lead = next((entries(leaf)[0] for leaf in jax.tree.leaves(each) if is_spread(leaf)), None)

        def mapped(shared: Any, each: Any) -> Any:
            params, of_all = shared

            def one(own: list[Array], dy: Any) -> Any:
                rest, others = iter(own), iter(of_all)
                filled = [next(others if axis is None else rest) for axis in self.axes]
                return function(self.layer.backward(params, tree.unflatten(filled), dy)[1])

            return by_example(lambda each: jax.vmap(one)(*each), numbers, each)

        specs = (lambda x: (None,) * x.ndim, one_each(lead))
        return on_each_device(mapped, (shared, each), specs, (lead,))

    def squared_norms(self) -> Array:
        """Of all parameters together, [B]."""

        def norm(dparams: Params) -> Array:
            return sum((squares(leaf[None])[0] for leaf in jax.tree.leaves(dparams)), start=0.0)  # type: ignore

        return self.mapped(norm)

    def weighted(self, c: Array) -> Params:
        """Σ_b c_b g_b of every parameter: backward is linear in dy."""
        dy = jax.tree.map(lambda leaf: scaled(c, leaf) if is_float(leaf) else leaf, self.dy)
        return self.one(self.residuals, dy)

    def parts(self) -> Any:
        """A tree like the parameters, of forms."""
        structure = jax.tree.structure(self.params)
        found = structure.flatten_up_to(jax.eval_shape(lambda: self.mapped(lambda dp: dp)))
        return structure.unflatten([p if p is None else Part(self, i) for i, p in enumerate(found)])

    def at(self, dparams: Params, index: int) -> Array:
        """The gradient of one of the parameters."""
        return jax.tree.structure(self.params).flatten_up_to(dparams)[index]


@registered("index")
class Part(Form):
    """One parameter of a Generic."""

    whole: Generic
    index: int

    @property
    def mappable(self) -> bool:
        return False

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return jax.tree.leaves(self.whole.params)[self.index].shape

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return jax.tree.leaves(self.whole.params)[self.index].dtype

    def materialize(self) -> Array:
        return self.whole.mapped(lambda dparams: self.whole.at(dparams, self.index))

    def squared_norms(self) -> Array:
        def norm(dparams: Params) -> Array:
            return squares(self.whole.at(dparams, self.index)[None])[0]

        return self.whole.mapped(norm)

    def weighted(self, c: Array) -> Array:
        return self.whole.at(self.whole.weighted(c), self.index)

    def folded(self) -> Form:
        return Full(jax.lax.map(lambda part: part.materialize(), self)).folded()


def example_axes(
    layer: Layer, params: Params, x: Any, context: Any, y: Any, residuals: Any, alone: bool = True
) -> Any:
    """For every leaf of the residuals 0, the example axis, or None for what all examples share.

    Found by forward's shapes at two batch sizes; B may equal any other size. Raises LayerError
    where a residual mixes the examples, or there is no example axis at all.
    """
    remedy = "give a batch: the examples on axis 0 of every input"
    leaves = jax.tree.leaves((x, y))
    if any(leaf.ndim == 0 for leaf in leaves) or len({leaf.shape[0] for leaf in leaves}) != 1:
        raise LayerError(layer, f"x is {spell(x)} and y {spell(y)}: no common axis 0", remedy)
    size = leaves[0].shape[0]

    def of_size(size: int | None) -> Any:
        def resized(leaf: Any) -> Any:
            shape = leaf.shape[1:] if size is None else (size, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        mask = context.mask
        if mask is not None and mask.shape[:1] == leaves[0].shape[:1]:
            mask = resized(mask)
        return jax.eval_shape(
            lambda p, x, m: layer.forward(p, x, replace(context, mask=m)),
            params,
            jax.tree.map(resized, x),
            mask,
        )

    (y_at, at), (y_more, more) = of_size(size), of_size(size + 1)
    if any(where != [0] for where in map(changed, *map(jax.tree.leaves, (y_at, y_more)))):
        raise LayerError(layer, "the examples are not on axis 0 of its output", remedy)
    axes: list[int | None] = []
    for (path, a), b in zip(jax.tree.leaves_with_path(at), jax.tree.leaves(more), strict=True):
        where = changed(a, b)
        if where == [0]:
            axes.append(0)
        elif where == [] and not depends(layer, params, x, context, path):
            axes.append(None)
        else:
            raise LayerError(
                layer,
                f"residuals{jax.tree_util.keystr(path)} has no example axis: its examples are "
                "mixed, and have no gradients of their own",
                "a layer that treats examples apart has one: GroupNorm instead of BatchNorm",
            )
    if not alone:
        return tuple(axes)
    try:  # the axis may be one of features: then an example by itself is none
        one_by_one = jax.tree.leaves(of_size(None)[1])
    except (LayerError, TypeError, IndexError, ValueError) as error:
        told = f"alone, x[0] raises {type(error).__name__}: {str(error).splitlines()[0]}"
        problem = f"x is {spell(x)}: one example, and no batch; {told}"
        raise LayerError(layer, problem, remedy) from error
    for leaf, one, axis in zip(jax.tree.leaves(at), one_by_one, axes, strict=True):
        if one.shape != (leaf.shape if axis is None else leaf.shape[1:]):
            raise LayerError(layer, "treats a batch otherwise than its examples", remedy)
    return tuple(axes)


def check_apart(layer: Layer, params: Params, x: Any, context: Any, y: Any, residuals: Any) -> None:
    """Raises LayerError where a layer without parameters mixes the examples, as far as its
    residuals show, or moves them from axis 0. A loss may add them up."""
    leaves = jax.tree.leaves((x, y))
    if leaves and all(leaf.ndim for leaf in leaves):
        example_axes(layer, params, x, context, y, residuals, alone=False)


def changed(a: Any, b: Any) -> list[int]:
    """The axes on which two shapes differ."""
    if a.ndim != b.ndim:
        return [-1]
    return [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]


def depends(layer: Layer, params: Params, x: Any, context: Any, path: Any) -> bool:
    """Whether a residual is a function of x: `vmap` refuses to return such a value unmapped."""

    def residual(x: Any) -> Any:
        kept = layer.forward(params, x, context)[1]
        return [leaf for at, leaf in jax.tree.leaves_with_path(kept) if at == path]

    def unmapped(x: Any) -> Any:
        return jax.vmap(residual, out_axes=None)(jax.tree.map(lambda leaf: leaf[None], x))

    try:
        jax.eval_shape(unmapped, x)
    except ValueError:
        return True
    return False
