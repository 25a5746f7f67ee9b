"""Two processes that train together, one of which is killed: what the other says and leaves."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

from .faults import Faults, Run

BOUND = 60  # seconds in which the other one ends, too


class Peers:
    """Pairs of runs, and the parameters of one that nothing happened to."""

    def __init__(self, faults: Faults):
        self.faults, self.wanted = faults, faults.folder / "wanted-by-two"
        begin = time.monotonic()
        for run in self.pair(self.wanted):
            assert run.wait() == 0, run.printed()
        self.seconds = time.monotonic() - begin

    def pair(self, out: Path) -> list[Run]:
        """Both processes, from the beginning or gone on with."""
        words = ["train", "--data", "mnist", "--data-dir", str(self.faults.folder / "data")]
        words += ["--layers", "5", "--batch-size", "8", "--epochs", "24"]
        words += ["--checkpoint-every", "2", "--out", str(out)]
        if (out / "config.json").exists():
            words = ["train", "--resume", str(out)]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            place = f"localhost:{free.getsockname()[1]}"
        words += ["--coordinator", place, "--processes", "2", "--process"]
        return [Run(self.faults, [*words, str(number)]) for number in range(2)]

    def lose_one(self, out: Path, seconds: float | None = None) -> None:
        """SIGKILL of one at a random moment; the other ends soon; both go on to the same bits."""
        runs = self.pair(out)
        lost = self.faults.random.randrange(2)
        if seconds is None:
            seconds = self.faults.random.uniform(0.3, 0.95) * self.seconds
        runs[lost].process.join(seconds)
        ended = runs[lost].process.exitcode is not None
        runs[lost].send(signal.SIGKILL)
        runs[lost].wait()
        left, begin = runs[1 - lost], time.monotonic()
        code, printed = left.wait(), left.printed()
        assert time.monotonic() - begin < BOUND, printed
        assert "Traceback" not in printed, printed
        assert code == 0 if ended else code in (0, 1, -signal.SIGABRT), (code, printed)
        self.faults.counts[f"process {lost} of 2 killed, the other: exit {code}"] += 1
        for run in self.pair(out):
            assert run.wait() == 0, run.printed()
        got, wanted = ((f / "params.safetensors").read_bytes() for f in (out, self.wanted))
        assert got == wanted, f"other parameters than without a stop: {out}"
        assert history(out) == history(self.wanted), out
        self.faults.counts["runs that ended as if nothing had happened"] += 1


def history(out: Path) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]
