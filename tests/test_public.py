"""The public names: which stand in `fp`, what they cost to import, where the others went."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import funcprop
import funcprop as fp
from funcprop.lazy import DEPRECATED

PACKAGES = """
blocks catalogue collectors comparison composites costs data explorer gradient initializers
inspection layer layers lifting losses models pipelines placement plots prediction rewiring
testing training
""".split()  # noqa: SIM905


def at(path):
    """The object that a user would write as `path`."""
    value = fp
    for name in path.split(".")[1:]:
        value = getattr(value, name)
    return value


def test_flat_names_are_layers_losses_models_and_verbs():
    assert sorted(fp.__all__ + PACKAGES) == dir(fp)
    assert not {f"fp.{name}" for name in fp.__all__} & DEPRECATED.keys()
    for name in dir(fp):
        assert callable(getattr(fp, name)) == (name in fp.__all__)
    assert {type(fp.layers), *map(type, map(at, map("fp.{}".format, PACKAGES)))} == {type(fp)}


@pytest.mark.parametrize("old", DEPRECATED)
def test_a_name_that_moved_warns_with_what_to_write(old):
    new = DEPRECATED[old]
    with pytest.warns(DeprecationWarning, match=f"{old} is deprecated: write {new}$") as caught:
        found = at(old)
    assert found is at(new)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_name_that_moved_is_imported_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"write fp\.layers\.Affine"):
        from funcprop import Affine
    assert Affine is fp.layers.Affine


@pytest.mark.parametrize("module", ["", ".layers", ".composites", ".comparison"])
def test_a_name_that_does_not_exist(module):
    path = f"funcprop{module}"
    with pytest.raises(AttributeError, match=f"module '{path}' has no attribute 'Dnese'"):
        importlib.import_module(path).Dnese  # noqa: B018


def test_importing_funcprop_imports_next_to_nothing():
    """What is asked for is imported then; the table of layers and optax not even by `compare`."""
    count = "print(*(name for name in sys.modules if name not in before))"
    program = f"""
import sys, jax
before = set(sys.modules)
import funcprop as fp
{count}
fp.Dense, fp.mlp, fp.backprop, fp.compare, fp.collect, fp.rewire
{count}
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    first, second = (set(line.split()) for line in run.stdout.splitlines())
    assert first == {"funcprop", "funcprop.lazy"}
    heavy = {"optax", "matplotlib", "sklearn", "tyro", "rich", "funcprop.catalogue.table"}
    assert second and not second & heavy


def test_no_module_is_shadowed_by_a_name_of_its_package():
    skipped = {"funcprop.cli.__main__", "funcprop.comparison.plugin", "funcprop.testing.plugin"}
    for found in pkgutil.walk_packages(funcprop.__path__, "funcprop."):
        if found.name not in skipped:
            module = importlib.import_module(found.name)
            parent, _, child = found.name.rpartition(".")
            assert getattr(sys.modules[parent], child) is module, found.name
            assert child not in getattr(sys.modules[parent], "__all__", ()), found.name
