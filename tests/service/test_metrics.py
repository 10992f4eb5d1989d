from __future__ import annotations

import itertools

from prometheus_client.parser import text_string_to_metric_families

from model_export.manifest import Manifest
from service.errors import Draining, NotReady, Overloaded
from service.metrics import NO_FORMAT, STATUSES, Metrics
from service.schemas import AnswerFormat
from service.stopwatch import STAGES, Stopwatch


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Value of each series by name and labels."""
    families = text_string_to_metric_families(metrics.expose().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, /, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_every_label_set_is_there_with_zero_before_the_first_event() -> None:
    metrics = Metrics()
    for answer_format, status in itertools.product((*AnswerFormat, NO_FORMAT), STATUSES):
        assert value(metrics, "ecenet_requests_total", format=str(answer_format), status=str(status)) == 0
    for stage in STAGES:
        assert value(metrics, "ecenet_stage_seconds_count", stage=stage) == 0
    for reason in ("overloaded", "draining", "not-ready"):
        assert value(metrics, "ecenet_rejected_total", reason=reason) == 0
    for reason in ("cancelled", "expired", "drained"):
        assert value(metrics, "ecenet_dropped_total", reason=reason) == 0
    for name in ("ecenet_cancelled_total", "ecenet_batch_failures_total", "ecenet_batch_size_count"):
        assert value(metrics, name) == 0
    assert not any(name.endswith("_created") for name, _ in samples(metrics))


def test_events_are_counted() -> None:
    metrics = Metrics()
    metrics.request_answered("color", 200)
    for error in (Overloaded("full"), Draining("stopping"), NotReady("loading"), Overloaded("full")):
        metrics.request_rejected(error)
    metrics.client_left()
    metrics.batch_finished(3, 0.2)
    metrics.batch_failed()
    metrics.work_dropped("expired")
    assert value(metrics, "ecenet_requests_total", format="color", status="200") == 1
    assert value(metrics, "ecenet_rejected_total", reason="overloaded") == 2
    assert value(metrics, "ecenet_rejected_total", reason="draining") == 1
    assert value(metrics, "ecenet_cancelled_total") == 1
    assert value(metrics, "ecenet_batch_size_sum") == 3
    assert value(metrics, "ecenet_batch_seconds_sum") == 0.2
    assert value(metrics, "ecenet_batch_failures_total") == 1
    assert value(metrics, "ecenet_dropped_total", reason="expired") == 1


def test_stages_of_a_request_are_observed() -> None:
    metrics, stopwatch = Metrics(), Stopwatch()
    stopwatch.add("infer", 0.25)
    stopwatch.add("wait", 0.5)
    stopwatch.add("wait", 0.5)
    metrics.request_succeeded(stopwatch)
    assert value(metrics, "ecenet_stage_seconds_sum", stage="infer") == 0.25
    assert value(metrics, "ecenet_stage_seconds_sum", stage="wait") == 1.0
    assert value(metrics, "ecenet_request_seconds_count") == 1


def test_gauges_are_read_at_the_scrape() -> None:
    metrics, depth = Metrics(), [2]
    metrics.watch(queue_depth=lambda: depth[0], in_flight=lambda: 5)
    metrics.watch_readiness(lambda: True)
    depth[0] = 4
    assert value(metrics, "ecenet_queue_depth") == 4
    assert value(metrics, "ecenet_in_flight") == 5
    assert value(metrics, "ecenet_ready") == 1


def test_model_and_release_are_named(manifest: Manifest) -> None:
    metrics = Metrics()
    metrics.describe(manifest, "fake", manifest.graph, "0.9")
    labels = {"name": "brightness", "version": "1.2.3", "engine": "fake", "precision": "fp32", "input_size": "32x64"}
    assert value(metrics, "ecenet_model_info", **labels) == 1
    assert value(metrics, "ecenet_build_info", version="0.9") == 1


def test_two_apps_do_not_share_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.client_left()
    assert value(second, "ecenet_cancelled_total") == 0
