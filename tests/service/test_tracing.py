"""Traces: a span for each request, in the trace of its caller; nothing of it unless it is asked for."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.settings import Settings, SettingsError
from service.tracing import tracer_provider

pytestmark = pytest.mark.anyio

# A fixture's type, which lives in conftest.py.
Api = Any


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of apps made from here on end up."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("service.app.tracer_provider", lambda _: provider)
    return exporter


@pytest.fixture
async def traced(
    spans: InMemorySpanExporter, serving: Callable[..., AbstractAsyncContextManager[Api]]
) -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


async def test_span_tells_the_request_and_continues_the_callers_trace(
    traced: Api, spans: InMemorySpanExporter, solid: Callable[[int], bytes]
) -> None:
    headers = {
        "Content-Type": "image/png",
        "X-Request-ID": "id-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    await traced.http.post("/segment", content=solid(128), headers=headers)
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("POST /segment", SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    attributes = dict(span.attributes or {})
    stages = {name: attributes.pop(name) for name in list(attributes) if name.endswith("_s")}
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/segment",
        "url.path": "/segment",
        "http.response.status_code": 200,
        "ecenet.request_id": "id-1",
    }
    assert {"ecenet.decode_s", "ecenet.queue_s", "ecenet.infer_s"} <= set(stages)
    assert all(0 <= float(str(seconds)) < 60 for seconds in stages.values())


async def test_server_error_marks_the_span(
    traced: Api, spans: InMemorySpanExporter, solid: Callable[[int], bytes]
) -> None:
    poison = 201
    await traced.post(solid(poison))
    await traced.post(b"no image")
    failed, refused = spans.get_finished_spans()
    assert (failed.status.status_code, refused.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)


async def test_health_checks_are_not_traced(traced: Api, spans: InMemorySpanExporter) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live"):
        await traced.get(path)
    assert spans.get_finished_spans() == ()


def test_off_by_default() -> None:
    assert tracer_provider(Settings()) is None


@pytest.mark.parametrize("by", ["setting", "variable"])
def test_asked_for_and_installed(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "variable":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    provider = tracer_provider(Settings(otlp_endpoint="http://127.0.0.1:1/" if by == "setting" else None))
    assert provider is not None
    (processor,) = provider._active_span_processor._span_processors
    assert processor.span_exporter._endpoint == "http://127.0.0.1:1/v1/traces"  # type: ignore[attr-defined]
    assert provider.resource.attributes["service.name"] == "ecenet"
    provider.shutdown()


def test_asked_for_but_not_installed_is_an_error_that_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"--otlp-endpoint.*pip install 'ecenet\[otel\]'"):
        tracer_provider(Settings(otlp_endpoint="http://collector:4318"))
