"""What is written is read back to the bit, and nothing else is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcprop.models import mlp
from funcprop.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


class Norm(NamedTuple):
    gain: jax.Array
    bias: jax.Array | None


@pytest.fixture
def params():
    return mlp((3,), 2, axes=1).init(jax.random.key(0), jnp.ones((1, 4)))


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_round_trip(params, tmp_path):
    statistics = ((), {"mean": jnp.arange(3.0)}, ())
    save_checkpoint(tmp_path / "p", params, statistics)
    same((params, statistics), load_checkpoint(tmp_path / "p", params, statistics))


def test_abstract_trees_say_what_is_wanted(params, tmp_path):
    save_checkpoint(tmp_path / "p", params)
    found, statistics = load_checkpoint(tmp_path / "p", jax.eval_shape(lambda: params))
    same(params, found)
    assert statistics == ()


def test_names_are_paths(params, tmp_path):
    from safetensors.numpy import load_file

    save_checkpoint(tmp_path / "p", params, (jnp.ones(2),))
    found = load_file(tmp_path / "p")
    assert set(found) == {"params.2.w", "params.2.b", "params.4.w", "params.4.b", "statistics.0"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int8", "uint8", "bool"])
def test_every_dtype_scalars_empty_arrays_and_absent_ones(dtype, tmp_path):
    params = (Norm(jnp.ones((2, 3), dtype), None), jnp.zeros((), dtype), jnp.zeros((0, 2), dtype))
    save_checkpoint(tmp_path / "p", params)
    same(params, load_checkpoint(tmp_path / "p", params)[0])


def test_float64_under_x64(tmp_path):
    with jax.enable_x64(True):
        params = jnp.full(3, 1 / 3, jnp.float64)
        save_checkpoint(tmp_path / "p", params)
        same(params, load_checkpoint(tmp_path / "p", params)[0])


def test_all_differences_are_named_in_one_error(params, tmp_path):
    save_checkpoint(tmp_path / "p", params)
    wanted = mlp((5,), 2, axes=1).init(jax.random.key(0), jnp.ones((1, 4), jnp.bfloat16))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "p", (*wanted, jnp.ones(1)), ())
    words = str(caught.value)
    assert "does not fit the model" in words
    assert "params.5 is missing" in words
    assert "params.2.w is float32[4, 3], wanted bfloat16[4, 5]" in words


def test_what_is_not_expected_is_an_error(params, tmp_path):
    save_checkpoint(tmp_path / "p", params, (jnp.ones(1),))
    with pytest.raises(CheckpointError, match=r"statistics\.0 is not expected"):
        load_checkpoint(tmp_path / "p", params)


def test_many_differences_are_counted(tmp_path):
    save_checkpoint(tmp_path / "p", [jnp.ones(1)] * 20)
    with pytest.raises(CheckpointError, match="and 12 more"):
        load_checkpoint(tmp_path / "p", [])


def test_unreadable_files(params, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "none", params)
    save_checkpoint(tmp_path / "p", params)
    data = (tmp_path / "p").read_bytes()
    for broken in (b"", b"no such thing", data[: len(data) // 2], data[:-1]):
        (tmp_path / "p").write_bytes(broken)
        with pytest.raises(CheckpointError, match="is no complete safetensors file"):
            load_checkpoint(tmp_path / "p", params)


def test_a_checkpoint_is_replaced_as_a_whole(params, tmp_path):
    save_checkpoint(tmp_path / "p", params)
    save_checkpoint(tmp_path / "p", (jnp.ones(2),))
    same((jnp.ones(2),), load_checkpoint(tmp_path / "p", (jnp.ones(2),))[0])
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_two_leaves_of_one_name_are_refused(tmp_path):
    tree = {"a": {"b": jnp.ones(2)}, "a.b": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"two leaves are called params\.a\.b"):
        save_checkpoint(tmp_path / "file", tree)


def test_keys_are_no_parameters(tmp_path):
    with pytest.raises(TypeError, match=r"params\.k is .*key_data\(params\.k\)"):
        save_checkpoint(tmp_path / "file", {"k": jax.random.key(0)})


def test_a_checkpoint_that_cannot_take_its_place_leaves_nothing(params, tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError):
        save_checkpoint(tmp_path / "file", params)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
