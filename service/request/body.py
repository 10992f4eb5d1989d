"""The body of a request, bounded while it arrives."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Protocol

from starlette.requests import Request

from service.errors import ClientGone, PayloadTooLarge

_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)


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
    bound = _Bound(request, max_bytes, stated_limit)
    if observer is not None:
        observer.expect(bound.announced)
    has_more = True
    while has_more:
        chunk, has_more = await _next_chunk(request)
        bound.add(len(chunk))
        if observer is not None:
            observer.receive(len(chunk))
        yield chunk


async def read_body(request: Request, max_bytes: int, *, stated_limit: int | None = None) -> bytes:
    """The whole body; see ``bounded_chunks``."""
    bound = _Bound(request, max_bytes, stated_limit)
    chunks: list[bytes] = []
    has_more = True
    while has_more:  # without a generator, which would take more time than the rest
        chunk, has_more = await _next_chunk(request)
        bound.add(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


class _Bound:
    """The limit of a body.

    Attributes:
        announced: The ``Content-Length``, 0 if there is none.
    """

    def __init__(self, request: Request, max_bytes: int, stated_limit: int | None) -> None:
        header = request.headers.get("content-length", "")
        self.announced = int(header) if _NUMBER.fullmatch(header) else 0
        self._limits = (max_bytes, max_bytes if stated_limit is None else stated_limit)
        self._received = 0
        self._check(self.announced)

    def add(self, size: int) -> None:
        self._received += size
        self._check(self._received)

    def _check(self, value: int) -> None:
        max_bytes, stated_limit = self._limits
        if value > max_bytes:
            raise too_large(value, stated_limit)


async def _next_chunk(request: Request) -> tuple[bytes, bool]:
    """The next chunk of a body, and whether there are more.

    Raises:
        ClientGone: The client left before the end of the body.
    """
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientGone("the client left before the end of the body")
    return message.get("body", b""), message.get("more_body", False)


def too_large(value: int, limit: int, subject: str = "body") -> PayloadTooLarge:
    """The error for something of ``value`` bytes or more where ``limit`` are accepted."""
    detail = f"the {subject} has {value} bytes or more, at most {limit} are accepted"
    return PayloadTooLarge(detail, extra={"value": value, "limit": limit, "unit": "bytes"})
