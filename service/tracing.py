"""OpenTelemetry traces: a span for each request, which continues the trace of its ``traceparent`` header.

Off unless an endpoint is set; then the extra ``otel`` must be installed. How spans are sampled and sent is up to
OpenTelemetry's own variables, such as ``OTEL_TRACES_SAMPLER`` and ``OTEL_EXPORTER_OTLP_HEADERS``.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.request_context import QUIET_PATHS
from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVER_ERROR = 500
_CLOSE_TIMEOUT_S = 2.0


def tracer_provider(settings: Settings) -> TracerProvider | None:
    """What sends spans to the endpoint that the settings or OpenTelemetry's variables name; None if none is.

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
            f"traces are asked for (--otlp-endpoint or {_ENDPOINT_VARIABLES[0]}), but OpenTelemetry is not installed: "
            f"pip install 'ecenet[otel]' ({error})"
        ) from None
    named = Resource.create() if os.environ.get("OTEL_SERVICE_NAME") else Resource.create({SERVICE_NAME: "ecenet"})
    provider = TracerProvider(resource=named)
    endpoint = settings.otlp_endpoint and f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider


async def close_provider(provider: TracerProvider | None) -> None:
    """Send what is left, in bounded time: a collector that does not answer must not hold up the end."""
    if provider is not None:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(provider.shutdown), _CLOSE_TIMEOUT_S)


class Tracing:
    """ASGI middleware behind ``RequestContext``; health checks are not traced."""

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
        with self._tracer.start_as_current_span(scope["method"], caller, SpanKind.SERVER) as span:
            span.set_attributes(
                {
                    "http.request.method": scope["method"],
                    "url.path": scope["path"],
                    "ecenet.request_id": scope["state"]["request_id"],
                }
            )

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note_status(span, message["status"])
                await send(message)

            try:
                await self._app(scope, receive, send_and_note)
            finally:
                _note_stages(span, scope)


def _note_status(span: Span, status: int) -> None:
    from opentelemetry.trace import StatusCode  # noqa: PLC0415

    span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR:
        span.set_status(StatusCode.ERROR)


def _note_stages(span: Span, scope: Scope) -> None:
    """Name the span after its route, and tell the seconds of the request's stages."""
    if "route" in scope:
        span.set_attribute("http.route", scope["route"].path)
        span.update_name(f"{scope['method']} {scope['route'].path}")
    if "stopwatch" in scope["state"]:
        for stage, seconds in scope["state"]["stopwatch"].seconds.items():
            span.set_attribute(f"ecenet.{stage}_s", seconds)
