"""Activations: an element stays at its place, so arrays are taken as they are."""

from collections.abc import Callable
from typing import Any

import numpy as np

import funcprop as fp

from .adapt import Adapt, Unsupported, arguments


def same(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def plain(kind: type[fp.Layer], names: str = "", **spelled: str) -> Callable[..., Any]:
    """Theirs by `names`, in order; `spelled` says which option of ours each of them is."""

    def translate(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
        given = arguments(names, args, kwargs)
        given.pop("inplace", None)
        return kind(**{spelled.get(name, name): v for name, v in given.items()}), Adapt(same, same)

    return translate


def over_an_axis(kind: type[fp.Layer], axis: int | None = None) -> Callable[..., Any]:
    """Axes count from the end here: of an array with as many axes as the sample has."""

    def translate(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
        dim = axis if axis is not None else arguments("dim", args, kwargs).get("dim")
        if dim is None:
            raise Unsupported("no axis: PyTorch guesses one, and says that it should not")

        def moved(value: Any) -> Any:
            return np.moveaxis(np.atleast_1d(same(value)), dim, -1)

        return kind(), Adapt(moved, moved)

    return translate


def prelu(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    """A slope a channel is one of axis 1 there, and of the last one here."""
    several = arguments("num_parameters init", args, kwargs).get("num_parameters", 1) > 1

    def moved(value: Any) -> Any:
        value = same(value)
        return np.moveaxis(value, 1, -1) if value.ndim > 1 else value

    def params(named: dict[str, np.ndarray]) -> Any:
        return fp.layers.Slope(named["weight"] if several else named["weight"][0])

    return fp.PReLU(per_feature=several), Adapt(moved, moved, params)


TABLE: dict[str, Callable[..., Any]] = {
    "CELU": plain(fp.CELU, "alpha inplace"),
    "ELU": plain(fp.ELU, "alpha inplace"),
    "GELU": lambda args, kwargs: (
        fp.GELU(approximate=arguments("approximate", args, kwargs).get("approximate") == "tanh"),
        Adapt(same, same),
    ),
    "Hardshrink": plain(fp.HardShrink, "lambd", lambd="width"),
    "Hardswish": plain(fp.HardSwish, "inplace"),
    "Hardtanh": plain(fp.HardTanh, "min_val max_val inplace", min_val="low", max_val="high"),
    "LeakyReLU": plain(fp.LeakyReLU, "negative_slope inplace", negative_slope="slope"),
    "LogSigmoid": plain(fp.LogSigmoid),
    "LogSoftmax": over_an_axis(fp.LogSoftmax),
    "Mish": plain(fp.Mish, "inplace"),
    "PReLU": prelu,
    "ReLU": plain(fp.ReLU, "inplace"),
    "ReLU6": plain(fp.ReLU6, "inplace"),
    "SELU": plain(fp.SELU, "inplace"),
    "SiLU": plain(fp.SiLU, "inplace"),
    "Sigmoid": plain(fp.Sigmoid),
    "Softmax": over_an_axis(fp.Softmax),
    "Softmax2d": over_an_axis(fp.Softmax, -3),
    "Softmin": over_an_axis(fp.Softmin),
    "Softplus": plain(fp.Softplus, "beta threshold"),
    "Softshrink": plain(fp.Softshrink, "lambd", lambd="width"),
    "Softsign": plain(fp.Softsign),
    "Tanh": plain(fp.Tanh),
    "Tanhshrink": plain(fp.TanhShrink),
    "Threshold": plain(fp.Threshold, "threshold value inplace"),
}
