"""Limits of a connection on every route: their number, the size and time of headers, the rate of bodies and answers.

uvicorn's HTTP protocol limits none of these. A client that sends or reads next to nothing, or a header without an end,
would otherwise hold file handles, places, memory and the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal, get_args

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.connection_counts import ConnectionCounts, LocalConnectionCounts

logger = logging.getLogger(__name__)

# nginx takes 4 x 8 KB of headers, Envoy 60 KB and 100 fields.
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_FIELDS = 100
# Bytes of a body that are read on behind a refusal, so that a client that reads only then sees it.
MAX_REFUSED_BYTES = 64 << 20
# Requests, and bytes of their bodies, that are sent before the answer to an earlier one.
MAX_PIPELINED_REQUESTS = 16
MAX_PIPELINED_BYTES = 64 * 1024
# Pieces of a body, such as chunks: so many of any size, and one more for each so many bytes. Each costs 2 us.
FREE_PIECES = 4096
MEAN_PIECE_BYTES = 64
# File handles for the model, logs, and the files of answers.
RESERVED_HANDLES = 64
_LOG_PAUSE_S = 1.0
_LOGGED_CLIENTS = 3
_UPGRADE = re.compile(rb"\nupgrade(?=:)", re.IGNORECASE)

Refusal = Literal[
    "connections", "client_connections", "header_timeout", "header_size", "host", "slow_body", "small_pieces",
    "slow_answer", "unsent_answers", "refused_body", "pipelining",
]  # fmt: skip
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)
# Status and text of those that can be told: the others end a connection on which an answer is under way.
_TEXTS: dict[Refusal, tuple[HTTPStatus, str]] = {
    "connections": (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the service has as many connections as it may, at most {limits.connections}",
    ),
    "client_connections": (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "your address has {limits.per_client} connections, which is the limit",
    ),
    "header_timeout": (
        HTTPStatus.REQUEST_TIMEOUT,
        "the request's headers did not arrive within {limits.header_timeout_s:g} s",
    ),
    "header_size": (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        f"the request's headers exceed {MAX_HEADER_BYTES} bytes or {MAX_HEADER_FIELDS} fields",
    ),
    "host": (HTTPStatus.BAD_REQUEST, "the request has no header Host, or more than one"),
    "slow_body": (
        HTTPStatus.REQUEST_TIMEOUT,
        "the request's body arrives slower than {limits.min_bytes_per_s} bytes per second",
    ),
    "small_pieces": (
        HTTPStatus.BAD_REQUEST,
        f"the request's body comes in more than {FREE_PIECES} pieces and less than {MEAN_PIECE_BYTES} bytes for each",
    ),
}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of all connections of the service.

    Attributes:
        connections: Open connections.
        per_client: Open connections of one client address.
        header_timeout_s: Seconds from the opening of a connection, or from the first byte of a further request, until
            the headers have arrived.
        min_bytes_per_s: Bytes per second of a body or of an answer, as a mean of each ``transfer_grace_s``.
        transfer_grace_s: Seconds after which the rate is looked at.
        max_unsent_bytes: Bytes of answers that clients have not read, over all connections; beyond them the answer that
            has waited longest is given up.
        of_process: Open connections of one process, which the file handles limit; None if they do not.
    """

    connections: int
    per_client: int
    header_timeout_s: float
    min_bytes_per_s: int = 1000
    transfer_grace_s: float = 10.0
    max_unsent_bytes: int = 256 << 20
    of_process: int | None = None

    def within_handles(self) -> ConnectionLimits:
        """The same limits, with that of the file handles that a process may open, less ``RESERVED_HANDLES``."""
        handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if handles == resource.RLIM_INFINITY or self.connections <= handles - RESERVED_HANDLES:
            return self
        connections = max(1, handles - RESERVED_HANDLES)
        logger.warning(
            "max_connections is %d, and a process may open %d files: %d connections are its limit; raise ulimit -n",
            self.connections,
            handles,
            connections,
        )
        return replace(self, of_process=connections)


class ConnectionGuard:
    """Counts the connections of a process, and logs refusals at most once a second."""

    def __init__(
        self,
        limits: ConnectionLimits,
        on_refuse: Callable[[Refusal], None],
        counts: ConnectionCounts | None = None,
    ) -> None:
        """Begin with no connection.

        Args:
            limits: Of all connections.
            on_refuse: Counts the refusals.
            counts: Of all processes, where there are several.
        """
        self.limits = limits
        self._on_refuse = on_refuse
        self._counts = LocalConnectionCounts() if counts is None else counts
        self._open_here = 0
        self._unlogged: Counter[Refusal] = Counter()
        self._strikes: Counter[str] = Counter()
        self._logged = float("-inf")
        # Connections whose clients read slower than they are sent to, the longest first.
        self._unread: dict[LimitedProtocol, None] = {}

    def open(self, client: str) -> Refusal | None:
        """Count a connection; gives the limit that it exceeds, or None."""
        total, of_client = self._counts.open(client)
        self._open_here += 1
        if total > self.limits.connections or self._open_here > (self.limits.of_process or total):
            return "connections"
        return "client_connections" if of_client > self.limits.per_client else None

    def close(self, client: str) -> None:
        """Count a connection as closed."""
        self._counts.close(client)
        self._open_here -= 1

    @property
    def _unsent_bytes(self) -> int:
        """Bytes of answers that clients have not read, of all processes."""
        return self._counts.unsent(sum(connection.unsent_bytes for connection in self._unread))

    def begin_unread(self, connection: LimitedProtocol) -> None:
        """Count an answer that its client does not read as fast as it is sent; gives up others if they are too many."""
        self._unread[connection] = None
        while self._unsent_bytes > self.limits.max_unsent_bytes and len(self._unread) > 1:
            longest = next(iter(self._unread))
            self.end_unread(longest)
            longest.give_up("unsent_answers")

    def end_unread(self, connection: LimitedProtocol) -> None:
        """The client has read it, or is gone."""
        if connection in self._unread:
            del self._unread[connection]
            self._counts.unsent(sum(other.unsent_bytes for other in self._unread))

    def refuse(self, refusal: Refusal, client: str) -> tuple[HTTPStatus, str] | None:
        """Count a refusal; gives its status and its text, or None if it cannot be told."""
        self._on_refuse(refusal)
        self._unlogged[refusal] += 1
        self._strikes[client] += 1
        now = time.monotonic()
        if now - self._logged >= _LOG_PAUSE_S:
            counts = ", ".join(f"{name}: {count}" for name, count in self._unlogged.items())
            worst = ", ".join(f"{address}: {count}" for address, count in self._strikes.most_common(_LOGGED_CLIENTS))
            logger.warning("refused connections (%s), most of them from %s", counts, worst)
            self._unlogged.clear()
            self._strikes.clear()
            self._logged = now
        if refusal not in _TEXTS:
            return None
        status, text = _TEXTS[refusal]
        return status, text.format(limits=self.limits)


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
        """Give the connection's place back, and tell the request that is being answered."""
        self._stop_timer()
        self._body_watch.stop()
        self._answer_watch.stop()
        self._guard.end_unread(self)
        self._guard.close(self._address)
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Parse, as long as the bytes that are no body stay within ``MAX_HEADER_BYTES``."""
        if self._is_refused:
            return
        self._has_received = True
        if not self._in_request:
            self._start_timer()
        # on_body sets it to 0: headers, trailers and chunk extensions are what counts.
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
        """The headers of a request are there."""
        if self._is_refused:
            return
        self._stop_timer()
        self._in_request = True
        num_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if num_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            self._refuse("header_size")
        elif self._num_hosts() != 1:
            self._refuse("host")
        if not self._is_refused:
            self._bytes_without_body = self._body_bytes = self._bytes_after_answer = 0
            self._excess_pieces = float(-FREE_PIECES)
            super().on_headers_complete()
            self._body_watch.start()
            if len(self.pipeline) > MAX_PIPELINED_REQUESTS:
                self._end_pipeline()

    def on_body(self, body: bytes) -> None:
        """A piece of the body is there."""
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
        """Let the body go on if enough of it has arrived; while it is not read, its client is not at fault."""
        expected = self._guard.limits.min_bytes_per_s * self._guard.limits.transfer_grace_s
        is_waiting = self.flow.read_paused or self.cycle.waiting_for_100_continue
        is_slow = self._body_bytes < expected and not is_waiting
        self._body_bytes = 0
        if is_slow:
            self._refuse("slow_body")
        else:
            self._body_watch.start()

    def _check_answer(self) -> None:
        """Let the answer go on if enough of it has been read."""
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
        super()._start_asgi_task(cycle, app)

    def _leave(self) -> None:
        """Tell the request that is being answered that its client is gone, and drop those behind it.

        uvicorn tells the last one that has arrived. The others would write into a closed connection.
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
