"""Trainings on one, two, four and eight devices, against one; in one process that has eight."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "on_devices.py"
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_prefer_vector_width=64"
)

# What a step tells between devices, by kind. A sum over all gradients is one all-reduce; with
# parameters spread along the examples each array is gathered once where XLA keeps what it gathered,
# twice in a loop; under tensor parallelism a pair of Dense layers is one sum forward and one
# backward, of which the first pair of a model needs none.
EXPECTED = {
    "mlp data": {"all-reduce": 1},
    "mlp full": {"all-reduce": 1, "all-gather": 6},
    "mlp tensor": {"all-reduce": 1},
    "convnet data": {"all-reduce": 1},
    "convnet full": {"all-reduce": 1, "all-gather": 8},
    "convnet tensor": {"all-reduce": 3, "all-gather": 2},  # the images, where channels are read
    "gpt data": {"all-reduce": 2},
    "gpt full": {"all-reduce": 2, "all-gather": 29, "all-to-all": 1},
    # attention and MLP a sum each way, and the rows of the embedding; its table for the logits
    "gpt tensor": {"all-reduce": 5, "all-gather": 1},
    "gpt sequence": {"all-reduce": 6, "all-gather": 5},  # queries, keys, values; dq, dk, dv
}
RUNS = [f"{model} {how} {count}" for model in ("mlp", "convnet", "gpt")
        for how in ("data", "full", "tensor") for count in (1, 2, 4, 8)
        if count > 1 or how == "full"]  # fmt: skip
RUNS += ["mlp both", "gpt both", "gpt auto", "gpt sequence"]
PIPELINES = [f"{model} pipeline" for model in ("mlp", "convnet", "gpt")]
RUNS += [f"{how} {count}" for how in PIPELINES for count in (1, 2, 4, 8)]
RUNS += ["mlp pipeline apart"]
# activations one way, cotangents the other, in the loop; and what is not apart, at the end
EXPECTED |= {how: {"collective-permute": 2, "all-gather": 1} for how in PIPELINES}


@functools.cache
def runs():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = QUICK
    run = subprocess.run(
        [sys.executable, PROGRAM], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    return {found["name"]: found for found in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_one_device_and_the_state_stays_where_it_lies(name):
    kind = " pipeline" * ("pipeline" in name)
    found, wanted = runs()[name], runs()[f"{name.split()[0]}{kind} alone"]
    assert found["losses"] == pytest.approx(wanted["losses"], rel=2e-6)
    assert found["stays"]


@pytest.mark.parametrize("how", EXPECTED)
def test_collectives_are_those_expected_and_no_more(how):
    for name, found in runs().items():
        if name.startswith(how) and not name.endswith((" 1", " alone")):
            expected = EXPECTED[how] | ({"all-reduce": 1} if "apart" in name else {})
            told = found["collectives"]
            assert all(told[kind] <= expected.get(kind, 0) for kind in told), (name, told)
            if not how.endswith(("full", "sequence")):
                assert told == expected, name


def test_memory_of_a_device_falls_as_one_over_their_number():
    one = runs()["deep full 1"]["bytes"]
    for count in (2, 4, 8):
        found = runs()[f"deep full {count}"]
        assert found["bytes"] == pytest.approx(one / count, rel=0.15)
        spread, parameters = map(int, re.findall(r"(\d+) of (\d+)", found["layout"])[0])
        assert spread == parameters


def test_stages_hold_their_own_blocks():
    found = runs()["gpt pipeline 8"]["layout"]
    assert found.endswith("12 of 16 parameters spread, 49 kB of 324 kB a device")


def test_a_tensor_parallel_state_takes_its_share():
    whole = runs()["gpt full 1"]["layout"]
    assert whole == "1 device, mesh (data 1); 0 of 20 parameters spread, 324 kB of 324 kB a device"
    apart = runs()["gpt tensor 8"]["layout"]
    assert apart.endswith("11 of 20 parameters spread, 50.6 kB of 324 kB a device")
