"""Connections: bounded in number, their headers in size, fields and time; a refusal tells its limit and is counted."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.types import Receive, Scope, Send

from service.connections.limits import (
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    MAX_REFUSED_BYTES,
    ConnectionLimits,
    Refusal,
)
from tests.support.limited_server import HEAD, REQUEST, ROOMY, answer_to, headers_of, served

# More than the buffers of both ends hold.
LARGE = 16 << 20


async def refuse_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 413 without reading the body."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


async def large_answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with ``LARGE`` bytes at once."""
    headers = [(b"content-length", str(LARGE).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


async def send_zeros(writer: asyncio.StreamWriter, num_bytes: int) -> None:
    """Send as fast as they are taken."""
    for _ in range(num_bytes >> 20):
        writer.write(bytes(1 << 20))
        await writer.drain()


async def unread_answer(port: int, begins: asyncio.Event, reading: asyncio.Event) -> int:
    """The length of a large answer: sets ``begins`` when it arrives, and reads it when ``reading`` is set."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with connection:
        await loop.sock_sendall(connection, REQUEST)
        loop.add_reader(connection, begins.set)
        await begins.wait()
        loop.remove_reader(connection)
        await reading.wait()
        answer = bytearray()
        while b"\r\n\r\n" not in answer or len(answer) < answer.index(b"\r\n\r\n") + 4 + LARGE:
            part = await loop.sock_recv(connection, 1 << 20)
            if not part:
                raise ConnectionResetError("closed before the end")
            answer += part
        return len(answer) - answer.index(b"\r\n\r\n") - 4


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
async def test_headers_that_do_not_arrive_in_time_are_answered_408() -> None:
    async with served(ConnectionLimits(100, 100, header_timeout_s=0.5)) as (port, refused):
        half, nothing, second = await asyncio.gather(
            *(answer_to(port, data) for data in (REQUEST[:-2], b"", REQUEST + b"GET /"))
        )
        assert half.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 0.5 s" in half
        assert nothing == b""
        assert second.count(b"HTTP/1.1") == 2  # 200, and 408 for the second
        assert refused == ["header_timeout"] * 3


@pytest.mark.anyio
async def test_a_slow_body_is_no_slow_header() -> None:
    async with served(ConnectionLimits(100, 100, header_timeout_s=0.5)) as (port, refused):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\na")
        await asyncio.sleep(0.6)
        writer.write(b"b")
        assert (await reader.read()).endswith(b"\r\n\r\n2")
        assert refused == []
        writer.close()


@pytest.mark.parametrize(
    ("limits", "refusal", "text"),
    [
        (ConnectionLimits(2, 2, 30), "connections", b"as many connections as it may, at most 2"),
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


@pytest.mark.anyio
async def test_a_body_below_the_least_rate_is_answered_408() -> None:
    limits = ConnectionLimits(100, 100, 30, min_bytes_per_s=1000, transfer_grace_s=0.05)
    async with served(limits) as (port, refused):
        answer = await answer_to(port, HEAD % 1000 + b"a")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"slower than 1000 bytes per second" in answer
        assert refused == ["slow_body"]


@pytest.mark.anyio
async def test_a_body_at_the_least_rate_goes_on() -> None:
    limits = ConnectionLimits(100, 100, 30, min_bytes_per_s=10, transfer_grace_s=0.3)
    async with served(limits) as (port, refused):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD % 200)
        for _ in range(20):
            writer.write(bytes(10))
            await asyncio.sleep(0.05)
        assert (await reader.readuntil(b"\r\n\r\n200")).startswith(b"HTTP/1.1 200")
        assert refused == []
        writer.close()


@pytest.mark.anyio
async def test_a_refused_body_is_read_no_further_than_its_limit() -> None:
    async with served(ROOMY, refuse_at_once) as (port, refused):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD % (4 * MAX_REFUSED_BYTES))
        assert (await reader.readuntil(b"\r\n\r\nno")).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            await send_zeros(writer, 4 * MAX_REFUSED_BYTES)
        assert refused == ["refused_body"]


@pytest.mark.anyio
async def test_a_connection_goes_on_behind_a_small_refused_body() -> None:
    async with served(ROOMY, refuse_at_once) as (port, refused):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEAD % 300_000)
            await reader.readuntil(b"\r\n\r\nno")
            writer.write(bytes(300_000))
        assert refused == []
        writer.close()


@pytest.mark.anyio
async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    limits = ConnectionLimits(100, 100, 30, transfer_grace_s=0.05)
    async with served(limits, large_answer) as (port, refused):
        begins, given_up = asyncio.Event(), asyncio.Event()
        answer = asyncio.create_task(unread_answer(port, begins, given_up))
        while not refused:  # noqa: ASYNC110  a refusal tells nobody
            await asyncio.sleep(0.001)
        given_up.set()
        with pytest.raises(ConnectionError):
            await answer
        assert refused == ["slow_answer"]


@pytest.mark.anyio
async def test_an_answer_that_is_read_above_the_least_rate_goes_on() -> None:
    limits = ConnectionLimits(100, 100, 30, min_bytes_per_s=1000, transfer_grace_s=0.25)
    loop = asyncio.get_running_loop()
    async with served(limits, large_answer) as (port, refused):
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, REQUEST)
            for _ in range(20):
                assert await loop.sock_recv(connection, 4096)
                await asyncio.sleep(0.05)
        assert refused == []


@pytest.mark.anyio
async def test_the_answer_that_waits_longest_goes_when_they_are_too_many_bytes() -> None:
    limits = ConnectionLimits(100, 100, 30, max_unsent_bytes=3 * LARGE // 2)
    async with served(limits, large_answer) as (port, refused):
        begins, over, at_once = asyncio.Event(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(unread_answer(port, begins, over))
        await begins.wait()
        at_once.set()
        assert await unread_answer(port, asyncio.Event(), at_once) == LARGE
        over.set()
        with pytest.raises(ConnectionError):
            await first
        assert refused == ["unsent_answers"]
