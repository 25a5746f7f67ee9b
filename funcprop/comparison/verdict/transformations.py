"""Whether a rule gives the same numbers inside of JAX's transformations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax

from funcprop.comparison.leaf import Leaf, broke
from funcprop.comparison.programs import Raised
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.verdict.rules import UNKNOWN, judge_exact
from funcprop.comparison.witnesses.transformations import DEVICES, HOST, Trial

LEFT_OUT = (
    "shard_map was left out, for there is one device: "
    'jax.config.update("jax_num_cpu_devices", 2) before the first computation makes two'
)


def judged_under(
    subject: Subject, trials: Sequence[Trial], narrow: Any = None
) -> tuple[list[Leaf], list[str]]:
    """-> wrong rows, each with the transformation in its place; and notes.

    A transformation that raises for the function without its rules too is none that it fails.
    """
    rows: list[Leaf] = []
    notes: list[str] = []
    right: list[str] = []
    excused: dict[str, list[str]] = {}
    checked, unchecked = DEVICES
    results = {trial.name: trial for trial in trials}
    for trial in trials:
        if trial.name == unchecked:
            continue
        if trial.name == checked and isinstance(trial.found, Raised) and unchecked in results:
            other = results[unchecked]
            if not isinstance(other.found, Raised):  # its numbers can be looked at nevertheless
                notes.append(f"{checked} only with check_vma=False: it raised {trial.found.words}")
                trial = other
        place = " ".join(filter(None, (subject.name, trial.name)))
        if isinstance(trial.found, Raised):
            if trial.plain_too:
                words = trial.found.words
                if trial.found is not HOST:
                    words = f"raised {words}, and the plain function does too"
                excused.setdefault(words, []).append(trial.name)
            else:
                row = broke(place, "call", f"raised {trial.found.words}")
                rows.append(replace(row, words="raises"))
            continue
        wrong = differing(place, trial, narrow, subject.rtol)
        wrong = [row for row in wrong if row.path not in subject.ignored]
        if wrong and trial.by_jax is not None and not isinstance(trial.by_jax, Raised):
            again = differing(place, trial._replace(wanted=trial.by_jax), narrow, subject.rtol)
            if not again:
                words = "JAX's own derivative in a jax.custom_vjp gives these numbers as well"
                excused.setdefault(words, []).append(trial.name)
                continue
        rows += wrong
        right += [] if wrong else [trial.name]
    notes += [f"not judged {', '.join(names)}: {words}" for words, names in excused.items()]
    if len(jax.devices()) < 2:
        notes.append(LEFT_OUT)
    if right and not rows:
        notes.insert(0, f"the same numbers {', '.join(right)}")
    return rows, notes


def differing(place: str, trial: Trial, narrow: Any, rtol: float) -> list[Leaf]:
    """The wrong rows of a trial."""
    rows = []
    for row in judge_exact(place, trial.found, trial.wanted, narrow=narrow, rtol=rtol):
        if not row.ok and row.rule != UNKNOWN:
            rows.append(replace(row, rule=f"as the plain call: {row.rule}"))
    return rows
