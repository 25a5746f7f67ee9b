"""A strict session: warnings are errors (pyproject.toml), dtypes are never promoted.

Nearly all of the suite's time is compilation, half of which is LLVM making code faster that runs
once. So XLA is told to leave that out; its own passes, on which memory, flops and rounding depend,
all run. With XLA_FLAGS set (`XLA_FLAGS= python -m pytest`) it is left as it is.
"""

import os

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")

if "XLA_FLAGS" not in os.environ:
    flags = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",  # a worker has one processor
    ]
    if jax.__version_info__ < (0, 11):  # later ones know no such flag, and end the process
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    jax.jit(lambda x: x)(0.0)  # the flags are read here
    del os.environ["XLA_FLAGS"]  # programs that a test starts do train: they are compiled well


def pytest_collection_modifyitems(config, items):
    """The tests of one row of the catalogue stand together: they share what it takes to compile.

    With FUNCPROP_ROWS=first a layer has its first row alone.
    """
    if os.environ.get("FUNCPROP_ROWS") == "first":
        others = more_rows()
        out = {item for item in items if row_of(item) in others}
        config.hook.pytest_deselected(items=[item for item in items if item in out])
        items[:] = [item for item in items if item not in out]
    places = [i for i, item in enumerate(items) if item.path.name == "test_catalogue.py"]
    ours = [items[i] for i in places]
    rows = {}
    for item in ours:
        name = row_of(item)
        item.row = rows.setdefault(name, len(rows))
    for i, item in zip(places, sorted(ours, key=lambda item: item.row), strict=True):
        items[i] = item


def row_of(item):
    """The row of the catalogue that a test is about, or None."""
    return item.callspec.params.get("name") if hasattr(item, "callspec") else None


def more_rows():
    """The rows of a layer after its first."""
    from funcprop.comparison.catalogue import ROWS

    first = {}
    for row in ROWS:
        first.setdefault(type(row.layer), row.name)
    return {row.name for row in ROWS} - set(first.values())


def pytest_terminal_summary(terminalreporter):
    """How much the catalogue was tried with: what the numbers of docs/guides/comparing.md mean."""
    counts = {"right": 0, "mutants": 0, "killed": 0, "accused": 0}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, count in getattr(report, "user_properties", ()):
                if name in counts and report.when == "call":
                    counts[name] += count
    if counts["right"]:
        terminalreporter.write_line(
            "the catalogue: {killed} of {mutants} mutants killed, "
            "{accused} of {right} right gradients accused".format(**counts)
        )
