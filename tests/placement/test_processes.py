"""Two processes of two devices each train as one device does."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

PROGRAM = Path(__file__).parent / "on_processes.py"
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def alone(monkeypatch):
    spec = importlib.util.spec_from_file_location("on_processes", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(PROGRAM.parent)  # as where it is run
    spec.loader.exec_module(module)
    _, state, batch, step = module.problem()
    return module.losses(jax.jit(step), state, batch)


def test_two_processes_are_one_device(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(port), str(number), "2"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for number in range(2)
    ]  # fmt: skip
    wanted = alone(monkeypatch)
    try:
        told = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    pipelines = {}
    for process, (out, error) in zip(started, told, strict=True):
        assert process.returncode == 0, error
        runs = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        assert [list(run) for run in runs[:2]] == [["data"], ["both"]]
        for run in runs[:2]:
            (found,) = run.values()
            assert found == pytest.approx(wanted, rel=2e-6)
        for run in runs[2:]:
            ((name, found),) = run.items()
            pipelines.setdefault(name, []).append(found)
    for name in ("mlp", "convnet", "gpt"):
        (expected,) = pipelines[f"{name} alone"]  # by the first process
        assert len(pipelines[f"{name} pipeline"]) == 2
        for found in pipelines[f"{name} pipeline"]:
            assert found == pytest.approx(expected, rel=2e-6), name
