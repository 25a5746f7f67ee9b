"""Numbers that a layer makes on its way and its dtype cannot hold, where its results would fit.

exp(z) / Σ exp(z) is a right softmax with a right gradient, and NaN from z = 89 on in float32. None
of the inputs that gradients are compared at reaches that, and a gradient that is not finite at a
larger one is not wrong for it: so this is said, and judged by nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import Programs, dtypes, named_leaves
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.gradients import all_finite, passed, working_pass
from funcprop.gradient import partition
from funcprop.layer import is_float

LARGE = 100.0  # e¹⁰⁰ is beyond float32 and bfloat16
LARGER = 1e4  # 10⁴ · 10⁴ is beyond float16, and e¹⁰⁰ has long been


def overflows(subject: Subject, dys: Any, wide_dys: Any, run: Programs) -> list[str]:
    """A note on what is not finite in the working dtype at a large x, and would be by its value.

    dys       cotangents [probes, ...] in the working dtype
    wide_dys  those of the float64 programs in `run`

    No program is added to those of `observe`, and in float64 they run only where something is not
    finite: what is not finite there, or beyond the dtype, is no overflow on the way, nor is a
    gradient where the output is beyond it.
    """
    floats = [leaf.dtype for leaf in jax.tree.leaves(subject.x) if is_float(leaf)]
    narrow = any(float(jnp.finfo(dtype).max) < LARGER**2 for dtype in floats)
    for size in (LARGE, LARGER) if narrow else (LARGE,):
        for large in enlarged(subject.x, size):
            here = subject.at(large, subject.context)
            try:
                y, by_hand = working_pass(here, dys, run)
            except Exception:  # an input that nobody gave, and that the target refuses
                continue
            found = {"y": y, **by_hand}
            if all_finite(found):
                continue
            truth = in_float64(here, wide_dys, run)
            names = dtypes((here.params, large))
            told = f"at |x| = {size:g} in {names}, where float64's value would fit"
            lost, beyond = overflown({"y": y}, truth)
            if lost:
                return [f"forward is not finite {told}"]
            if not beyond and (lost := overflown(by_hand, truth)[0]):
                return [f"{lost[0]} is not finite {told}"]
    return []


def enlarged(x: Any, size: float) -> Iterator[Any]:
    """x with floats whose largest is `size`, of either sign: all leaves, and each leaf alone.

    Alone, since a target or a probability that is scaled is often none.
    """
    leaves, tree = jax.tree.flatten(x)
    tops = {
        place: float(np.max(np.abs(np.asarray(leaf, np.float64)), initial=0.0))
        for place, leaf in enumerate(leaves)
        if is_float(leaf)
    }
    places = [place for place, top in tops.items() if top > 0]
    for chosen in [places] if len(places) < 2 else [places, *([place] for place in places)]:
        for sign in (1, -1) if chosen else ():
            scaled = list(leaves)
            for place in chosen:
                wide = np.asarray(leaves[place], np.float64) * (sign * size / tops[place])
                scaled[place] = wide.astype(leaves[place].dtype)
            yield jax.tree.unflatten(tree, scaled)


def in_float64(subject: Subject, wide_dys: Any, run: Programs) -> dict[str, Any]:
    """The output and the gradients by hand in float64, by the programs of `observe`."""
    with jax.enable_x64(True):
        wide = subject.in_float64()
        y, residuals = run("forward", wide.layer.forward, *wide.given)
        backward = functools.partial(passed, wide.layer)
        grads = run("backward", backward, wide.params, residuals, wide_dys)[1]
    return {"y": partition(y)[0], **grads}


def overflown(found: dict[str, Any], truth: dict[str, Any]) -> tuple[list[str], bool]:
    """-> leaves that are not finite where the truth is within their dtype; and whether some truth
    is not: then the gradient may well be made of numbers that are none."""
    lost, beyond = [], False
    for name, tree in found.items():
        pairs = zip(named_leaves({name: tree}), jax.tree.leaves(truth[name]), strict=True)
        for (path, leaf), wanted in pairs:
            wanted = np.asarray(wanted, np.float64)
            wanted = wanted[: len(leaf)] if leaf.ndim else wanted
            fits = np.abs(wanted) <= float(jnp.finfo(leaf.dtype).max)
            beyond |= not fits.all()
            if (fits & ~np.isfinite(leaf)).any():
                lost.append(path)
    return lost, beyond
