"""Streams: the same batches by seed, epoch and step, from any position, for any processes."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcprop.data import DataError, Dataset, Examples, Source, crop, stream

X = np.arange(46, dtype=np.float32).reshape(23, 2)
Y = np.arange(23)


def taken(batches, count):
    return [np.asarray(next(batches)[1]).tolist() for _ in range(count)]


def test_an_epoch_has_every_example_once_and_x_goes_with_y():
    batches = stream((X, Y), 4, epochs=1, drop_last=False)
    seen = []
    for x, y in batches:
        assert isinstance(x, jax.Array) and (x.dtype, y.dtype) == (jnp.float32, jnp.int32)
        np.testing.assert_array_equal(x[:, 0], 2 * y)
        seen += y.tolist()
    assert sorted(seen) == list(range(23)) and seen != sorted(seen)
    assert len(seen) == 23 and batches.steps_per_epoch == 6
    assert next(batches, None) is None and batches.position["epoch"] == 1


def test_batches_depend_on_seed_epoch_and_step_alone():
    one = taken(stream((X, Y), 5, seed=3), 12)
    assert one == taken(stream((jnp.asarray(X), Y), 5, seed=3, prefetch=0), 12)
    assert one == taken(stream((X, Y), 5, seed=3, prefetch=5), 12)
    assert one[:4] != one[4:8] and one[:4] != taken(stream((X, Y), 5, seed=4), 4)
    for epoch in range(3):
        whole = np.ravel(one[4 * epoch : 4 * epoch + 4])
        assert len(np.unique(whole)) == 20  # three are left out, others every time
    assert taken(stream((X, Y), 5, shuffle=False, epochs=1), 4) == Y[:20].reshape(4, 5).tolist()


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("done", [0, 1, 4, 7])
def test_a_stream_goes_on_from_any_position(prefetch, done):
    batches = stream((X, Y), 5, seed=1, prefetch=prefetch)
    taken(batches, done)
    position = json.loads(json.dumps(batches.position))
    assert (position["epoch"], position["step"]) == divmod(done, 4)
    rest = taken(batches, 6)
    assert taken(batches.at(position), 6) == rest
    assert taken(stream((X, Y), 5, seed=1, prefetch=2, position=position), 6) == rest
    assert batches.position != position and batches.at(position).position == position


def test_steps_and_epochs_count_from_the_beginning():
    batches = stream((X, Y), 5, steps=6)
    assert len(taken(batches, 5)) == 5
    assert len(list(batches.at(batches.position))) == 1
    assert len(list(stream((X, Y), 5, epochs=2))) == 8
    with pytest.raises(DataError, match="after 5 batches, and the stream ends after 4: give it"):
        stream((X, Y), 5, epochs=1).at(batches.position)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"batch_size": 4}, r"is of batch_size=5, and the stream has batch_size=4: write stream\("),
        ({"seed": 1}, "is of seed=0, and the stream has seed=1"),
        ({"shuffle": False}, "shuffle=True"),
        ({"drop_last": False}, "drop_last=True"),
        ({"source": (X + 1, Y)}, r"is of another source \(23 examples \w+\)"),
        ({"source": (X[:22], Y[:22])}, "is of another source"),
    ],
)
def test_a_position_of_another_stream_is_refused(other, words):
    position = stream((X, Y), 5).position
    options = {"source": (X, Y), "batch_size": 5, **other}
    with pytest.raises(DataError, match=words) as caught:
        stream(**options).at(position)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"epoch": -1}, {"step": 4}, {"step": 1.5}, {"epoch": True}, {"more": 1}, {"seed": None}],
)
def test_a_position_that_was_changed_is_refused(change):
    batches = stream((X, Y), 5)
    with pytest.raises(DataError, match="position"):
        batches.at({**batches.position, **change})
    with pytest.raises(DataError, match=r"wanted what Stream\.position returns"):
        batches.at(3)


def test_processes_share_the_batches_of_one():
    together = taken(stream((X, Y), 6, seed=2), 7)
    parts = [stream((X, Y), 6, seed=2, process=p, processes=3) for p in range(3)]
    assert len({part.steps_per_epoch for part in parts}) == 1
    for batch in together:
        shares = [taken(part, 1)[0] for part in parts]
        assert np.concatenate(shares).tolist() == batch and {len(share) for share in shares} == {2}
    position = parts[0].position
    assert all(part.position == position for part in parts)
    # and can go on with another number of them
    alone = stream((X, Y), 6, seed=2).at(position)
    assert taken(alone, 1)[0][:2] == taken(parts[0], 1)[0]


def test_map_has_a_key_for_each_batch_and_the_same_one_again():
    def noise(key, x, y):
        assert isinstance(x, np.ndarray)
        return x + jax.random.normal(key, x.shape), y

    def drawn(x, y):
        return np.asarray(x) - X[np.asarray(y)]

    batches = stream((X, Y), 5, seed=2**32 - 1, map=noise)
    first, second = next(batches), next(batches)
    again = batches.at({**batches.position, "step": 1})
    np.testing.assert_array_equal(next(again)[0], second[0])
    assert not np.allclose(drawn(*first), drawn(*second))
    images = stream(
        (np.ones((8, 4, 4, 1), np.uint8), Y[:8]), 8, map=lambda k, x, y: (crop(k, x), y)
    )
    assert next(images)[0].shape == (8, 4, 4, 1)
    others = [next(stream((X, Y), 6, map=noise, process=p, processes=2)) for p in range(2)]
    assert not np.allclose(*(drawn(*other) for other in others))


def test_batches_go_where_they_are_wanted():
    assert isinstance(next(stream((X, Y), 5, device=False))[0], np.ndarray)
    second = jax.devices()[-1]
    assert next(stream((X, Y), 4, device=second))[0].devices() == {second}
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("batch"))
    x, y = next(stream((X, Y), 4, device=sharding))
    assert x.sharding == sharding and len(y.addressable_shards) == 2


class Watched(Source):
    """Counts what is read, and fails at one example as often as it is told."""

    name, fingerprint = "watched", "1"

    def __init__(self, broken=None):
        self.reads, self.broken, self.threads = 0, broken, set()

    def __len__(self):
        return 40

    def read(self, i):
        self.reads += 1
        self.threads.add(threading.current_thread())
        if self.broken in i:
            raise DataError(f"watched: example {self.broken} is broken")
        return (i.astype(np.int32),)


def test_it_reads_ahead_as_far_as_it_is_told_and_stops():
    source = Watched()
    batches = stream(source, 2, prefetch=3)
    next(batches)
    deadline = threading.Event()
    for _ in range(100):
        if source.reads >= 4:
            break
        deadline.wait(0.01)
    deadline.wait(0.02)
    assert source.reads == 4 and batches.position["step"] == 1
    batches.close()
    assert threading.current_thread() not in source.threads
    assert len(next(batches)[0]) == 2  # and begins again


def test_threads_end_with_their_stream():
    before = threading.active_count()
    for _ in range(5):
        next(stream((X, Y), 2, prefetch=3))
    for _ in range(100):
        if threading.active_count() <= before:
            break
        threading.Event().wait(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("prefetch", [0, 3])
def test_an_error_comes_at_its_batch_and_again(prefetch):
    source = Watched(broken=5)
    batches = stream(source, 2, shuffle=False, prefetch=prefetch)
    assert [next(batches)[0].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    for _ in range(2):
        with pytest.raises(DataError, match="example 5 is broken"):
            next(batches)
        assert batches.position["step"] == 2
    source.broken = None
    assert next(batches)[0].tolist() == [4, 5]


def test_sequences_of_examples_are_sources():
    import grain

    mapped = grain.MapDataset.range(9).map(lambda k: (np.float32([k, 1]), np.int64(k)))
    x, y = next(stream(mapped, 3))
    assert x.shape == (3, 2) and y.dtype == jnp.int32
    np.testing.assert_array_equal(x[:, 0], y)
    pairs = [(np.zeros(2), 0), (np.zeros(3), 1), (np.zeros(2), 2)]
    with pytest.raises(DataError, match=r"example 1 is float64 \[3\], and example 0 float64 \[2\]"):
        next(stream(pairs, 3, shuffle=False))
    with pytest.raises(DataError, match="example 0 is a int, wanted a tuple of arrays"):
        stream([1, 2, 3], 1)
    with pytest.raises(DataError, match="is empty"):
        stream([], 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0, wanted a whole number of at least 1"),
        ({"batch_size": 24}, "there are 23 examples only: write batch_size=23 or less"),
        ({"batch_size": 2.0}, "batch_size is 2.0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "below 2³²"),
        ({"process": 1}, r"wanted 0 to 0: write process=jax\.process_index\(\)"),
        ({"processes": 2}, "2 processes cannot share it evenly: write batch_size=4"),
        ({"processes": 5, "drop_last": False}, "write drop_last=True"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"epochs": 1, "steps": 2}, "wanted one of them"),
        ({"epochs": 0}, "epochs is 0"),
        ({"source": (X, Y[:5])}, "wanted arrays .* of one length"),
        ({"source": X}, r"one array \[23, 2\], wanted several: write stream\(\(x, y\)"),
        ({"source": {"x": X}}, "the source is a dict, wanted arrays"),
        ({"source": (X, np.array(["a"] * 23))}, r"is an array of <U1, wanted numbers"),
        ({"source": "tokens"}, "unknown source 'tokens': did you mean 'tokens:'"),
        (
            {"source": Dataset("d", *[Examples(X, Y.astype(np.int32))] * 2, classes=23)},
            r"write stream\(data.train",
        ),
    ],
)
def test_options_are_answered_in_words(options, words):
    with pytest.raises(DataError, match=words):
        stream(**{"source": (X, Y), "batch_size": 5, **options})


def test_values_that_would_change_are_refused_when_they_are_read():
    x = X.copy()
    x[7, 1] = np.nan
    with pytest.raises(DataError, match="example 7 holds nan, wanted finite numbers"):
        list(stream((x, Y), 1, epochs=1))
    with pytest.raises(DataError, match="example 3 holds 3000000000, wanted integers of 32 bits"):
        list(stream((X, Y * 1_000_000_000), 1, shuffle=False, epochs=1))
