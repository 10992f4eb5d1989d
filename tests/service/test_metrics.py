from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.answers.schemas import AnswerFormat
from service.errors import (
    Draining,
    EngineDown,
    NotReady,
    Overloaded,
    PixelsOverloaded,
    RateLimited,
    ServiceError,
)
from service.inference.stopwatch import STAGES, WORK_STAGES, Stopwatch
from service.metrics import NO_MODEL, Metrics
from service.model_directory.manifest import Manifest
from service.model_metrics import NO_FORMAT, STATUSES, TENSORS, ServingModel


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
    for answer_format, status in itertools.product((TENSORS, NO_FORMAT), STATUSES):
        labels = {"model": NO_MODEL, "format": answer_format, "status": str(status)}
        assert value(metrics, "ecenet_requests_total", **labels) == 0
    for reason in ("overloaded", "overloaded-pixels", "rate-limited", "engine-down", "draining", "not-ready"):
        assert value(metrics, "ecenet_requests_rejected_total", reason=reason) == 0
    for stage in WORK_STAGES:
        assert value(metrics, "ecenet_requests_cancelled_total", stage=stage) == 0
        assert value(metrics, "ecenet_requests_expired_total", stage=stage) == 0
    assert not any(name.endswith("_created") for name, _ in samples(metrics))


def test_every_label_set_of_a_model_is_there_with_zero_before_its_first_event() -> None:
    metrics = Metrics()
    metrics.of_model("street")
    for answer_format, status in itertools.product((*AnswerFormat, TENSORS, NO_FORMAT), STATUSES):
        labels = {"model": "street", "format": str(answer_format), "status": str(status)}
        assert value(metrics, "ecenet_requests_total", **labels) == 0
    for stage in STAGES:
        assert value(metrics, "ecenet_stage_seconds_count", model="street", stage=stage) == 0
    for reason in ("cancelled", "expired", "drained", "engine-down"):
        assert value(metrics, "ecenet_images_dropped_total", model="street", reason=reason) == 0
    for result in ("success", "failure"):
        assert value(metrics, "ecenet_model_loads_total", model="street", result=result) == 0
    for name in ("batch_failures_total", "batch_size_count", "queue_wait_seconds_count", "request_seconds_count"):
        assert value(metrics, f"ecenet_{name}", model="street") == 0


def test_events_are_counted() -> None:
    metrics = Metrics()
    metrics.request_answered(NO_MODEL, "none", 404)
    errors: list[ServiceError] = [Overloaded("full"), PixelsOverloaded("full"), RateLimited("too fast")]
    for error in (*errors, EngineDown("stuck"), Draining("stopping"), NotReady("loading"), Overloaded("full")):
        metrics.request_rejected(error)
    metrics.client_left("decode")
    metrics.request_expired("queue")
    assert value(metrics, "ecenet_requests_total", model="none", format="none", status="404") == 1
    assert value(metrics, "ecenet_requests_rejected_total", reason="overloaded") == 2
    for reason in ("overloaded-pixels", "rate-limited", "engine-down", "draining", "not-ready"):
        assert value(metrics, "ecenet_requests_rejected_total", reason=reason) == 1
    assert value(metrics, "ecenet_requests_cancelled_total", stage="decode") == 1
    assert value(metrics, "ecenet_requests_expired_total", stage="queue") == 1


def test_events_of_a_model_are_counted_to_it_alone() -> None:
    metrics = Metrics()
    street, night = metrics.of_model("street"), metrics.of_model("night")
    assert metrics.of_model("street") is street
    metrics.request_answered("street", "color", 200)
    street.image_started(0.5)
    street.load_finished("failure")
    street.batch_finished(3, 0.2)
    night.batch_finished(1, 0.5)
    street.batch_failed()
    street.work_dropped("expired")
    assert value(metrics, "ecenet_requests_total", model="street", format="color", status="200") == 1
    assert value(metrics, "ecenet_queue_wait_seconds_sum", model="street") == 0.5
    assert value(metrics, "ecenet_model_loads_total", model="street", result="failure") == 1
    assert value(metrics, "ecenet_model_loads_total", model="night", result="failure") == 0
    assert value(metrics, "ecenet_batch_size_sum", model="street") == 3
    assert value(metrics, "ecenet_batch_size_sum", model="night") == 1
    assert value(metrics, "ecenet_batch_seconds_sum", model="street") == 0.2
    assert value(metrics, "ecenet_batch_failures_total", model="street") == 1
    assert value(metrics, "ecenet_images_dropped_total", model="street", reason="expired") == 1


def test_stages_of_a_request_are_observed() -> None:
    metrics, stopwatch = Metrics(), Stopwatch()
    stopwatch.record("infer", 0.0, 0.25)
    stopwatch.record("wait", 0.0, 0.5)
    stopwatch.record("wait", 0.5, 1.0)
    metrics.request_succeeded("street", stopwatch)
    assert value(metrics, "ecenet_stage_seconds_sum", model="street", stage="infer") == 0.25
    assert value(metrics, "ecenet_stage_seconds_sum", model="street", stage="wait") == 1.0
    assert value(metrics, "ecenet_request_seconds_count", model="street") == 1


def test_gauges_are_read_at_the_scrape() -> None:
    metrics = Metrics()
    metrics.watch(in_flight=lambda: 5, in_flight_pixels=lambda: 640, is_ready=lambda: True)
    assert value(metrics, "ecenet_in_flight") == 5
    assert value(metrics, "ecenet_in_flight_pixels") == 640
    assert value(metrics, "ecenet_ready") == 1


def serving(manifest: Manifest, queue: Any, unfused_attentions: int = 0) -> ServingModel:
    return SimpleNamespace(
        manifest=manifest,
        graph=manifest.graph,
        engine_name="fake",
        unfused_attentions=unfused_attentions,
        queue=queue,
    )


def test_a_version_that_serves_is_named_and_its_gauges_are_read_until_it_leaves(manifest: Manifest) -> None:
    metrics, queue = Metrics("0.9"), SimpleNamespace(depth=2, down="")
    model = metrics.of_model("brightness")
    model.serve(serving(manifest, queue, unfused_attentions=3))
    labels = {"name": "brightness", "version": "1.2.3", "engine": "fake", "precision": "fp32", "input_size": "32x64"}
    assert value(metrics, "ecenet_model_info", **labels) == 1
    assert value(metrics, "ecenet_build_info", version="0.9") == 1
    assert value(metrics, "ecenet_engine_up", model="brightness") == 1
    assert value(metrics, "ecenet_engine_unfused_attentions", model="brightness") == 3
    queue.depth, queue.down = 4, "stuck"
    assert value(metrics, "ecenet_queue_depth", model="brightness") == 4
    assert value(metrics, "ecenet_engine_up", model="brightness") == 0
    model.batch_finished(1, 0.5)
    model.leave()
    model.leave()
    names = {name for name, _ in samples(metrics)}
    gone = {"ecenet_model_info", "ecenet_engine_up", "ecenet_engine_unfused_attentions", "ecenet_queue_depth"}
    assert not gone & names
    assert value(metrics, "ecenet_batch_size_count", model="brightness") == 1


def test_two_apps_do_not_share_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.of_model("street").batch_failed()
    second.of_model("street")
    assert value(second, "ecenet_batch_failures_total", model="street") == 0


# https://prometheus.io/docs/practices/naming: base units only, and the unit at the end of the name.
UNITS = {"seconds", "bytes", "pixels", "info"}
OTHER_UNITS = {"ms", "milliseconds", "us", "microseconds", "minutes", "hours", "kb", "mb", "kilobytes", "percent"}


def families(metrics: Metrics) -> list[Any]:
    return list(text_string_to_metric_families(metrics.expose().decode()))


def test_names_and_units_follow_the_conventions() -> None:
    metrics = Metrics()
    metrics.of_model("street")
    for family in families(metrics):
        words = family.name.split("_")
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), family.name
        assert words[0] in ("ecenet", "process")
        assert family.documentation, family.name
        assert not OTHER_UNITS & set(words), family.name
        assert not UNITS & set(words[1:-1]), f"{family.name}: the unit belongs at the end"
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert (family.name.endswith("_info")) == (family.name in ("ecenet_model_info", "ecenet_build_info"))
        # A counter's samples alone end in _total: the parser takes that off the family's name.
        assert all(sample.name.endswith("_total") for sample in family.samples if family.type == "counter")
        assert words[-1] != "total", family.name
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in sample.labels), sample
            assert not {"le", "quantile"} & set(sample.labels) or family.type == "histogram"


def test_promtool_finds_nothing_to_say(manifest: Manifest) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    metrics = Metrics("0.9")
    metrics.of_model("brightness").serve(serving(manifest, SimpleNamespace(depth=0, down="")))
    told = subprocess.run([promtool, "check", "metrics"], input=metrics.expose(), capture_output=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")


def test_lines_of_the_log_that_nobody_reads_are_counted() -> None:
    metrics = Metrics()
    assert b"ecenet_log_lines_dropped_total{} 0" in metrics.expose()
    metrics.log_line_dropped()
    assert b"ecenet_log_lines_dropped_total{} 1" in metrics.expose()
