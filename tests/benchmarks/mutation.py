"""How many wrong backward passes a checker catches, and whether it accuses right ones.

Every row of the catalogue gets systematically wrong versions of its backward (`mutants.py`) and its
own; `compare` judges them in float64, witness by witness, and every right row in float64, float32
and bfloat16, with arguments from as many seeds as asked. Programs are compiled once a row and
dtype; the seeds are other arguments for them.

    python tests/benchmarks/mutation.py [--seeds 20] [--rows Dense Conv] [--foreign] [--json FILE]

`--foreign` gives the same wrong leaves, in float32 as their users call them, to
`jax.test_util.check_grads` and to `chex.assert_numerical_grads` with their defaults, on one row of
each layer. They see one function of params and x at a time, with the wrong backward as its
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
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.test_util import check_grads

from funcprop.comparison.mutants import LEAVES, mutation_score
from funcprop.comparison.profile import machine
from funcprop.comparison.programs import Programs, named_leaves
from funcprop.comparison.row import Row
from funcprop.comparison.table import ROWS, chosen, compare_row, drawn
from funcprop.gradient import combine, partition

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
        score = mutation_score(row.layer, *given, mutants=row.mutants, key=key, programs=programs)
        total, equivalent = total + score.mutants, equivalent + len(score.equivalent)
        survivors += [f"{name}, seed {seed}: {mutant}" for mutant in score.survivors]
        killed["some witness"] += len(score.killed)
        killed.update(witness for each in score.killed.values() for witness in each)
    return {
        "row": name, "mutants": total, "equivalent": equivalent, "killed": dict(killed),
        "survivors": survivors, "judged": judged, "accused": accused,
    }  # fmt: skip


def scores(rows: list[Row], seeds: int) -> dict[str, Any]:
    """The same of all rows, together."""
    names, found = [row.name for row in rows], []
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for each in pool.map(score_of, names, itertools.repeat(seeds)):
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


def with_backward(row: Row, given: Any, change: Callable[[Any], Any]) -> tuple[Any, Any]:
    """-> a function of the float leaves whose gradients `change` makes wrong, and those leaves."""
    params, x, context = given
    floats, rest = partition({"dx": x, "dparams": params})

    def forward(floats: Any) -> tuple[Any, Any]:
        both = combine(floats, rest)
        y, residuals = row.layer.forward(both["dparams"], both["dx"], context)
        return partition(y)[0], (both["dparams"], residuals)

    def backward(kept: Any, dy: Any) -> tuple[Any]:
        dx, dparams = row.layer.backward(*kept, dy)
        return (change(partition({"dx": dx, "dparams": dparams})[0]),)

    @jax.custom_vjp
    def function(floats: Any) -> Any:
        return forward(floats)[0]

    function.defvjp(forward, backward)
    return function, floats


def wrong_versions(example: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """(name, change) for every leaf and systematic mistake that changes it."""
    names = [name for name, _ in named_leaves(example)]
    leaves, tree = jax.tree.flatten(example)
    for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        for mistake in LEAVES:
            probe = np.random.default_rng(0).normal(size=(1, *leaf.shape)).astype(leaf.dtype)
            if np.allclose(mistake(probe), probe):
                continue

            def change(grads: Any, i: int = i, mistake: Any = mistake) -> Any:
                leaves = jax.tree.leaves(grads)
                leaf = leaves[i]
                leaves[i] = jax.pure_callback(
                    lambda a: np.asarray(mistake(np.asarray(a)[None])[0], a.dtype), leaf, leaf
                )
                return jax.tree.unflatten(tree, leaves)

            yield f"{name} {mistake.__name__}", change


def refused(check: Callable[[Any, Any], None], function: Any, floats: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            leaves, tree = jax.tree.flatten(floats)
            check(lambda *leaves: function(jax.tree.unflatten(tree, leaves)), tuple(leaves))
        except AssertionError:
            return True
    return False


def foreign(rows: list[Row]) -> dict[str, Any]:
    """What the other checkers make of the wrong leaves, and of the right ones."""
    found: dict[str, Any] = {}
    first = list({type(row.layer): row for row in reversed(rows) if row.automatic}.values())
    for name, check in foreign_checkers().items():
        caught = total = accused = skipped = 0
        for row in first:
            given = drawn(row, jax.random.key(0))
            function, floats = with_backward(row, given, lambda grads: grads)
            if not jax.tree.leaves(floats):
                continue
            try:
                accused += refused(check, function, floats)
                outcomes = [
                    refused(check, with_backward(row, given, change)[0], floats)
                    for _, change in wrong_versions(floats)
                ]
            except Exception as error:
                print(f"{name} cannot check {row.name}: {type(error).__name__}")
                skipped += 1
                continue
            caught, total = caught + sum(outcomes), total + len(outcomes)
            print(f"{name}, {row.name}: {caught} of {total} so far", flush=True)
        found[name] = {
            "rows": len(first) - skipped, "mutants": total, "caught": caught, "accused": accused,
        }  # fmt: skip
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
              f"{figures['accused']} of {figures['rows']} right ones accused")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
