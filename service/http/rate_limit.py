"""Limits the requests of each API key: a bucket of tokens that fills at a rate; a request takes one."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RateLimited
from service.http.problems import problem_response
from service.metrics import Metrics
from service.request.state import state_of


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


class TokenBuckets:
    """One bucket for each name, full at first.

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
        """``burst`` is what a bucket holds; what ``rate_per_s`` gives in one second, at least 1, if None."""
        self.rate_per_s = rate_per_s
        self.burst = max(1, math.ceil(rate_per_s)) if burst is None else burst
        self._max_names = max_names
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str) -> float:
        """Take a token; gives 0.0, or if there is none the seconds until there is one."""
        now = self._clock()
        bucket = self._buckets.pop(name, None) or _Bucket(self.burst, now)
        bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.filled) * self.rate_per_s)
        bucket.filled = now
        self._buckets[name] = bucket
        if len(self._buckets) > self._max_names:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self.rate_per_s
        bucket.tokens -= 1
        return 0.0


class RateLimit:
    """ASGI middleware behind ``Authentication``; requests without a key's owner pass."""

    def __init__(self, app: ASGIApp, *, buckets: TokenBuckets, metrics: Metrics) -> None:
        self._app = app
        self._buckets = buckets
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        owner = state_of(scope).api_key if scope["type"] == "http" else None
        wait_s = 0.0 if owner is None else self._buckets.take(owner)
        if owner is not None and wait_s:
            error = self._refusal(owner, wait_s)
            self._metrics.request_rejected(error)
            await problem_response(Request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, owner: str, wait_s: float) -> RateLimited:
        rate = self._buckets.rate_per_s
        return RateLimited(
            f"the key of {owner} may send {rate:g} requests a second, {self._buckets.burst} at once; "
            f"the next is taken in {wait_s:.3g} s",
            headers={"Retry-After": str(math.ceil(wait_s))},
            extra={"limit": rate, "unit": "requests per second", "retry_after_s": round(wait_s, 3)},
        )
