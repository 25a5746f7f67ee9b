"""Several processes that run one training: how they find each other, and end together."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import jax

from funcprop.cli.errors import USAGE_ERRORS, FailedRun, complain
from funcprop.cli.job.checks import RecipeError, whole
from funcprop.training.agreement import is_first

SECONDS = 30  # after which a process that is not heard of counts as one that has ended
START = 120  # that processes wait for each other in the beginning


def check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raises RecipeError where the three options do not go together."""
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    named = [name for name, value in given.items() if value is not None]
    if named not in ([], ["coordinator", "processes", "process"]) and coordinator != "auto":
        missing = ", ".join(f"--{name}" for name in given if name not in named)
        raise RecipeError(
            f"--{named[0]} without {missing}: give --coordinator HOST:PORT --processes N "
            "--process I, or --coordinator auto where Slurm or Kubernetes has started them"
        )
    if coordinator == "auto" and len(named) > 1:
        raise RecipeError(f"--coordinator is auto, and finds --{named[1]} itself: leave it out")
    if coordinator is None or processes is None or process is None:
        return
    whole("processes", processes, 1, 10**6)
    whole("process", process, 0, processes - 1)
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise RecipeError(f"--coordinator is {coordinator!r}, wanted HOST:PORT of process 0")


@contextlib.contextmanager
def joined(coordinator: str | None, processes: int | None, process: int | None) -> Iterator[None]:
    """Inside, JAX has the devices of all processes, and the first one alone prints.

    What is raised inside ends this process at once, in one line, and with it the others: whoever
    waits for it learns that it has gone.
    """
    check(coordinator, processes, process)
    if coordinator is None:
        yield
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator_address=None if coordinator == "auto" else coordinator,
            num_processes=processes,
            process_id=process,
            initialization_timeout=START,
            heartbeat_timeout_seconds=SECONDS,
            shutdown_timeout_seconds=SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise FailedRun(
            f"the processes did not find each other ({said}): start all of them, with the same "
            "--coordinator and --processes"
        ) from error
    errors = sys.stderr
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        if not is_first():
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield
        except Exception as error:
            sys.stderr = errors
            told(error)
        except KeyboardInterrupt:
            sys.stderr = errors
            leave(complain("interrupted", 130))
    jax.distributed.shutdown()


def told(error: Exception) -> None:
    """The error in one line, and the end of this process."""
    number = f"process {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, (FailedRun, FloatingPointError)):
        leave(complain(error, 1))
    if is_lost(error):
        leave(
            complain(
                f"{number} has lost another one: start all of them again with --resume, from what "
                "was saved last",
                1,
            )
        )
    if isinstance(error, USAGE_ERRORS):
        leave(complain(error, 2))
    leave(complain(f"{number}: {type(error).__name__}: {error}", 1))


def is_lost(error: BaseException | None) -> bool:
    """Whether the error, or what it came from, is that another process does not answer."""
    while error is not None:
        words = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and any(w in words for w in LOST):
            return True
        error = error.__cause__ or error.__context__
    return False


LOST = ("Gloo", "gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Barrier", "heartbeat", "ABORTED",
        "Connection", "coordination")  # fmt: skip


def leave(code: int) -> None:
    """Without waiting for the others, who may wait for this one."""
    sys.stdout.flush()
    os._exit(code)
