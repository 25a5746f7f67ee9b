"""What private training costs: ε at δ, the noise for it, and the batches that it assumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from funcprop.doors import door
from funcprop.extras import require


@door
def poisson_batches(
    seed: int, examples: int, rate: float, size: int, steps: int, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches in which every example stands with probability `rate`, independently: what the
    accountant of DP-SGD assumes. -> indices int [size], mask bool [size], `steps` times.

    seed      of NumPy's generator
    examples  how many there are to draw from
    rate      in (0, 1]: the batch size that is expected, over `examples`
    size      room in a batch: places that no example fills have mask False and index 0
    steps     how many batches there are in all
    start     how many of them are done already: the same batches as without it, from there on

    raises  ValueError for another rate or start, and where more than `size` examples are drawn: to
            leave one out would break what the accountant assumes
    source  Abadi et al. 2016, arXiv:1607.00133

    >>> import funcprop as fp
    >>> for indices, mask in fp.collectors.poisson_batches(0, 100, rate=0.1, size=30, steps=2):
    ...     print(indices.shape, mask.dtype, bool((indices[~mask] == 0).all()))
    (30,) bool True
    (30,) bool True
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}, wanted the probability of an example: batch_size / n")
    if not 0 <= start <= steps:
        raise ValueError(f"start is {start}, wanted the number of steps done, of {steps}")
    generator = np.random.PCG64(seed)
    generator.advance(start * examples)  # a draw of 64 bits for every example of every batch
    random = np.random.Generator(generator)
    for _ in range(start, steps):
        chosen = np.flatnonzero(random.random(examples) < rate)
        if chosen.size > size:
            raise ValueError(
                f"{chosen.size} examples were drawn, and a batch has room for {size}: give more "
                f"room, {int(examples * rate + 6 * (examples * rate) ** 0.5) + 1} for example"
            )
        padding = size - chosen.size
        yield np.pad(chosen, (0, padding)), np.arange(size) < chosen.size


@door
def epsilon(
    noise_multiplier: float | Sequence[float],
    rate: float | Sequence[float],
    steps: int | Sequence[int],
    delta: float,
) -> float:
    """What `steps` steps of DP-SGD cost: ε at δ, of the accountant of the dp-accounting package
    (privacy loss distributions; add or remove one example).

    noise_multiplier  σ over the norm that the gradients are clipped to
    rate              the probability of an example to be in a batch
    steps             how many
    delta             δ

    Training in phases of other noise, rate or number of steps has a sequence for each that changes,
    an entry a phase; what does not change stays a number.

    Returns a number of Python.

    raises  ModuleNotFoundError without dp-accounting, ValueError for sequences of other lengths and
            numbers out of range
    source  the mechanism: Abadi et al. 2016, arXiv:1607.00133; the accountant: that of
            dp-accounting

    >>> import funcprop as fp
    >>> round(fp.collectors.epsilon(noise_multiplier=4.0, rate=0.1, steps=10, delta=1e-5), 2)
    0.3
    """
    phases = by_phase(noise_multiplier=noise_multiplier, rate=rate, steps=steps)
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}, wanted a probability: less than 1 / examples")
    dp = require("dp_accounting", "privacy")
    accountant = require("dp_accounting.pld", "privacy").PLDAccountant()
    for sigma, probability, count in phases:
        accountant.compose(sampled_gaussian(dp, sigma, probability), count)
    return float(accountant.get_epsilon(delta))


def by_phase(**given: Any) -> list[tuple[float, float, int]]:
    """(noise multiplier, rate, steps) of every phase, checked."""
    many = {name: value for name, value in given.items() if isinstance(value, (list, tuple))}
    lengths = {len(value) for value in many.values()}
    if len(lengths) > 1 or 0 in lengths:
        words = ", ".join(f"{len(value)} of {name}" for name, value in many.items())
        raise ValueError(f"the phases are {words}: wanted an entry a phase in each, or one number")
    count = lengths.pop() if lengths else 1
    rows = [
        tuple(value[i] if name in many else value for name, value in given.items())
        for i in range(count)
    ]
    for sigma, rate, steps in rows:
        if not all(isinstance(each, (int, float, np.number)) for each in (sigma, rate, steps)):
            raise TypeError(
                f"noise_multiplier {sigma!r}, rate {rate!r}, steps {steps!r}: wanted numbers, or a "
                "list of numbers, an entry a phase"
            )
        if not sigma > 0 or not 0 < rate <= 1 or not steps >= 1:
            raise ValueError(
                f"noise_multiplier {sigma}, rate {rate}, steps {steps}: wanted a positive number, "
                "a probability in (0, 1] and a whole number of at least 1"
            )
    return rows  # type: ignore[return-value]


@door
def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The noise multiplier with which `steps` steps cost at most ε at δ, to three digits.

    epsilon, delta   what may be spent
    rate, steps      as for `epsilon`

    Returns a number of Python. It asks the accountant of `epsilon` many times: a second or more.

    raises  ModuleNotFoundError without dp-accounting, and what dp-accounting raises where there is
            no such number

    >>> import funcprop as fp
    >>> sigma = fp.collectors.noise_for(2.0, 1e-5, rate=0.1, steps=10)  # doctest: +SKIP
    >>> round(sigma, 2)  # doctest: +SKIP
    1.19
    """
    dp = require("dp_accounting", "privacy")
    pld = require("dp_accounting.pld", "privacy")

    def event(sigma: float) -> Any:
        return dp.SelfComposedDpEvent(sampled_gaussian(dp, sigma, rate), steps)

    # asked with losses rounded to 1e-3 it answers ten times as fast, and what it says is an upper
    # bound as well: only where the finer one does not confirm it is that one asked throughout
    def coarse() -> Any:
        return pld.PLDAccountant(value_discretization_interval=1e-3)

    sigma = dp.calibrate_dp_mechanism(coarse, event, epsilon, delta, tol=1e-3)
    spent = pld.PLDAccountant().compose(event(sigma)).get_epsilon(delta)
    if not 0.999 * epsilon <= spent <= epsilon:
        sigma = dp.calibrate_dp_mechanism(pld.PLDAccountant, event, epsilon, delta, tol=1e-3)
    return float(sigma)


def sampled_gaussian(dp: Any, noise_multiplier: float, rate: float) -> Any:
    return dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise_multiplier))
