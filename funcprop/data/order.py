"""The order of an epoch: a permutation that is computed where it is asked for, and nowhere kept.

Example p of an epoch is number π(p). π is a Feistel network over pairs: with a·b ≥ n and
i = l·b + r, each round is l ← l + f(r) mod a, r ← r + g(l) mod b, which can be undone for any
f and g, so that no number comes twice; where i ≥ n comes out, it goes in again. A list of the
order of 10⁹ examples would need 8 GB. grain's `index_shuffle` has the same idea; here a batch is
one call of NumPy instead of a call for each example, and the order is part of what a position
means, so that it does not depend on the grain that is installed.
"""

import functools
import math

import numpy as np

ROUNDS = 4
WORD = 2**64 - 1


def permuted(i: np.ndarray, n: int, key: int) -> np.ndarray:
    """π(i) for i [k] of 0..n-1 -> [k] int64: for a key, one permutation of 0..n-1.

    source  cycle walking: Black, Rogaway 2002, Ciphers with arbitrary finite domains
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    keys = _keys(key)
    found = np.asarray(i).astype(np.uint64)
    out = np.ones(found.shape, bool)
    while out.any():
        left, right = np.divmod(found[out], np.uint64(b))
        for f, g in keys:
            left = (left + _mixed(right, f)) % np.uint64(a)
            right = (right + _mixed(left, g)) % np.uint64(b)
        found[out] = left * np.uint64(b) + right
        out = found >= n
    return found.astype(np.int64)


def _mixed(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """Bits of x that look random, below 2³² so that sums do not overflow."""
    x = (x ^ key) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return x >> np.uint64(32)


def mixed_numbers(*numbers: int) -> int:
    """One number of 64 bits for several: of other numbers, another one.

    source  splitmix64: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators
    """
    total = 0
    for number in numbers:
        z = (total + number + 0x9E3779B97F4A7C15) & WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        total = z ^ (z >> 31)
    return total


@functools.lru_cache(64)
def _keys(key: int) -> list[tuple[np.uint64, np.uint64]]:
    words = [np.uint64(mixed_numbers(key, r)) for r in range(2 * ROUNDS)]
    return list(zip(words[::2], words[1::2], strict=True))


class Order:
    """Which examples stand where in an epoch.

    n        examples
    seed     another one is another order in every epoch
    shuffle  False: 0, 1, 2, ... in every epoch
    blocks   [b + 1]: where blocks begin, or None. The blocks are shuffled, and then the examples
             among those of `window` blocks that follow each other: so no more than two windows
             are ever wanted at once
    """

    def __init__(
        self,
        n: int,
        seed: int,
        shuffle: bool = True,
        blocks: np.ndarray | None = None,
        window: int = 1,
    ) -> None:
        self.n, self.seed, self.shuffle = n, seed, shuffle
        self.blocks, self.window = blocks, window
        self._arranged = functools.lru_cache(2)(self._arrange)

    def __call__(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The numbers [stop - start] int64 at places start..stop-1 of an epoch."""
        places = np.arange(start, stop)
        if not self.shuffle:
            return places
        if self.blocks is None:
            return permuted(places, self.n, mixed_numbers(self.seed, epoch))
        order, edges, windows = self._arranged(epoch)
        found = np.empty(len(places), np.int64)
        within = np.searchsorted(windows, places, "right") - 1
        for w in np.unique(within):
            here = within == w
            key = mixed_numbers(self.seed, epoch, int(w) + 1)
            size = int(windows[w + 1] - windows[w])
            inside = permuted(places[here] - windows[w], size, key) + windows[w]
            block = np.searchsorted(edges, inside, "right") - 1
            found[here] = self.blocks[order[block]] + inside - edges[block]
        return found

    def _arrange(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> the order of the blocks, where each begins in it, and where each window does."""
        assert self.blocks is not None
        count = len(self.blocks) - 1
        order = permuted(np.arange(count), count, mixed_numbers(self.seed, epoch))
        edges = np.concatenate([[0], np.cumsum(np.diff(self.blocks)[order])])
        return order, edges, np.unique(np.append(edges[:: self.window], edges[-1]))
