"""The loop: what it yields, where it stops, and that it goes on to the same bits."""

import itertools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp

MODEL, OPTIMIZER = fp.Dense(3), optax.sgd(0.1)
X, Y = jnp.arange(24.0).reshape(12, 2) / 8, jnp.arange(12) % 3
LOSS = fp.SoftmaxCrossEntropy()


class Batches:
    """Batches of three that know where they stand."""

    def __init__(self, start=0, stop=8):
        self.next, self.stop = start, stop

    def __iter__(self):
        return self

    def __next__(self):
        if self.next == self.stop:
            raise StopIteration
        rows = (jnp.arange(3) + 3 * self.next) % 12
        self.next += 1
        return X[rows], Y[rows]

    @property
    def position(self):
        return {"next": self.next}

    def at(self, position):
        return Batches(position["next"], self.stop)


@pytest.fixture(scope="module")
def step():
    return jax.jit(fp.train_step(fp.backprop(MODEL, LOSS), OPTIMIZER))


@pytest.fixture(scope="module")
def state():
    return fp.init_state(MODEL, OPTIMIZER, jax.random.key(0), X)


@pytest.fixture(scope="module")
def wanted(step, state):
    return [state for state, _ in fp.fit(step, state, Batches())]


def test_it_is_the_loop_that_one_writes(step, state, wanted):
    for found, batch in zip(wanted, Batches(), strict=True):
        state, _ = step(state, batch)
        np.testing.assert_array_equal(found.params.w, state.params.w)
    assert int(found.step) == 8


def test_an_epoch_is_a_step_too(state):
    run = fp.epoch(fp.train_step(fp.backprop(MODEL, LOSS), OPTIMIZER), 4)
    found = list(fp.fit(run, state, itertools.repeat((X, Y), 2)))
    assert [int(state.step) for state, _ in found] == [3, 6]
    assert found[0][1].loss.shape == (3,)


def test_callbacks_see_every_step_and_may_end_it(step, state):
    seen = []
    calls = [
        lambda state, metrics: seen.append(float(metrics.loss)),
        lambda state, metrics: int(state.step),  # the truth ends it, and not just anything
    ]
    assert len(list(fp.fit(step, state, Batches(), callbacks=calls))) == len(seen) == 8
    calls[1] = lambda state, metrics: bool(state.step == 3)
    assert len(list(fp.fit(step, state, Batches(), callbacks=calls))) == 3


@pytest.mark.parametrize("how", ["signal", "break", "error", "end"])
def test_what_is_left_is_gone_on_with_to_the_same_bits(step, state, wanted, tmp_path, how):
    batches, stopped = Batches(), None
    checkpoints = fp.Checkpoints(tmp_path / "run", every=3, keep=1)
    before = signal.getsignal(signal.SIGTERM)

    def broken(state, batch):
        if how == "error" and int(state.step) == 5:
            raise RuntimeError("of the step")
        return step(state, batch)

    try:
        for reached, _ in fp.fit(broken, state, batches, checkpoints):
            if int(reached.step) == 5 and how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            if int(reached.step) == 5 and how == "break":
                break
    except (fp.training.Stopped, RuntimeError) as error:
        stopped = error
    checkpoints.close()
    assert signal.getsignal(signal.SIGTERM) == before
    if how == "signal":
        assert stopped.signal == signal.SIGTERM and "after step 6" in str(stopped)
    again = fp.Checkpoints(tmp_path / "run")
    found = again.restore(state)
    steps = int(found.state.step)
    assert steps == {"signal": 6, "break": 5, "error": 5, "end": 8}[how]
    assert found.position == {"next": steps}
    rest = list(fp.fit(step, found.state, batches.at(found.position), again))
    again.close()
    last = rest[-1][0] if rest else found.state
    np.testing.assert_array_equal(last.params.w, wanted[-1].params.w)
    np.testing.assert_array_equal(last.params.b, wanted[-1].params.b)


def test_without_checkpoints_signals_are_left_alone(step, state):
    before = signal.getsignal(signal.SIGINT)
    for _ in fp.fit(step, state, Batches()):
        assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(
    ("given", "words"), [((3, ()), "step is 3"), ((len, (4,)), "callback is 4")]
)
def test_what_is_no_function_is_told_at_once(state, given, words):
    with pytest.raises(TypeError, match=words):
        fp.fit(given[0], state, [], callbacks=given[1])
