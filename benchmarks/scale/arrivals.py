"""When requests arrive: seconds from the start, sorted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def poisson(rate_per_s: float, count: int, seed: int) -> Times:
    """Independent clients: exponential gaps."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, count))


def bursty(
    rate_per_s: float, count: int, seed: int, *, factor: float = 3.0, burst_share: float = 0.2, burst_s: float = 1.0
) -> Times:
    """Poisson arrivals whose rate changes between two values, with the same mean: a Markov-modulated process.

    Args:
        rate_per_s: Mean rate.
        count: Requests.
        seed: Of the random numbers.
        factor: The rate within bursts over the mean; at most 1 / ``burst_share``.
        burst_share: Part of the time that bursts take.
        burst_s: Mean length of a burst.

    Raises:
        ValueError: The bursts would need more than all requests.
    """
    if factor * burst_share > 1:
        raise ValueError(f"factor {factor:g} in {burst_share:g} of the time is more than all requests")
    random = np.random.default_rng(seed)
    # At rate 1 within each phase, then each phase's clock is stretched to its rate.
    works = np.cumsum(random.exponential(1.0, count))
    rates = (rate_per_s * factor, rate_per_s * (1 - factor * burst_share) / (1 - burst_share))
    lengths = (burst_s, burst_s * (1 - burst_share) / burst_share)
    ends_s, ends_work = [0.0], [0.0]
    phase = int(random.random() >= burst_share)
    while ends_work[-1] < works[-1]:
        length = random.exponential(lengths[phase])
        ends_s.append(ends_s[-1] + length)
        ends_work.append(ends_work[-1] + length * rates[phase])
        phase = 1 - phase
    return np.interp(works, ends_work, ends_s)
