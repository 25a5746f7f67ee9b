"""The calls of derivative rules inside a function: what they compute, and each as a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from funcprop.comparison.programs import is_key
from funcprop.comparison.subject.functions import Function, remembered
from funcprop.comparison.subject.once import Once
from funcprop.comparison.subject.rules import rules_inside
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.subject.without_rules import without_rules
from funcprop.layer import Array, Context, Layer, Params
from funcprop.lifting.calls import Call


@dataclass(frozen=True)
class PlainCall(Layer):
    """What a call computes, without its rule and without those that it calls: its truth."""

    call: Call

    def forward(self, params: Params, x: Any, context: Context = Context()) -> tuple[Any, Any]:
        function = function_of(self.call)
        try:
            return without_rules(function)(*x), ()
        except NotImplementedError:  # a rule that cannot be taken out
            return function(*x), ()


def function_of(call: Call) -> Callable[..., tuple[Any, ...]]:
    """The function of a call's operands, with its rule."""

    def function(*operands: Any) -> tuple[Any, ...]:
        return tuple(call.functions.find(call.number, operands)(*operands))

    function.__name__ = call.name
    return function


def peer_of(layer: Layer) -> Layer:
    """The layer whose forward JAX differentiates for the truth."""
    return PlainCall(layer) if isinstance(layer, Call) else layer


def as_target(call: Call, operands: Any, key: Array) -> Subject:
    """The call as a function that is compared, at these values alone and in the dtypes that it had.

    The rules that its function calls in turn stand inside.
    """
    x = tuple(map(of_type, operands, call.types))
    function = function_of(call)

    def followed(*operands: Any) -> tuple[Any, ...]:
        return tuple(call.functions.without_rule(call.number, operands)(*operands))

    return Subject(
        remembered(Function(function)), (), x, Context(), key,
        Function(Once(without_rules(function))),
        inner=rules_inside(followed, x) if call.calls else None, changed=False,
    )  # fmt: skip


def of_type(leaf: Any, like: tuple[Any, str]) -> Any:
    """An operand in the dtype that it had where the function was traced."""
    return leaf if is_key(leaf) else np.asarray(leaf).astype(like[1])
