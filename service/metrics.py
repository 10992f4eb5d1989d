"""Every metric, in a registry of its own, with all label sets there from the start.

A counter that first appears with its first event has no earlier value for ``rate()`` to start from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from model_export.manifest import GraphInfo, Manifest
from model_export.sizes import format_size
from service.batcher import DropReason
from service.errors import (
    Draining,
    EngineDown,
    NotReady,
    Overloaded,
    PixelsOverloaded,
    RateLimited,
    ServiceError,
)
from service.schemas import AnswerFormat
from service.stopwatch import STAGES, WORK_STAGES, Stage, Stopwatch, WorkStage

LoadResult = Literal["success", "failure"]
CONTENT_TYPE = CONTENT_TYPE_LATEST
SEGMENT_PATH = "/segment"
NO_FORMAT = "none"
TENSORS = "tensors"
STATUSES = (200, 304, 400, 401, 403, 406, 413, 415, 422, 429, 499, 500, 503, 504)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)
_REJECTIONS: tuple[type[ServiceError], ...] = (
    Overloaded,
    PixelsOverloaded,
    RateLimited,
    EngineDown,
    Draining,
    NotReady,
)
_LOAD_RESULTS: tuple[LoadResult, ...] = get_args(LoadResult)


class Metrics:
    """The metrics of one app; also the observer of its admission and of its batcher."""

    def __init__(self) -> None:
        # One more series for each, with the time of its birth: of use to OpenMetrics alone.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "ecenet_requests", "Answers to images by format and status.", ["format", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "ecenet_request_seconds", "Seconds from arrival to answer, status 200.", buckets=_SECONDS, registry=registry
        )
        self._stage_seconds = Histogram(
            "ecenet_stage_seconds", "Seconds of a stage of a request.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._batch_size = Histogram(
            "ecenet_batch_size", "Images of a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self._batch_seconds = Histogram(
            "ecenet_batch_seconds", "Seconds of the engine for a batch.", buckets=_SECONDS, registry=registry
        )
        self._batch_failures = Counter(
            "ecenet_batch_failures", "Batches that the engine failed on, retries included.", registry=registry
        )
        self._rejected = Counter(
            "ecenet_requests_rejected", "Requests refused for no fault of theirs.", ["reason"], registry=registry
        )
        self._cancelled = Counter(
            "ecenet_requests_cancelled",
            "Requests whose client left before the answer, by the stage that they were in.",
            ["stage"],
            registry=registry,
        )
        self._expired = Counter(
            "ecenet_requests_expired",
            "Requests whose time was over before the answer, by the stage that they were in.",
            ["stage"],
            registry=registry,
        )
        self._dropped = Counter(
            "ecenet_images_dropped",
            "Images that left the queue without being run, by reason.",
            ["reason"],
            registry=registry,
        )
        self._queue_depth = Gauge("ecenet_queue_depth", "Images that wait for the engine.", registry=registry)
        self._queue_wait_seconds = Histogram(
            "ecenet_queue_wait_seconds",
            "Seconds that an image waited for the engine.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge("ecenet_in_flight", "Requests inside the service.", registry=registry)
        self._in_flight_pixels = Gauge(
            "ecenet_in_flight_pixels", "Decoded pixels of the requests inside the service.", registry=registry
        )
        self._ready = Gauge("ecenet_ready", "1 if /readyz answers 200.", registry=registry)
        self._engine_up = Gauge(
            "ecenet_engine_up", "1 while the engine works, 0 from a stuck batch on.", registry=registry
        )
        self._model_loads = Counter(
            "ecenet_model_loads", "Models that were loaded and proven, by result.", ["result"], registry=registry
        )
        self._model = Gauge(
            "ecenet_model_info",
            "1; the labels tell the model, and what runs it.",
            ["name", "version", "engine", "precision", "input_size"],
            registry=registry,
        )
        self._build = Gauge("ecenet_build_info", "1; the label tells the release.", ["version"], registry=registry)
        self._initialise_labels()

    def expose(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)

    def watch(
        self,
        *,
        queue_depth: Callable[[], int],
        in_flight: Callable[[], int],
        in_flight_pixels: Callable[[], int],
        is_ready: Callable[[], bool],
        engine_is_up: Callable[[], bool],
    ) -> None:
        """Read these gauges at every scrape."""
        self._queue_depth.set_function(queue_depth)
        self._in_flight.set_function(in_flight)
        self._in_flight_pixels.set_function(in_flight_pixels)
        self._ready.set_function(is_ready)
        self._engine_up.set_function(engine_is_up)

    def describe(self, manifest: Manifest, engine: str, graph: GraphInfo, version: str) -> None:
        """Name the model, the engine and graph that run it, and the release."""
        size = format_size(graph.input_size)
        self._model.labels(manifest.name, manifest.version, engine, graph.precision, size).set(1)
        self._build.labels(version).set(1)

    def request_answered(self, answer_format: str, status: int) -> None:
        """A request was answered; ``answer_format`` is ``none`` where it named no valid one."""
        self._requests.labels(answer_format, str(status)).inc()

    def request_succeeded(self, stopwatch: Stopwatch) -> None:
        """A request went through all its stages."""
        self._request_seconds.observe(stopwatch.total_s())
        for stage, seconds in stopwatch.seconds.items():
            self._stage(stage).observe(seconds)

    def request_rejected(self, error: ServiceError) -> None:
        """See ``AdmissionObserver``."""
        self._rejected.labels(error.slug).inc()

    def client_left(self, stage: WorkStage) -> None:
        """See ``AdmissionObserver``."""
        self._cancelled.labels(stage).inc()

    def request_expired(self, stage: WorkStage) -> None:
        """See ``AdmissionObserver``."""
        self._expired.labels(stage).inc()

    def model_loaded(self, result: LoadResult) -> None:
        """A model was loaded, or could not be."""
        self._model_loads.labels(result).inc()

    def batch_finished(self, size: int, seconds: float) -> None:
        """See ``BatchObserver``."""
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def batch_failed(self) -> None:
        """See ``BatchObserver``."""
        self._batch_failures.inc()

    def image_started(self, queue_s: float) -> None:
        """See ``BatchObserver``."""
        self._queue_wait_seconds.observe(queue_s)

    def work_dropped(self, reason: DropReason) -> None:
        """See ``BatchObserver``."""
        self._dropped.labels(reason).inc()

    def _stage(self, stage: Stage) -> Histogram:
        return self._stage_seconds.labels(stage)

    def _initialise_labels(self) -> None:
        for answer_format, status in itertools.product((*AnswerFormat, TENSORS, NO_FORMAT), STATUSES):
            self._requests.labels(str(answer_format), str(status))
        for stage in STAGES:
            self._stage(stage)
        for work_stage in WORK_STAGES:
            self._cancelled.labels(work_stage)
            self._expired.labels(work_stage)
        for error in _REJECTIONS:
            self._rejected.labels(error.slug)
        for result in _LOAD_RESULTS:
            self._model_loads.labels(result)
        for reason in _DROP_REASONS:
            self._dropped.labels(reason)
