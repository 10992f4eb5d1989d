"""Spans of requests and their stages; ``traceparent`` is continued. ``service.traces`` says where they go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.request_context import QUIET_PATHS
from service.inference.stopwatch import Stopwatch
from service.request.state import RequestState, TracedImage, state_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_SERVER_ERROR = 500


class Tracing:
    """ASGI middleware behind ``RequestContext``; health checks are not traced.

    Its spans have a child for each stage. The stages of one image of many are below that image's own child.
    """

    def __init__(self, app: ASGIApp, *, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._app = app
        self._tracer = provider.get_tracer("service")
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in QUIET_PATHS:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        caller = self._propagator.extract(Headers(scope=scope))
        arrived = time.perf_counter()
        state = state_of(scope)
        state.traced_images = []
        with self._tracer.start_as_current_span(
            scope["method"], caller, SpanKind.SERVER, _request_attributes(scope, state)
        ) as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note_status(span, message["status"])
                await send(message)

            try:
                await self._app(scope, receive, send_and_note)
            finally:
                _note_target(span, scope, state)
                if span.is_recording():
                    _Children(self._tracer, span).add_all(state, arrived)


class _Children:
    """Makes the spans below one span, from the times that were measured, when the request is over."""

    def __init__(self, tracer: Tracer, parent: Span) -> None:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        self._tracer = tracer
        self._context = set_span_in_context(parent)
        # From the clock of the stopwatches to nanoseconds since 1970.
        self._epoch_ns = time.time_ns() - round(time.perf_counter() * 1e9)

    def add_all(self, state: RequestState, arrived: float) -> None:
        """Add the stages of a request that arrived then, and its images if there are many."""
        if state.stopwatch is not None:
            self._add("admission", arrived, state.stopwatch.started)
            self._add_stages(state.stopwatch)
        for image in state.traced_images or ():
            self._add_image(image)

    def _add_image(self, image: TracedImage) -> None:
        attributes = {"ecenet.image_place": image.place, "http.response.status_code": image.status}
        stopwatch = image.stopwatch
        started = self._ns(stopwatch.started)
        span = self._tracer.start_span("image", self._context, attributes=attributes, start_time=started)
        if image.status >= _SERVER_ERROR:
            _mark_error(span)
        _Children(self._tracer, span)._add_stages(stopwatch)
        span.end(self._ns(image.ended))

    def _add_stages(self, stopwatch: Stopwatch) -> None:
        for interval in stopwatch.intervals:
            self._add(*interval)

    def _add(self, name: str, started: float, ended: float) -> None:
        self._tracer.start_span(name, self._context, start_time=self._ns(started)).end(self._ns(ended))

    def _ns(self, at: float) -> int:
        return self._epoch_ns + round(at * 1e9)


def _request_attributes(scope: Scope, state: RequestState) -> dict[str, str]:
    return {
        "http.request.method": scope["method"],
        "url.scheme": scope["scheme"],
        "url.path": scope["path"],
        "ecenet.request_id": state.request_id,
    }


def _note_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR:
        _mark_error(span)


def _mark_error(span: Span) -> None:
    from opentelemetry.trace import StatusCode  # noqa: PLC0415

    span.set_status(StatusCode.ERROR)


def _note_target(span: Span, scope: Scope, state: RequestState) -> None:
    """Name the span after its route, and note the model; both are known after the request."""
    if state.model is not None:
        span.set_attribute("ecenet.model", state.model)
    if "route" in scope:
        span.set_attribute("http.route", scope["route"].path)
        span.update_name(f"{scope['method']} {scope['route'].path}")
