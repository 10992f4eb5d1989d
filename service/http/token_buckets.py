"""Buckets of tokens, one for each name: each fills at a rate, and holds no more than a burst."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Buckets(Protocol):
    """One bucket for each name, full at first, in this process or shared by several.

    Attributes:
        rate_per_s: Tokens that a bucket gets in a second.
        burst: Tokens that a bucket holds.
    """

    rate_per_s: float
    burst: int

    def take(self, name: str) -> float:
        """Take a token; gives 0.0, or if there is none the seconds until there is one."""
        ...


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens, as of a time in seconds."""

    tokens: float
    filled: float

    def take(self, now: float, rate_per_s: float, burst: int) -> tuple[Bucket, float]:
        """The refilled bucket less one token, if it has one; and the seconds until it has one."""
        tokens = min(burst, self.tokens + (now - self.filled) * rate_per_s)
        if tokens < 1:
            return Bucket(tokens, now), (1 - tokens) / rate_per_s
        return Bucket(tokens - 1, now), 0.0


class TokenBuckets:
    """``Buckets`` of this process.

    The bucket that was used longest ago is forgotten when there are more than ``max_names``.
    """

    def __init__(
        self,
        rate_per_s: float,
        burst: int | None = None,
        *,
        max_names: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``burst`` is the capacity of a bucket; None for the tokens of one second, at least 1."""
        self.rate_per_s = rate_per_s
        self.burst = default_burst(rate_per_s) if burst is None else burst
        self._max_names = max_names
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str) -> float:
        """See ``Buckets``."""
        now = self._clock()
        bucket = self._buckets.pop(name, None) or Bucket(self.burst, now)
        self._buckets[name], wait_s = bucket.take(now, self.rate_per_s, self.burst)
        if len(self._buckets) > self._max_names:
            self._buckets.popitem(last=False)
        return wait_s


def default_burst(rate_per_s: float) -> int:
    """Tokens of one second, at least 1."""
    return max(1, math.ceil(rate_per_s))
