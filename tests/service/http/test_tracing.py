"""Traces: spans of requests, stages and batches, in the trace of the caller; nothing unless it is asked for."""

from __future__ import annotations

import asyncio
import gzip
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.settings import Settings, SettingsError
from service.traces import tracer_provider
from tests.support.api import Api, Serving
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Solid

pytestmark = pytest.mark.anyio


POISON = 201
CALLER = {
    "Content-Type": "image/png",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Exporter that keeps the spans of all apps made from here on."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("service.http.app.tracer_provider", lambda _: provider)
    return exporter


@pytest.fixture
async def traced(spans: InMemorySpanExporter, serving: Serving) -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def children(spans: InMemorySpanExporter, parent: ReadableSpan) -> list[ReadableSpan]:
    """In the order of their begin."""
    found = [
        span for span in spans.get_finished_spans() if span.parent and span.parent.span_id == parent.context.span_id
    ]
    return sorted(found, key=lambda span: span.start_time or 0)


def times_ns(span: ReadableSpan) -> tuple[int, int]:
    """Start and end of a span that has ended."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


async def test_span_tells_the_request_and_continues_the_callers_trace(
    traced: Api, spans: InMemorySpanExporter, solid: Solid
) -> None:
    await traced.http.post("/segment", content=solid(128), headers={"X-Request-ID": "id-1", **CALLER})
    (span,) = named(spans, "POST /segment")
    assert span.kind == SpanKind.SERVER
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/segment",
        "url.path": "/segment",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "ecenet.model": "brightness",
        "ecenet.request_id": "id-1",
    }


async def test_every_stage_is_a_child_in_the_time_of_its_request(
    traced: Api, spans: InMemorySpanExporter, solid: Solid
) -> None:
    response = await traced.http.post("/segment", content=solid(128), headers=CALLER)
    (request,) = named(spans, "POST /segment")
    stages = [span for span in children(spans, request) if span.name != "batch"]
    assert [span.name for span in stages if span.name != "wait"] == [
        "admission",
        "read",
        "decode",
        "queue",
        "infer",
        "post",
        "encode",
    ]
    assert {span.context.trace_id for span in stages} == {request.context.trace_id}
    slack_ns = 50_000_000  # between the two clocks, which are read one after the other
    begin, end = times_ns(request)
    ends = [begin - slack_ns, *(times_ns(span)[1] for span in stages), end + slack_ns]
    starts = [*(times_ns(span)[0] for span in stages), end]
    assert all(end <= start + slack_ns for end, start in zip(ends, starts, strict=False))
    told = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    for span in stages[1:]:
        if span.name != "wait":
            start_ns, end_ns = times_ns(span)
            milliseconds = (end_ns - start_ns) / 1e6
            assert milliseconds == pytest.approx(float(told[span.name]), abs=0.1)


async def test_span_of_a_batch_is_linked_to_every_request_in_it(
    traced: Api, spans: InMemorySpanExporter, engine: FakeEngine, solid: Solid
) -> None:
    engine.shut()
    first = asyncio.create_task(traced.post(solid(0)))
    await engine.until_entered()
    others = [asyncio.create_task(traced.post(solid(level))) for level in (128, 255)]
    await traced.until_queued(2)
    engine.gate.set()
    await asyncio.gather(first, *others)
    requests = {span.context.span_id: span for span in named(spans, "POST /segment")}
    alone, together = sorted(named(spans, "batch"), key=lambda span: span.start_time or 0)
    assert [span.attributes for span in (alone, together)] == [{"ecenet.batch_size": 1}, {"ecenet.batch_size": 2}]
    linked = [{link.context.span_id for link in span.links} for span in (alone, together)]
    assert [len(ids) for ids in linked] == [1, 2]
    assert linked[0] | linked[1] == set(requests)
    assert together.parent is not None
    assert together.parent.span_id in linked[1]
    infer = [span for request in requests.values() for span in children(spans, request) if span.name == "infer"]
    assert len(infer) == 3


async def test_failed_batch_is_an_error_and_its_retries_are_batches(
    traced: Api, spans: InMemorySpanExporter, solid: Solid
) -> None:
    await traced.post(solid(POISON))
    (batch,) = named(spans, "batch")
    assert batch.status.status_code == StatusCode.ERROR
    assert [event.name for event in batch.events] == ["exception"]


async def test_caller_that_is_not_sampled_costs_no_span(traced: Api, spans: InMemorySpanExporter, solid: Solid) -> None:
    traceparent = CALLER["traceparent"].removesuffix("01") + "00"
    response = await traced.http.post("/segment", content=solid(128), headers={**CALLER, "traceparent": traceparent})
    assert response.status_code == 200
    assert spans.get_finished_spans() == ()


async def test_images_of_one_request_have_spans_with_their_stages(
    traced: Api, spans: InMemorySpanExporter, solid: Solid
) -> None:
    files = [("file", ("a", solid(0))), ("file", ("b", b"hello")), ("file", ("c", solid(255)))]
    await traced.http.post("/segment/batch", files=files)
    (request,) = named(spans, "POST /segment/batch")
    stages = [span.name for span in children(spans, request)]
    assert stages[:2] == ["admission", "read"]
    images = sorted(named(spans, "image"), key=lambda span: str((span.attributes or {})["ecenet.image_place"]))
    assert [dict(span.attributes or {})["http.response.status_code"] for span in images] == [200, 400, 200]
    assert all(span.parent and span.parent.span_id == request.context.span_id for span in images)
    assert {"decode", "queue", "infer", "post", "encode"} <= {span.name for span in children(spans, images[2])}
    for batch in named(spans, "batch"):
        assert [link.context.span_id for link in batch.links] == [request.context.span_id]


async def test_server_error_marks_the_span(traced: Api, spans: InMemorySpanExporter, solid: Solid) -> None:
    await traced.post(solid(POISON))
    await traced.post(b"no image")
    failed, refused = named(spans, "POST /segment")
    assert (failed.status.status_code, refused.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)


async def test_health_checks_are_not_traced(traced: Api, spans: InMemorySpanExporter) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live"):
        await traced.get(path)
    assert spans.get_finished_spans() == ()


def test_off_by_default() -> None:
    assert tracer_provider(Settings()) is None


def test_off_costs_no_import() -> None:
    program = (
        "import sys; from service.http.app import create_app; from service.settings import Settings;"
        "create_app(Settings());"
        "parts = ('opentelemetry.sdk', 'opentelemetry.exporter');"  # FastAPI itself imports the rest where it is there
        "print(sorted(name for name in sys.modules if name.startswith(parts)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


class Collector(BaseHTTPRequestHandler):
    """Keeps what is posted, in ``received`` of its server."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Address of an OTLP collector, and what it has received."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    received: list[tuple[str, bytes]] = []
    server.received = received  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


async def test_collector_gets_the_spans_at_the_latest_when_the_service_ends(
    collector: tuple[str, list[tuple[str, bytes]]], serving: Serving, solid: Solid
) -> None:
    endpoint, received = collector
    async with serving(otlp_endpoint=endpoint) as api:
        await api.http.post("/segment", content=solid(128), headers=CALLER)
    assert {path for path, _ in received} == {"/v1/traces"}
    exported = [ExportTraceServiceRequest.FromString(body) for _, body in received]
    resources = [resource for request in exported for resource in request.resource_spans]
    services = [
        attribute.value.string_value
        for resource in resources
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
    ]
    assert set(services) == {"ecenet"}
    found = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert {span.trace_id.hex() for span in found} == {"0af7651916cd43dd8448eb211c80319c"}
    assert {"POST /segment", "admission", "decode", "queue", "infer", "post", "encode", "batch"} <= {
        span.name for span in found
    }


@pytest.mark.parametrize("by", ["setting", "variable"])
def test_asked_for_and_installed(
    by: str, collector: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, received = collector
    if by == "variable":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    provider = tracer_provider(Settings(otlp_endpoint=f"{endpoint}/" if by == "setting" else None))
    assert provider is not None
    assert provider.resource.attributes["service.name"] == "ecenet"
    provider.get_tracer("test").start_span("one").end()
    provider.shutdown()
    ((path, body),) = received
    assert path == "/v1/traces"
    (sent,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert [span.name for scope in sent.scope_spans for span in scope.spans] == ["one"]


def test_asked_for_but_not_installed_is_an_error_that_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"--otlp-endpoint.*pip install '\.\[otel\]'"):
        tracer_provider(Settings(otlp_endpoint="http://collector:4318"))
