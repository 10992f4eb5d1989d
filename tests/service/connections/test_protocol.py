"""Connections: bounded in number, their headers in size, fields and time; a refusal tells its limit and is counted."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.connections.guard import ConnectionGuard
from service.connections.limits import (
    FREE_PIECES,
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    MAX_PIPELINED_REQUESTS,
    MAX_REFUSED_BYTES,
    MEAN_PIECE_BYTES,
    RESERVED_HANDLES,
    ConnectionLimits,
    Refusal,
)
from service.connections.protocol import LimitedProtocol
from tests.support.limits import HANG_S

ROOMY = ConnectionLimits(connections=100, per_client=100, header_timeout_s=30)
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
Refused = list[Refusal]
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
# More than the buffers of both ends hold.
LARGE = 16 << 20


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


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("chunk", "count", "is_refused"),
    [(b"1\r\nx\r\n", FREE_PIECES, False), (b"1\r\nx\r\n", 2 * FREE_PIECES, True),
     (b"%x\r\n%s\r\n" % (MEAN_PIECE_BYTES, bytes(MEAN_PIECE_BYTES)), 2 * FREE_PIECES, False)],
)  # fmt: skip
async def test_a_body_has_few_small_pieces(chunk: bytes, count: int, is_refused: bool) -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, CHUNKED + chunk * count + b"0\r\n\r\n")
    assert refused == (["small_pieces"] if is_refused else [])
    if is_refused:
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"more than 4096 pieces and less than 64 bytes for each" in answer
    else:
        length = count * len(chunk.split(b"\r\n")[1])
        assert answer.endswith(b"\r\n\r\n%d" % length)


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


@pytest.mark.parametrize("behind", [REQUEST * (MAX_PIPELINED_REQUESTS + 5), HEAD % 680_000 + bytes(680_000)])
@pytest.mark.anyio
async def test_what_is_sent_before_an_answer_is_dropped_beyond_its_limit(behind: bytes) -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, REQUEST + behind)
        assert refused == ["pipelining"]
        # The bytes that the server did not read may reset the connection.
        assert answer.count(b"HTTP/1.1 200") == (1 if answer else 0)


@pytest.mark.anyio
async def test_a_few_small_requests_may_be_pipelined() -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, REQUEST * 5 + headers_of(2))
        assert answer.count(b"HTTP/1.1 200") == 6
        assert refused == []


@pytest.mark.anyio
async def test_a_client_that_leaves_a_pipeline_is_gone_for_the_request_at_hand(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    requests: list[str] = []

    async def wait_for_the_client(scope: Scope, receive: Receive, send: Send) -> None:
        requests.append(scope["path"])
        await receive()
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"for nobody"})
        ended.set()

    async with asyncio.timeout(HANG_S), served(ROOMY, wait_for_the_client) as (port, refused):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(3)))
        await begun.wait()
        writer.close()
        await ended.wait()
    assert requests == ["/0"]
    assert refused == []
    assert caplog.records == []


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n", b"Host: a\r\nhost: a\r\n"])
@pytest.mark.anyio
async def test_a_request_has_one_host(hosts: bytes) -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, b"GET / HTTP/1.1\r\n" + hosts + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"no header Host, or more than one")
        assert (await answer_to(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert refused == ["host"]


@pytest.mark.parametrize(
    ("codings", "status"),
    [
        (b"Transfer-Encoding: Chunked \r\n", 200),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
    ],
)
@pytest.mark.anyio
async def test_a_body_has_no_other_transfer_coding_than_chunked(codings: bytes, status: int) -> None:
    async with served(ROOMY) as (port, refused):
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + codings
        answer = await answer_to(port, head + b"\r\n1\r\nx\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert refused == ([] if status == 200 else ["transfer_coding"])


@pytest.mark.anyio
async def test_the_body_behind_an_offer_of_http_2_is_read() -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    async with served(ROOMY) as (port, refused):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((HEAD % 100_000)[:-2] + offer + b"\r\n" + b"\nupgrade: kept" + bytes(99_986))
        assert (await reader.readuntil(b"\r\n\r\n100000")).startswith(b"HTTP/1.1 200")
        assert refused == []
        writer.close()


def test_refusals_are_logged_once_a_second_with_their_number_and_the_worst_clients(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    guard = ConnectionGuard(ROOMY, lambda _: None)
    guard.refuse("header_size", "192.0.2.1")
    for client in (2, 3, 3, 3, 4, 5, 5):
        guard.refuse("slow_body", f"192.0.2.{client}")
    now[0] = 101.0
    guard.refuse("host", "192.0.2.4")
    assert caplog.messages == [
        "refused connections (header_size: 1), most of them from 192.0.2.1: 1",
        "refused connections (slow_body: 7, host: 1), most of them from 192.0.2.3: 3, 192.0.2.4: 2, 192.0.2.5: 2",
    ]


def test_file_handles_lower_the_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    limits = ConnectionLimits(2048, 1024, 10).within_handles()
    assert limits == ConnectionLimits(2048, 1024, 10, of_process=256 - RESERVED_HANDLES)
    assert "raise ulimit -n" in caplog.text
    assert ConnectionLimits(100, 50, 10).within_handles() == ConnectionLimits(100, 50, 10)


def test_a_process_without_file_handles_refuses_whatever_others_have() -> None:
    guard = ConnectionGuard(ConnectionLimits(100, 100, 10, of_process=2), lambda _: None)
    assert [guard.open("192.0.2.1") for _ in range(3)] == [None, None, "connections"]
    guard.close("192.0.2.1")
    guard.close("192.0.2.1")
    assert guard.open("192.0.2.1") is None
