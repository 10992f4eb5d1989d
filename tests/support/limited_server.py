"""A server within the limits of connections, and raw requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.connections.guard import ConnectionGuard
from service.connections.limits import (
    ConnectionLimits,
    Refusal,
)
from service.connections.protocol import LimitedProtocol
from tests.support.limits import HANG_S

ROOMY = ConnectionLimits(connections=100, per_client=100, header_timeout_s=30)


REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


Refused = list[Refusal]


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


async def echo_length(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body."""
    assert scope["type"] == "http"
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    body = str(length).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(limits: ConnectionLimits, app: ASGIApp = echo_length) -> AsyncIterator[tuple[int, Refused]]:
    """The port of a server within ``limits``, and the list of its refusals."""
    refused: Refused = []
    protocol = cast(Any, partial(LimitedProtocol, ConnectionGuard(limits, refused.append)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=protocol, lifespan="off", log_config=None))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1], refused
    finally:
        await server.shutdown()


async def answer_to(port: int, data: bytes) -> bytes:
    """All that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(HANG_S):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def headers_of(fields: int) -> bytes:
    lines = b"".join(b"x-%d: a\r\n" % index for index in range(fields - 2))
    return b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + lines + b"\r\n"
