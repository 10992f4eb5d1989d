"""Around every request: its id, its timings, its line in the log, and an answer to what nobody else has caught.

Plain ASGI, because a framework middleware would stand between the route and the news that a client has left.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.http.problems import problem_response
from service.lifecycle import Lifecycle, State
from service.logs import request_lines
from service.metrics import BATCH_PATH, NO_MODEL, SEGMENT_PATH, Metrics
from service.model_metrics import NO_FORMAT

logger = logging.getLogger(__name__)

# What may go into a log line and a header as it came.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})


class RequestContext:
    """ASGI middleware; sets ``request.state.request_id``, and reads ``answer_format`` and ``stopwatch`` from there."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._app = app
        self._metrics = metrics
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._lifecycle)
        with request_lines(exchange.request_id):
            await self._answer(scope, receive, exchange)

    async def _answer(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except Exception:
            logger.exception("the request failed")
            if exchange.status is None:
                error = ServiceError("an unexpected error; the log has it under the request id")
                await problem_response(Request(scope), error)(scope, receive, exchange.send)
        finally:
            self._account(scope, exchange)

    def _account(self, scope: Scope, exchange: _Exchange) -> None:
        """Count and log an exchange that has ended."""
        status = exchange.status or 499
        if _answers_an_image(scope, status):
            state = scope["state"]
            model, answer_format = state.get("model", NO_MODEL), state.get("answer_format", NO_FORMAT)
            self._metrics.request_answered(model, str(answer_format), status)
        level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
        # Neither the query nor headers: they can hold what is secret.
        fields = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "duration_ms": round((time.perf_counter() - exchange.started) * 1000, 1),
            "bytes": exchange.bytes_sent,
        }
        if "api_key" in scope["state"]:
            fields["api_key"] = scope["state"]["api_key"]
        logger.log(level, "%(method)s %(path)s %(status)d %(duration_ms).1f ms %(bytes)d bytes", fields, extra=fields)


def _answers_an_image(scope: Scope, status: int) -> bool:
    """Whether an exchange counts as the answer to an image; the images of a request of many are counted by it."""
    is_refused_batch = scope["path"] == BATCH_PATH and status >= HTTPStatus.BAD_REQUEST
    return scope["path"] == SEGMENT_PATH or "answer_format" in scope["state"] or is_refused_batch


class _Exchange:
    """One request and its answer on the way out.

    Attributes:
        status: Of the answer, once it has begun.
        bytes_sent: Of the answer's body.
    """

    def __init__(self, scope: Scope, send: Send, lifecycle: Lifecycle) -> None:
        self.started = time.perf_counter()
        self.status: int | None = None
        self.bytes_sent = 0
        self.request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        self._state = scope.setdefault("state", {})
        self._state["request_id"] = self.request_id
        self._state["arrived"] = asyncio.get_running_loop().time()
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
        headers["X-Request-ID"] = self.request_id
        if "stopwatch" in self._state:
            headers["Server-Timing"] = self._state["stopwatch"].server_timing()
        if self._lifecycle.state is State.DRAINING:
            # Whoever keeps connections open opens the next one to another instance.
            headers["Connection"] = "close"


def _request_id(sent: str) -> str:
    """The id that the client sent, if it is harmless; a new one otherwise."""
    return sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
