"""Block: a composition with a name."""

from __future__ import annotations

from dataclasses import dataclass, field

from funcprop.composites import Serial
from funcprop.layer import Layer


@dataclass(frozen=True, repr=False)
class Block(Serial):
    """Layers in series, made from a configuration: its `repr` is the call that makes it.

    A subclass says which layers in `compose`. It adds no mathematics; parameters, residuals and
    whatever is collected from the layers inside are those of the Serial it stands for.

    forward   x -> y, the layers' in series: any trees, for example [..., in] -> [..., out]
    keeps     what the layers keep
    backward  theirs
    dtypes    theirs
    raises    NotImplementedError where `compose` is not defined; the layers' own errors, with their
              place in the model

    >>> from dataclasses import dataclass
    >>> import funcprop as fp
    >>> @dataclass(frozen=True, repr=False)
    ... class Hidden(fp.blocks.Block):
    ...     features: int
    ...
    ...     def compose(self):
    ...         return fp.Dense(self.features), fp.ReLU()
    >>> Hidden(30).layers
    (Dense(30), ReLU())
    """

    layers: tuple[Layer, ...] = field(init=False, compare=False)

    __repr__ = Layer.__repr__

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", self.compose())

    def compose(self) -> tuple[Layer, ...]:
        """The layers, first to last."""
        raise NotImplementedError(f"{type(self).__name__} does not define compose")

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        """Around other layers it is no longer what its configuration says: a plain Serial."""
        return Serial(*layers)
