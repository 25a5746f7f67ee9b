"""The command line: funcprop train, predict, summary, compare, explain and exercise.

Everything here is reading arguments, calling the library and printing. Errors are one line and an
exit code: 1 a wrong gradient or a failed run, 2 bad usage or input, 130 Ctrl-C.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from funcprop.cli.arguments import parse
from funcprop.cli.commands import run
from funcprop.cli.errors import USAGE_ERRORS, FailedRun, complain
from funcprop.cli.job.run import NonFiniteError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. `arguments` are those of the process."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know no δ
            stream.reconfigure(errors="backslashreplace")
    try:
        return run(parse(arguments))
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except USAGE_ERRORS as error:
        return complain(error, 2, "--debug" in arguments)
    except (FailedRun, NonFiniteError) as error:
        return complain(error, 1, "--debug" in arguments)
    except Exception as error:
        reason = f"{type(error).__name__}: {error} (--debug shows where)"
        return complain(reason, 1, "--debug" in arguments)
