"""Metrics of the process, in their own registry, with all label sets from the start.

A counter that first appears with its first event has no earlier value for ``rate()`` to start from.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from service.connections.limits import REFUSALS, Refusal
from service.errors import (
    Draining,
    EngineDown,
    NotReady,
    Overloaded,
    PixelsOverloaded,
    RateLimited,
    ServiceError,
)
from service.inference.stopwatch import WORK_STAGES, Stopwatch, WorkStage
from service.model_metrics import NO_FORMAT, STATUSES, TENSORS, ModelFamilies, ModelMetrics
from service.shared_metrics.families import SharedCounter
from service.shared_metrics.metric_pages import MetricPages
from service.shared_metrics.process_totals import ProcessTotals

CONTENT_TYPE = CONTENT_TYPE_LATEST
SEGMENT_PATH = "/segment"
MANY_IMAGES_PATH = "/segment/batch"
# Label of a request without a known model.
NO_MODEL = "none"
_REJECTIONS: tuple[type[ServiceError], ...] = (
    Overloaded,
    PixelsOverloaded,
    RateLimited,
    EngineDown,
    Draining,
    NotReady,
)


class Metrics:
    """Metrics of one application; also the observer of its admission."""

    def __init__(
        self, release: str = "", pages: MetricPages | None = None, pids: Callable[[], Sequence[int]] | None = None
    ) -> None:
        """Create all label sets that no model is needed for.

        Args:
            release: Version of the package.
            pages: Shared with the processes whose counts are added; none if not given.
            pids: The processes whose memory and CPU seconds are added, the supervisor first; this one if not given.
        """
        self._pages = pages or MetricPages.create(1)
        self._processes = CollectorRegistry()
        self._processes.register(ProcessCollector(registry=None) if pids is None else ProcessTotals(pids))
        self._gauges = registry = CollectorRegistry()
        self._families = ModelFamilies(registry, self._pages)
        self._rejected = SharedCounter(
            "ecenet_requests_rejected", "Requests refused for no fault of theirs.", ["reason"], self._pages
        )
        self._cancelled = SharedCounter(
            "ecenet_requests_cancelled",
            "Requests whose client left before the answer, by the stage that they were in.",
            ["stage"],
            self._pages,
        )
        self._expired = SharedCounter(
            "ecenet_requests_expired",
            "Requests whose time was over before the answer, by the stage that they were in.",
            ["stage"],
            self._pages,
        )
        self._refused_connections = SharedCounter(
            "ecenet_connections_refused",
            "Connections closed before a route saw a request, by the limit that they exceeded.",
            ["limit"],
            self._pages,
        )
        dropped_lines = SharedCounter("ecenet_log_lines_dropped", "Lines of the log that nobody read.", [], self._pages)
        self._dropped_lines, self._log_line_dropped = dropped_lines, dropped_lines.labels()
        engine_starts = SharedCounter(
            "ecenet_engine_starts", "Starts of the engine process; all but the first are restarts.", [], self._pages
        )
        self._engine_starts, self._engine_started = engine_starts, engine_starts.labels()
        self._in_flight = Gauge("ecenet_in_flight", "Requests inside the service.", registry=registry)
        self._in_flight_pixels = Gauge(
            "ecenet_in_flight_pixels", "Decoded pixels of the requests inside the service.", registry=registry
        )
        self._ready = Gauge("ecenet_ready", "1 if /readyz answers 200.", registry=registry)
        build = Gauge("ecenet_build_info", "1; the label names the release.", ["version"], registry=registry)
        build.labels(release).set(1)
        self._models: dict[str, ModelMetrics] = {}
        self._initialise_labels()

    def expose(self) -> bytes:
        """Give all metrics in Prometheus's text format."""
        return b"".join((generate_latest(self._processes), generate_latest(self._gauges), *self._texts()))

    async def scrape(self) -> bytes:
        """Give what ``expose`` gives; ``/proc`` is read in a thread, and other tasks run between two metrics."""
        parts = [await asyncio.to_thread(generate_latest, self._processes), generate_latest(self._gauges)]
        for text in self._texts():
            parts.append(text)
            await asyncio.sleep(0)
        return b"".join(parts)

    def watch(
        self,
        *,
        in_flight: Callable[[], int],
        in_flight_pixels: Callable[[], int],
        is_ready: Callable[[], bool],
    ) -> None:
        """Read these gauges at every scrape."""
        self._in_flight.set_function(in_flight)
        self._in_flight_pixels.set_function(in_flight_pixels)
        self._ready.set_function(is_ready)

    def of_model(self, name: str) -> ModelMetrics:
        """The metrics of one model; creates all its label sets."""
        if name not in self._models:
            self._models[name] = ModelMetrics(self._families, name)
        return self._models[name]

    def request_answered(self, model: str, answer_format: str, status: int) -> None:
        """Count an answer; ``model`` and ``answer_format`` are ``none`` if the request named no valid one."""
        self._families.requests.labels(model, answer_format, str(status)).inc()

    def request_succeeded(self, model: str, stopwatch: Stopwatch) -> None:
        """Count a request to a model that went through all its stages, and observe its times."""
        self._families.request_seconds.labels(model).observe(stopwatch.total_s())
        for stage, seconds in stopwatch.seconds.items():
            self._families.stage_seconds.labels(model, stage).observe(seconds)

    def request_rejected(self, error: ServiceError) -> None:
        """See ``AdmissionObserver``."""
        self._rejected.labels(error.slug).inc()

    def client_left(self, stage: WorkStage) -> None:
        """See ``AdmissionObserver``."""
        self._cancelled.labels(stage).inc()

    def request_expired(self, stage: WorkStage) -> None:
        """See ``AdmissionObserver``."""
        self._expired.labels(stage).inc()

    def connection_refused(self, refusal: Refusal) -> None:
        """Count a connection that a limit closed."""
        self._refused_connections.labels(refusal).inc()

    def log_line_dropped(self) -> None:
        """Count a line of the log that nobody read."""
        self._log_line_dropped.inc()

    def engine_started(self) -> None:
        """Count a start of the engine process; the count outlives it."""
        self._engine_started.inc()

    def _texts(self) -> Iterator[bytes]:
        """The counters and histograms, one after another."""
        requests = (self._rejected, self._cancelled, self._expired)
        own = (*requests, self._refused_connections, self._dropped_lines, self._engine_starts)
        return (family.text().encode() for family in (*own, *self._families.shared))

    def _initialise_labels(self) -> None:
        for answer_format, status in itertools.product((TENSORS, NO_FORMAT), STATUSES):
            self._families.requests.labels(NO_MODEL, answer_format, str(status))
        for work_stage in WORK_STAGES:
            self._cancelled.labels(work_stage)
            self._expired.labels(work_stage)
        for error in _REJECTIONS:
            self._rejected.labels(error.slug)
        for refusal in REFUSALS:
            self._refused_connections.labels(refusal)
