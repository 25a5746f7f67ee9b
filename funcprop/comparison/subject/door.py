"""The door: whatever may be compared becomes a Subject, once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.leaf import Broken
from funcprop.comparison.programs import generator, is_key
from funcprop.comparison.subject.gradients import called, gradient_subject
from funcprop.comparison.subject.subject import Inner, Subject
from funcprop.comparison.subject.targets import adapted, check_same_output, layer_arguments
from funcprop.composites import Composite
from funcprop.gradient import Backprop
from funcprop.layer import Array, Context, Layer, Params, is_float, spell, two


def subject_of(
    target: Any,
    args: tuple[Any, ...],
    context: Context | None = None,
    key: Array | None = None,
    against: Any = None,
) -> Subject:
    """What `compare` and its like are given, as the value that they work on.

    Raises TypeError for targets, keys and contexts that cannot be compared, and what `forward`
    raises at these arguments.
    """
    key = jax.random.key(0) if key is None else key
    if not isinstance(key, jax.Array) or key.shape or not is_key(key):
        raise TypeError(f"key is {spell(key)}, wanted one key: write key=jax.random.key(0)")
    if isinstance(target, type) and issubclass(target, Layer):
        raise TypeError(f"{target.__name__} is a class, wanted a layer: write {target.__name__}()")
    if isinstance(target, Layer):
        subject = layer_subject(target, *layer_arguments(target, args, context), key, against)
    elif isinstance(target, Backprop) or (against and is_gradient(target, args, context)):
        given = layer_arguments(target, args, context)
        subject = gradient_subject(target, against, *given, key)
    else:
        if context is not None:
            raise TypeError("context is for layers and gradient functions: leave it out")
        with of_one_call(called(target)):
            layer, x, peer = adapted(target, args, against)
        subject = Subject(layer, (), x, Context(), key, peer)
    check_forward(subject)
    return subject


def layer_subject(
    layer: Layer, params: Params, x: Any, context: Context, key: Array, against: Any = None
) -> Subject:
    """A layer at parameters near those given: fresh zeros and ones would hide mistakes."""
    if against is not None and not isinstance(against, Layer):
        raise TypeError(
            f"`against` is {spell(against)}, and a layer is compared with jax.vjp of its own "
            "forward, or of another layer's: leave `against` out, or give a Layer"
        )
    moved = nearby(params, key)
    if against is not None:
        check_same_output(layer, against, moved, x, context)
    return of_layer(layer, moved, x, context, key, against)


def of_layer(
    layer: Layer,
    params: Params,
    x: Any,
    context: Context,
    key: Array,
    surrogate: Layer | None = None,
) -> Subject:
    """A layer as it is given, and the layer in whose derivative's place its backward stands."""
    inner = None
    if isinstance(layer, Composite):
        inner = Inner(lambda wrap: wrap(layer, ()), params, x, context)
    peer = layer if surrogate is None else surrogate
    return Subject(layer, params, x, context, key, peer, surrogate is not None, inner=inner)


@contextlib.contextmanager
def of_one_call(name: str) -> Iterator[None]:
    """Says in words that a value of one call is used in another.

    Raises TypeError.
    """
    try:
        yield
    except jax.errors.UnexpectedTracerError as error:
        raise TypeError(
            f"{name} keeps a value of one call for another, as jax.custom_vjp does with "
            "nondiff_argnums: close over such arguments, compare(lambda x: f(3, x), x)"
        ) from error


def check_forward(subject: Subject) -> None:
    """Raises what `forward` raises, in words where params and x are exchanged."""
    layer = subject.layer
    try:
        with of_one_call(subject.words), contextlib.suppress(Broken):
            jax.eval_shape(lambda *a: two(layer, "forward", layer.forward(*a))[0], *subject.given)
    except Exception as error:
        check_order(subject, error)
        raise


def check_order(subject: Subject, error: Exception) -> None:
    """Raises TypeError where x has the tree of what init makes of `params`: they are exchanged."""
    layer, params, x = subject.layer, subject.params, subject.x
    try:
        wanted = jax.eval_shape(layer.init, jax.random.key(0), params)
    except Exception:
        return
    if jax.tree.structure(wanted) == jax.tree.structure(x) != jax.tree.structure(params):
        raise TypeError(
            f"params is {spell(params)} and x is {spell(x)}: they are exchanged, "
            "write compare(layer, params, x)"
        ) from error


def is_gradient(target: Any, args: tuple[Any, ...], context: Context | None) -> bool:
    """Whether (params, batch, context) -> value, grads: grads have the tree of params."""
    if not callable(target) or len(args) not in (2, 3):
        return False
    if len(args) == 3 and not isinstance(args[2], Context):
        return False
    given = args if len(args) == 3 else (*args, Context() if context is None else context)
    try:
        result = jax.eval_shape(target, *given)
    except Exception:
        return False
    return (
        isinstance(result, tuple)
        and len(result) == 2
        and jax.tree.structure(result[1]) == jax.tree.structure(args[0])
        and [leaf.shape for leaf in jax.tree.leaves(result[1])]
        == [np.shape(leaf) for leaf in jax.tree.leaves(args[0])]
        and jax.tree.leaves(result[0])[:1] != []
        and jax.tree.leaves(result[0])[0].shape == ()
    )


def nearby(params: Params, key: Array) -> Params:
    """The parameters moved by a twentieth of their size.

    Zeros move by a twentieth of one: what stands behind a layer of zeros would not be seen.
    """
    draw = generator(key).normal

    def moved(leaf: Any) -> Any:
        if not is_float(leaf):
            return jnp.asarray(leaf)
        wide = np.asarray(leaf).astype(np.float64)
        noise = draw(size=(2, *wide.shape))[1]
        size = np.sqrt(np.mean(wide**2)) if wide.any() else 1.0
        return (wide + 0.05 * size * noise).astype(np.asarray(leaf).dtype)

    return jax.tree.map(moved, params)
