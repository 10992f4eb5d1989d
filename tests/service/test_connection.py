"""Connections: bounded in number, their headers in size, fields and time; a refusal tells its limit and is counted."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.connection import (
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    RESERVED_HANDLES,
    ConnectionGuard,
    ConnectionLimits,
    LimitedProtocol,
    Refusal,
)

ROOMY = ConnectionLimits(connections=100, per_client=100, header_timeout_s=30)
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
Refused = list[Refusal]
Serve = Callable[[ConnectionLimits], AbstractAsyncContextManager[tuple[int, Refused]]]


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
async def served(limits: ConnectionLimits) -> AsyncIterator[tuple[int, Refused]]:
    """The port of a server within ``limits``, and the list of its refusals."""
    refused: Refused = []
    protocol = cast(Any, partial(LimitedProtocol, ConnectionGuard(limits, refused.append)))
    server = uvicorn.Server(uvicorn.Config(echo_length, port=0, http=protocol, lifespan="off", log_config=None))
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
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def headers_of(fields: int) -> bytes:
    lines = b"".join(b"x-%d: a\r\n" % index for index in range(fields - 2))
    return b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + lines + b"\r\n"


@pytest.mark.anyio
async def test_requests_within_the_limits_are_answered() -> None:
    big = b"x-big: " + b"a" * (MAX_HEADER_BYTES - 1000) + b"\r\n"
    body = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)
    async with served(ROOMY) as (port, refused):
        assert (await answer_to(port, headers_of(MAX_HEADER_FIELDS))).startswith(b"HTTP/1.1 200")
        assert (await answer_to(port, REQUEST[:-2] + b"Connection: close\r\n" + big + b"\r\n")).endswith(b"\r\n\r\n0")
        assert (await answer_to(port, body)).endswith(b"\r\n\r\n300000")
        assert refused == []


@pytest.mark.parametrize(
    "data",
    [
        headers_of(MAX_HEADER_FIELDS + 1),
        REQUEST[:-2] + b"x: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
        REQUEST[:-2] + b"x: " + b"a" * (4 * MAX_HEADER_BYTES),  # without an end
        b"GET /" + b"a" * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n" * MAX_HEADER_BYTES,  # before a request
    ],
    ids=["fields", "value", "endless", "target", "line-ends"],
)
@pytest.mark.anyio
async def test_headers_beyond_a_limit_are_answered_431(data: bytes) -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, data)
        assert refused == ["header_size"]
        if answer:  # the bytes that the server did not read reset the connection
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert b"exceed 65536 bytes or 100 fields" in answer
        assert (await answer_to(port, headers_of(3))).startswith(b"HTTP/1.1 200")


@pytest.mark.anyio
async def test_trailers_without_end_close_the_connection() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    async with served(ROOMY) as (port, refused):
        await answer_to(port, head + b"x: " + b"a" * (4 * MAX_HEADER_BYTES))
        assert refused == ["header_size"]


@pytest.mark.anyio
async def test_headers_that_do_not_arrive_in_time_are_answered_408() -> None:
    async with served(ConnectionLimits(100, 100, header_timeout_s=0.05)) as (port, refused):
        answer = await answer_to(port, REQUEST[:-2])
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 0.05 s" in answer
        assert await answer_to(port, b"") == b""
        assert (await answer_to(port, REQUEST + b"GET /")).count(b"HTTP/1.1") == 2  # 200, and 408 for the second
        assert refused == ["header_timeout"] * 3


@pytest.mark.anyio
async def test_a_slow_body_is_no_slow_header() -> None:
    async with served(ConnectionLimits(100, 100, header_timeout_s=0.05)) as (port, refused):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\na")
        await asyncio.sleep(0.2)
        writer.write(b"b")
        assert (await reader.read()).endswith(b"\r\n\r\n2")
        assert refused == []
        writer.close()


@pytest.mark.parametrize(
    ("limits", "refusal", "text"),
    [
        (ConnectionLimits(2, 2, 30), "connections", b"the service has 2 connections"),
        (ConnectionLimits(9, 2, 30), "client_connections", b"your address has 2 connections"),
    ],
)
@pytest.mark.anyio
async def test_a_connection_too_many_is_answered_503_and_places_come_back(
    limits: ConnectionLimits, refusal: Refusal, text: bytes
) -> None:
    async with served(limits) as (port, refused):
        others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in others:  # both are counted when they have been answered
            writer.write(REQUEST)
        for reader, _ in others:
            await reader.readuntil(b"\r\n\r\n0")
        answer = await answer_to(port, b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        assert text in answer
        assert refused == [refusal]
        for reader, writer in others:
            writer.write(headers_of(2))
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
        assert (await answer_to(port, headers_of(2))).startswith(b"HTTP/1.1 200")
        assert refused == [refusal]


def test_refusals_are_logged_once_a_second_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    guard = ConnectionGuard(ROOMY, lambda _: None)
    for _ in range(3):
        guard.refuse("header_size", "192.0.2.1")
    assert caplog.messages == ["refused connections (header_size: 1), the last one from 192.0.2.1"]


def test_file_handles_lower_the_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    limits = ConnectionLimits(2048, 1024, 10).within_handles()
    assert limits == ConnectionLimits(256 - RESERVED_HANDLES, 256 - RESERVED_HANDLES, 10)
    assert "raise ulimit -n" in caplog.text
    assert ConnectionLimits(100, 50, 10).within_handles() == ConnectionLimits(100, 50, 10)
