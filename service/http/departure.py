"""Notices that a client has hung up, so that its work can be dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ClientGone

T = TypeVar("T")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client hangs up.

    Raises:
        ClientGone: It did.
    """
    result = asyncio.create_task(work)
    departure = asyncio.create_task(_departure(request))
    try:
        await asyncio.wait((result, departure), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientGone("the client left before the answer")
        return result.result()
    finally:
        result.cancel()
        departure.cancel()
        await asyncio.gather(result, departure, return_exceptions=True)


async def _departure(request: Request) -> None:
    """Wait until the client has hung up; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
