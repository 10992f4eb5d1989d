"""Limits of a connection before any route sees it: how many there are, and the size and the time of their headers.

uvicorn's HTTP protocol limits none of these. A client that opens connections and sends nothing, or a header without an
end, would otherwise hold file handles, memory and the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

# nginx takes 4 x 8 KB of headers, Envoy 60 KB and 100 fields.
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_FIELDS = 100
# File handles for the model, logs, and the files of answers.
RESERVED_HANDLES = 64
_LOG_PAUSE_S = 1.0

Refusal = Literal["connections", "client_connections", "header_timeout", "header_size"]
REFUSALS: tuple[Refusal, ...] = ("connections", "client_connections", "header_timeout", "header_size")
_TEXTS: dict[Refusal, tuple[HTTPStatus, str]] = {
    "connections": (HTTPStatus.SERVICE_UNAVAILABLE, "the service has {limit} connections, which is its limit"),
    "client_connections": (HTTPStatus.SERVICE_UNAVAILABLE, "your address has {limit} connections, which is the limit"),
    "header_timeout": (HTTPStatus.REQUEST_TIMEOUT, "the request's headers did not arrive within {limit:g} s"),
    "header_size": (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        f"the request's headers exceed {MAX_HEADER_BYTES} bytes or {MAX_HEADER_FIELDS} fields",
    ),
}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of all connections of a process.

    Attributes:
        connections: Open connections.
        per_client: Open connections of one client address.
        header_timeout_s: Seconds from the opening of a connection, or from the first byte of a further request, until
            the headers have arrived.
    """

    connections: int
    per_client: int
    header_timeout_s: float

    def within_handles(self) -> ConnectionLimits:
        """The same limits, reduced to the file handles that this process may open, less ``RESERVED_HANDLES``."""
        handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if handles == resource.RLIM_INFINITY or self.connections <= handles - RESERVED_HANDLES:
            return self
        connections = max(1, handles - RESERVED_HANDLES)
        logger.warning(
            "max_connections is %d, and this process may open %d files: %d connections are the limit; raise ulimit -n",
            self.connections,
            handles,
            connections,
        )
        return ConnectionLimits(connections, min(self.per_client, connections), self.header_timeout_s)


class ConnectionGuard:
    """Counts the connections of a process, and logs refusals at most once a second."""

    def __init__(self, limits: ConnectionLimits, on_refuse: Callable[[Refusal], None]) -> None:
        self.limits = limits
        self._on_refuse = on_refuse
        self._clients: Counter[str] = Counter()
        self._unlogged: Counter[Refusal] = Counter()
        self._logged = float("-inf")

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return self._clients.total()

    def open(self, client: str) -> Refusal | None:
        """Count a connection; gives the limit that it exceeds, or None."""
        self._clients[client] += 1
        if self._clients.total() > self.limits.connections:
            return "connections"
        return "client_connections" if self._clients[client] > self.limits.per_client else None

    def close(self, client: str) -> None:
        """Count a connection as closed."""
        self._clients[client] -= 1
        if self._clients[client] <= 0:
            del self._clients[client]

    def refuse(self, refusal: Refusal, client: str) -> tuple[HTTPStatus, str]:
        """Count a refusal; gives its status and its text."""
        self._on_refuse(refusal)
        self._unlogged[refusal] += 1
        now = time.monotonic()
        if now - self._logged >= _LOG_PAUSE_S:
            counts = ", ".join(f"{name}: {count}" for name, count in self._unlogged.items())
            logger.warning("refused connections (%s), the last one from %s", counts, client)
            self._unlogged.clear()
            self._logged = now
        status, text = _TEXTS[refusal]
        limits = self.limits
        limit = {"connections": limits.connections, "client_connections": limits.per_client}
        return status, text.format(limit=limit.get(refusal, limits.header_timeout_s))


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within the limits of a ``ConnectionGuard``."""

    def __init__(self, guard: ConnectionGuard, **options: Any) -> None:
        super().__init__(**options)
        self._guard = guard
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None
        self._bytes_without_body = 0
        self._has_received = False
        self._in_request = False
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and wait for its first request."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if (refusal := self._guard.open(self._address)) is not None:
            self._refuse(refusal)
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the connection's place back."""
        self._stop_timer()
        self._guard.close(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, as long as the bytes that are no body stay within ``MAX_HEADER_BYTES``."""
        if self._is_refused:
            return
        self._has_received = True
        if not self._in_request:
            self._start_timer()
        # on_body sets it to 0: headers, trailers and chunk extensions are what counts.
        self._bytes_without_body += len(data)
        super().data_received(data)
        if self._bytes_without_body > MAX_HEADER_BYTES and not self._is_refused:
            self._refuse("header_size")

    def on_message_begin(self) -> None:
        """A request begins, maybe behind another in the same bytes."""
        self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The headers of a request are there."""
        self._stop_timer()
        self._in_request = True
        num_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if num_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            self._refuse("header_size")
        if not self._is_refused:
            self._bytes_without_body = 0
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body is there."""
        self._bytes_without_body = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._bytes_without_body = 0
        self._in_request = False
        if not self._is_refused:
            super().on_message_complete()

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
        self._unset_keepalive_if_required()
        status, text = self._guard.refuse(refusal, self._address)
        # A connection that never sent a byte, such as a browser's spare one, expects no answer.
        if not self._is_answering and (self._has_received or refusal != "header_timeout"):
            self.transport.write(_response(status, text))
        self.transport.close()


def _response(status: HTTPStatus, text: str) -> bytes:
    headers = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: text/plain; charset=utf-8",
        f"content-length: {len(text)}",
        *(["retry-after: 1"] if status is HTTPStatus.SERVICE_UNAVAILABLE else []),
        "connection: close",
    ]
    return ("\r\n".join(headers) + f"\r\n\r\n{text}").encode("ascii")
