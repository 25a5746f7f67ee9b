"""Judges the calls of one package, in an environment where it is installed: a JSON line a call."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import re
import resource
import sys
import time
import traceback
import warnings
from importlib.metadata import version
from typing import Any

import jax

import funcprop as fp
from funcprop.comparison.verdict.rules import UNKNOWN
from rules_in_the_wild.call import Call
from rules_in_the_wild.places import definition, reached, short


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", help="the distribution")
    parser.add_argument("calls", nargs="+", help="files of this folder: optax, jax_special")
    parser.add_argument("--start", type=int, default=0, help="leave out the calls before this one")
    parser.add_argument("--only", default="", help="a regular expression: of rules and notes")
    parser.add_argument("--limit", type=int, default=60, help="CPU seconds a rule may take")
    given = parser.parse_args()
    sys.argv = sys.argv[:1]  # packages that read flags know none of these
    warnings.simplefilter("ignore")
    modules = [importlib.import_module(f"rules_in_the_wild.{name}") for name in given.calls]
    every = [call for module in modules for call in module.CALLS]
    rows = [call for call in every if re.search(given.only, f"{call.rule} {call.note}")]
    say({"calls": [[call.rule, call.note] for call in every]})
    head = {"package": given.package, "version": version(given.package), "jax": jax.__version__}
    for number, call in enumerate(rows):
        if number >= given.start:
            say({"number": number, "rule": call.rule, "note": call.note})
            limit = int(time.process_time()) + given.limit  # the system ends the process there
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            say({"number": number} | head | judged(call))


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), file=sys.__stdout__, flush=True)


def judged(call: Call) -> dict[str, Any]:
    """A row: what `compare` says of a call, and what the call's file says of that."""
    row: dict[str, Any] = {"rule": call.rule, "note": call.note, "why": call.why, "headline": ""}
    row |= {"smallest": call.smallest, "where": definition(call.rule), "seconds": 0.0}
    start = time.process_time()
    if call.function is None:
        numbers = confirmed(call)
        return row | {"verdict": "beside", "confirmed": numbers} | seconds_since(start)
    try:
        with jax.numpy_dtype_promotion("standard"):
            names = reached(call.function, call.args)
        last = call.seen_as or call.rule.rpartition(".")[2]
        if last not in names:
            return row | {"verdict": "not reached", "headline": " ".join(sorted(names))}
        row["where"] = row["where"] or short(names[last])
        found = compared(call)
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()
        row |= {"verdict": "cannot be judged", "headline": told[0]} | seconds_since(start)
        return row | {"traceback": traceback.format_exc()[-3000:]}
    row |= {"headline": found.headline} | seconds_since(start)
    row |= worst_of(found) | {"notes": list(found.notes), "table": str(found)[:4000]}
    if found.ok:
        return row | {"verdict": "right"}
    if not found.wrong:
        return row | {"verdict": call.kind or "cannot be judged"}
    if found.wrong[0].rule.startswith("contract: backward raised"):
        return row | {"verdict": "cannot be judged", "headline": found.wrong[0].rule}
    if all(leaf.rule == UNKNOWN for leaf in found.wrong):
        return row | {"verdict": "cannot be judged"}
    if call.confirm is None:
        return row | {"verdict": call.kind or "unexplained"}
    return row | {"verdict": call.kind or "wrong", "confirmed": confirmed(call)}


def confirmed(call: Call) -> dict[str, float]:
    """The numbers of `confirm`."""
    with jax.enable_x64(call.function is not None):
        return {name: float(value) for name, value in call.confirm().items()}


def seconds_since(start: float) -> dict[str, float]:
    return {"seconds": round(time.process_time() - start, 2)}


def compared(call: Call) -> fp.Comparison:
    """`compare`, with the inputs as they are where a call asks for that."""
    changed = None if call.changed else False
    options = dict(call.options)
    return fp.compare(call.function, *call.args, against=call.against, changed=changed, **options)


def worst_of(found: fp.Comparison) -> dict[str, Any]:
    """The first wrong leaf, or the one with the largest error, as plain values."""
    leaf = max(found.wrong or found.rows, key=lambda leaf: (leaf.dtype == "float64", leaf.relative))
    numbers = (leaf.relative, leaf.by_hand, leaf.expected)
    names = ("relative", "by_hand", "expected")
    words = {"leaf": leaf.path, "dtype": leaf.dtype, "at": leaf.at, "words": leaf.words}
    return words | {
        name: value if math.isfinite(value) else str(value)
        for name, value in zip(names, map(float, numbers), strict=True)
    }


if __name__ == "__main__":
    main()
