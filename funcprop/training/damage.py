"""Reading what may be damaged: an exception that says so, and silence of the library that reads."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any


class Damaged(Exception):
    """Not what was written: the message says what is seen of it."""


@contextlib.contextmanager
def read_as_damaged() -> Iterator[None]:
    """What is raised inside is Damaged, and what orbax leaves behind then is swept up in silence:
    the readers of the other arrays, which Python would tell of one by one."""
    heard: list[Any] = []
    logger = logging.getLogger("asyncio")
    hook, sys.unraisablehook = sys.unraisablehook, lambda event: heard.append(event.exc_type)
    level = logger.level
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            try:
                yield
                return
            except Exception as error:
                words = brief(error)
            logger.setLevel(logging.CRITICAL)
            for _ in range(20):  # threads may be at work yet: until nothing comes for a while
                before = len(heard)
                gc.collect()
                time.sleep(0.05)
                if len(heard) == before:
                    break
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)
    raise Damaged(words)


def brief(error: BaseException) -> str:
    """The first words of what another library says."""
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        words = error.strerror
    for known in ("No space left on device", "File too large", "Disk quota exceeded"):
        if known in words:
            return known
    return words if len(words) <= 80 else words[:77] + "..."
