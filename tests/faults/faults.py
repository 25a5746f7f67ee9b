"""Training runs that are killed, and folders that are damaged: what is left after each, counted.

A run is a process of its own, forked from one that has imported everything, so that a hundred of
them take minutes. It writes into a folder, is stopped in some way, and is gone on with until it
ends by itself. Then its parameters are those of a run that was never stopped, bit for bit, and its
history is the same but for the seconds.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

EPOCHS = 24  # of 36 examples in batches of 8: five steps
PASSED_OVER = "damaged checkpoints passed over, with a warning"
LIMIT = 240  # seconds that a run may take before it counts as one that hangs


def make_data(folder: Path) -> None:
    """Images that are read without a library that takes long to import."""
    folder.mkdir()
    numbers = random.Random(0)
    for part, n in (("train", 36), ("t10k", 20)):
        head = bytes([0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 3, 0, 0, 0, 3])
        pixels = bytes(numbers.randrange(256) for _ in range(9 * n))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pixels)
        labels = bytes(i % 10 for i in range(n))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, n]) + labels)


def child(arguments: list[str], out: Connection, file_size: int | None) -> None:
    """In the process of a run: `funcprop` with these arguments, what it prints into a pipe."""
    for number in (1, 2):
        os.dup2(out.fileno(), number)
    sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
    if file_size is not None:  # a disk on which no larger file has room
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from funcprop.cli import main

    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)  # as a process that ends; the interpreter of a fork has others' things to undo


class Run:
    """A run in a process, and what it has printed: less than a pipe holds."""

    def __init__(self, faults: Faults, arguments: list[str], file_size: int | None = None):
        self.pipe, out = faults.context.Pipe(duplex=False)
        self.process = faults.context.Process(target=child, args=(arguments, out, file_size))
        self.process.start()
        self.began, self.text, self.counts = time.monotonic(), "", faults.counts
        out.close()

    def wait(self) -> int:
        """The exit code, negative where a signal ended it. Raises TimeoutError where it hangs."""
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"no end after {LIMIT} s:\n{self.printed()}")
        return self.process.exitcode

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def printed(self) -> str:
        """All of it, once the process has ended."""
        with contextlib.suppress(OSError):
            while data := os.read(self.pipe.fileno(), 65536):
                self.text += data.decode(errors="replace")
                self.counts[PASSED_OVER] += data.count(b"is damaged")
        return self.text


class Faults:
    """A folder for runs, the run that nothing happened to, and a count of what was done."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.random, self.counts = folder, random.Random(seed), Counter()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.faults.preload"])
        make_data(folder / "data")
        self.wanted = folder / "wanted"
        self.seconds = 4.0  # about how long a run takes
        run = self.start(self.wanted)
        assert run.wait() == 0, run.printed()
        self.timed(run)

    def timed(self, run: Run) -> None:
        self.seconds = (self.seconds + time.monotonic() - run.began) / 2

    def start(self, out: Path, every: str = "2", **options) -> Run:
        words = ["train", "--data", "mnist", "--data-dir", str(self.folder / "data")]
        words += ["--layers", "5", "--batch-size", "8", "--epochs", str(EPOCHS)]
        return Run(self, [*words, "--checkpoint-every", every, "--out", str(out)], **options)

    def resume(self, out: Path, **options) -> Run:
        return Run(self, ["train", "--resume", str(out)], **options)

    def again(self, out: Path, **options) -> Run:
        """The run gone on with, or begun where it had not got to its configuration."""
        if (out / "config.json").exists():
            return self.resume(out, **options)
        shutil.rmtree(out, ignore_errors=True)
        return self.start(out, **options)

    # --- what is done to a run --------------------------------------------------------------------

    def kill_at_a_random_moment(self, out: Path, number: int) -> None:
        run = self.again(out)
        run.process.join(self.random.uniform(0.02, 0.9) * self.seconds)
        run.send(number)
        code = run.wait()
        self.judge_end(run, code, number)

    def kill_in_a_save(self, out: Path, number: int) -> None:
        """As soon as the folder of an unfinished checkpoint is seen, and a moment later."""
        run, begin = self.again(out), time.monotonic()
        skip, seen = self.random.randrange(4), set()
        while run.process.is_alive() and time.monotonic() - begin < LIMIT:
            with contextlib.suppress(OSError):
                seen |= {p.name for p in (out / "checkpoints").glob("*tmp*")}
            if len(seen) > skip:
                time.sleep(self.random.uniform(0, 0.02))
                break
        run.send(number)
        self.judge_end(run, run.wait(), number)

    def judge_end(self, run: Run, code: int, number: int) -> None:
        printed = run.printed()
        if code == 0:
            self.timed(run)
        assert "Traceback" not in printed, printed
        allowed = {0, -number, 128 + number}
        assert code in allowed, (code, printed)
        if code == 128 + number:  # it was asked, and says how to go on
            assert "go on with funcprop train --resume" in printed, printed
        self.counts[f"{signal.Signals(number).name}, exit {code}"] += 1

    def damage(self, out: Path) -> str:
        """A file of the newest checkpoint changed in one bit, cut, emptied or removed."""
        steps = [p for p in (out / "checkpoints").glob("*") if p.name.isdecimal()]
        if len(steps) < 2:
            return "nothing yet"
        files = [p for p in max(steps, key=lambda p: int(p.name)).rglob("*") if p.is_file()]
        file = self.random.choice(sorted(files))
        data, kind = bytearray(file.read_bytes()), self.random.choice(["flipped", "cut", "removed"])
        if kind == "removed":
            file.unlink()
        elif kind == "cut":
            file.write_bytes(data[: self.random.randrange(len(data) + 1)])
        elif data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            file.write_bytes(data)
        self.counts[f"a file of a checkpoint {kind}"] += 1
        return f"{file} {kind}"

    def tear(self, out: Path) -> None:
        """Half a line at the end of the history."""
        path = out / "metrics.jsonl"
        if path.exists():
            with path.open("a") as file:
                file.write('{"epoch": 3, "lo')
            self.counts["a line of metrics.jsonl torn"] += 1

    def fill_the_disk(self, out: Path) -> None:
        """No file may grow beyond so many bytes: the run ends in one line, or has no need to."""
        run = self.again(out, file_size=self.random.choice([150, 300, 500, 900, 1500]))
        code, printed = run.wait(), run.printed()
        assert "Traceback" not in printed, printed
        last = printed.strip().splitlines()[-1] if printed.strip() else ""
        assert code in (0, 1, 2) and (code == 0 or last.startswith("funcprop: ")), (code, printed)
        self.counts[f"no room, exit {code}"] += 1

    def run_twice(self, out: Path) -> None:
        """Of two runs on one folder, the one that comes second is refused in one line."""
        runs = [self.again(out)]
        begin = time.monotonic()
        while not (out / "config.json").exists() and time.monotonic() - begin < LIMIT:
            time.sleep(0.005)
        runs.append(self.resume(out))
        ends = [(run.wait(), run.printed()) for run in runs]
        for code, printed in ends:
            assert "Traceback" not in printed, printed
            refused = code == 2 and "another run is writing into" in printed
            assert refused or code == 0, (code, printed)
        codes = sorted(code for code, _ in ends)
        assert codes in ([0, 2], [0, 0]), ends
        how = "one refused" if codes == [0, 2] else "one after the other"
        self.counts[f"two runs on a folder, {how}"] += 1

    # --- what must be left ------------------------------------------------------------------------

    def finish(self, out: Path) -> None:
        """Go on until the run ends by itself; then it is the run that nothing happened to."""
        run = self.again(out)
        assert run.wait() == 0, run.printed()
        self.timed(run)
        run.printed()
        got, wanted = ((f / "params.safetensors").read_bytes() for f in (out, self.wanted))
        assert got == wanted, f"other parameters than without a stop: {out}"
        assert self.history(out) == self.history(self.wanted), out
        self.counts["runs that ended as if nothing had happened"] += 1

    def history(self, out: Path) -> list[dict]:
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
