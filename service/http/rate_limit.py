"""Limits the requests of each API key: a bucket of tokens that fills at a rate; a request takes one."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RateLimited
from service.http.problems import problem_response
from service.http.token_buckets import Buckets
from service.metrics import Metrics
from service.request.state import state_of


class RateLimit:
    """ASGI middleware behind ``Authentication``; requests without a key's owner pass."""

    def __init__(self, app: ASGIApp, *, buckets: Buckets, metrics: Metrics) -> None:
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
            f"try again in {wait_s:.3g} s",
            headers={"Retry-After": str(math.ceil(wait_s))},
            extra={"limit": rate, "unit": "requests per second", "retry_after_s": round(wait_s, 3)},
        )
