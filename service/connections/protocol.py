"""uvicorn's HTTP protocol within the limits of a connection.

uvicorn limits none of these. A client that sends or reads next to nothing, or a header without an end, would otherwise
hold file handles, places, memory and the event loop.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.connections.answer_transport import AnswerTransport
from service.connections.guard import ConnectionGuard
from service.connections.limits import (
    FREE_PIECES,
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    MAX_PIPELINED_BYTES,
    MAX_PIPELINED_REQUESTS,
    MAX_REFUSED_BYTES,
    MEAN_PIECE_BYTES,
    Refusal,
)

_FRAMING = (b"content-length", b"transfer-encoding")


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within the limits of a ``ConnectionGuard``."""

    def __init__(self, guard: ConnectionGuard, **options: Any) -> None:
        super().__init__(**options)
        self._guard = guard
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None
        self._body_watch = _Watch(self.loop, guard.limits.transfer_grace_s, self._check_body)
        self._answer_watch = _Watch(self.loop, guard.limits.transfer_grace_s, self._check_answer)
        self._bytes_without_body = 0
        self._body_bytes = 0
        # Of a body; negative as long as it may have more of them.
        self._excess_pieces = 0.0
        self._unread_before = 0
        self._bytes_after_answer = 0
        self._pipelined_bytes = 0
        self._running: RequestResponseCycle | None = None
        self._has_received = False
        self._in_request = False
        self._is_refused = False

    @property
    def unsent_bytes(self) -> int:
        """Bytes of answers that the client has not read."""
        return int(self.transport.get_write_buffer_size())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and wait for its first request."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if (refusal := self._guard.open(self._address)) is not None:
            self._refuse(refusal)
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the connection's place back, and notify the request that is being answered."""
        self._stop_timer()
        self._body_watch.stop()
        self._answer_watch.stop()
        self._guard.end_unread(self)
        self._guard.close(self._address)
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Parse, as long as the bytes that are not body stay within ``MAX_HEADER_BYTES``."""
        if self._is_refused:
            return
        self._has_received = True
        if not self._in_request:
            self._start_timer()
        # on_body sets it to 0: only headers, trailers and chunk extensions count.
        self._bytes_without_body += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if not self._is_refused:
                self._refuse("malformed")
        if self._bytes_without_body > MAX_HEADER_BYTES and not self._is_refused:
            self._refuse("header_size")

    def _parse(self, data: bytes) -> None:
        while not self._is_refused:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                self._pass_offer_by()
                data = data[offer.args[0] :]

    def _pass_offer_by(self) -> None:
        """Parse on behind the headers of a request that offers another protocol, as ``curl --http2`` does.

        The parser ends there, since the rest could be of that protocol. A server may pass the offer by, RFC 9110, 7.8:
        a new parser gets what tells where the body ends, and then the body.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        framing = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] in _FRAMING)
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")

    def on_message_begin(self) -> None:
        """A request begins, maybe behind another in the same bytes."""
        if self._in_request:  # its headers, repeated for another parser
            return
        if not self._is_refused:
            self._start_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the target has arrived."""
        if not self._in_request:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has arrived. A trailer, behind the body, is none: RFC 9110, 6.5.1."""
        if not self._in_request:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers of a request have arrived."""
        if self._is_refused or self._in_request:
            return
        self._stop_timer()
        num_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if num_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            self._refuse("header_size")
        elif self._num_hosts() != 1:
            self._refuse("host")
        elif self._has_unknown_coding():
            self._refuse("transfer_coding")
        if not self._is_refused:
            self._bytes_without_body = self._body_bytes = self._bytes_after_answer = 0
            self._excess_pieces = float(-FREE_PIECES)
            if not self.url.startswith(b"/"):
                self.url = _with_path(self.url)
            if self.parser.get_http_version() == "1.0":
                self.expect_100_continue = False  # its clients do not know the answer: RFC 9110, 10.1.1
            super().on_headers_complete()
            self._in_request = True
            self._body_watch.start()
            if len(self.pipeline) > MAX_PIPELINED_REQUESTS:
                self._refuse("pipelining")

    def on_body(self, body: bytes) -> None:
        """A piece of the body has arrived."""
        if self._is_refused:
            return
        self._bytes_without_body = 0
        self._body_bytes += len(body)
        self._excess_pieces += 1 - len(body) / MEAN_PIECE_BYTES
        if self._excess_pieces > 0:
            self._refuse("small_pieces")
        elif self.pipeline:
            self._pipelined_bytes += len(body)
            if self._pipelined_bytes > MAX_PIPELINED_BYTES:
                self._refuse("pipelining")
        elif not self._is_answering:
            self._bytes_after_answer += len(body)
            if self._bytes_after_answer > MAX_REFUSED_BYTES:
                self._refuse("refused_body")
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has ended, unless the parser ends at an offer of another protocol."""
        if self.parser.should_upgrade():
            return
        self._bytes_without_body = 0
        self._in_request = False
        self._body_watch.stop()
        if not self._is_refused:
            super().on_message_complete()

    def pause_writing(self) -> None:
        """The client reads slower than it is sent to."""
        super().pause_writing()
        self._unread_before = self._unread_bytes
        self._answer_watch.start()
        self._guard.begin_unread(self)

    def resume_writing(self) -> None:
        """The client has read almost all."""
        super().resume_writing()
        self._answer_watch.stop()
        self._guard.end_unread(self)

    def give_up(self, refusal: Refusal) -> None:
        """Drop the connection, and what its client has not read."""
        self._guard.refuse(refusal, self._address)
        self._is_refused = True
        self._leave()
        self.transport.abort()

    def _check_body(self) -> None:
        """Let the body continue if enough of it has arrived; while it is not read, its client is not at fault."""
        expected = self._guard.limits.min_bytes_per_s * self._guard.limits.transfer_grace_s
        is_waiting = self.flow.read_paused or self.cycle.waiting_for_100_continue
        is_slow = self._body_bytes < expected and not is_waiting
        self._body_bytes = 0
        if is_slow:
            self._refuse("slow_body")
        else:
            self._body_watch.start()

    def _check_answer(self) -> None:
        """Let the answer continue if enough of it has been read."""
        expected = self._guard.limits.min_bytes_per_s * self._guard.limits.transfer_grace_s
        unread, before = self._unread_bytes, self._unread_before
        self._unread_before = unread
        # Streams write meanwhile, and are paused until all is read.
        if before - unread < expected:
            self.give_up("slow_answer")
        else:
            self._answer_watch.start()

    @property
    def _unread_bytes(self) -> int:
        """Bytes of answers that have not arrived at the client: the kernel takes the next only when many have."""
        handle = self.transport.get_extra_info("socket").fileno()
        queued = fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4))
        return self.unsent_bytes + int.from_bytes(queued, sys.byteorder)

    def _num_hosts(self) -> int:
        """Headers ``Host``; a request of HTTP/1.0 needs none."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        return 1 if hosts == 0 and self.parser.get_http_version() == "1.0" else hosts

    def _has_unknown_coding(self) -> bool:
        """True if the parser would give the bytes of another coding than chunked as the body, RFC 9112, 6.1."""
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        return bool(codings) and codings != [b"chunked"]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.transport = cast(asyncio.Transport, AnswerTransport(cycle))
        super()._start_asgi_task(cycle, _without_chunks(app, cycle) if cycle.scope["http_version"] == "1.0" else app)

    def _leave(self) -> None:
        """Notify the request that is being answered that its client is gone, and drop those behind it.

        uvicorn notifies only the last one that has arrived. The others would write into a closed connection.
        """
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._guard.limits.header_timeout_s, self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        if self._is_answering:
            self._start_timer()
        else:
            self._refuse("header_timeout")

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with the reason, unless another answer is on its way, and close.

        What is refused behind a request that is being answered waits for that answer, and gets none.
        """
        self._is_refused = True
        self._stop_timer()
        self._body_watch.stop()
        self._unset_keepalive_if_required()
        answer = self._guard.refuse(refusal, self._address)
        if (ahead := self._answer_ahead()) is not None:
            self.pipeline.clear()
            self.cycle = ahead
            self.cycle.keep_alive = False
            return
        # A connection that never sent a byte, such as a browser's spare one, expects no answer.
        is_expected = self._has_received or refusal != "header_timeout"
        has_begun = self._is_answering and self.cycle.response_started
        if answer is not None and is_expected and not has_begun:
            self.transport.write(_response(*answer))
        self.transport.close()

    def _answer_ahead(self) -> RequestResponseCycle | None:
        """The answer under way to a request that has arrived as a whole, ahead of what arrives now."""
        running = self._running
        if running is None or running.response_complete or (running is self.cycle and self._in_request):
            return None
        return running


def _without_chunks(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The application for a client of HTTP/1.0, which knows no chunks.

    An answer of unknown length ends with its connection, RFC 9112, 6.3; uvicorn would send it in chunks.
    """

    async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        has_length = True

        async def send_whole(message: ASGISendEvent) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                cycle.chunked_encoding = None if has_length else False
            elif message["type"] == "http.response.body" and not has_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_whole)

    return answer


def _with_path(target: bytes) -> bytes:
    """A request's target, with the path ``/`` where it is a URL without a path.

    Raises:
        HttpParserInvalidURLError: It is no URL.
    """
    if httptools.parse_url(target).path is not None:
        return target
    url, mark, query = target.partition(b"?")
    return url + b"/" + mark + query


class _Watch:
    """Calls a function some seconds after each start, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._call = call
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.stop()
        self._timer = self._loop.call_later(self._seconds, self._call)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _response(status: HTTPStatus, text: str) -> bytes:
    headers = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: text/plain; charset=utf-8",
        f"content-length: {len(text)}",
        *(["retry-after: 1"] if status is HTTPStatus.SERVICE_UNAVAILABLE else []),
        "connection: close",
    ]
    return ("\r\n".join(headers) + f"\r\n\r\n{text}").encode("ascii")
