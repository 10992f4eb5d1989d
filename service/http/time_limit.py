"""The time that a request has: its ``X-Request-Timeout-Ms`` header, or the default; counted from its arrival."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request

from service.errors import InvalidParameter
from service.inference.admission import TimeLimit
from service.settings import Settings

HEADER = "X-Request-Timeout-Ms"

_TimeoutMs = Annotated[
    int | None,
    Header(
        alias=HEADER,
        gt=0,
        description="Milliseconds from the request's arrival in which its answer is wanted; then 504, and no work that "
        "has not begun is done. `request_timeout_s` if not given, at most `max_request_timeout_s`.",
    ),
]


async def time_limit(request: Request, timeout_ms: _TimeoutMs = None) -> TimeLimit:
    """The limit of a request; ``TimeLimitOf`` as a parameter of a route.

    Raises:
        InvalidParameter: The client wants more time than the service gives.
    """
    settings: Settings = request.app.state.runtime.settings
    arrived: float = request.state.arrived
    if timeout_ms is None:
        return TimeLimit(settings.request_timeout_s, arrived)
    limit_ms = round((settings.max_request_timeout_s or settings.request_timeout_s) * 1000)
    if timeout_ms > limit_ms:
        raise InvalidParameter(
            f"{HEADER} is {timeout_ms}: at most {limit_ms} is given; leave it out or ask for less",
            extra={"parameter": HEADER, "value": timeout_ms, "limit": limit_ms, "unit": "milliseconds"},
        )
    return TimeLimit(timeout_ms / 1000, arrived, HEADER)


TimeLimitOf = Annotated[TimeLimit, Depends(time_limit)]
