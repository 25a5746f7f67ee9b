"""Public names that are imported when they are asked for, and those that moved."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

# Names of funcprop that stand in one package only, by that package.
_MOVED = {
    "layers": "Affine Gain GRUWeights Kernel LowRank RecurrentWeights Statistics Table",
    "composites": "Rewired RewiredParams",
    "rewiring": "DirectFeedback alignment clip_cotangent direct_feedback_alignment "
    "feedback_alignment frozen gradient_reversal kolen_pollack noisy_cotangent sign_symmetry "
    "straight_through",
    "collectors": "SplitBackward bytes_between",
    "pipelines": "StageTimes Timeline simulate_pipeline stage_times",
    "models": "from_objective gpt2_params gpt_objective to_objective",
}

# What a user may have written, and what to write instead.
DEPRECATED = {
    **{f"fp.{name}": f"fp.{room}.{name}" for room in _MOVED for name in _MOVED[room].split()},
    **{f"fp.collectors.{name}": f"fp.pipelines.{name}" for name in _MOVED["pipelines"].split()},
    "fp.Score": "fp.catalogue.MutationScore",
    "fp.comparison.Score": "fp.catalogue.MutationScore",
    "fp.comparison.Table": "fp.catalogue.CatalogueComparison",
    "fp.comparison.compare_catalogue": "fp.catalogue.compare_catalogue",
    "fp.comparison.mutation_score": "fp.mutation_score",
    "fp.comparison.assert_gradients": "fp.assert_gradients",
    "fp.Binarise": "fp.Binarize",
    "fp.layers.Binarise": "fp.layers.Binarize",
    "fp.Quantise": "fp.Quantize",
    "fp.layers.Quantise": "fp.layers.Quantize",
    "fp.WeightStandardised": "fp.WeightStandardized",
    "fp.composites.WeightStandardised": "fp.composites.WeightStandardized",
}


def deprecated(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that imports its names: those it had once, with a warning."""
    return _getter(package, {})


def on_demand(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose imports stand under TYPE_CHECKING.

    There, type checkers and editors see them. At run time the same lines are read, and each is
    carried out when its name is asked for. Packages stand in `dir` alone, not in `__all__`.
    """
    source = sys.modules[package].__spec__.loader.get_source(package)  # type: ignore[union-attr]
    origins = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname
    }
    names = sorted(name for name, origin in origins.items() if origin != package)
    return _getter(package, origins), lambda: sorted(origins), names


def _getter(package: str, origins: dict[str, str]) -> Callable[[str], Any]:
    module = sys.modules[package]

    def __getattr__(name: str) -> Any:
        if name in origins:
            if origins[name] == package:
                return import_module(f"{package}.{name}")
            value = getattr(import_module(origins[name]), name)
            setattr(module, name, value)  # from here on it is found without asking
            return value
        old = f"{package}.{name}".replace("funcprop", "fp", 1)
        if old not in DEPRECATED:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}", name=name, obj=module
            )
        new = DEPRECATED[old]
        warnings.warn(f"{old} is deprecated: write {new}", DeprecationWarning, stacklevel=2)
        room, _, name = new.replace("fp", "funcprop", 1).rpartition(".")
        return getattr(import_module(room), name)

    return __getattr__
