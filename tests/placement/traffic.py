"""What devices tell each other, read from the text of a compiled program.

A collective in the body of a loop counts once for every round, as XLA knows their number
("known_trip_count"). Bytes are those that one device sends where n devices stand in a ring, for a
result of R bytes on a device: an all-gather (n-1)/n R, a reduce-scatter (n-1) R, an all-reduce both
of them, 2 (n-1)/n R, an all-to-all (n-1)/n R, and a permutation R.

source  Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations,
        2009; Thakur, Rabenseifner and Gropp, Optimization of collective communication operations
        in MPICH, 2005
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
COLLECTIVES = rf"\b({'|'.join(KINDS)})(?:-start)?\("
BITS = {"pred": 8, "bf16": 16}  # of the others the name says how many
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "collective-permute": lambda n: 1,
}


class Collective(NamedTuple):
    """One of them as it stands in the program."""

    kind: str
    size: int  # bytes of its result on a device
    group: int  # how many devices take part
    times: int  # how often it runs in a step

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        return self.times * self.size * SENT[self.kind](self.group)


def kinds(text: str) -> Counter[str]:
    """How many stand in the text, by kind; one in a loop is one."""
    return Counter(re.findall(COLLECTIVES, text))


def collectives(text: str, devices: int) -> list[Collective]:
    """Those of a program for so many devices, `compiled.as_text()`, with how often each runs."""
    bodies, entry = computations(text)
    times: dict[str, int] = defaultdict(int)

    def count(name: str, rounds: int) -> None:
        times[name] += rounds
        for line in bodies[name]:
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            for called in re.findall(r"(?:body|calls|to_apply|_computation)=%?([\w.-]+)", line):
                inner = int(trips[1]) if trips and f"body=%{called}" in line else 1
                count(called, rounds * inner)

    count(entry, 1)
    found = []
    for name, lines in bodies.items():
        for line in lines:
            told = re.search(rf"= (.*?) {COLLECTIVES[2:]}", line)
            if told and times[name]:
                size, group = size_of(told[1]), group_of(line, devices)
                found.append(Collective(told[2], size, group, times[name]))
    return [each for each in found if each.group > 1]


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation, and the name of the one that is run."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies, entry


def size_of(shapes: str) -> int:
    """Bytes of `f32[8,4]{1,0}`, or of several of them in a tuple."""
    bits = 0
    for dtype, sizes in re.findall(r"\b([a-z]+\d*\w*)\[([\d,]*)\]", shapes):
        width = BITS.get(dtype) or int(re.findall(r"\d+", dtype)[0])
        bits += width * math.prod(int(size) for size in sizes.split(",") if size)
    return bits // 8


def group_of(line: str, devices: int) -> int:
    """How many devices take part: {{0,1},{2,3}}, [2,2]<=[4], or mesh['a'=2,'b'=2] {'b'}."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(counted[1])
    if named := re.search(r"replica_groups=@?\w*\[([^]]*)\] \{(.*?)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return devices
