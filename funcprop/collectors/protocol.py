"""What a composite written elsewhere must keep to, for rules to be asked inside it.

A composite passes up what its children's backward left, untouched, and has the uses of a parameter
joined by its `shared`. One that adds them itself is right about gradients and about nothing else:
norms have cross terms, and new parameters have no sum. So every composite that is not of this
library is walked once more, abstractly, with marks in the place of records: with marks one can do
nothing but pass them up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import lax

from funcprop.collectors.held import without_held
from funcprop.collectors.single_examples import check_foreign
from funcprop.composites import Composite, Wrapper
from funcprop.composites.sharing import Sum
from funcprop.layer import Context, Layer, LayerError, Params, Residuals

REMEDY = (
    "pass up what the children's backward returned as it is; where a parameter is used several "
    "times, write `reused = fp.composites.EVERYTHING` in the class, and "
    "self.shared.places(self, (first, second)) in its backward"
)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["mark"], meta_fields=[])
@dataclass(frozen=True)
class Mark:
    """What stands for a record: a random key, which has no arithmetic."""

    mark: Any


@dataclass(frozen=True)
class Marking(Wrapper):
    """`layer`, with a mark in the second slot of backward."""

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Mark]:
        dx, _ = self.layer.backward(params, residuals, dy)
        return dx, Mark(jax.random.key(0))


@dataclass(frozen=True, eq=False)
class Seeing(Wrapper):
    """`layer`, which tells what it was given."""

    given: list[Any]

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        self.given.append(x)
        return self.layer.forward(params, x, context)


@dataclass(frozen=True)
class Joining(Sum):
    """Several marks become one."""

    raw: ClassVar[bool] = True  # what is converted, as by Cast, is passed on as it is

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        dx, marks = lax.map(step, each)
        return dx, jax.tree.map(lambda mark: mark[0], marks)

    def places(self, layer: Layer, records: tuple[Any, ...]) -> Any:
        return records[0]


@dataclass(frozen=True)
class Undeclared(Sum):
    """What joins uses of which the composite does not say that there are several."""

    raw: ClassVar[bool] = True

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        return self.places(layer, ())

    def places(self, layer: Layer, records: tuple[Any, ...]) -> Any:
        raise LayerError(
            layer,
            "joins several uses of its parameters, and does not say that it has them",
            "write `reused = fp.composites.EVERYTHING` in the class",
        )


@dataclass(frozen=True)
class Checked(Wrapper):
    """A composite written elsewhere, whose backward is tried with marks before it is asked.

    In `layer` the leaves are those that ask the rule.
    """

    original: Layer
    per_example: bool = False

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        if self.per_example:
            check_foreign(self.original, without_held(params), x, context)
            self.check_children(without_held(params), x, context)
        return self.layer.forward(params, x, context)

    def check_children(self, params: Params, x: Any, context: Context) -> None:
        """Raises LayerError where a child is given other examples than the composite, or the same
        in another order: what a rule finds of an example would be another one's."""
        composite = self.original
        assert isinstance(composite, Composite)
        given: list[Any] = []
        seeing = composite.rebuild(tuple(Seeing(child, given) for child in composite.layers))

        def inputs(params: Params, x: Any, context: Context) -> list[Any]:
            given.clear()
            seeing.forward(params, x, context)
            leaves, own = jax.tree.leaves(list(given)), trace_of(jax.tree.leaves(x)[0])
            return [leaf for leaf in leaves if trace_of(leaf) is own]  # in a loop there is no row

        check_foreign(composite, params, x, context, inputs)

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        composite = self.layer
        assert isinstance(composite, Composite)
        tried = composite.rebuild(tuple(map(Marking, composite.layers)))
        assert isinstance(tried, Composite)
        shared = Joining() if composite.reused else Undeclared()
        try:
            marks = jax.eval_shape(tried.with_shared(shared).backward, params, residuals, dy)[1]
        except LayerError:
            raise
        except Exception as error:
            raise LayerError(
                self.original, f"does something with what its children left: {error}", REMEDY
            ) from error
        if not composite.owns and not passed_up(marks, len(composite.layers)):
            raise LayerError(
                self.original, "does not pass up what its children left, one entry a child", REMEDY
            )
        return composite.backward(params, residuals, dy)


def trace_of(value: Any) -> Any:
    """The transformation that a value belongs to: inside a loop another one than around it."""
    return getattr(value, "_trace", None)


def passed_up(marks: Any, children: int) -> bool:
    """Whether there is one mark a child, or None of one that is frozen."""
    return (
        isinstance(marks, tuple)
        and len(marks) == children
        and all(mark is None or isinstance(mark, Mark) for mark in marks)
    )


def trusted(composite: Composite) -> bool:
    """Whether it is of this library, where tests ask every rule about it."""
    return type(composite).__module__.partition(".")[0] == "funcprop"
