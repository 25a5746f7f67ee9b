"""A rule compared at the calls that were seen."""

from __future__ import annotations

import contextlib
import math
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from funcprop.comparison.front import compare
from funcprop.comparison.report.comparison import Comparison
from funcprop.comparison.verdict.rounding import OWN
from funcprop.sheets import aligned
from funcprop.testing.calls import DOMAINS, Members, as_call, floats_of, values_of
from funcprop.testing.leaves import Unusable, is_differentiable, is_finite
from funcprop.testing.rules import CANNOT, OK, WRONG, RuleRow
from funcprop.testing.seen import Example, Seen

LARGEST = 2**22  # elements of the arguments of a call: more takes minutes


DRAWN = "values drawn"  # said of a rule whose verdict rests on these


@dataclass(frozen=True)
class Found:
    """What `compare` found at a call; names of the arguments; whether values were drawn."""

    comparison: Comparison
    names: tuple[str, ...]
    drawn: bool

    @property
    def unjudged(self) -> str:
        """Why nothing can be judged: what the backward raised, or that no truth is finite."""
        if self.comparison.unjudged and not self.comparison.wrong:
            return one_line(self.comparison.headline.partition(": ")[2])
        rules = [row.rule for row in self.comparison.wrong]
        for rule in rules:
            if rule.startswith("contract: backward raised"):
                return one_line(rule.partition(": ")[2])
        return next((rule for rule in rules if "nothing can be judged" in rule), "")

    @property
    def worst(self) -> tuple[str, float]:
        """The first wrong row, or the largest relative error in float64; infinite where
        nothing was measured relative to the gradient."""
        rows = self.comparison.rows
        exact = [row for row in rows if row.dtype == "float64"]
        measured = [row for row in exact if row.rule.startswith("relative norm")]
        if self.comparison.wrong:
            row = self.comparison.wrong[0]
        else:
            row = max(measured or exact or rows, key=lambda row: row.relative)
        known = row in measured or not row.ok
        return with_names(row.name, self.names), row.relative if known else math.inf

    @property
    def words(self) -> str:
        """What is wrong."""
        if self.comparison.ok:
            return ""
        rule = self.comparison.wrong[0].rule
        if rule.startswith("contract: "):
            return with_names(one_line(rule.partition(": ")[2]), self.names)
        said = self.comparison.headline.partition(": ")[2]
        return with_names(said.removeprefix("wrong gradient in "), self.names)

    @property
    def report(self) -> str:
        """The wrong rows as a table, nothing where there are none."""
        if self.comparison.ok:
            return ""
        sheet = self.comparison.sheet
        lines = [line.cells for line in sheet.lines if not line.ok]
        named = [[with_names(cell, self.names) for cell in cells] for cells in lines]
        title = with_names(self.comparison.headline, self.names)
        return "\n".join([title, "", *aligned([sheet.headings, *named])])


def judged(seen: Seen, seconds: float) -> RuleRow:
    """The row of a rule: the worst of its examples. Those that are left after `seconds` are left
    out."""
    start = time.perf_counter()
    reasons = dict(seen.reasons)
    every: list[Found] = []
    examples = list(seen.examples())
    late = 0
    for i, example in enumerate(examples):
        if i and time.perf_counter() - start > seconds:
            late = len(examples) - i
            break
        try:
            every += compared(example, seen.place.name.rpartition(".")[2], reasons)
        except Exception as error:
            reasons[reason(error)] = None
    spent = time.perf_counter() - start
    notes = [f"{late} of {len(examples)} examples left out after {seconds:g} s"] if late else []
    if not every:
        words = next(iter(reasons), "no call of it could be kept")
        return RuleRow(*seen.place, seen.calls, CANNOT, "", spent, words, tuple(notes))
    notes += [f"not at every call: {each}" for each in reasons]
    found = max(every, key=lambda each: (not each.comparison.ok, known(each.worst[1])))
    if found.drawn and (not found.comparison.ok or all(each.drawn for each in every)):
        notes.insert(0, DRAWN)
    told = found.comparison.notes
    notes += [with_names(note, found.names) for note in told if OWN in note]
    leaf, relative = found.worst
    worst = f"{leaf} {relative:.0e}" if math.isfinite(relative) else leaf
    verdict = OK if found.comparison.ok else WRONG
    return RuleRow(
        *seen.place, seen.calls, verdict, worst, spent, found.words, tuple(notes), found.report
    )


def known(relative: float) -> float:
    """An error to compare by: what was not measured is none."""
    return relative if math.isfinite(relative) else 0.0


def compared(example: Example, name: str, reasons: dict[str, None]) -> list[Found]:
    """What is found at a call: with respect to all of its floats, or to each argument that can be
    differentiated, where not all can. Why others cannot goes to the reasons.

    Raises Unusable, and whatever the rule does.
    """
    if example.size > LARGEST:
        raise Unusable(f"its arguments have {example.size:,} elements, more than {LARGEST:,}")
    floats = [leaf for leaf in example.leaves if is_differentiable(leaf) or isinstance(leaf, float)]
    if not floats:
        raise Unusable("it was called without an array of floats: there is no gradient")
    with settings(example.x64):
        values = usable(example, name)
        arguments = floats_of(example, values)
        first = attempt(example, values, arguments, name)
        if isinstance(first, Found):
            return [first]
        each = [{slot: members} for slot, members in arguments.items()]
        tried = [attempt(example, values, one, name) for one in each] if len(each) > 1 else []
        found = [one for one in tried if isinstance(one, Found)]
        if not found:
            raise Unusable(first)
        names = as_call(example, values, arguments, name).names
        for one, argument in zip(tried, names, strict=True):
            if isinstance(one, str):
                reasons[f"{one} for d{argument}"] = None
        return found


def attempt(example: Example, values: list[Any], floats: Members, name: str) -> Found | str:
    """What is found with respect to some arguments, or why nothing is."""
    call = as_call(example, values, floats, name)
    try:
        found = Found(compare(call.target, *call.args), call.names, example.unseen > 0)
    except Exception as error:
        return reason(error)
    return found.unjudged or found


def usable(example: Example, name: str) -> list[Any]:
    """Values at which the function is finite. Raises Unusable, and whatever the rule does."""
    for domain in DOMAINS if example.unseen else DOMAINS[:1]:
        values = values_of(example, domain)
        call = as_call(example, values, floats_of(example, values), name)
        y = jax.jit(call.function)(*call.args)
        if all(is_finite(leaf) for leaf in jax.tree.leaves(y) if is_differentiable(leaf)):
            return values
    told = "at values that are drawn" if example.unseen else "as called"
    raise Unusable(f"the function is not finite {told}")


def reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, Unusable):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """The first line of a text."""
    return " ".join(text.strip().partition("\n")[0].split())


def with_names(text: str, names: tuple[str, ...]) -> str:
    """dx[1] as dw, where the argument is called w."""

    def named(found: re.Match[str]) -> str:
        i = int(found[1])
        return f"d{names[i]}" if i < len(names) else found[0]

    return re.sub(r"\bdx\[(\d+)\]", named, text)


@contextlib.contextmanager
def settings(x64: bool) -> Iterator[None]:
    """JAX as the call had it in float64, and else as it comes: a test may have changed it for good,
    and a library does not run under whatever a project chose for itself."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for setting in (
            jax.enable_x64(x64),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            jax.debug_nans(False),
            jax.debug_infs(False),
            jax.disable_jit(False),
            jax.transfer_guard("allow"),
            jax.check_tracer_leaks(False),
        ):
            stack.enter_context(setting)
        yield
