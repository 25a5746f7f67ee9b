"""Which layers of a model are meant: by type, by path, or by a predicate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from funcprop.layer import Layer

Predicate = Callable[[str, Layer], bool]
Where = type[Layer] | str | Predicate


def path_of(place: tuple[str, ...], layer: Layer) -> str:
    """ "Serial[2] Dense", as records and errors have it."""
    return " ".join((*place, type(layer).__name__))


def check_where(where: Any, told: str) -> None:
    """Raises TypeError for what names no layers."""
    known = issubclass(where, Layer) if isinstance(where, type) else callable(where)
    if isinstance(where, Layer) or not (known or isinstance(where, str)):
        raise TypeError(
            f"{where!r} names no layers: wanted a layer type, a path or a predicate: {told}"
        )


def is_meant(where: Where, place: tuple[str, ...], layer: Layer) -> bool:
    """Whether a layer at a place is one of those.

    where   a layer type, exactly; a path, with or without the layer's own name at its end; the name
            of a primitive, for the parameters of lifted functions; or a function (path, layer) ->
            bool
    """
    if isinstance(where, type):
        return type(layer) is where
    path = path_of(place, layer)
    if isinstance(where, str):
        return where in (path, " ".join(place)) or where in getattr(layer, "names", ())
    return bool(where(path, layer))
