"""OpenTelemetry's provider, the spans of the engine's batches, and spans that go from a worker to the engine process.

Off unless an endpoint is set; then the extra ``otel`` must be installed. How spans are sampled and sent is up to
OpenTelemetry's own variables, such as ``OTEL_TRACES_SAMPLER`` and ``OTEL_EXPORTER_OTLP_HEADERS``.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from service.model_directory.extras import install_command
from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
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

    It is a child of the first of them that is sampled: with a sampling decision of its own it could be missing from the
    traces that need it.
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
