"""A disk that is really full: a file system of some kilobytes in memory."""

from __future__ import annotations

import subprocess

from .faults import Faults

FULL = "disks of a few kilobytes, exit"


def fill_a_real_disk(faults: Faults, kilobytes: int | None = None) -> bool:
    """The run ends in one line or has no need to; with room it ends as if nothing had happened.

    Returns whether such a disk could be made: not everybody may mount one.
    """
    disk = faults.folder / "disk"
    disk.mkdir(exist_ok=True)
    size = kilobytes or faults.random.randrange(20, 400)
    if not mounted("-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)):
        return False
    try:
        run = faults.start(disk / "run")
        code, printed = run.wait(), run.printed()
        assert "Traceback" not in printed, printed
        last = printed.strip().splitlines()[-1]
        assert code == 0 or (code in (1, 2) and last.startswith("funcprop: ")), (code, printed)
        faults.counts[f"{FULL} {code}"] += 1
        assert mounted("-o", "remount,size=64m", str(disk))
        faults.finish(disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return True


def mounted(*options: str) -> bool:
    try:
        return subprocess.run(["mount", *options], capture_output=True).returncode == 0
    except OSError:
        return False
