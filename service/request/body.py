"""The body of a request, bounded while it arrives."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from starlette.requests import ClientDisconnect, Request

from service.errors import ClientGone, PayloadTooLarge

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class BytesObserver(Protocol):
    """Counts the bytes of a body, and may refuse them."""

    def expect(self, announced: int) -> None:
        """Take the ``Content-Length``, 0 if there is none."""

    def receive(self, size: int) -> None:
        """Take the size of a chunk."""


async def bounded_chunks(
    request: Request, max_bytes: int, *, stated_limit: int | None = None, observer: BytesObserver | None = None
) -> AsyncGenerator[bytes]:
    """The chunks of a body, as long as they add up to at most ``max_bytes``.

    Args:
        request: Its body has not been read.
        max_bytes: Largest body.
        stated_limit: The limit to name in the error: that of the image, without the form around it.
        observer: Counts the bytes.

    Raises:
        PayloadTooLarge: More bytes, by ``Content-Length`` or while they arrive.
        ClientGone: The client left before the end.
    """
    limit = max_bytes if stated_limit is None else stated_limit
    header = request.headers.get("content-length", "")
    announced = int(header) if _NUMBER.fullmatch(header) else 0
    if announced > max_bytes:
        raise too_large(announced, limit)
    if observer is not None:
        observer.expect(announced)
    received = 0
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                if received > max_bytes:
                    raise too_large(received, limit)
                if observer is not None:
                    observer.receive(len(chunk))
                yield chunk
    except ClientDisconnect:
        raise ClientGone("the client left before the end of the body") from None


async def read_body(request: Request, max_bytes: int, *, stated_limit: int | None = None) -> bytes:
    """The whole body; see ``bounded_chunks``."""
    async with aclosing(bounded_chunks(request, max_bytes, stated_limit=stated_limit)) as chunks:
        return b"".join([chunk async for chunk in chunks])


def too_large(value: int, limit: int, subject: str = "body") -> PayloadTooLarge:
    """The error for something of ``value`` bytes or more where ``limit`` are accepted."""
    detail = f"the {subject} has {value} bytes or more, at most {limit} are accepted"
    return PayloadTooLarge(detail, extra={"value": value, "limit": limit, "unit": "bytes"})
