"""A stream: batches of a source that come in a known order, read ahead, and go on where they were.

Batch k of a stream depends on the source, the seed and k alone. That is a random-access data set
of grain, whose threads read ahead of what `next` returns; the position counts what was returned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.opening import as_source
from funcprop.data.order import Order
from funcprop.data.source import Source, whole
from funcprop.extras import require

ENDLESS = sys.maxsize
# What a position has to share with the stream that goes on from it, as an argument of `stream`.
SHARED = ("batch_size", "seed", "shuffle", "drop_last")


class Batches:
    """Batch k for any k >= 0: what grain reads from."""

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        process: int,
        processes: int,
        map: Callable[..., Any] | None,
        device: Any,
        count: int,
    ) -> None:
        n = len(source)
        self.source, self.batch_size, self.seed, self.count = source, batch_size, seed, count
        self.per_epoch = n // batch_size if drop_last else -(-n // batch_size)
        self.order = Order(n, seed, shuffle, source.blocks, source.window)
        self.process, self.processes = process, processes
        self.map, self.device = map, device

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> Any:
        epoch, step = divmod(int(k), self.per_epoch)
        share = self.batch_size // self.processes
        start = step * self.batch_size + self.process * share
        stop = min(start + share, len(self.source))
        batch: Any = self.source.read(self.order(epoch, start, stop))
        if self.map is not None:
            batch = self.map(
                _key(np.array([self.seed, epoch, step, self.process], np.uint32)), *batch
            )
        if self.device is False:
            return batch
        if isinstance(self.device, jax.sharding.Sharding):
            sharding = self.device
            return jax.tree.map(
                lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), batch
            )
        return jax.device_put(batch, None if self.device is True else self.device)


@jax.jit
def _key(numbers: Any) -> jax.Array:
    """Of the seed, the epoch, the step and the process."""
    key = jax.random.fold_in(jax.random.key(numbers[0]), 0xDA7A)  # not that of a model
    for number in numbers[1:]:
        key = jax.random.fold_in(key, number)
    return key


class Stream:
    """An iterator of batches that knows where it is; `stream` makes it. It is gone through once.

    position         {"epoch", "step", ...}: how many batches `next` has returned, as numbers and
                     words that JSON has; whatever was read ahead does not count
    at(position)     a new stream that goes on there with the same batches; at the position it had
                     in the beginning, all of them again
    steps_per_epoch  batches in an epoch
    source           what it reads

    raises  DataError in `at` for a position of another source, batch size, seed or order, and in
            `next` for data that cannot be read; the position stays where it was then

    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> batches = fp.data.stream((np.arange(10),), 2, epochs=1)
    >>> _ = next(batches), next(batches)
    >>> place = batches.position
    >>> place["epoch"], place["step"]
    (0, 2)
    >>> rest, again = list(batches), list(batches.at(place))
    >>> len(rest), bool(np.array_equal(rest, again))
    (3, True)
    """

    def __init__(self, batches: Batches, prefetch: int, shared: dict[str, Any], done: int) -> None:
        self._batches, self._prefetch, self._shared = batches, prefetch, shared
        self._done = done
        self._ahead: Any = None  # grain's iterator, made when it is first wanted
        self.source = batches.source
        self.steps_per_epoch = batches.per_epoch

    @property
    def position(self) -> dict[str, Any]:
        epoch, step = divmod(self._done, self.steps_per_epoch)
        return {"epoch": epoch, "step": step, **self._shared}

    def at(self, position: dict[str, Any]) -> Stream:
        done = _batches_returned(position, self._shared, self.steps_per_epoch, self.source.name)
        if done > self._batches.count:
            raise DataError(
                f"the position is after {done} batches, and the stream ends after "
                f"{self._batches.count}: give it more epochs or steps"
            )
        return Stream(self._batches, self._prefetch, self._shared, done)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._done >= self._batches.count:
            self.close()
            raise StopIteration
        if self._prefetch == 0:
            batch = self._batches[self._done]
        else:
            if self._ahead is None:
                self._ahead = self._read_ahead()
            try:
                batch = next(self._ahead)
            except BaseException:
                self.close()  # what follows was read already: the next call begins here again
                raise
        self._done += 1
        return batch

    def _read_ahead(self) -> Any:
        grain = require("grain", "train")
        options = grain.ReadOptions(num_threads=self._prefetch, prefetch_buffer_size=self._prefetch)
        found = iter(grain.MapDataset.source(self._batches).to_iter_dataset(options))
        found.set_state({"next_index": self._done})
        return found

    def close(self) -> None:
        """Stops the threads that read ahead; `next` starts them again."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def __repr__(self) -> str:
        where = self.position
        return (
            f"<Stream of {self.source.name}: {self.steps_per_epoch} batches of "
            f"{self._batches.batch_size} an epoch, at epoch {where['epoch']}, step {where['step']}>"
        )


def stream(
    source: Any,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    epochs: int | None = None,
    steps: int | None = None,
    drop_last: bool = True,
    process: int = 0,
    processes: int = 1,
    map: Callable[..., Any] | None = None,
    prefetch: int = 2,
    device: Any = True,
    position: dict[str, Any] | None = None,
) -> Stream:
    """Batches of a source, one after the other -> Stream, an iterator of tuples of arrays [B, ...].

    source      what `open` returns, or its name; arrays (x [n, ...], y [n, ...]); or any sequence
                of examples that are tuples of arrays, such as a `MapDataset` of grain
    batch_size  B, examples in a batch: of all processes together
    seed        0 to 2³² − 1: another seed is another order
    shuffle     a new order in every epoch; False: the order of the source
    epochs      how many; or
    steps       how many batches, counted from the beginning; neither: without end
    drop_last   leave out what is no whole batch at the end of an epoch: with shuffle, other
                examples every time. False: a smaller batch there, for one process only
    process     0 to processes − 1: which part of every batch this one reads: jax.process_index()
    processes   how many share the batches: jax.process_count(), a divisor of B. The batches
                together, and the positions, are those of one process
    map         (key, *batch) -> batch, such as (key, x, y) -> (crop(key, x), y): on NumPy
                arrays of this process, with a key for each batch
    prefetch    batches that are read ahead, each by a thread of its own; 0: none
    device      where batches go: True, the default device; a device; a sharding, for arrays of
                all processes; False, nowhere: NumPy arrays
    position    a position to go on from, as `Stream.at`

    The batches depend on the source, B, seed, shuffle and drop_last alone.

    raises  DataError for options that do not go together, fewer than B examples, and a position of
            another stream; ModuleNotFoundError without grain, unless prefetch is 0

    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> x, y = np.arange(12.0, dtype=np.float32).reshape(6, 2), np.arange(6) % 3
    >>> batches = fp.data.stream((x, y), batch_size=2, seed=1)
    >>> for _ in range(3):
    ...     x, y = next(batches)
    >>> x.shape, y.dtype, batches.position["epoch"]
    ((2, 2), dtype('int32'), 1)
    """
    data = as_source(source)
    where, n = f"stream of {data.name}", len(data)
    whole(where, "batch_size", batch_size)
    if batch_size > n:
        raise DataError(
            f"{where}: batch_size is {batch_size}, and there are {n} examples only: "
            f"write batch_size={n} or less"
        )
    if whole(where, "seed", seed, 0) >= 2**32:
        raise DataError(f"{where}: seed is {seed}, wanted a number below 2³²")
    _check_processes(where, process, processes, batch_size, drop_last or n % batch_size == 0)
    whole(where, "prefetch", prefetch, 0)
    if map is not None and not callable(map):
        raise DataError(f"{where}: map is {map!r}, wanted a function: give (key, *batch) -> batch")
    if epochs is not None and steps is not None:
        raise DataError(f"{where}: epochs={epochs} and steps={steps}, wanted one of them")
    batches = Batches(
        data, int(batch_size), int(seed), shuffle, drop_last, process, processes, map, device,
        count=ENDLESS,
    )  # fmt: skip
    if epochs is not None:
        batches.count = whole(where, "epochs", epochs) * batches.per_epoch
    elif steps is not None:
        batches.count = whole(where, "steps", steps)
    shared = {
        "source": f"{n} examples {data.fingerprint}",
        "batch_size": int(batch_size),
        "seed": int(seed),
        "shuffle": bool(shuffle),
        "drop_last": bool(drop_last),
    }
    begun = Stream(batches, int(prefetch), shared, 0)
    return begun if position is None else begun.at(position)


def _check_processes(
    where: str, process: int, processes: int, batch_size: int, whole_batches: bool
) -> None:
    whole(where, "processes", processes)
    if whole(where, "process", process, 0) >= processes:
        raise DataError(
            f"{where}: process is {process}, wanted 0 to {processes - 1}: write "
            "process=jax.process_index(), processes=jax.process_count()"
        )
    if batch_size % processes:
        near = batch_size - batch_size % processes or processes
        raise DataError(
            f"{where}: batch_size is {batch_size}, and {processes} processes cannot share it "
            f"evenly: write batch_size={near}"
        )
    if processes > 1 and not whole_batches:
        raise DataError(
            f"{where}: the last batch of an epoch is smaller, and {processes} processes cannot "
            "share it: write drop_last=True"
        )


def _batches_returned(
    position: dict[str, Any], shared: dict[str, Any], per_epoch: int, name: str
) -> int:
    """How many batches were returned before a position; raises where it is of another stream."""
    wanted = {"epoch", "step", *shared}
    if not isinstance(position, dict) or set(position) != wanted:
        given = sorted(position) if isinstance(position, dict) else type(position).__name__
        raise DataError(
            f"position is {given}, wanted what Stream.position returns: {', '.join(sorted(wanted))}"
        )
    if position["source"] != shared["source"]:
        raise DataError(
            f"the position is of another source ({position['source']}), and {name} has "
            f"{shared['source']}: open what the position was made with, or begin anew without it"
        )
    for option in SHARED:
        if position[option] != shared[option]:
            raise DataError(
                f"the position is of {option}={position[option]!r}, and the stream has "
                f"{option}={shared[option]!r}: write stream(..., {option}={position[option]!r})"
            )
    epoch = whole("position", "epoch", position["epoch"], 0)
    step = whole("position", "step", position["step"], 0)
    if step >= per_epoch:
        raise DataError(f"position: step is {step}, wanted 0 to {per_epoch - 1}, those of an epoch")
    return epoch * per_epoch + step
