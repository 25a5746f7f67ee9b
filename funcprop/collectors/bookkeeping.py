"""Book-keeping: norms of single examples' gradients, and any weighted sum of these afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.collectors.examples import PerExample, added, each_form
from funcprop.collectors.form import is_form
from funcprop.collectors.generic import Generic
from funcprop.collectors.record import is_record, records
from funcprop.composites import Rewired, RewiredParams
from funcprop.doors import door
from funcprop.layer import Array, Layer, Params, spell


class Kept(NamedTuple):
    """What book-keeping keeps of a layer."""

    squared: Array  # ‖g_b‖², [B]
    forms: Any  # δ and what it meets: the weight gradient before it is summed over the examples


@dataclass(frozen=True)
class BookKeeping(PerExample):
    """The squared norms, and δ beside what it meets, from which weighted sums of gradients are
    formed once the norms of all layers are known. The rule `book_keeping`.

    record   Kept(squared [B], forms): read by `squared_total` and `weighted_sum`

    raises   LayerError for a loss that takes a mean, and where a layer mixes the examples or keeps
             something without an example axis
    source   Bu et al. 2023, arXiv:2210.00038

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.book_keeping)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, found = gradient(params, (x, y))
    >>> fp.collectors.squared_total(found).shape
    (4,)
    >>> grads = fp.collectors.weighted_sum(found, jnp.array([1.0, 0.0, 0.0, 1.0]))
    >>> jax.tree.map(jnp.shape, grads)  # of the first and the last example
    Affine(w=(2, 2), b=(2,))
    """

    def of_forms(self, layer: Layer, params: Params, forms: Any) -> Any:
        if not jax.tree.leaves(params):
            return Kept((), forms)  # type: ignore[arg-type]
        if isinstance(forms, Generic):
            return Kept(forms.squared_norms(), forms)
        norms = [form.squared_norms() for form in each_form(forms)]
        return Kept(sum(norms[1:], norms[0]) if norms else (), forms)  # type: ignore[arg-type]


book_keeping = BookKeeping()


def squared_total(collected: Any) -> Array:
    """‖g_b‖² over all layers, [B], of what `book_keeping` collected.

    collected  what the backward of collect(model, book_keeping) returned

    Returns [B], in float32 at least, nowhere below zero.

    raises  ValueError where no layer has a parameter with a gradient, or the layers disagree on the
            number of examples; TypeError where something is no record

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.book_keeping)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> fp.collectors.squared_total(gradient(params, (x, y))[1]).shape
    (4,)
    """
    parts = []
    for record in records(collected):
        if jax.tree.leaves(record.value):
            parts += [v.sum(range(record.stacked)) for v in jax.tree.leaves(record.value.squared)]
    # sums that cancel may come out below zero by a rounding
    return jnp.maximum(added(parts), 0)


@door
def weighted_sum(collected: Any, c: Array) -> Params:
    """Σ_b c_b g_b, a tree like the parameters, of what `book_keeping` collected.

    collected  what the backward of collect(model, book_keeping) returned
    c          [examples], floats

    Returns the shapes and dtypes of the parameters.

    raises  ValueError where c is not one number an example, TypeError for records of another rule
    source  Bu et al. 2023, arXiv:2210.00038

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.book_keeping)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> grads = fp.collectors.weighted_sum(gradient(params, (x, y))[1], jnp.ones(4))
    >>> _, whole = fp.backprop(model, fp.SoftmaxCrossEntropy(reduction="sum"))(params, (x, y))
    >>> bool(jnp.allclose(grads.w, whole.w, rtol=1e-4))
    True
    """

    def of_layer(record: Any) -> Any:
        if not is_record(record):
            return record
        if record.value is None:  # frozen
            return None

        if not isinstance(record.value, Kept):
            raise TypeError(
                f"{record.path}: its record is {spell(record.value)}, wanted that of book_keeping: "
                "collect(model, book_keeping), or one of several by record.named(name)"
            )
        for norms in jax.tree.leaves(record.value.squared):
            if c.shape != norms.shape[record.stacked :]:
                raise ValueError(
                    f"{record.path}: c is {spell(c)}, wanted one number for each of the "
                    f"{norms.shape[-1]} examples"
                )

        def one(forms: Any) -> Any:
            if isinstance(forms, Generic):
                return forms.weighted(c)
            return jax.tree.map(lambda form: form.weighted(c), forms, is_leaf=is_form)

        for _ in range(record.stacked):
            one = over_stack(one)
        total = one(record.value.forms)
        return RewiredParams(total, None) if isinstance(record.layer, Rewired) else total

    return jax.tree.map(of_layer, collected, is_leaf=is_record)


def over_stack(function: Any) -> Any:
    return lambda forms: jax.lax.map(function, forms)
