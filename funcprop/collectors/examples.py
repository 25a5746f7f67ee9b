"""Rules that speak of single examples: their gradients, norms, products and moments.

All of them speak of a summed loss, C = Σ_b C_b: g_b = ∂C_b/∂params. A model under one of these
rules does not form Σ_b g_b at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcprop.collectors.closed import per_example, prepared, remember_axes
from funcprop.collectors.form import Form, gram, is_form, several
from funcprop.collectors.generic import Generic
from funcprop.collectors.record import records
from funcprop.collectors.rule import Rule
from funcprop.doors import door
from funcprop.layer import Array, Context, Layer, LayerError, Params, Residuals, widen


class PerExample(Rule):
    """What these rules share: the forms, and what several uses of a parameter amount to."""

    per_example: ClassVar[bool] = True

    def of_forms(self, layer: Layer, params: Params, forms: Any) -> Any:
        """A Generic, or a tree like the parameters with forms for leaves -> the record."""
        raise NotImplementedError(f"{self.name} does not define of_forms")

    def prepare(self, layer: Layer) -> Layer:
        return prepared(layer)

    def remember(
        self, layer: Layer, params: Params, x: Any, context: Context, y: Any, residuals: Residuals
    ) -> Any:
        return remember_axes(layer, params, x, context, y, residuals)

    def __call__(
        self, layer: Layer, params: Params, residuals: Residuals, dy: Any
    ) -> tuple[Any, Any]:
        dx, forms = per_example(layer, params, residuals, dy)
        return dx, self.of_forms(layer, params, forms)

    def use(self, layer: Layer, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        dx, forms = per_example(layer, params, residuals, dy)
        return dx, forms.parts() if isinstance(forms, Generic) else forms

    def finish(self, layer: Layer, params: Params, use: Any) -> Any:
        return self.of_forms(layer, params, use)

    def places(self, layer: Layer, uses: tuple[Any, ...]) -> Any:
        def one(*forms: Any) -> Form:
            shapes = {form.shape for form in forms}
            if len(shapes) > 1:
                raise LayerError(layer, f"the uses of a tied parameter have the shapes {shapes}")
            return several(forms)

        return jax.tree.map(one, *uses, is_leaf=is_form)

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        _, (dx, uses) = jax.lax.scan(lambda _, one: (None, step(one)), None, each)
        return dx, jax.tree.map(lambda form: form.folded(), uses, is_leaf=is_form)


def each_form(forms: Any) -> list[Form]:
    """All forms in a tree like the parameters."""
    return [form for form in jax.tree.leaves(forms, is_leaf=is_form) if is_form(form)]


@dataclass(frozen=True)
class PerExampleGradients(PerExample):
    """g_b, [B, *shape] for every parameter: the memory of B gradients. The rule `gradients`.

    record   a tree like the parameters, without a path, of their dtypes; the matrices of closed
             forms in float32 at least

    raises   LayerError for a loss that takes a mean, and where a layer mixes the examples or keeps
             something without an example axis
    source   Goodfellow 2015, arXiv:1510.01799; what BackPACK calls BatchGrad, Dangel et al. 2020,
             arXiv:1912.10985

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.gradients)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, each = gradient(params, (x, y))
    >>> jax.tree.map(jnp.shape, each)
    (Affine(w=(4, 2, 3), b=(4, 3)), (), Affine(w=(4, 3, 2), b=(4, 2)))
    """

    like_params: ClassVar[bool] = True

    def of_forms(self, layer: Layer, params: Params, forms: Any) -> Any:
        if isinstance(forms, Generic):
            return forms.mapped(lambda dparams: dparams)
        return jax.tree.map(lambda form: form.materialize(), forms, is_leaf=is_form)


@dataclass(frozen=True)
class SquaredNorms(PerExample):
    """‖g_b‖² of a layer's parameters together, [B]; `total` adds up the layers.

    The rule `squared_norms`.

    record   [B], in float32 at least; () for a layer without parameters

    raises   LayerError for a loss that takes a mean, and where a layer mixes the examples or keeps
             something without an example axis
    source   Goodfellow 2015, arXiv:1510.01799; of sequences, Li et al. 2022, arXiv:2110.05679

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> x, params = jnp.arange(8.0).reshape(4, 2), fp.layers.Affine(jnp.zeros((2, 2)), None)
    >>> collected = fp.collect(fp.Dense(2, bias=False), fp.collectors.squared_norms)
    >>> gradient = fp.backprop(collected, fp.QuadraticCost(reduction="sum"))
    >>> _, found = gradient(params, (x, jnp.ones((4, 2))))
    >>> found.value.tolist()  # ‖x‖² ‖δ‖² of each of the four examples
    [2.0, 26.0, 82.0, 170.0]
    """

    def of_forms(self, layer: Layer, params: Params, forms: Any) -> Any:
        if isinstance(forms, Generic):
            return forms.squared_norms()
        norms = [form.squared_norms() for form in each_form(forms)]
        return sum(norms[1:], norms[0]) if norms else ()


@dataclass(frozen=True)
class InnerProducts(PerExample):
    """⟨g_b, g_c⟩ for all pairs of examples, [B, B]: what a step on c does to the loss of b.

    The rule `inner_products`.

    record   [B, B], in float32 at least; () for a layer without parameters

    raises   LayerError for a loss that takes a mean, and where a layer mixes the examples or keeps
             something without an example axis

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> x, params = jnp.arange(8.0).reshape(4, 2), fp.layers.Affine(jnp.zeros((2, 2)), None)
    >>> collected = fp.collect(fp.Dense(2, bias=False), fp.collectors.inner_products)
    >>> gradient = fp.backprop(collected, fp.QuadraticCost(reduction="sum"))
    >>> _, found = gradient(params, (x, jnp.ones((4, 2))))
    >>> found.value[0].tolist()  # of the first example with all four
    [2.0, 6.0, 10.0, 14.0]
    """

    def of_forms(self, layer: Layer, params: Params, forms: Any) -> Any:
        if isinstance(forms, Generic):
            leaves = jax.tree.leaves(forms.mapped(lambda dparams: dparams))
            grams = [gram(leaf) for leaf in leaves]
        else:
            grams = [form.gram() for form in each_form(forms)]
        return sum(grams[1:], grams[0]) if grams else ()


@dataclass(frozen=True)
class SecondMoment(PerExample):
    """Σ_b g_b², elementwise, in the shape of every parameter. The rule `second_moment`.

    record   a tree like the parameters, in float32 at least, without a path

    raises   LayerError for a loss that takes a mean, and where a layer mixes the examples or keeps
             something without an example axis
    source   what BackPACK calls SumGradSquared, Dangel et al. 2020, arXiv:1912.10985

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.second_moment)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, moment = gradient(params, (x, y))
    >>> jax.tree.map(jnp.shape, moment)
    (Affine(w=(2, 3), b=(3,)), (), Affine(w=(3, 2), b=(2,)))
    """

    like_params: ClassVar[bool] = True

    def of_forms(self, layer: Layer, params: Params, forms: Any) -> Any:
        if isinstance(forms, Generic):
            forms = forms.parts()
        return jax.tree.map(lambda form: form.squares_summed(), forms, is_leaf=is_form)


gradients = PerExampleGradients()
squared_norms = SquaredNorms()
inner_products = InnerProducts()
second_moment = SecondMoment()


def total(collected: Any, name: str | None = None) -> Array:
    """The sum over all layers of what `squared_norms` or `inner_products` collected: [B] or [B, B].

    collected  what a collected model's backward returned
    name       under `collect_all`, the rule whose records are meant

    raises  ValueError where no layer has a parameter with a gradient, the records have names and
            none is given, or the layers disagree on the number of examples: then axis 0 was not the
            example axis everywhere

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.squared_norms)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, found = gradient(params, (x, y))
    >>> fp.collectors.total(found).shape  # one number for each of the four examples
    (4,)
    >>> layers = sum(found[number].value for number in (0, 2))  # of the two Dense
    >>> bool(jnp.allclose(fp.collectors.total(found), layers))
    True
    """
    parts = []
    for record in records(collected, name):
        if name is None and isinstance(record.value, dict):
            names = list(record.value)
            raise ValueError(
                f"the records have the names {', '.join(names)}: write total(found, {names[-1]!r})"
            )
        if hasattr(record.value, "squared"):
            raise ValueError(
                f"{record.path}: its record is of book_keeping, which holds more than one number "
                "an example: write squared_total(found)"
            )
        for value in jax.tree.leaves(record.value):
            parts.append(value.sum(range(record.stacked)))
    return added(parts)


def added(parts: list[Array]) -> Array:
    """The sum of the layers' numbers. Raises ValueError for none, or for different examples."""
    if not parts:
        raise ValueError("no layer has a parameter with a gradient: there is nothing to add up")
    shapes = {part.shape for part in parts}
    if len(shapes) != 1:
        raise ValueError(
            f"the layers' records have the shapes {sorted(shapes)}, wanted one: axis 0 must be the "
            "example axis in every layer"
        )
    return sum(parts[1:], parts[0])


@door
def variance(gradient: Params, moment: Params, examples: int) -> Params:
    """Var g = Σ g_b²/B − (Σ g_b/B)² of every parameter, from the two sums of one pass:

    collect_all(gradient=gradient, moment=second_moment).

    gradient  Σ_b g_b, a tree like the parameters
    moment    Σ_b g_b², the same tree, in float32 at least
    examples  B

    Returns the same tree, in float32 at least.

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> each = jnp.array([[1.0, 0.0], [3.0, 0.0]])  # the gradients of two examples
    >>> fp.collectors.variance(each.sum(0), (each**2).sum(0), 2).tolist()
    [1.0, 0.0]
    """
    return jax.tree.map(
        lambda g, m: m / examples - jnp.square(widen(g) / examples), gradient, moment
    )


@door
def noise_scale(gradient: Params, norms: Array) -> Array:
    """tr Σ / ‖g‖²: about how many examples a batch is worth having.

    gradient  Σ_b g_b, a tree like the parameters
    norms     ‖g_b‖², [B]

    Returns [], in float32 at least. Unbiased in both terms: ‖Σ g_b/B‖² is ‖g‖² + tr Σ / B on
    average, and ‖g_b‖² is ‖g‖² + tr Σ.

    raises  ValueError for fewer than two examples, which say nothing of their scatter
    source  McCandlish et al. 2018, arXiv:1812.06162

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> each = jnp.array([[3.0, 1.0], [3.0, -1.0]])  # ‖g‖² is 9 − 1, tr Σ is 1 + 1
    >>> round(float(fp.collectors.noise_scale(each.sum(0), (each**2).sum(1))), 3)
    0.25
    """
    size = norms.shape[0]
    if size < 2:
        raise ValueError(f"noise_scale wants two examples or more, and the norms are of {size}")
    mean = sum(jnp.sum(jnp.square(widen(leaf) / size)) for leaf in jax.tree.leaves(gradient))
    one = norms.mean()
    signal = (size * mean - one) / (size - 1)
    return (one - signal) / signal
