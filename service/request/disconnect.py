"""Cancels the work of a request whose client has disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ClientGone

T = TypeVar("T")


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client disconnects.

    Raises:
        ClientGone: The client disconnected before the result was ready.
    """
    worker = asyncio.current_task()
    assert worker is not None
    cancelling = worker.cancelling()
    is_gone = False

    def leave(_: asyncio.Task[None]) -> None:
        nonlocal is_gone
        is_gone = True
        worker.cancel()

    disconnect = asyncio.create_task(_disconnect(request))
    disconnect.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        # Whoever else has cancelled the request, such as its time limit, counts on the error.
        if is_gone and worker.uncancel() <= cancelling:
            raise ClientGone("the client left before the answer") from None
        raise
    finally:
        disconnect.remove_done_callback(leave)
        disconnect.cancel()


async def _disconnect(request: Request) -> None:
    """Wait until the client disconnects; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
