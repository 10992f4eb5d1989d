"""The outermost middleware: the id, the timings and the log line of a request, and the answer to an unexpected error.

Plain ASGI, because a framework middleware would hide from the route that a client has disconnected.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.http.problems import problem_response
from service.lifecycle import Lifecycle, State
from service.logs import request_lines
from service.metrics import MANY_IMAGES_PATH, NO_MODEL, SEGMENT_PATH, Metrics
from service.model_metrics import NO_FORMAT
from service.request.state import RequestState, attach_state

logger = logging.getLogger(__name__)

# Harmless in a log line and in a header.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})


class RequestContext:
    """ASGI middleware; attaches the request's state, and reads what the route has noted there."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        lifecycle: Lifecycle,
        with_cors: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    ) -> None:
        """``with_cors`` is put around the answer to an unexpected error, which has passed by all other middleware."""
        self._app = app
        self._with_cors = with_cors
        # Random bytes for each id would cost more than the rest of it; the first half is this process's.
        self._ids = map(f"{secrets.token_hex(8)}{{:016x}}".format, itertools.count())
        self._metrics = metrics
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._lifecycle, self._ids)
        client, _port = scope.get("client") or ("", 0)
        with request_lines(exchange.state.request_id, client):
            await self._answer(scope, receive, exchange)

    async def _answer(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except Exception:
            logger.exception("the request failed")
            if exchange.status is None:
                error = ServiceError("unexpected error; the log has it under the request id")
                await self._with_cors(problem_response(Request(scope), error))(scope, receive, exchange.send)
        finally:
            self._account(scope, exchange)

    def _account(self, scope: Scope, exchange: _Exchange) -> None:
        """Count and log an exchange that has ended."""
        status, state = exchange.status or 499, exchange.state
        if _answers_an_image(scope["path"], state, status):
            self._metrics.request_answered(state.model or NO_MODEL, state.answer_format or NO_FORMAT, status)
        level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
        # Neither the query nor headers: they can hold secrets.
        fields = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "duration_ms": round((time.perf_counter() - exchange.started) * 1000, 1),
            "bytes": exchange.bytes_sent,
        }
        if state.api_key is not None:
            fields["api_key"] = state.api_key
        logger.log(level, "%(method)s %(path)s %(status)d %(duration_ms).1f ms %(bytes)d bytes", fields, extra=fields)


def _answers_an_image(path: str, state: RequestState, status: int) -> bool:
    """Decide if an exchange counts as the answer to an image; a request of many images counts each one separately."""
    is_refused = path == MANY_IMAGES_PATH and status >= HTTPStatus.BAD_REQUEST
    return path == SEGMENT_PATH or state.answer_format is not None or is_refused


class _Exchange:
    """One request and its answer on the way out.

    Attributes:
        state: State of the request.
        status: Of the answer, once it has begun.
        bytes_sent: Of the answer's body.
    """

    def __init__(self, scope: Scope, send: Send, lifecycle: Lifecycle, ids: Iterator[str]) -> None:
        self.started = time.perf_counter()
        self.status: int | None = None
        self.bytes_sent = 0
        request_id = _sent_id(Headers(scope=scope).get("x-request-id", "")) or next(ids)
        self.state = RequestState(request_id, arrived=asyncio.get_running_loop().time())
        attach_state(scope, self.state)
        self._send = send
        self._lifecycle = lifecycle

    async def send(self, message: Message) -> None:
        """Pass a message on, with our headers on the first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(MutableHeaders(scope=message))
        self.bytes_sent += len(message.get("body", b""))
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["X-Request-ID"] = self.state.request_id
        if self.state.stopwatch is not None:
            headers["Server-Timing"] = self.state.stopwatch.server_timing()
        if self._lifecycle.state is State.DRAINING:
            # The client opens its next connection to another instance.
            headers["Connection"] = "close"


def _sent_id(sent: str) -> str | None:
    """Take the id that the client sent if it is harmless."""
    return sent if REQUEST_ID.fullmatch(sent) else None
