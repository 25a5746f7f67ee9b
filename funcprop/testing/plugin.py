"""The pytest plugin: gradients as tests. `pytest -p funcprop.testing.plugin` switches it on.

assert_gradients(layer, params, x)   in a test: fails with the report of what is wrong
--gradients PACKAGE                  a test for every layer that the package defines
--gradients-json FILE                every comparison of the session, as JSON
--rules                              every derivative rule that the tests call, compared at the end
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from funcprop.catalogue.comparisons import compare_row
from funcprop.catalogue.discovery import TargetError, layer_classes, modules, rows_in
from funcprop.catalogue.examples import NoExample, examples
from funcprop.catalogue.row import Row
from funcprop.comparison.report.comparison import Comparison, GradientError
from funcprop.layer import Layer
from funcprop.testing.assertion import Listener, agreed, listeners
from funcprop.testing.assertion import assert_gradients as assert_gradients
from funcprop.testing.session import RulesSession, add_options, wanted

Found = list[dict[str, Any]]  # the test and what Comparison.as_dict says, one a comparison
FOUND = pytest.StashKey[Found]()
LISTENER = pytest.StashKey[Listener]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("funcprop", "hand-written gradients")
    group.addoption(
        "--gradients",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="also test every layer that this package defines: its backward against automatic "
        "differentiation, at the Rows that its modules hold; may be repeated",
    )
    group.addoption(
        "--gradients-json",
        metavar="FILE",
        type=Path,
        help="write every comparison of the session to this file, replacing it",
    )
    add_options(group)


# --- what was found -------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    found: Found = []

    def listener(comparison: Comparison) -> None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        found.append({"test": test} | comparison.as_dict())

    config.stash[FOUND], config.stash[LISTENER] = found, listener
    listeners.append(listener)
    if wanted(config):
        config.pluginmanager.register(RulesSession(config), "funcprop rules")


def pytest_unconfigure(config: pytest.Config) -> None:
    if LISTENER in config.stash:  # another plugin may have stopped pytest before our start
        listeners.remove(config.stash[LISTENER])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """A worker of pytest-xdist has ended: what it found is ours."""
    node.config.stash[FOUND] += json.loads(getattr(node, "workeroutput", {}).get("gradients", "[]"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    path: Path | None = config.getoption("--gradients-json")
    if path is None:
        return
    text = json.dumps(config.stash[FOUND], indent=2, ensure_ascii=False, allow_nan=False)
    sent: dict[str, str] | None = getattr(config, "workeroutput", None)
    if sent is not None:  # a worker of pytest-xdist: the file is the controller's
        sent["gradients"] = text
        return
    (config.invocation_params.dir / path).write_text(text + "\n", "utf-8")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    path: Path | None = config.getoption("--gradients-json")
    if path is not None:
        found = config.stash[FOUND]
        wrong = sum(not each["ok"] for each in found)
        terminalreporter.write_line(f"gradients: {len(found)} compared, {wrong} wrong: {path}")


# --- a test for every layer -----------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    packages: list[str] = config.getoption("--gradients") or []
    for package in packages:
        name = f"gradients[{package}]"
        parent = Package.from_parent(session, name=name, nodeid=name, package=package)
        report = config.hook.pytest_make_collect_report(collector=parent)
        config.hook.pytest_collectreport(report=report)  # counted like all others
        items.extend(report.result)


class Package(pytest.Collector):
    """The layers that a package defines."""

    def __init__(self, *, package: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.package = package

    def collect(self) -> Iterator[pytest.Item]:
        found = dict(modules(self.package))
        rows: dict[int, Row] = {}  # modules import each other's
        for module in found.values():
            if not isinstance(module, TargetError):
                rows |= {id(row): row for row in rows_in(module)}
        for name, module in found.items():
            if isinstance(module, TargetError):
                yield Unreadable.from_parent(self, name=name, error=module)
                continue
            for kind in layer_classes(module):
                yield Gradient.from_parent(
                    self,
                    name=f"{name}.{kind.__name__}",
                    kind=kind,
                    find=functools.partial(examples, kind, list(rows.values()), self.package),
                )


class Gradient(pytest.Item):
    """A layer's gradient, compared at each of its examples."""

    def __init__(self, *, kind: type[Layer], find: Callable[[], list[Row]], **arguments: Any):
        super().__init__(**arguments)
        self.kind, self.find = kind, find

    def runtest(self) -> None:
        wrong = []
        for row in self.find():
            try:
                agreed(compare_row(row))
            except GradientError as error:
                wrong.append(f"{row.name}: {error}")
        if wrong:
            raise GradientError("\n\n".join(wrong))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, (GradientError, NoExample)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        path, line = inspect.getsourcefile(self.kind), inspect.getsourcelines(self.kind)[1] - 1
        return Path(path or self.path), line, f"gradient of {self.kind.__name__}"


class Unreadable(pytest.Item):
    """A module that cannot be imported: what it defines is unknown, so nothing passes."""

    def __init__(self, *, error: TargetError, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.error = error

    def runtest(self) -> None:
        raise self.error

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return f"--gradients: {self.error}"
