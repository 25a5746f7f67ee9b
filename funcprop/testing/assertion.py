"""`assert_gradients`: a comparison as one line of a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from funcprop.comparison.front import compare
from funcprop.comparison.report.comparison import Comparison, GradientError

Listener = Callable[[Comparison], None]
listeners: list[Listener] = []  # told of every comparison, right or wrong: pytest's report is one


def assert_gradients(
    target: Any, *arguments: Any, allow_unjudged: bool = False, **options: Any
) -> Comparison:
    """What `compare(target, *arguments, **options)` finds, all of it right.

    target, arguments, options   as for `compare`
    allow_unjudged               whether what no witness can judge may pass, as the gradient of a
                                 bisection, which is a staircase to all of them

    assert_gradients(layer, params, x, context=Context(key)) is a whole test of a layer.

    Returns the Comparison.

    raises  GradientError, an AssertionError whose text is the report of the wrong gradients, and
            whatever `compare` raises

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> def test_tanh():
    ...     fp.assert_gradients(fp.Tanh(), (), jnp.arange(8.0).reshape(4, 2))
    >>> test_tanh()
    """
    __tracebackhide__ = True
    return agreed(compare(target, *arguments, **options), allow_unjudged)


def agreed(found: Comparison, allow_unjudged: bool = False) -> Comparison:
    """The comparison itself where all is right; told to the listeners either way.

    Raises GradientError where something is wrong, or cannot be judged.
    """
    __tracebackhide__ = True
    for listener in listeners:
        listener(found)
    try:
        found.raise_if_wrong(allow_unjudged)
    except GradientError as error:  # without the frames of the report: a test shows its own line
        raise GradientError(str(error)) from None
    return found
