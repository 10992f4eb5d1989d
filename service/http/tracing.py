"""OpenTelemetry traces: spans of requests, their stages and the engine's batches; ``traceparent`` is continued.

Off unless an endpoint is set; then the extra ``otel`` must be installed. How spans are sampled and sent is up to
OpenTelemetry's own variables, such as ``OTEL_TRACES_SAMPLER`` and ``OTEL_EXPORTER_OTLP_HEADERS``.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.request_context import QUIET_PATHS
from service.inference.stopwatch import Stopwatch
from service.model_directory.extras import install_command
from service.request.state import RequestState, TracedImage, state_of
from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext, Tracer

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVER_ERROR = 500
# Trace id, span id and flags of a span.
_CALLER = struct.Struct(">16s8sB")
_CLOSE_TIMEOUT_S = 2.0


def tracer_provider(settings: Settings) -> TracerProvider | None:
    """Make the provider that sends spans to the endpoint of the settings or of OpenTelemetry's variables, if any.

    Raises:
        SettingsError: An endpoint is named, but OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None and not any(os.environ.get(name) for name in _ENDPOINT_VARIABLES):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"traces are requested (--otlp-endpoint or {_ENDPOINT_VARIABLES[0]}), but OpenTelemetry is not installed: "
            f"{install_command('otel')} ({error})"
        ) from None
    named = Resource.create() if os.environ.get("OTEL_SERVICE_NAME") else Resource.create({SERVICE_NAME: "ecenet"})
    provider = TracerProvider(resource=named)
    endpoint = settings.otlp_endpoint and f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider


async def close_provider(provider: TracerProvider | None) -> None:
    """Send the remaining spans in bounded time: a collector that does not answer must not delay the exit."""
    if provider is not None:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(provider.shutdown), _CLOSE_TIMEOUT_S)


class BatchSpans:
    """A span for each run of the engine, linked to the requests whose images were in it; a ``BatchTrace``.

    It is a child of the first of them that is sampled, as it would otherwise be sampled by itself, and be missing where
    it is wanted.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("service")

    def caller(self) -> SpanContext:
        """Give the span of the request that calls."""
        from opentelemetry.trace import get_current_span  # noqa: PLC0415

        return get_current_span().get_span_context()

    @contextmanager
    def batch(self, callers: Sequence[SpanContext]) -> Iterator[None]:
        """Make a span around the block."""
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import Link, NonRecordingSpan, set_span_in_context  # noqa: PLC0415

        # A request of many images is named once.
        requests = list({caller.span_id: caller for caller in callers if caller.is_valid}.values())
        sampled = [request for request in requests if request.trace_flags.sampled]
        if not sampled:
            yield
            return
        parent = set_span_in_context(NonRecordingSpan(sampled[0]), Context())
        links = [Link(request) for request in requests]
        attributes = {"ecenet.batch_size": len(callers)}
        with self._tracer.start_as_current_span("batch", parent, attributes=attributes, links=links):
            yield


def pack_caller() -> bytes:
    """The span of the request that calls, for another process."""
    from opentelemetry.trace import get_current_span  # noqa: PLC0415

    span = get_current_span().get_span_context()
    return _CALLER.pack(span.trace_id.to_bytes(16, "big"), span.span_id.to_bytes(8, "big"), int(span.trace_flags))


def read_caller(packed: bytes) -> SpanContext | None:
    """The span of ``pack_caller``; None for no bytes."""
    if not packed:
        return None
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

    trace_id, span_id, flags = _CALLER.unpack(packed)
    return SpanContext(
        int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), is_remote=True, trace_flags=TraceFlags(flags)
    )


class Tracing:
    """ASGI middleware behind ``RequestContext``; health checks are not traced.

    Its spans have a child for each stage. What was done for one image of many is below a child of its own.
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
