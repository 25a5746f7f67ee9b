"""The page of docs/ that says what `compare` made of the rules of released packages."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

VERDICTS = ("right", "rounds more", "wrong", "convention", "false alarm", "cannot be judged")

HEAD = """# Rules in the wild

<!-- written by tests/benchmarks/rules_in_the_wild.py: change that, not this -->

What `compare` says of hand-written derivative rules that others have released: of `jax.custom_jvp`
and `jax.custom_vjp` functions, and of JAX's primitives, each at an ordinary input inside of its
domain. {rules} calls of {distinct} rules of {packages} packages.

```bash
python tests/benchmarks/rules_in_the_wild.py FOLDER --write
```

makes an environment a package in FOLDER, with the versions of
`tests/benchmarks/rules_in_the_wild/pins.toml`, judges every call of the files beside it, and writes
this page. {machine}.

| verdict | calls | what it says |
|---|---|---|
{counts}

A rule that is wrong is confirmed by numbers that `compare` had no part in: closed forms in NumPy's
float64, `mpmath` at 40 digits, or central differences of eighth order of the function's value.
Where a function has a domain, the inputs that `compare` would add, scaled and zero ones, are left
out. Packages change: the version is the one in the table.
"""

MEANINGS = {
    "right": "agrees in float64 and in float32 with automatic differentiation, and with finite "
    "differences",
    "rounds more": "right in float64, and in float32 its rounding errors are more than twice "
    "those that automatic differentiation makes",
    "wrong": "is not the derivative of the function, and that is confirmed",
    "convention": "is not the derivative of the function, on purpose: straight-through, surrogate "
    "and clipped gradients, implicit reparametrization, arguments documented as not differentiable",
    "false alarm": "`compare` reports a difference, and the rule is right",
    "cannot be judged": "`compare` raises an error, or has no answer in a minute of CPU time",
}


def page(rows: Sequence[Row]) -> str:
    beside = [row for row in rows if row["verdict"] == "beside"]
    rows = [row for row in rows if row["verdict"] not in ("not reached", "beside")]
    unknown = [row["rule"] for row in rows if row["verdict"] not in VERDICTS]
    if unknown:
        raise ValueError(f"these have no verdict that a page can have: {unknown}")
    counted = Counter(row["verdict"] for row in rows)
    head = HEAD.format(
        rules=len(rows),
        distinct=len({(row["package"], row["rule"]) for row in rows}),
        packages=len({row["package"] for row in rows}),
        machine=machine(rows),
        counts="\n".join(f"| {v} | {counted[v]} | {MEANINGS[v]} |" for v in VERDICTS),
    )
    parts = [head, "## By package\n", by_package(rows), "\n## Wrong, and confirmed\n"]
    parts += [confirmed(row) for row in rows if row["verdict"] == "wrong"]
    parts += ["\n## Not a derivative, on purpose\n", table_of(rows, "convention", "why")]
    if beside:
        parts += [
            "\n## Found beside the table\n",
            "Not through `compare`, for which they are too slow here.\n",
        ]
        parts += [confirmed(row) for row in beside]
    titles = {
        "rounds more": "Right, and rounds more",
        "false alarm": "False alarms",
        "cannot be judged": "What could not be judged",
    }
    for verdict, title in titles.items():
        if counted[verdict]:
            key = "headline" if verdict == "cannot be judged" else "why"
            parts += [f"\n## {title}\n", table_of(rows, verdict, key)]
    return "\n".join([*parts, "\n## Every call\n", every(rows)]) + "\n"


def machine(rows: Sequence[Row]) -> str:
    """What it ran on, in words."""
    model = platform.processor()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = ", ".join(sorted({row["jax"] for row in rows if row["jax"]}))
    seconds = sum(row["seconds"] for row in rows)
    return (
        f"Here: {os.cpu_count()} cores of an {model} (a virtual machine), Python "
        f"{platform.python_version()}, jax {versions}; {seconds / 60:.0f} minutes of CPU time, "
        "beside other work"
    )


def by_package(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(row["package"] for row in rows))
    lines = [f"| package | version | calls | {' | '.join(VERDICTS)} |", "|---" * 9 + "|"]
    for name in names:
        mine = [row for row in rows if row["package"] == name]
        found = Counter(row["verdict"] for row in mine)
        version = next((row["version"] for row in mine if row["version"]), "")
        numbers = " | ".join(str(found[v] or "") for v in VERDICTS)
        lines.append(f"| {name} | {version} | {len(mine)} | {numbers} |")
    return "\n".join(lines)


def confirmed(row: Row) -> str:
    numbers = "; ".join(f"{name}: {value:.9g}" for name, value in row["confirmed"].items())
    told = f", {row['note']}" if row["note"] else ""
    text = f"**{row['package']} {row['version']}**, `{row['rule']}` ({row['where']}){told}. "
    if row["headline"]:
        text += f"`compare` says: {cell(row['headline'].partition(': ')[2])}. "
    text += f"{numbers}.\n"
    return text + (f"\n```python\n{row['smallest']}\n```\n" if row["smallest"] else "")


def table_of(rows: Sequence[Row], verdict: str, key: str) -> str:
    lines = ["| rule | call | reason |", "|---|---|---|"]
    for row in rows:
        if row["verdict"] != verdict:
            continue
        reason = cell(row[key].partition("\n")[0])
        if row.get("confirmed"):
            numbers = (f"{name}: {value:.9g}" for name, value in row["confirmed"].items())
            reason += f" ({'; '.join(numbers)})"
        lines.append(f"| `{row['rule']}` | {cell(row['note'])} | {reason} |")
    return "\n".join(lines)


def every(rows: Sequence[Row]) -> str:
    lines = ["| package | rule | where | call | verdict | CPU s |", "|---" * 6 + "|"]
    for row in rows:
        package = f"{row['package']} {row['version']}"
        lines.append(
            f"| {package} | `{row['rule']}` | {row['where']} | {cell(row['note'])} "
            f"| {row['verdict']} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


def cell(text: str) -> str:
    """In a table, and outside of code: bars and tags stand for themselves. Files are those of a
    package, wherever it is installed."""
    text = re.sub(r"/\S*site-packages/", "", text)
    for mark, instead in (("|", "\\|"), ("<", "&lt;"), ("\n", " ")):
        text = text.replace(mark, instead)
    return text[:400]
