"""The writes of an answer to its connection: system calls, and packets that wake the client."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from service.connections.guard import ConnectionGuard
from service.connections.limits import ConnectionLimits
from service.connections.protocol import LimitedProtocol

pytestmark = pytest.mark.anyio

LIMITS = ConnectionLimits(connections=1, per_client=1, header_timeout_s=30)
KNOWN_LENGTH = [(b"content-length", b"4")]


class Recorder(asyncio.Transport):
    """A transport that keeps what is written to it, and writes nothing after its end."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self._is_closed = False

    def write(self, data: Any) -> None:
        assert not self._is_closed
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        """Nothing more arrives."""

    def resume_reading(self) -> None:
        """Nothing more arrives."""

    def is_closing(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        self._is_closed = True


async def writes_of(app: ASGIApp, request: bytes) -> list[bytes]:
    """Run ``app`` for a request until it ends or waits, and give its writes."""
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    guard = ConnectionGuard(LIMITS, lambda _: None)
    protocol = LimitedProtocol(guard, config=config, server_state=ServerState(), app_state={})
    recorder = Recorder()
    protocol.connection_made(recorder)
    protocol.data_received(request)
    for _ in range(10):
        await asyncio.sleep(0)
    writes = recorder.writes[:]
    protocol.connection_lost(None)
    for task in (tasks := list(protocol.tasks)):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return writes


def answer_of(headers: list[tuple[bytes, bytes]], *pieces: bytes) -> ASGIApp:
    """An application that answers each request with ``pieces``, between which others run."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})
            await asyncio.sleep(0)

    return cast(ASGIApp, app)


def request_of(method: bytes = b"GET", headers: bytes = b"") -> bytes:
    return method + b" / HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n"


async def test_the_head_leaves_with_the_first_piece_of_a_known_length() -> None:
    head, second = await writes_of(answer_of(KNOWN_LENGTH, b"ab", b"cd"), request_of())
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\nab")
    assert second == b"cd"


async def test_an_answer_that_closes_is_written_whole() -> None:
    (answer,) = await writes_of(answer_of(KNOWN_LENGTH, b"abcd"), request_of(headers=b"Connection: close\r\n"))
    assert answer.endswith(b"connection: close\r\n\r\nabcd")


async def test_the_head_of_an_unknown_length_leaves_at_once() -> None:
    async def stream(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    (head,) = await writes_of(stream, request_of())
    assert head.endswith(b"transfer-encoding: chunked\r\n\r\n")


async def test_a_head_without_a_body_leaves_at_once() -> None:
    (head,) = await writes_of(answer_of(KNOWN_LENGTH, b"abcd"), request_of(b"HEAD"))
    assert head.endswith(b"content-length: 4\r\n\r\n")


async def test_the_head_of_an_answer_that_fails_is_not_lost() -> None:
    async def fail(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": KNOWN_LENGTH})
        raise RuntimeError("no body")

    (head,) = await writes_of(fail, request_of())
    assert head.endswith(b"content-length: 4\r\n\r\n")


async def test_two_answers_on_a_connection_have_two_heads() -> None:
    first, second = await writes_of(answer_of(KNOWN_LENGTH, b"abcd"), 2 * request_of())
    assert first == second
    assert first.endswith(b"\r\n\r\nabcd")


async def test_an_invitation_to_send_the_body_leaves_at_once() -> None:
    async def read(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()

    expecting = request_of(b"POST", b"Expect: 100-continue\r\nContent-Length: 1\r\n")
    assert (await writes_of(read, expecting))[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
