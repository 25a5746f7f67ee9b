"""`compare`: a hand-written gradient against automatic differentiation, leaf by leaf."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from funcprop.comparison.programs import is_key
from funcprop.comparison.report.comparison import Comparison
from funcprop.comparison.subject.gradients import compare_gradients, nearby
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.subject.targets import adapted, has_no_rule, layer_arguments, surrogate_of
from funcprop.comparison.trial import compare_subject
from funcprop.comparison.verdict.rules import FLOOR
from funcprop.costs.measuring import profile_functions, profile_layer
from funcprop.gradient import Backprop
from funcprop.layer import Array, Context, Layer, Params, describe, spell, two


def compare(
    target: Any,
    *args: Any,
    context: Context | None = None,
    probes: int = 5,
    key: Array | None = None,
    against: Any = None,
    floor: float = FLOOR,
    quick: bool = False,
    profile: bool = False,
) -> Comparison:
    """A hand-written gradient against three witnesses, leaf by leaf.

    target, args
      layer, params, x             a Layer, a loss or a model: its backward against `jax.vjp` of its
                                   forward. The parameters are moved a little: fresh zeros and ones
                                   would hide mistakes. A backward that is no derivative of it on
                                   purpose is compared with that of the layer `against`, which
                                   takes the same: Binarize() with against=HardTanh()
      function, *args              a `jax.custom_vjp` function, or any other that has derivative
                                   rules in it: what `jax.vjp` makes of it, against what it makes
                                   with the rules taken out, or of the function `against`
      (forward, backward), *args   the two functions of such a rule, before they are one:
                                   forward(*args) -> y, residuals; backward(residuals, dy) -> a
                                   cotangent for each argument
      gradient, params, batch      what `backprop` makes, against `jax.value_and_grad` of its
                                   objective; any other (params, batch, context) -> value, grads
                                   against the one given as `against`; at `probes` points
    context  key and mask of a layer or a gradient function, which may also follow x or the batch;
             layers that draw random numbers get the same key on every side
    probes   random cotangents, N(0, 1). In float64 one-hot, uneven and scaled ones are added, and
             inputs that are scaled, zero and tied
    key      draws the probes; jax.random.key(0) by default
    floor    errors below this many eps of a leaf's largest gradient count as rounding
    quick    leave the compiler's optimizations out in the working dtype too: half the time for a
             small layer
    profile  measure as well what a right gradient costs here, by hand and by automatic
             differentiation: time, memory, flops, bytes, compile time (`Comparison.costs`)

    In float64 every leaf must agree with `jax.vjp` to a relative norm of 1e-10, and with finite
    differences and `jax.jvp` along random directions; where `jax.vjp` cannot differentiate the
    forward, finite differences are the truth. In the working dtype the error against that truth
    may be twice the one automatic differentiation makes there itself. Trees, shapes, dtypes and
    purity must be those that the contract asks for. Inside composites every layer is checked at
    the values of the actual pass, so that the report names the deepest wrong one.

    raises  TypeError for targets, keys and contexts that it cannot compare, ValueError for probes
            or a floor out of range, and whatever `forward` raises. A wrong gradient raises nothing:
            see `Comparison.ok` and `assert_gradients`

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> class Half(fp.Tanh):
    ...     def backward(self, params, a, da):
    ...         return 0.5 * da * (1 - a * a), ()
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> found = fp.compare(Half(), (), x, quick=True)
    >>> found.ok, found.headline
    (False, 'Half(): wrong gradient in Half: dx (a factor of 1/2)')
    """
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes is {probes!r}, wanted a whole number of at least 1")
    if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 <= floor < 1e6:
        raise ValueError(f"floor is {floor!r}, wanted a number of eps, 8 unless given")
    key = jax.random.key(0) if key is None else key
    if not isinstance(key, jax.Array) or key.shape or not is_key(key):
        raise TypeError(f"key is {spell(key)}, wanted one key: write key=jax.random.key(0)")
    if isinstance(target, type) and issubclass(target, Layer):
        raise TypeError(f"{target.__name__} is a class, wanted a layer: write {target.__name__}()")
    is_gradient = isinstance(target, Backprop)
    is_gradient |= against is not None and _is_gradient(target, args, context)
    if not isinstance(target, Layer) and not is_gradient:
        if context is not None:
            raise TypeError("context is for layers and gradient functions: leave it out")
        with of_one_call(_called(target)):
            layer, x, peer = adapted(target, args, against)
        found = _of_subject(
            Subject(layer, (), x, Context(), key, peer), probes, floor, quick, profile
        )
        if against is None and has_no_rule(layer, x):
            note = ("no jax.custom_vjp or jax.custom_jvp is in it: JAX's own rules were compared "
                    "with finite differences, and with themselves")  # fmt: skip
            found = replace(found, notes=(*found.notes, note))
        return found
    params, x, context = layer_arguments(target, args, context)
    if isinstance(target, Layer):
        if against is not None and not isinstance(against, Layer):
            raise TypeError(
                f"`against` is {spell(against)}, and a layer is compared with jax.vjp of its own "
                "forward, or of another layer's: leave `against` out, or give a Layer"
            )
        moved = jax.tree.map(lambda leaf: leaf[1], nearby(params, 2, key))
        peer = target if against is None else surrogate_of(target, against, moved, x, context)
        subject = Subject(target, moved, x, context, key, peer)
        return _of_subject(subject, probes, floor, quick, profile)
    if against is None:
        has_aux = target.objective.has_aux
        against = jax.value_and_grad(target.objective, has_aux=has_aux)
    rows, notes = compare_gradients(target, against, params, x, context, probes, key, floor)
    found = Comparison(_called(target), tuple(rows), tuple(notes))
    if not profile or not found.ok:
        return found
    functions = {"by_hand": target, "automatic": against}
    return replace(found, costs=profile_functions(found.target, functions, (params, x, context)))


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


def _of_subject(
    subject: Subject, probes: int, floor: float, quick: bool, profile: bool
) -> Comparison:
    layer = subject.layer
    try:
        with of_one_call(describe(layer)):
            jax.eval_shape(lambda *a: two(layer, "forward", layer.forward(*a))[0], *subject.given)
            found = compare_subject(subject, probes, floor, quick)
    except Exception as error:
        _check_order(layer, *subject.given[:2], error)
        raise
    if not profile or not found.ok:  # the cost of a wrong gradient would prove nothing
        return found
    costs = profile_layer(found.target, subject.layer, *subject.given, peer=subject.peer)
    return replace(found, costs=costs)


def _check_order(layer: Layer, params: Params, x: Any, error: Exception) -> None:
    """Raises TypeError where x has the tree of what init makes of `params`: they are exchanged."""
    try:
        wanted = jax.eval_shape(layer.init, jax.random.key(0), params)
    except Exception:
        return
    if jax.tree.structure(wanted) == jax.tree.structure(x) != jax.tree.structure(params):
        raise TypeError(
            f"params is {spell(params)} and x is {spell(x)}: they are exchanged, "
            "write compare(layer, params, x)"
        ) from error


def _is_gradient(target: Any, args: tuple[Any, ...], context: Context | None) -> bool:
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


def _called(target: Any) -> str:
    """A gradient function in a few words."""
    if isinstance(target, Backprop):
        parts = [target.objective.model, target.objective.loss]
        return f"backprop({', '.join(describe(part) for part in parts if part is not None)})"
    return getattr(target, "__name__", type(target).__name__)
