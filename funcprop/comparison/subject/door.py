"""The door: whatever may be compared becomes a Subject, once."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.leaf import Broken
from funcprop.comparison.programs import generator, is_key
from funcprop.comparison.subject.arguments import arguments_of
from funcprop.comparison.subject.functions import Function, Pair
from funcprop.comparison.subject.gradients import called, gradient_subject
from funcprop.comparison.subject.ignored import ignored_in
from funcprop.comparison.subject.rules import rules_inside
from funcprop.comparison.subject.subject import Inner, Subject
from funcprop.comparison.subject.targets import (
    adapted,
    check_same_output,
    fixed_positions,
    has_no_rule,
    layer_arguments,
)
from funcprop.composites import Composite
from funcprop.gradient import Backprop, partition
from funcprop.layer import Array, Context, Layer, Params, is_float, spell, two

NO_RULE = (
    "no jax.custom_vjp or jax.custom_jvp is in it: JAX's own rules were compared with finite "
    "differences, and with themselves"
)
SURROGATE = (
    "gradients are held against those of the surrogate; its values are others, and not judged"
)
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
RULES = (jax.custom_vjp, jax.custom_jvp)


def subject_of(
    target: Any,
    args: tuple[Any, ...],
    context: Context | None = None,
    key: Array | None = None,
    against: Any = None,
    kwargs: dict[str, Any] | None = None,
    inputs: Any = None,
    changed: bool | None = None,
    surrogate: Any = None,
    rtol: float = 0.0,
    ignore: Any = (),
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
    if (isinstance(target, (Layer, Backprop))) and (kwargs or inputs is not None):
        given = f"{next(iter(kwargs))}=" if kwargs else "inputs="
        raise TypeError(f"{given} is for functions and pairs: leave it out")
    if surrogate is not None and against is not None:
        raise TypeError("against= is the truth of values and gradients, surrogate= of gradients "
                        "alone: leave one out")  # fmt: skip
    if surrogate is not None and isinstance(target, Backprop):
        raise TypeError("surrogate= is for layers and functions: give a gradient as against=")
    lent = surrogate is not None and not isinstance(target, Layer)
    against = surrogate if against is None else against
    if isinstance(target, Layer):
        subject = layer_subject(target, *layer_arguments(target, args, context), key, against)
    elif isinstance(target, Backprop) or (
        against is not None and not lent and is_gradient(target, args, context)
    ):
        params, batch, context = layer_arguments(target, args, context)
        subject = gradient_subject(target, against, nearby(params, key), batch, context, key)
    else:
        if context is not None:
            raise TypeError("context is for layers and gradient functions: leave it out")
        subject = function_subject(target, args, kwargs or {}, key, against, inputs)
    if lent:
        subject = replace(subject, surrogate=True, notes=(*subject.notes, SURROGATE))
    if not subject.eager:
        check_forward(subject)
        check_numbers(subject)
    if changed is None:
        changed = inputs is None
    return granted(replace(subject, changed=changed), target, rtol, ignore)


def check_numbers(subject: Subject) -> None:
    """Raises ValueError where no output has a number: every gradient of nothing is right."""
    outputs = [leaf for leaf in jax.tree.leaves(subject.output()) if is_float(leaf)]
    if outputs and not any(math.prod(leaf.shape) for leaf in outputs):
        raise ValueError(
            f"{subject.words}: the output has no number, so nothing can be compared: give at least "
            "one example"
        )


def granted(subject: Subject, target: Any, rtol: float = 0.0, ignore: Any = ()) -> Subject:
    """The same, with a relative error that is granted, and leaves that are not judged.

    Raises ValueError for an rtol out of range, and what `ignored_in` does.
    """
    number = isinstance(rtol, (int, float)) and not isinstance(rtol, bool)
    if not number or not 0 <= rtol < 1:
        raise ValueError(f"rtol is {rtol!r}, wanted a number from 0 to 1: write rtol=1e-5")
    ignored, notes = ignored_in(subject, target, ignore), list(subject.notes)
    if rtol:
        notes.append(f"rtol = {rtol:g}: errors below it are granted, relative to a leaf's norm")
    if ignored:
        notes.append(f"not judged, as ignore says: {', '.join(sorted(ignored))}")
    inner = None if subject.inner is None else subject.inner._replace(rtol=rtol)
    return replace(subject, rtol=rtol, ignored=ignored, inner=inner, notes=tuple(notes))


def function_subject(
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Array,
    against: Any,
    inputs: Any,
) -> Subject:
    """A function or a pair; `inputs` draws its arguments, or lists them, where args do not."""
    if inputs is not None:
        drawn = [inputs(each) for each in jax.random.split(key, 5)] if callable(inputs) else inputs
        several = [one if isinstance(one, tuple) else (one,) for one in drawn]
        args, several = (args, several) if args else (several[0], several[1:])
    else:
        several = []
    try:
        with of_one_call(called(target)):
            found = adapted(target, args, against, kwargs)
    except Exception as error:
        if not is_untraceable(error):
            raise
        return eager_subject(target, args, kwargs, key, against)
    others = tuple(arguments_of(one, kwargs, found.fixed, found.numbers)[1] for one in several)
    for other in others:
        if spell(other) != spell(found.x):
            raise TypeError(
                f"inputs has {spell(other)} and {spell(found.x)}, wanted the same trees, shapes "
                "and dtypes: compare them one by one"
            )
    notes = found.notes
    if against is None and has_no_rule(found.layer, found.x):
        notes = (*notes, NO_RULE)
    inner = None
    if isinstance(found.layer, Function) and not isinstance(
        inspect.unwrap(target, stop=lambda f: isinstance(f, RULES)), RULES
    ):
        inner = rules_inside(found.layer.function, found.x)
    return Subject(
        found.layer, (), found.x, Context(), key, found.peer, inner=inner, notes=notes,
        others=others, by_reference=against is not None,
    )  # fmt: skip


def eager_subject(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: Array, against: Any
) -> Subject:
    """A function or a pair that reads its arguments as numbers of Python or of NumPy.

    Raises TypeError where it has no derivative, and what it raises itself.
    """
    fixed = () if isinstance(target, tuple) else fixed_positions(target)
    arguments, x = arguments_of(args, kwargs, fixed)
    if isinstance(target, tuple):
        layer: Layer = Pair(*arguments.bound_pair(*target))
        peer: Layer = layer
    else:
        layer = Function(arguments.bound(target))
        peer = layer
    if against is not None:
        peer = Function(arguments.bound(against))
    y, residuals = cast(Layer, layer).forward((), x)
    dy = jax.tree.map(jnp.ones_like, partition(y)[0])
    if not jax.tree.leaves(dy):
        raise TypeError(f"no output of {layer!r} is a float: there is no gradient to compare")
    try:
        cast(Layer, layer).backward((), residuals, dy)
    except Exception as error:
        if not is_untraceable(error):
            raise
        raise TypeError(
            f"{layer!r} has no derivative: JAX cannot trace it, and no rule stands around what "
            "reads numbers of Python or NumPy: make it a jax.custom_vjp function"
        ) from error
    return Subject(
        layer, (), x, Context(), key, peer, by_reference=against is not None, eager=True
    )  # fmt: skip


def is_untraceable(error: BaseException) -> bool:
    """Whether a function wanted the numbers of what is traced; a layer says it in words."""
    return isinstance(error, UNTRACEABLE) or isinstance(error.__cause__, UNTRACEABLE)


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
