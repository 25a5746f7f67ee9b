"""A few faults of each kind; `python -m tests.faults.all` does a hundred and more."""

import signal

import pytest

from .disk import fill_a_real_disk
from .faults import Faults


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
        yield Faults(tmp_path_factory.mktemp("faults"))


def test_a_run_that_was_killed_and_damaged_ends_as_if_nothing_had_happened(faults):
    out = faults.folder / "run"
    faults.kill_in_a_save(out, signal.SIGKILL)
    faults.tear(out)
    faults.damage(out)
    faults.finish(out)


def test_a_run_that_is_asked_to_stop_says_how_to_go_on(faults):
    out = faults.folder / "asked"
    faults.kill_in_a_save(out, signal.SIGTERM)
    faults.finish(out)


def test_a_full_disk_and_a_second_run(faults):
    out = faults.folder / "full"
    faults.fill_the_disk(out)
    fill_a_real_disk(faults, 120)
    faults.run_twice(out)
    faults.finish(out)
