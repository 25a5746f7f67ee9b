"""A strict session: warnings are errors (pyproject.toml), dtypes are never promoted.

Nearly all of the suite's time is compilation, half of which is LLVM making code faster that runs
once. So XLA is told to leave that out; its own passes, on which memory, flops and rounding depend,
all run. With XLA_FLAGS set (`XLA_FLAGS=" " python -m pytest`) it is left as it is.
"""

import os

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")

if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    jax.jit(lambda x: x)(0.0)  # the flags are read here
    del os.environ["XLA_FLAGS"]  # programs that a test starts do train: they are compiled well


def pytest_collection_modifyitems(items):
    """The tests of one row of the catalogue stand together: they share what it takes to compile."""
    places = [i for i, item in enumerate(items) if item.path.name == "test_catalogue.py"]
    ours = [items[i] for i in places]
    rows = {}
    for item in ours:
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        item.row = rows.setdefault(name, len(rows))
    for i, item in zip(places, sorted(ours, key=lambda item: item.row), strict=True):
        items[i] = item
