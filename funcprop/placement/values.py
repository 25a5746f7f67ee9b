"""Placement: a value that says for every array which axes are spread over which mesh axes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import PartitionSpec

from funcprop.sharding import names, once

Row = tuple[str, PartitionSpec]


@dataclass(frozen=True)
class Placement:
    """Where parameters and examples lie on a mesh: (path, shape) -> PartitionSpec.

    rows    (path, spec) pairs for parameters, as their paths are printed: "[0].w" is the weight of
            the first layer, * stands for any characters. The first row that fits decides
    batch   the spec of every array of a batch, cut to its axes
    spread  mesh axes that each parameter is cut along besides: the last of its two last axes that
            is still whole and that they divide; a parameter without one stays whole on them

    A parameter that no row names, and nothing spreads, is whole on every device. `one | other` is
    both: the rows of `one` come first, and what both say of a batch is joined axis by axis.

    raises  TypeError where rows are no pairs of a path and a PartitionSpec or batch is none

    >>> from jax.sharding import PartitionSpec as P
    >>> import funcprop as fp
    >>> columns = fp.placement.Placement(rows=(("*.w", P(None, "model")), ("*.b", P("model"))))
    >>> both = fp.placement.data_parallel("data") | columns
    >>> both.batch, both.spec("[0].w", (8, 64), {"data": 2, "model": 4})
    (P('data',), P(None, 'model'))
    """

    rows: tuple[Row, ...] = ()
    batch: PartitionSpec = PartitionSpec()
    spread: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = tuple(tuple(row) if isinstance(row, (tuple, list)) else row for row in self.rows)
        object.__setattr__(self, "rows", rows)
        for row in rows:
            right = isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], str)
            if not right or not isinstance(row[1], PartitionSpec):
                raise TypeError(
                    f"a row is {row!r}, wanted a path and a spec: "
                    'write Placement(rows=(("[0].w", PartitionSpec(None, "model")),))'
                )
        if not isinstance(self.batch, PartitionSpec):
            raise TypeError(
                f'batch is {self.batch!r}, wanted a spec: write batch=PartitionSpec("data")'
            )
        if any(not isinstance(name, str) for name in names(*self.batch)):
            raise TypeError(
                f'batch is {self.batch!r}, wanted names of mesh axes: write PartitionSpec("data")'
            )
        if not isinstance(self.spread, tuple) or not all(isinstance(n, str) for n in self.spread):
            raise TypeError(
                f'spread is {self.spread!r}, wanted names of mesh axes: write spread=("data",)'
            )

    def __or__(self, other: Placement) -> Placement:
        if not isinstance(other, Placement):
            return NotImplemented
        return Placement(
            self.rows + other.rows,
            joined(self.batch, other.batch),
            tuple(dict.fromkeys(self.spread + other.spread)),
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes that it names."""
        named = (name for _, spec in self.rows for name in names(*spec))
        return tuple(dict.fromkeys((*names(*self.batch), *self.spread, *named)))

    def spec(self, path: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
        """The spec of one parameter.

        path   as it is printed: "[0].w"
        shape  its sizes
        sizes  of the mesh axes: `mesh.shape`

        raises  ValueError where a row has more axes than the parameter, or a size of it that its
                mesh axes do not divide
        """
        for pattern, spec in self.rows:
            if fits(pattern, path):
                check_divides(path, shape, spec, sizes, pattern)
                break
        else:
            spec = PartitionSpec()
        entries = [*spec, *(None for _ in shape[len(spec) :])]
        taken = names(*entries)
        over = tuple(name for name in self.spread if name not in taken)
        for axis in reversed(range(len(shape))[-2:]) if over else ():
            if entries[axis] is None and shape[axis] % math.prod(sizes[n] for n in over) == 0:
                entries[axis] = over if over[1:] else over[0]
                break
        while entries and entries[-1] is None:
            entries.pop()
        return PartitionSpec(*entries)

    def batch_spec(self, path: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> Any:
        """The spec of one array of a batch.

        raises  ValueError for a size that its mesh axes do not divide
        """
        spec = PartitionSpec(*self.batch[: len(shape)])
        for axis, entry in enumerate(spec):
            parts = math.prod(sizes[name] for name in names(entry))
            if shape[axis] % parts:
                raise ValueError(
                    f"batch{path} is {list(shape)}: {spelled(entry, sizes)} does not divide the "
                    f"{shape[axis]} of axis {axis}: give a multiple of {parts}, as "
                    f"{shape[axis] // parts * parts or parts}"
                )
        return spec


def joined(one: PartitionSpec, other: PartitionSpec) -> PartitionSpec:
    """Both specs, axis by axis."""
    length = max(len(one), len(other))
    padded = ((*spec, *(None for _ in range(length - len(spec)))) for spec in (one, other))
    entries = [names(*pair) for pair in zip(*padded, strict=True)]
    return PartitionSpec(*once(tuple((e if e[1:] else e[0]) if e else None for e in entries)))


@functools.cache
def pattern_of(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))))


def fits(pattern: str, path: str) -> bool:
    """Whether a path is one of those that a row means."""
    return pattern_of(pattern).fullmatch(path) is not None


def spelled(entry: Any, sizes: Mapping[str, int]) -> str:
    """the mesh axis 'model' of 4."""
    words = [f"{name!r} of {sizes[name]}" for name in names(entry)]
    return f"the mesh {'axes' if words[1:] else 'axis'} {' and '.join(words)}"


def check_divides(
    path: str, shape: tuple[int, ...], spec: PartitionSpec, sizes: Mapping[str, int], row: str
) -> None:
    """Raises ValueError where a row does not fit the shape of a parameter."""
    if len(spec) > len(shape):
        raise ValueError(
            f"the row {row!r} has {len(spec)} axes, {spec}, and params{path} is {list(shape)}: "
            f"write a row ({path!r}, PartitionSpec(...)) with at most {len(shape)} before it"
        )
    for axis, entry in enumerate(spec):
        if shape[axis] % math.prod(sizes[name] for name in names(entry)):
            raise ValueError(
                f"params{path} is {list(shape)}: {spelled(entry, sizes)} does not divide the "
                f"{shape[axis]} of axis {axis}: choose a size that it divides, or leave it whole: "
                f"write Placement(rows=(({path!r}, PartitionSpec()),)) | placement"
            )
