"""`pytest --rules`: a whole session is watched, and its derivative rules compared at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from funcprop.testing.rules import RulesComparison, from_json, merged
from funcprop.testing.watching import Watch, start, stop

SENT = "funcprop_rules"  # under which a worker of pytest-xdist sends what it found


JUDGED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)  # else the session was broken off


def add_options(group: Any) -> None:
    """The options of the command line."""
    group.addoption(
        "--rules",
        action="store_true",
        help="compare every jax.custom_vjp and jax.custom_jvp function that the tests call with "
        "automatic differentiation, when they are over; the session fails where one is wrong",
    )
    group.addoption(
        "--rules-skip",
        metavar="PATTERN",
        action="append",
        default=[],
        help="list these rules and compare them not: 'jax.*', '*.straight_through', a pattern of "
        "the module, a dot and the qualified name; may be repeated",
    )
    group.addoption(
        "--rules-seconds",
        metavar="S",
        type=float,
        default=20.0,
        help="for each rule, 20 by default: then no further of its examples is begun",
    )
    for kind in ("json", "html"):
        group.addoption(
            f"--rules-{kind}",
            metavar="FILE",
            type=Path,
            help=f"write the table of --rules as {kind.upper()} to this file, replacing it",
        )


def wanted(config: pytest.Config) -> bool:
    """Whether rules are to be compared. Raises UsageError for options that make no sense."""
    if not seconds_of(config) > 0:
        raise pytest.UsageError(
            f"--rules-seconds is {seconds_of(config)}, wanted more than 0: 20 unless given"
        )
    options = ("--rules", "--rules-json", "--rules-html")
    return any(map(config.getoption, options)) and not config.getoption("collectonly")


def seconds_of(config: pytest.Config) -> float:
    """What --rules-seconds says."""
    given: Any = config.getoption("--rules-seconds")
    return given


class RulesSession:
    """The hooks of a session that is watched: in one process, in a worker of pytest-xdist, which
    sends what it found, or in its controller, which puts that together."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.watching = Watch()
        self.sent: list[str] = []
        self.lost = 0
        self.found: RulesComparison | None = None
        start(self.watching)

    def pytest_unconfigure(self) -> None:
        stop(self.watching)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """A worker of pytest-xdist has ended."""
        text = getattr(node, "workeroutput", {}).get(SENT)
        self.lost += text is None
        self.sent += [] if text is None else [text]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus not in JUDGED:
            return
        skip: list[str] = self.config.getoption("--rules-skip") or []
        found = self.watching.compare(seconds_of(self.config), skip)
        output: dict[str, str] | None = getattr(self.config, "workeroutput", None)
        if output is not None:
            output[SENT] = found.to_json()
            return
        rows = [row for text in self.sent for row in from_json(text)]
        self.found = merged([*found.rows, *rows])
        for kind, text in (("json", self.found.to_json), ("html", self.found.to_html)):
            path: Path | None = self.config.getoption(f"--rules-{kind}")
            if path is not None:
                (self.config.invocation_params.dir / path).write_text(text() + "\n", "utf-8")
        if not self.found.ok and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.found is None:
            return
        terminalreporter.section("derivative rules")
        for line in str(self.found).splitlines():
            terminalreporter.write_line(line)
        if self.lost:
            terminalreporter.write_line(f"{self.lost} workers ended early: their rules are unknown")
