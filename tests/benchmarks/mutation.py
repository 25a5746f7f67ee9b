"""How many wrong backward passes a checker catches, and whether it accuses right ones.

Every row of the catalogue gets systematically wrong versions of its backward (`mutants.py`) and its
own; `compare` judges them in float64, witness by witness, and every right row in float64, float32
and bfloat16, with arguments from as many seeds as asked. Programs are compiled once a row and
dtype; the seeds are other arguments for them.

    python tests/benchmarks/mutation.py [--seeds 20] [--rows Dense Conv] [--foreign] [--json FILE]

`--foreign` gives the same wrong leaves, in float32 as their users call them, to
`jax.test_util.check_grads` and to `chex.assert_numerical_grads` with default tolerances, on one row
of each layer. They see one function of params and x at a time, with the wrong backward as its
`jax.custom_vjp`; a right backward that they refuse is counted too.
"""

import argparse
import collections
import importlib
import itertools
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.test_util import check_grads

from funcprop.catalogue.comparisons import chosen, compare_row, drawn
from funcprop.catalogue.mutants import LEAVES
from funcprop.catalogue.row import Row
from funcprop.catalogue.score import mutation_score
from funcprop.catalogue.table import ROWS
from funcprop.comparison.programs import Programs
from funcprop.costs.cost import machine
from funcprop.gradient import combine, partition, zeros_where_frozen

DTYPES = ("float32", "bfloat16")  # float64 is judged with each of them


def score_of(name: str, seeds: int) -> dict[str, Any]:
    """Of one row over all seeds: mutants killed, and whether the right one is accused."""
    (row,) = (row for row in ROWS if row.name == name)
    killed: collections.Counter[str] = collections.Counter()
    total = equivalent = judged = 0
    survivors, accused, programs = [], [], Programs()
    for seed in range(seeds):
        key = jax.random.key(seed)
        for dtype in DTYPES:
            found = compare_row(row, key, dtype=dtype, programs=programs)
            judged += len(found.rows)
            if not found.ok:
                accused.append(f"{name}, seed {seed}, {dtype}: {found.headline}")
        given = drawn(row, key, programs=programs)
        if not jax.tree.leaves(partition(given[:2])[0]):
            continue
        score = mutation_score(
            row.layer, *given, mutants=row.mutants, key=key, programs=programs,
            against=row.surrogate,
        )  # fmt: skip
        total, equivalent = total + score.mutants, equivalent + len(score.equivalent)
        survivors += [f"{name}, seed {seed}: {mutant}" for mutant in score.survivors]
        killed["some witness"] += len(score.killed)
        killed.update(witness for each in score.killed.values() for witness in each)
    return {
        "row": name, "mutants": total, "equivalent": equivalent, "killed": dict(killed),
        "survivors": survivors, "judged": judged, "accused": accused,
    }  # fmt: skip


def pool() -> ProcessPoolExecutor:
    """As many processes as there are processors."""
    return ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))


def scores(rows: list[Row], seeds: int) -> dict[str, Any]:
    """The same of all rows, together."""
    names, found = [row.name for row in rows], []
    with pool() as workers:
        for each in workers.map(score_of, names, itertools.repeat(seeds)):
            found.append(each)
            print(f"{each['row']}: {each['mutants']} mutants, {len(each['survivors'])} survived, "
                  f"{len(each['accused'])} accused", flush=True)  # fmt: skip
    killed: collections.Counter[str] = collections.Counter()
    for each in found:
        killed.update(each["killed"])
    together = {"rows": len(rows), "seeds": seeds, "killed": dict(killed)}
    together |= {
        name: sum(each[name] for each in found) for name in ("mutants", "equivalent", "judged")
    }
    together |= {
        name: [a for each in found for a in each[name]] for name in ("survivors", "accused")
    }
    return together


# --- other checkers -------------------------------------------------------------------------------


def foreign_checkers() -> dict[str, Callable[[Any, Any], None]]:
    """name -> check(function, argument), which raises AssertionError."""
    found: dict[str, Callable[[Any, Any], None]] = {
        "check_grads": lambda f, x: check_grads(f, x, order=1, modes=("rev",))
    }
    try:
        chex = importlib.import_module("chex")
    except ImportError:
        print("chex is not installed: pip install chex")
    else:
        found["chex"] = lambda f, x: chex.assert_numerical_grads(f, x, order=1, modes=("rev",))
    return found


def with_backwards(row: Row, given: Any) -> tuple[Any, Any, int]:
    """-> a function of (which, the float leaves), those leaves, and how many wrong versions it has.

    Version 0 has the right gradients, every other one a leaf that one of `LEAVES` made wrong. All
    are one program: a checker that compiles nothing anew is a hundred times as fast.
    """
    params, x, context = given
    floats, rest = partition({"dx": x, "dparams": params})
    leaves, tree = jax.tree.flatten(floats)
    versions: list[tuple[int, Any]] = [(0, lambda leaf: leaf)]
    for i, leaf in enumerate(leaves):
        probe = np.random.default_rng(0).normal(size=(1, *leaf.shape)).astype(leaf.dtype)
        changed = [mistake for mistake in LEAVES if not np.allclose(mistake(probe), probe)]
        versions += [(i, mistake) for mistake in changed]

    def wrong(which: Any, *grads: Any) -> list[Any]:
        i, mistake = versions[int(which)]
        grads_of = [np.asarray(leaf) for leaf in grads]
        grads_of[i] = np.asarray(mistake(grads_of[i][None])[0], grads_of[i].dtype)
        return grads_of

    def forward(which: Any, floats: Any) -> tuple[Any, Any]:
        both = combine(floats, rest)
        y, residuals = row.layer.forward(both["dparams"], both["dx"], context)
        return partition(y)[0], (which, both["dparams"], residuals)

    def backward(kept: Any, dy: Any) -> tuple[None, Any]:
        which, *kept = kept
        dx, dparams = row.layer.backward(*kept, dy)
        dparams = zeros_where_frozen(dparams, kept[0])
        grads = jax.tree.leaves(partition({"dx": dx, "dparams": dparams})[0])
        return None, jax.tree.unflatten(tree, jax.pure_callback(wrong, grads, which, *grads))

    @jax.custom_vjp
    def function(which: Any, floats: Any) -> Any:
        return forward(which, floats)[0]

    function.defvjp(forward, backward)
    return jax.jit(function), floats, len(versions) - 1


def refused(check: Callable[[Any, Any], None], function: Any, which: int, floats: Any) -> bool:
    leaves, tree = jax.tree.flatten(floats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(lambda *leaves: function(which, jax.tree.unflatten(tree, leaves)), tuple(leaves))
        except AssertionError:
            return True
    return False


def outcomes(checker: str, name: str) -> list[bool] | str:
    """Whether a row's right version and every wrong one are refused, or why it cannot check."""
    (row,) = (row for row in ROWS if row.name == name)
    function, floats, count = with_backwards(row, drawn(row, jax.random.key(0)))
    if not jax.tree.leaves(floats):
        return "no float goes in"
    check = foreign_checkers()[checker]
    try:
        return [refused(check, function, which, floats) for which in range(count + 1)]
    except Exception as error:
        return type(error).__name__


def foreign(rows: list[Row]) -> dict[str, Any]:
    """What the other checkers make of the wrong leaves, and of the right ones."""
    rows = [row for row in rows if row.automatic and row.surrogate is None]
    first = list({type(row.layer): row.name for row in reversed(rows)}.values())
    found: dict[str, Any] = {}
    with pool() as workers:
        for checker in foreign_checkers():
            together = {"rows": 0, "mutants": 0, "caught": 0, "accused": [], "skipped": []}
            given = workers.map(outcomes, itertools.repeat(checker), first)
            for name, told in zip(first, given, strict=True):
                if isinstance(told, str):
                    together["skipped"].append(f"{name}: {told}")
                    continue
                together["rows"] += 1
                together["mutants"] += len(told) - 1
                together["caught"] += sum(told[1:])
                together["accused"] += [name] * told[0]
                print(f"{checker}, {name}: {sum(told[1:])} of {len(told) - 1} caught", flush=True)
            found[checker] = together
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", nargs="*", help="names of rows; all unless given")
    parser.add_argument("--foreign", action="store_true", help="other checkers too")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    begin, rows = time.perf_counter(), chosen(options.rows) if options.rows else list(ROWS)
    found = scores(rows, options.seeds)
    if options.foreign:
        found["foreign"] = foreign(rows)
    print(f"\n{machine()}; {time.perf_counter() - begin:.0f} s")
    print(f"{found['rows']} rows, {found['seeds']} seeds: {found['mutants']} mutants, "
          f"{found['killed'].get('some witness', 0)} killed; {found['equivalent']} are equal to "
          "the right rule and not counted")  # fmt: skip
    for witness, count in found["killed"].items():
        print(f"  by {witness}: {count}")
    print(f"{found['judged']} right gradients judged, {len(found['accused'])} rows accused")
    for line in (*found["survivors"], *found["accused"]):
        print(f"  {line}")
    for name, figures in found.get("foreign", {}).items():
        print(f"{name}: {figures['caught']} of {figures['mutants']} wrong ones caught, "
              f"{len(figures['accused'])} of {figures['rows']} right ones accused: "
              f"{', '.join(figures['accused'])}; cannot check {figures['skipped']}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
