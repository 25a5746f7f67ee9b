"""States that are saved, damaged and found again."""

import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.training.fingerprint import fingerprint

MODEL, OPTIMIZER = fp.Dense(3), optax.adam(0.1)
X, Y = jnp.arange(8.0).reshape(4, 2) / 8, jnp.array([0, 1, 2, 1])


@pytest.fixture(scope="module")
def step():
    return jax.jit(fp.train_step(fp.backprop(MODEL, fp.SoftmaxCrossEntropy()), OPTIMIZER))


def beginning(seed=0):
    return fp.init_state(MODEL, OPTIMIZER, jax.random.key(seed), X)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with two checkpoints, and the states in them by their steps."""
    folder, states = tmp_path_factory.mktemp("saved") / "run", {}
    with fp.Checkpoints(folder, about={"model": repr(MODEL)}) as checkpoints:
        for number in (3, 7):
            state = beginning(number)._replace(step=jnp.int32(number))
            checkpoints.save(state, {"batch": number})
            states[number] = state
    assert fp.Checkpoints(folder).steps() == [3, 7]
    return folder, states


def same(a, b):
    def plain(tree):
        return jax.tree.leaves(tree._replace(key=jax.random.key_data(tree.key)))

    pairs = list(zip(plain(a), plain(b), strict=True))
    return all(p.dtype == q.dtype and np.array_equal(p, q) for p, q in pairs)


def test_the_newest_is_restored_with_its_key_and_position(saved):
    folder, states = saved
    found = fp.Checkpoints(folder, about={"model": "Dense(3)"}).restore(beginning(1))
    assert same(found.state, states[7]) and found.position == {"batch": 7}
    assert found.state.key.dtype == states[7].key.dtype


def test_no_folder_is_no_checkpoint(tmp_path):
    assert fp.Checkpoints(tmp_path / "none").restore(beginning()) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("state", "about", "words"),
    [
        (beginning(), {"model": "Dense(4)"}, "its model was 'Dense(3)', and now it is 'Dense(4)'"),
        (beginning(), {"model": "Dense(3)", "seed": 1}, "its seed was None, and now it is 1"),
        (
            fp.init_state(fp.Dense(4), OPTIMIZER, jax.random.key(0), X),
            {"model": "Dense(3)"},
            "params.w is float32[2, 3], wanted float32[2, 4]",
        ),
        (
            fp.init_state(MODEL, optax.sgd(0.1), jax.random.key(0), X),
            {"model": "Dense(3)"},
            "opt_state.0.mu.b is not expected",
        ),
    ],
)
def test_one_of_another_run_is_refused(saved, state, about, words):
    with pytest.raises(fp.training.CheckpointError) as error:
        fp.Checkpoints(saved[0], about=about).restore(state)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_folder_with_checkpoints_is_not_written_over(saved):
    with pytest.raises(fp.training.CheckpointError, match=r"restore\(state\) first"):
        fp.Checkpoints(saved[0]).save(beginning())


def damages(raw):
    yield "emptied", b""
    yield "cut", raw[: len(raw) // 2]
    for part in range(3):
        changed = bytearray(raw)
        changed[len(raw) * part // 3] ^= 16
        yield f"flipped in part {part}", bytes(changed)


# a thread of tensorstore that is late is no mistake here
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_is_damaged_a_state_that_was_saved_is_found(saved, tmp_path):
    """Every file of the newest one emptied, cut, flipped: it, or with a warning the one before."""
    folder, states = saved
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    passed = 0
    for file in sorted(path for path in (copy / "7").rglob("*") if path.is_file()):
        raw = file.read_bytes()
        for kind, changed in damages(raw):
            file.write_bytes(changed)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = fp.Checkpoints(copy, about={"model": "Dense(3)"}).restore(beginning(1))
            number = found.position["batch"]
            assert same(found.state, states[number]), (file, kind)
            # a reader that is late may be told of by Python: only what we say counts
            told = [str(w.message) for w in told if "is damaged" in str(w.message)]
            assert (number == 7) == (not told), (file, kind, told)
            if told:
                assert "7 is damaged" in told[0] and told[0].endswith("going on from step 3")
            passed += number == 3
        file.write_bytes(raw)
    assert passed > 20  # most of the files matter


def test_where_all_are_damaged_one_line_says_so(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved[0], copy)
    for number in (3, 7):
        (copy / str(number) / "content" / "metadata").write_text("{}")
    with pytest.raises(fp.training.CheckpointError, match="no whole checkpoint is left"):
        fp.Checkpoints(copy).restore(beginning())


def test_a_damaged_one_is_put_aside_by_what_is_saved_next(saved, tmp_path):
    folder, states = saved
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "7" / "content" / "metadata").write_text(json.dumps({"content": 1, "sha256": "0"}))
    with fp.Checkpoints(copy, about={"model": "Dense(3)"}) as checkpoints:
        with pytest.warns(UserWarning, match="its description is not what was written"):
            checkpoints.restore(beginning())
        checkpoints.save(states[3]._replace(step=jnp.int32(5)), {"batch": 5})
    assert fp.Checkpoints(copy).steps() == [3, 5]
    assert len(list(copy.glob("7.damaged-*"))) == 1


def test_the_last_few_and_the_best_are_kept(tmp_path):
    with fp.Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        for number, loss in enumerate((3.0, 1.0, float("nan"), 4.0, None, 5.0)):
            checkpoints.save(beginning()._replace(step=jnp.int32(number)), loss=loss)
    assert checkpoints.steps() == [1, 4, 5]


def test_a_buffer_that_the_next_step_takes_is_saved_as_it_was(tmp_path):
    donating = jax.jit(lambda state: state._replace(step=state.step + 1), donate_argnums=0)
    state = beginning()
    wanted = jax.tree.map(np.asarray, state.params)
    with fp.Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(state)
        state = donating(state)
        state = state._replace(params=jax.tree.map(lambda leaf: leaf * 0, state.params))
    found = fp.Checkpoints(tmp_path / "run").restore(beginning(1))
    np.testing.assert_array_equal(found.state.params.w, wanted.w)


def test_every_bit_counts_and_no_order_does():
    x = jnp.asarray(np.arange(12.0, dtype=np.float32).reshape(3, 4))
    arrays = {
        "floats": x,
        "halves": x.astype(jnp.bfloat16),
        "whole": x.astype(jnp.int32),
        "few": x.astype(jnp.int4),
        "truth": x > 3,
        "complex": jax.lax.complex(x, x + 1),
        "none": jnp.zeros((0, 3)),
    }
    found = jax.device_get(fingerprint(arrays))
    for name, array in arrays.items():
        if array.size:
            turned = jax.device_get(fingerprint({name: array.T.reshape(array.shape)}))[name]
            assert turned != found[name], name
    for bit in range(32):
        changed = (x.view(np.int32).at[1, 2].add(0) ^ (jnp.int32(1) << bit)).view(np.float32)
        mixed = x.at[1, 2].set(changed[1, 2])
        assert fingerprint({"floats": mixed})["floats"] != found["floats"]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"every": 0}, "every is 0"), ({"keep": 0}, "keep is 0"), ({"seconds": 0}, "seconds is 0")],
)
def test_numbers_below_one(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        fp.Checkpoints(tmp_path, **options)
