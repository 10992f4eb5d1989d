"""uvicorn's HTTP protocol within the limits of a connection.

uvicorn limits none of these. A client that sends or reads next to nothing, or a header without an end, would otherwise
hold file handles, places, memory and the event loop.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

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

_UPGRADE = re.compile(rb"\nupgrade(?=:)", re.IGNORECASE)


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
        self._unsent_before = 0
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
        super().data_received(data if self._in_request else _without_upgrade(data))
        if self._bytes_without_body > MAX_HEADER_BYTES and not self._is_refused:
            self._refuse("header_size")

    def on_message_begin(self) -> None:
        """A request begins, maybe behind another in the same bytes."""
        if not self._is_refused:
            self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The headers of a request have arrived."""
        if self._is_refused:
            return
        self._stop_timer()
        self._in_request = True
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
            super().on_headers_complete()
            self._body_watch.start()
            if len(self.pipeline) > MAX_PIPELINED_REQUESTS:
                self._end_pipeline()

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
                self._end_pipeline()
        elif not self._is_answering:
            self._bytes_after_answer += len(body)
            if self._bytes_after_answer > MAX_REFUSED_BYTES:
                self._refuse("refused_body")
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._bytes_without_body = 0
        self._in_request = False
        self._body_watch.stop()
        if not self._is_refused:
            super().on_message_complete()

    def pause_writing(self) -> None:
        """The client reads slower than it is sent to."""
        super().pause_writing()
        self._unsent_before = self.unsent_bytes
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
        unsent, before = self.unsent_bytes, self._unsent_before
        self._unsent_before = unsent
        # Streams write meanwhile, and are paused until all is read.
        if before - unsent < expected:
            self.give_up("slow_answer")
        else:
            self._answer_watch.start()

    def _num_hosts(self) -> int:
        """Headers ``Host``; a request of HTTP/1.0 needs none."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        return 1 if hosts == 0 and self.parser.get_http_version() == "1.0" else hosts

    def _has_unknown_coding(self) -> bool:
        """True if the parser would give the bytes of another coding than chunked as the body, RFC 9112, 6.1."""
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        return bool(codings) and codings != [b"chunked"]

    def _end_pipeline(self) -> None:
        """Answer the first request, drop those behind it, and close."""
        self._guard.refuse("pipelining", self._address)
        self._is_refused = True
        self._body_watch.stop()
        self.pipeline.clear()
        assert self._running is not None
        self.cycle = self._running
        self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.transport = cast(asyncio.Transport, _AnswerTransport(cycle))
        super()._start_asgi_task(cycle, app)

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
        """Answer with the reason, unless another answer is on its way, and close."""
        self._is_refused = True
        self._stop_timer()
        self._body_watch.stop()
        self._unset_keepalive_if_required()
        answer = self._guard.refuse(refusal, self._address)
        # A connection that never sent a byte, such as a browser's spare one, expects no answer.
        is_expected = self._has_received or refusal != "header_timeout"
        if answer is not None and is_expected and self._may_answer(refusal):
            self.transport.write(_response(*answer))
        self.transport.close()

    def _may_answer(self, refusal: Refusal) -> bool:
        """True if nothing has been said about a request whose body does not arrive, or no request is open."""
        is_of_body = refusal in {"slow_body", "small_pieces"}
        return not self.cycle.response_started if is_of_body else not self._is_answering


def _without_upgrade(data: bytes) -> bytes:
    """The headers of a request without the offer of another protocol, for which the parser would drop the body.

    ``curl --http2`` makes that offer; a server may pass it by, RFC 9110, 7.8.
    """
    end = data.find(b"\r\n\r\n")
    offer = _UPGRADE.search(data, 0, len(data) if end < 0 else end)
    return data if offer is None else data[: offer.start()] + b"\nx-not-used" + data[offer.end() :]


class _AnswerTransport:
    """Transport of one answer, which sends its head together with the first piece of its body, in one system call.

    The head of an answer whose length is not known, which may come bit by bit, leaves at once.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        """Write to the transport that ``cycle`` has."""
        self._cycle = cycle
        self._transport = cycle.transport
        self._has_begun = False
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        cycle = self._cycle
        if self._head is not None:
            self._transport.writelines((self._head, data))
            self._head = None
        elif cycle.response_started and not self._has_begun and _has_body(cycle):
            self._head = data
        else:
            self._transport.write(data)
        self._has_begun = cycle.response_started

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if self._head is not None:
            self.write(b"")
        self._transport.close()


def _has_body(cycle: RequestResponseCycle) -> bool:
    """True if a body of known length follows the head, which is being written."""
    return cycle.chunked_encoding is False and cycle.scope["method"] != "HEAD"


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
