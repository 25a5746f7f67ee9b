"""At least a hundred kills, damages and full disks, and what came of them.

    python -m tests.faults.all [--faults 150] [--seed 0] [--peers 6] [--disks 6]

Each line printed is a count; the last one says how many runs went on to the end, every one of them
to the same bits as a run that nothing happened to. Ends with an error at the first that did not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from .disk import FULL, fill_a_real_disk
from .faults import PASSED_OVER, Faults
from .peers import Peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", type=int, default=6, help="pairs of which one is killed")
    parser.add_argument("--disks", type=int, default=6, help="file systems too small for a run")
    given = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(Path(folder), given.seed)
        kinds = (
            lambda out: faults.kill_at_a_random_moment(out, signal.SIGKILL),
            lambda out: faults.kill_at_a_random_moment(out, signal.SIGTERM),
            lambda out: faults.kill_in_a_save(out, signal.SIGKILL),
            lambda out: faults.kill_in_a_save(out, signal.SIGTERM),
            lambda out: faults.damage(out),
            lambda out: faults.tear(out),
            lambda out: faults.fill_the_disk(out),
            lambda out: faults.run_twice(out),
        )
        weights = (6, 4, 6, 2, 6, 2, 2, 1)
        done = number = 0
        out = Path(folder, "run-0")
        while done < given.faults:
            faults.random.choices(kinds, weights)[0](out)
            done = sum(faults.counts[name] for name in faults.counts if name not in ENDS)
            ended = (out / "params.safetensors").exists()
            if ended or done >= given.faults:
                faults.finish(out)
                shutil.rmtree(out)
                number += 1
                out = Path(folder, f"run-{number}")
            print(f"{done} faults, {time.monotonic() - begin:.0f} s", end="\r", flush=True)
        print()
        if not all([fill_a_real_disk(faults) for _ in range(given.disks)]):
            print("no file system may be mounted here: full disks by limits on files alone")
        peers = Peers(faults) if given.peers else None
        for number in range(given.peers):
            peers.lose_one(Path(folder, f"peers-{number}"))
    for name, count in sorted(faults.counts.items(), key=lambda item: item[0] in ENDS):
        print(f"{count:5}  {name}")


ENDS = (
    "runs that ended as if nothing had happened",
    PASSED_OVER,
    "SIGKILL, exit 0",
    "SIGTERM, exit 0",
    "no room, exit 0",
    f"{FULL} 0",
)

if __name__ == "__main__":
    main()
