"""Metrics of one model, in the registry of ``service.metrics``."""

from __future__ import annotations

import itertools
from typing import Literal, Protocol, get_args

from prometheus_client import CollectorRegistry, Gauge

from service.answers.schemas import AnswerFormat
from service.inference.batch_observers import DropReason
from service.inference.image_queue import ImageQueue
from service.inference.stopwatch import STAGES
from service.model_directory.manifest import GraphInfo, Manifest
from service.model_directory.sizes import format_size
from service.shared_metrics.families import SharedCounter, SharedHistogram
from service.shared_metrics.metric_pages import MetricPages

LoadResult = Literal["success", "failure"]
NO_FORMAT = "none"
TENSORS = "tensors"
STATUSES = (200, 304, 400, 401, 403, 404, 406, 413, 415, 422, 429, 499, 500, 503, 504)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)
_LOAD_RESULTS: tuple[LoadResult, ...] = get_args(LoadResult)


class ServingModel(Protocol):
    """A version that serves; see ``service.models.model.Model``."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def graph(self) -> GraphInfo: ...
    @property
    def engine_name(self) -> str: ...
    @property
    def unfused_attentions(self) -> int: ...
    @property
    def queue(self) -> ImageQueue: ...


class ModelFamilies:
    """The metrics with a label ``model``."""

    def __init__(self, registry: CollectorRegistry, pages: MetricPages) -> None:
        """Gauges are in ``registry``, counters and histograms in ``pages``."""
        self.requests = SharedCounter(
            "ecenet_requests", "Answers to images by model, format and status.", ["model", "format", "status"], pages
        )
        self.request_seconds = SharedHistogram(
            "ecenet_request_seconds", "Seconds from arrival to answer, status 200.", ["model"], _SECONDS, pages
        )
        self.stage_seconds = SharedHistogram(
            "ecenet_stage_seconds", "Seconds of a stage of a request.", ["model", "stage"], _SECONDS, pages
        )
        self.batch_size = SharedHistogram(
            "ecenet_batch_size", "Images of a batch.", ["model"], (1, 2, 4, 8, 16, 32, 64), pages
        )
        self.batch_seconds = SharedHistogram(
            "ecenet_batch_seconds", "Seconds of the engine for a batch.", ["model"], _SECONDS, pages
        )
        self.batch_failures = SharedCounter(
            "ecenet_batch_failures", "Batches that the engine failed on, retries included.", ["model"], pages
        )
        self.dropped = SharedCounter(
            "ecenet_images_dropped",
            "Images that left the queue without being run, by reason.",
            ["model", "reason"],
            pages,
        )
        self.queue_wait_seconds = SharedHistogram(
            "ecenet_queue_wait_seconds", "Seconds that an image waited for the engine.", ["model"], _SECONDS, pages
        )
        self.model_loads = SharedCounter(
            "ecenet_model_loads", "Versions that were loaded and proven, by result.", ["model", "result"], pages
        )
        self.queue_depth = Gauge("ecenet_queue_depth", "Images that wait for the engine.", ["model"], registry=registry)
        self.engine_up = Gauge(
            "ecenet_engine_up", "1 while the engine works, 0 from a stuck batch on.", ["model"], registry=registry
        )
        self.unfused_attentions = Gauge(
            "ecenet_engine_unfused_attentions",
            "Attentions of a TensorRT engine that are not recognised as fused; such an engine may be slow.",
            ["model"],
            registry=registry,
        )
        self.info = Gauge(
            "ecenet_model_info",
            "1; the labels name a version that serves, and what runs it.",
            ["name", "version", "engine", "precision", "input_size"],
            registry=registry,
        )

    @property
    def shared(self) -> tuple[SharedCounter | SharedHistogram, ...]:
        """All counters and histograms."""
        return (
            self.requests,
            self.request_seconds,
            self.stage_seconds,
            self.batch_size,
            self.batch_seconds,
            self.batch_failures,
            self.dropped,
            self.queue_wait_seconds,
            self.model_loads,
        )


class ModelMetrics:
    """Metrics of one model across its versions; also the observer of its batcher.

    Counts stay when the model is unloaded. The series of a version that serves go: ``ecenet_model_info``,
    ``ecenet_engine_up``, ``ecenet_engine_unfused_attentions`` and ``ecenet_queue_depth``.
    """

    def __init__(self, families: ModelFamilies, name: str) -> None:
        self._families = families
        self._name = name
        self._info: tuple[str, ...] | None = None
        self._batch_size = families.batch_size.labels(name)
        self._batch_seconds = families.batch_seconds.labels(name)
        self._batch_failures = families.batch_failures.labels(name)
        self._queue_wait_seconds = families.queue_wait_seconds.labels(name)
        self._initialise_labels()

    def load_finished(self, result: LoadResult) -> None:
        """Count a load of a version."""
        self._families.model_loads.labels(self._name, result).inc()

    def serve(self, model: ServingModel) -> None:
        """Show the version that serves and its engine, and read its gauges at every scrape."""
        manifest, graph, queue = model.manifest, model.graph, model.queue
        size = format_size(graph.input_size)
        self._info = (manifest.name, manifest.version, model.engine_name, graph.precision, size)
        self._families.info.labels(*self._info).set(1)
        self._families.unfused_attentions.labels(self._name).set(model.unfused_attentions)
        self._families.queue_depth.labels(self._name).set_function(lambda: queue.depth)
        self._families.engine_up.labels(self._name).set_function(lambda: not queue.down)

    def leave(self) -> None:
        """Remove the series of the version that served."""
        if self._info is not None:
            self._families.info.remove(*self._info)
            for gauge in (self._families.queue_depth, self._families.engine_up, self._families.unfused_attentions):
                gauge.remove(self._name)
            self._info = None

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
        self._families.dropped.labels(self._name, reason).inc()

    def _initialise_labels(self) -> None:
        for answer_format, status in itertools.product((*AnswerFormat, TENSORS, NO_FORMAT), STATUSES):
            self._families.requests.labels(self._name, str(answer_format), str(status))
        self._families.request_seconds.labels(self._name)
        for stage in STAGES:
            self._families.stage_seconds.labels(self._name, stage)
        for result in _LOAD_RESULTS:
            self._families.model_loads.labels(self._name, result)
        for reason in _DROP_REASONS:
            self._families.dropped.labels(self._name, reason)
