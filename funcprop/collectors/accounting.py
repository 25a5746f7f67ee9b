"""What private training costs: ε at δ, the noise for it, and the batches that it assumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from funcprop.doors import door
from funcprop.extras import require


@door
def poisson_batches(
    seed: int, examples: int, rate: float, size: int, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches in which every example stands with probability `rate`, independently: what the
    accountant of DP-SGD assumes. -> indices int [size], mask bool [size], `steps` times.

    seed      of NumPy's generator
    examples  how many there are to draw from
    rate      in (0, 1]: the batch size that is expected, over `examples`
    size      room in a batch: places that no example fills have mask False and index 0
    steps     how many batches

    raises  ValueError for another rate, and where more than `size` examples are drawn: to leave one
            out would break what the accountant assumes
    source  Abadi et al. 2016, arXiv:1607.00133

    >>> import funcprop as fp
    >>> for indices, mask in fp.collectors.poisson_batches(0, 100, rate=0.1, size=30, steps=2):
    ...     print(indices.shape, mask.dtype, bool((indices[~mask] == 0).all()))
    (30,) bool True
    (30,) bool True
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}, wanted the probability of an example: batch_size / n")
    random = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = np.flatnonzero(random.random(examples) < rate)
        if chosen.size > size:
            raise ValueError(
                f"{chosen.size} examples were drawn, and a batch has room for {size}: give more "
                f"room, {int(examples * rate + 6 * (examples * rate) ** 0.5) + 1} for example"
            )
        padding = size - chosen.size
        yield np.pad(chosen, (0, padding)), np.arange(size) < chosen.size


@door
def epsilon(noise_multiplier: float, rate: float, steps: int, delta: float) -> float:
    """What `steps` steps of DP-SGD cost: ε at δ, of the accountant of the dp-accounting package
    (privacy loss distributions; add or remove one example).

    noise_multiplier  σ over the norm that the gradients are clipped to
    rate              the probability of an example to be in a batch
    steps             how many
    delta             δ

    Returns a number of Python.

    raises  ModuleNotFoundError without dp-accounting
    source  the mechanism: Abadi et al. 2016, arXiv:1607.00133; the accountant: that of
            dp-accounting

    >>> import funcprop as fp
    >>> round(fp.collectors.epsilon(noise_multiplier=4.0, rate=0.1, steps=10, delta=1e-5), 2)
    0.3
    """
    if not noise_multiplier > 0:
        raise ValueError(f"noise_multiplier is {noise_multiplier}: without noise ε is infinite")
    dp = require("dp_accounting", "privacy")
    accountant = require("dp_accounting.pld", "privacy").PLDAccountant()
    accountant.compose(sampled_gaussian(dp, noise_multiplier, rate), steps)
    return float(accountant.get_epsilon(delta))


@door
def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The noise multiplier with which `steps` steps cost at most ε at δ, to three digits.

    epsilon, delta   what may be spent
    rate, steps      as for `epsilon`

    Returns a number of Python. It asks the accountant of `epsilon` many times: seconds.

    raises  ModuleNotFoundError without dp-accounting, and what dp-accounting raises where there is
            no such number

    >>> import funcprop as fp
    >>> sigma = fp.collectors.noise_for(2.0, 1e-5, rate=0.1, steps=10)  # doctest: +SKIP
    >>> round(sigma, 2)  # doctest: +SKIP
    1.19
    """
    dp = require("dp_accounting", "privacy")
    pld = require("dp_accounting.pld", "privacy")
    return float(
        dp.calibrate_dp_mechanism(
            pld.PLDAccountant,
            lambda sigma: dp.SelfComposedDpEvent(sampled_gaussian(dp, sigma, rate), steps),
            epsilon,
            delta,
            tol=1e-3,
        )
    )


def sampled_gaussian(dp: Any, noise_multiplier: float, rate: float) -> Any:
    return dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise_multiplier))
