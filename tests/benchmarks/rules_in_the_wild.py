"""Derivative rules of released packages, judged by `compare`: docs/rules-in-the-wild.md.

    python tests/benchmarks/rules_in_the_wild.py FOLDER [--packages jax optax] [--write]

FOLDER gets an environment a package, with the versions of rules_in_the_wild/pins.toml, and a file
of results a package. One package is judged at a time, in a process of its own; a rule that takes
more than a minute of CPU time is left, and the next one goes on in a new process.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from rules_in_the_wild.page import page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT = 60  # CPU seconds that a rule may take
SILENCE = 900.0  # seconds without a word: a process that sleeps uses no CPU time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where environments and results go")
    parser.add_argument("--packages", nargs="*", help="those of pins.toml; all unless given")
    parser.add_argument(
        "--only",
        default="",
        help="judge anew the calls whose rule or note this regular expression finds",
    )
    parser.add_argument("--new", action="store_true", help="leave packages that have results")
    parser.add_argument("--write", action="store_true", help="write docs/rules-in-the-wild.md")
    given = parser.parse_args()
    pins = tomllib.loads((HERE / "rules_in_the_wild" / "pins.toml").read_text())
    common, packages = pins["common"]["install"], pins["package"]
    if given.packages is not None and (unknown := set(given.packages) - set(packages)):
        parser.error(f"{sorted(unknown)} are not in pins.toml, which has {sorted(packages)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in packages if given.packages is None else given.packages:
        results = given.folder / f"{name}.jsonl"
        if given.new and results.exists():
            continue
        pin = packages[name]
        python = environment(given.folder / name, [*common, *pin["install"]], pin.get("alone", []))
        known = lines(results) if given.only else []
        rows = {(row["rule"], row["note"]): row for row in known}
        for row in judged(python, name, pin["calls"], given.only):
            if "calls" in row:  # what is no longer called is forgotten
                rows = {key: rows[key] for key in map(tuple, row["calls"]) if key in rows}
            else:
                rows[row["rule"], row["note"]] = row
            results.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    if given.write:
        rows = [row for name in packages for row in lines(given.folder / f"{name}.jsonl")]
        (ROOT / "docs" / "rules-in-the-wild.md").write_text(page(rows))


def lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of results; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def environment(folder: Path, install: list[str], alone: list[str]) -> Path:
    """The Python of an environment with these requirements, made where there is none.

    `alone` are installed without what they ask for: old bounds would bring another jax.
    """
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join([*install, *alone])
    if done.exists() and done.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *install], check=True)
    if alone:
        subprocess.run([*pip, "--no-deps", *alone], check=True)
    done.write_text(wanted)
    return python


def judged(python: Path, package: str, calls: list[str], only: str) -> Any:
    """The rows of a package. A process that hangs or dies is replaced by one for the rest."""
    start, going = 0, True
    while going:
        going = False
        for line in lines_of(python, package, calls, only, start):
            if "calls" in line:
                yield line
            elif "verdict" in line:
                tell(line)
                yield line
                start, going = line["number"] + 1, False
            else:
                start, going, asked = line["number"], True, line
        if going:  # asked, and never answered
            told = f"no answer in {LIMIT} s of CPU time, or the process died"
            row = {"package": package, "version": "", "jax": "", "headline": told}
            row |= asked | {"verdict": "cannot be judged", "seconds": LIMIT, "where": ""}
            tell(row)
            yield row
            start += 1


def lines_of(python: Path, package: str, calls: list[str], only: str, start: int) -> Any:
    """What a worker says, line by line, until it ends or is silent for too long."""
    command = [python, "-P", "-m", "rules_in_the_wild.worker", package, *calls]
    command += [f"--start={start}", f"--only={only}", f"--limit={LIMIT}"]
    paths = os.pathsep.join(map(str, (ROOT, HERE)))
    settings = os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings) as process:
        assert process.stdout is not None
        ready = selectors.DefaultSelector()
        ready.register(process.stdout, selectors.EVENT_READ)
        while ready.select(SILENCE):
            line = process.stdout.readline()
            if not line:
                break
            if line.startswith("{"):
                yield json.loads(line)
        process.kill()


def tell(row: dict[str, Any]) -> None:
    print(f"{row['verdict']:16} {row['seconds']:5.1f} s  {row['package']} {row['rule']}", end="")
    print("" if row["verdict"] == "right" else f": {row['headline']}", flush=True)


if __name__ == "__main__":
    main()
