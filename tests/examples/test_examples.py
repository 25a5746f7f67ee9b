"""Every example runs, and prints what it promises."""

import importlib.util
import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PRINTED = {
    "computation_graph": ["e = 6", "∂e/∂a = 2", "∂e/∂b = 5"],
    "mazur": ["E = 0.2983711087600027", "0.291027774", "0.291027924", "2.447562e-06"],
    "own_framework": ["1 NAND 1 = 0.0", "0 NAND 0 = 0.9"],
    "network": ["Epoch 29:", "/ 360"],
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_example(name, capsys):
    load(name).main()
    printed = capsys.readouterr().out
    for words in PRINTED[name]:
        assert words in printed


def test_the_network_learns_the_digits(capsys):
    example = load("network")
    from funcprop.data import load as load_data

    lines = [
        line
        for _, line in example.sgd(example.network([64, 30, 10]), load_data("digits"), 30, 10, 3.0)
    ]
    assert lines[0].startswith("Epoch 0: ")
    assert int(lines[-1].split()[2]) >= 0.94 * 360


def test_the_network_learns_mnist():
    folder = Path(os.environ.get("FUNCPROP_MNIST", EXAMPLES.parent.parent / "shared/data/mnist"))
    if not folder.is_dir():
        pytest.skip("MNIST's four IDX files are not here: set FUNCPROP_MNIST to their folder")
    example = load("network")
    from funcprop.data import load as load_data

    data = load_data("mnist", folder)
    lines = [line for _, line in example.sgd(example.network([784, 30, 10]), data, 3, 10, 3.0)]
    assert int(lines[-1].split()[2]) >= 9200
