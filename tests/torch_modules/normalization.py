"""Normalization, and what else has one gain or one table of weights."""

from collections.abc import Callable
from typing import Any

import numpy as np

import funcprop as fp

from .activations import same
from .adapt import Adapt, Unsupported, arguments, channels_last


def gain(named: dict[str, np.ndarray]) -> fp.layers.Gain:
    return fp.layers.Gain(named.get("weight"), named.get("bias"))


def over_the_last(kind: type[fp.Layer], names: str) -> Callable[..., Any]:
    def translate(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
        given = arguments(names, args, kwargs)
        affine = given.get("elementwise_affine", True)
        options = {"bias": affine and given.get("bias", True)} if "bias" in names else {}
        axes = len(given["normalized_shape"])
        layer = kind(eps=given["eps"], axes=axes, scale=affine, **options)
        return layer, Adapt(same, same, gain)

    return translate


def batch_norm(axes: int) -> Callable[..., Any]:
    def translate(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
        names = "num_features eps momentum affine track_running_stats bias"
        given = arguments(names, args, kwargs)
        affine = given.get("affine", True)
        layer = fp.BatchNorm(
            eps=given.get("eps", 1e-5), scale=affine, bias=affine and given.get("bias", True)
        )

        def moved(value: Any) -> Any:
            value = same(value)
            if not value.size:
                raise Unsupported("statistics of an empty batch")
            return np.moveaxis(value, 1, -1)

        return layer, Adapt(moved, moved, gain)

    return translate


def group_norm(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    given = arguments("num_groups num_channels eps affine bias", args, kwargs)
    affine = given.get("affine", True)
    options = {"scale": affine, "bias": affine and given.get("bias", True)}

    def moved(value: Any) -> Any:
        value = same(value)  # without places between examples and channels, there is one
        return np.moveaxis(value.reshape(*value.shape[:2], -1), 1, -1)

    layer = fp.GroupNorm(given["num_groups"], axes=1, eps=given["eps"], **options)
    return layer, Adapt(moved, moved, gain)


def instance_norm(axes: int) -> Callable[..., Any]:
    def translate(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
        names = "num_features eps momentum affine track_running_stats bias"
        given = arguments(names, args, kwargs)
        affine = given.get("affine", False)
        options = {"scale": affine, "bias": affine and given.get("bias", True)}
        layer = fp.InstanceNorm(axes=axes, eps=given.get("eps", 1e-5), **options)
        return layer, Adapt(channels_last(axes), channels_last(axes), gain)

    return translate


def linear(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    given = arguments("in_features out_features bias", args, kwargs)
    layer = fp.Dense(given["out_features"], bias=given.get("bias", True))

    def params(named: dict[str, np.ndarray]) -> fp.layers.Affine:
        return fp.layers.Affine(named["weight"].T, named.get("bias"))

    return layer, Adapt(same, same, params)


def embedding(args: tuple, kwargs: dict[str, Any]) -> tuple[fp.Layer, Adapt]:
    given = arguments("num_embeddings embedding_dim", args, kwargs)

    def ids(value: Any) -> Any:
        value = same(value)
        return () if isinstance(value, tuple) else value.astype(np.int32)

    def params(named: dict[str, np.ndarray]) -> fp.layers.Table:
        return fp.layers.Table(named["weight"])

    return fp.Embedding(given["num_embeddings"], given["embedding_dim"]), Adapt(ids, same, params)


NAMES = "normalized_shape eps elementwise_affine bias"
TABLE: dict[str, Callable[..., Any]] = {
    "LayerNorm": over_the_last(fp.LayerNorm, NAMES),
    "RMSNorm": over_the_last(fp.RMSNorm, NAMES.removesuffix(" bias")),
    "GroupNorm": group_norm,
    "Linear": linear,
    "Embedding": embedding,
} | {
    f"{kind}{axes}d": of(axes)
    for axes in (1, 2, 3)
    for kind, of in (("BatchNorm", batch_norm), ("InstanceNorm", instance_norm))
}
