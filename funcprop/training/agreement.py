"""What several processes of one run agree on: numbers of which each has its own."""

from __future__ import annotations

import jax
import numpy as np

TURNS = 8  # of a loop, from one question of all processes to the next


def agreed(number: float) -> float:
    """The largest of the processes' numbers, in each of them; all have to ask together."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils  # not needed by one process

    return float(np.max(multihost_utils.process_allgather(np.float32(number))))


def together(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0
