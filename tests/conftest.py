"""A strict session: warnings are errors (pyproject.toml), dtypes are never promoted.

Nearly all of the suite's time is tracing, lowering and compiling. Half of the last is LLVM making
code faster that runs once, so XLA is told to leave that out; its own passes, on which memory, flops
and rounding depend, all run. With XLA_FLAGS set (`XLA_FLAGS= python -m pytest`) it is left as it
is. All programs are lowered in one MLIR context, since a new one for each is a quarter of what the
smallest costs, and none gets a key of the persistent cache. A NumPy array becomes one of JAX
without a program, and eager operations are NumPy's where the result is the same (tests/eager.py).
Tracing makes many small objects that live long: Python looks for circles among them seldom, and no
traceback is kept with every operation.

    python -m pytest                one row a layer of the catalogue, and the quick tests
    python -m pytest --all-rows     everything
    python -m pytest --other-rows   what the first leaves out: both together are everything

Slow is what took more than 0.18 seconds of processor time when tests/slow.txt was
written, by `python -m pytest -n 2 --all-rows --write-slow`.
"""

import functools
import gc
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src import core
from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir

from .eager import without_programs

SLOW = Path(__file__).parent / "slow.txt"

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_traceback_in_locations_limit", 0)
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_num_cpu_devices", 2)  # for tests/test_meshes.py
gc.set_threshold(50_000, 20, 20)
new_context = mlir.make_ir_context
shared_context = functools.cache(new_context)


def context():
    """The one context; another for a program that is run while one is lowered, as JAX has it."""
    try:
        ir.InsertionPoint.current  # noqa: B018
    except ValueError:
        return shared_context()
    return new_context()


mlir.make_ir_context = context


def stage_without_a_program():
    """`jnp.asarray` of a NumPy array as a copy: else JAX compiles one for every shape."""
    stage = getattr(core, "stage_p", None)
    if stage is None:
        return
    compiled = stage.impl

    def copied(x):
        known = isinstance(x, np.ndarray) and jax.dtypes.canonicalize_dtype(x.dtype) == x.dtype
        if not known or getattr(x, "weak_type", False):
            return compiled(x)
        return jax.device_put(np.asarray(x), may_alias=False)

    stage.def_impl(copied)


stage_without_a_program()
without_programs()

if "XLA_FLAGS" not in os.environ:
    flags = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",  # a worker has one processor
        "--xla_cpu_prefer_vector_width=64",  # fewer instructions to be chosen
    ]
    if jax.__version_info__ < (0, 11):  # later ones know no such flag, and end the process
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    jax.jit(lambda x: x)(0.0)  # the flags are read here
    del os.environ["XLA_FLAGS"]  # programs that a test starts do train: they are compiled well


def pytest_addoption(parser):
    group = parser.getgroup("funcprop")
    group.addoption("--all-rows", action="store_true", help="all rows of the catalogue, slow tests")
    group.addoption("--other-rows", action="store_true", help="only what is left out without them")
    group.addoption("--write-slow", action="store_true", help="write tests/slow.txt anew")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.began = processor_time()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    if call.when == "call":
        item.user_properties.append(("seconds", processor_time() - item.began))


def processor_time():
    """Seconds, of the processes that were started too."""
    return sum(os.times()[:4])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """The tests of one row of the catalogue stand together: they share what it takes to compile."""
    if not config.getoption("all_rows"):
        wanted = config.getoption("other_rows")
        out = [item for item in items if is_extra(item) != wanted]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if is_extra(item) == wanted]
    places = [i for i, item in enumerate(items) if item.path.name == "test_catalogue.py"]
    ours = [items[i] for i in places]
    order = {}
    for item in ours:
        order.setdefault(row_of(item), len(order))
    for i, item in zip(places, sorted(ours, key=lambda item: order[row_of(item)]), strict=True):
        items[i] = item
    for item in items:
        if row_of(item) in rows()[0]:
            item.user_properties.append(("pairs", 1))


def is_extra(item):
    """Whether a test is left out where not everything is asked for."""
    return row_of(item) in rows()[1] or item.nodeid in slow()


@functools.cache
def slow():
    """The tests that are no rows of the catalogue, and slow."""
    return frozenset(SLOW.read_text(encoding="utf-8").splitlines())


def row_of(item):
    """The row of the catalogue that a test is about, or None."""
    return item.callspec.params.get("name") if hasattr(item, "callspec") else None


@functools.cache
def rows():
    """-> (names of all rows of the catalogue, those of a layer after its first)."""
    from funcprop.catalogue.table import ROWS

    first = {}
    for row in ROWS:
        first.setdefault(type(row.layer), row.name)
    every = {row.name for row in ROWS}
    return every, every - set(first.values())


def pytest_terminal_summary(terminalreporter, config):
    """How much the catalogue was tried with: what the numbers of docs/guides/comparing.md mean."""
    if config.getoption("write_slow"):
        write_slow(report for each in terminalreporter.stats.values() for report in each)
    counts = dict.fromkeys(("pairs", "right", "mutants", "killed", "accused"), 0)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, count in getattr(report, "user_properties", ()):
                if name in counts and report.when == "call" and report.passed:
                    counts[name] += count
    if counts["pairs"]:
        terminalreporter.write_line(
            "the catalogue: {pairs} pairs of a row and a property hold, {killed} of {mutants} "
            "mutants killed, {accused} of {right} right gradients accused".format(**counts)
        )


def write_slow(reports):
    """tests/slow.txt, from what the tests of this session took."""
    found = {
        report.nodeid
        for report in reports
        for name, seconds in getattr(report, "user_properties", ())
        if name == "seconds" and seconds > 0.18 and "test_catalogue.py" not in report.nodeid
    }
    SLOW.write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")
