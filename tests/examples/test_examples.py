"""Every example runs, and prints what it promises."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PRINTED = {
    "computation_graph": ["e = 6", "∂e/∂a = 2", "∂e/∂b = 5"],
    "mazur": ["E = 0.2983711087600027", "0.291027774", "0.291027924", "2.447562e-06"],
    "own_framework": ["1 NAND 1 = 0.0", "0 NAND 0 = 0.9"],
    "network": ["Epoch 29:", "/ 360"],
    "per_example": ["75 of 1437 labels are wrong", "of the 75 largest gradients"],
    "less_memory": ["jax.grad, then optax", "updated on the way back", "loss 0."],
    "zero_bubble": ["weight half", "MB", "1F1B: ", "ZB-H1: ", "FFFF", "FFFFFFF"],
    "kfac": ["step   SGD      K-FAC", " 100   "],
    "from_scratch": ["difference to jax.grad: ", "difference to funcprop: ", "1 NAND 1 = 0.0"],
    "vanishing": ["sigmoid  ", "a factor of 4.", "tanh     ", "ReLU     "],
    "manual_and_automatic": ["by hand   automatic", "   2   "],
    "convnet": ["after epoch 1: loss ", "Scale(bias=True) stands where BatchNorm() stood"],
    "lstm": ["% remembered", "before training, of the error", "after training"],
    "character_gpt": ["after epoch 1, ", "'this is the"],
    "ensemble": ["alone   ", "together ", "where all agree"],
    "binarized_weights": ["a derivative: False", "HardTanh's:   True", " 1 bits a hidden weight: "],
    "transformer": ["of the letters are where they belong", "SelfAttention[0] Dense"],
    "from_flax": ["ours: {'0': {'bias': (32,), 'scale': (32,)}}", "the hardest of 64"],
    "from_equinox": ["% of the test set", "the hardest of 64"],
}

SIZES = {  # the numbers printed are not tested
    "less_memory": (32, 4),
    "vanishing": (0,),
    "manual_and_automatic": (2,),
    "convnet": (1,),
    "lstm": (2,),
    "character_gpt": (None, 1),
    "ensemble": (1,),
    "binarized_weights": (1,),
    "transformer": (1,),
    "from_flax": (1,),
    "from_equinox": (1,),
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        *PRINTED,
        "feedback_alignment",
        "private_training",
        "flax_private",
        "lifted_kfac",
    }


def test_every_example_is_on_the_page_of_examples():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(listed) == sorted(path.stem for path in EXAMPLES.glob("*.py"))
    for name, picture in re.findall(r"!\[(\w+)\]\((images/\S+)\)", page):
        listed.remove(name)
        assert (EXAMPLES.parent / "docs" / picture).exists()
    assert not listed


def test_private_training_of_a_flax_model_is_resumed(tmp_path):
    """Stopped after three steps of five, it comes to the same parameters, bit for bit."""
    pytest.importorskip("flax")
    example = load("flax_private")
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.random((60, 8, 8, 1)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 10, 60))
    example.network = example.Network(width=2)
    run = functools.partial(example.train, x, y, 1.0, 12, 5, 1.0)
    whole = run()
    first = run(file=tmp_path / "state.safetensors", until=3)
    resumed = run(file=tmp_path / "state.safetensors")
    assert [int(state.step) for state in (whole, first, resumed)] == [5, 3, 5]
    same = [jax.tree.map(np.array_equal, whole.params, s.params) for s in (first, resumed)]
    assert not any(jax.tree.leaves(same[0])) and all(jax.tree.leaves(same[1]))
    assert 0 <= example.accuracy(resumed.params, x, y) <= 1


def test_kfac_of_a_lifted_model(capsys):
    """Few steps: what 1,000 of Adam come to is in the guide."""
    pytest.importorskip("flax")
    pytest.importorskip("equinox")
    example = load("lifted_kfac")
    example.main(slow=20, fast=20)
    head, first, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "Adam", "K-FAC"] and last.startswith("K-FAC is where Adam ends")
    assert float(first.split()[1]) == float(first.split()[2])
    x = jnp.ones((2, 3))
    model, params = example.of_equinox(x, (4, 5))
    factors = example.with_factors(example.fp.lift(model, params, x), example.fp.QuadraticCost())
    found = jax.eval_shape(
        factors, params, (x, jnp.ones((2, 5))), example.fp.Context(jax.random.key(0))
    )
    assert found[2].layers[0].weight.value.a.shape == (4, 4)


def test_private_training():
    """In a process of its own, whose programs are compiled well enough to train with."""
    run = [sys.executable, EXAMPLES / "private_training.py"]
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=1"}
    printed = subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout
    assert "ε = 8.00" in printed and float(printed.removeprefix("digits: ").split("%")[0]) > 93


@pytest.mark.parametrize("name", PRINTED)
def test_example(name, capsys):
    if name.startswith("from_") and name != "from_scratch":
        pytest.importorskip(name.removeprefix("from_"))
    with jax.numpy_dtype_promotion("standard"):  # optax' own update mixes dtypes
        load(name).main(*SIZES.get(name, ()))
    printed = capsys.readouterr().out
    for words in PRINTED[name]:
        assert words in printed
    if name == "kfac":
        sgd, kfac = map(float, printed.split()[-2:])
        assert kfac < sgd / 4


def test_the_network_learns_the_digits(capsys):
    example = load("network")
    from funcprop.data import load as load_data

    lines = [
        line
        for _, line in example.sgd(example.network([64, 30, 10]), load_data("digits"), 30, 10, 3.0)
    ]
    assert lines[0].startswith("Epoch 0: ")
    assert int(lines[-1].split()[2]) >= 0.94 * 360


def test_random_feedback_teaches_and_better_feedback_teaches_better(capsys):
    load("feedback_alignment").main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line[:14] for line in lines] == ["backpropagatio", "signs of w    ", "random weights"]
    wrong, before, after = np.array([re.findall(r"[\d.]+", line) for line in lines], float).T
    assert wrong[0] <= wrong[1] + 2 < wrong[2] < 15
    assert after[0] == 0 and after[1] < after[2] < before[2] - 5


def test_the_network_learns_mnist():
    folder = Path(os.environ.get("FUNCPROP_MNIST", EXAMPLES.parent.parent / "shared/data/mnist"))
    if not folder.is_dir():
        pytest.skip("MNIST's four IDX files are not here: set FUNCPROP_MNIST to their folder")
    example = load("network")
    from funcprop.data import load as load_data

    data = load_data("mnist", folder)
    lines = [line for _, line in example.sgd(example.network([784, 30, 10]), data, 3, 10, 3.0)]
    assert int(lines[-1].split()[2]) >= 9200
