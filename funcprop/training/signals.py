"""Being asked to stop: SIGTERM and Ctrl-C as a question that a loop answers when it can."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and what it had reached is saved. A KeyboardInterrupt.

    signal  the number of the signal: 15 of SIGTERM, 2 of Ctrl-C

    >>> import funcprop as fp
    >>> str(fp.training.Stopped("saved after step 7", signal=15))
    'saved after step 7'
    """

    def __init__(self, message: str = "", signal: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = signal


class Asked:
    """Whether a signal came, and which."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """A value that becomes true with the first SIGTERM or SIGINT; the second acts as ever.

    Outside of the main thread Python hears no signals, and nothing changes.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        before.clear()

    def hear(number: int, frame: Any) -> None:
        asked.signal = number
        restore()

    for number in (signal.SIGTERM, signal.SIGINT):
        # one that is ignored, as nohup does, stays so; one set outside of Python cannot be restored
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, hear)
    try:
        yield asked
    finally:
        restore()
