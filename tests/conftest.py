"""A strict session: warnings are errors (pyproject.toml), dtypes are never promoted."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")


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
