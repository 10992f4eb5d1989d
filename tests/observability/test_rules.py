"""The rules: they name what exists, are tested one by one, and keep their promises in Prometheus's own unit tests."""

from __future__ import annotations

import re
from typing import Any

import pytest

from service.engines.runtimes import CPU_RUNTIMES
from service.metrics import Metrics
from tests.observability.promql import Catalogue, complaints
from tests.observability.shipped import alerts, read, rules
from tests.observability.tools import approved

ALERTS = alerts()


def test_promtool_accepts_configuration_and_rules() -> None:
    assert f"{len(rules())} rules found" in approved("promtool", "check", "config", "prometheus.yaml")


def test_amtool_accepts_the_configuration() -> None:
    assert "SUCCESS" in approved("amtool", "check-config", "alertmanager.yaml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in approved("promtool", "test", "rules", "rules_test.yaml")


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_firing_and_not_firing(alert: str) -> None:
    cases: list[dict[str, Any]] = [
        case for story in read("rules_test.yaml")["tests"] for case in story.get("alert_rule_test", ())
    ]
    fires = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert}
    assert fires == {True, False}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_expressions_name_what_exists(rule: dict[str, Any], catalogue: Catalogue) -> None:
    assert complaints(rule["expr"], catalogue) == []


def test_names_of_recorded_metrics_tell_level_metric_and_operation(catalogue: Catalogue) -> None:
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert recorded
    for name in recorded:
        level, metric, operation = name.split(":")
        assert set(level.split("_")) == set(catalogue[name])
        assert metric.startswith("ecenet_")
        assert re.fullmatch(r"(ratio_|p\d\d_)?rate5m", operation)


@pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)
def test_each_alert_tells_what_how_bad_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["for"]
    assert alert["labels"]["severity"] in ("critical", "warning")
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert "$value" in notes["description"]
    assert notes["runbook_url"].endswith(f"docker/observability/RUNBOOK.md#{alert['alert'].lower()}")


def test_engines_of_the_cpu_are_those_of_the_service() -> None:
    named = re.findall(r'engine(?:=|!)~"([^"]+)"', ALERTS["EcenetEngineFallback"]["expr"])
    assert [set(names.split("|")) for names in named] == [CPU_RUNTIMES] * 2


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("rate(ecenet_request_total[5m])", "no metric ecenet_request_total"),
        ("sum by (modell) (ecenet_queue_depth)", "no label modell"),
        ('sum(ecenet_requests_total{state="500"})', "ecenet_requests_total has no label state"),
        (
            'ecenet_requests_rejected_total{reason=~"overload"}',
            'ecenet_requests_rejected_total has no reason="overload"',
        ),
        ("up / on (instanz) ecenet_ready", "no label instanz"),
    ],
)
def test_wrong_names_are_found(expression: str, complaint: str, catalogue: Catalogue) -> None:
    assert complaints(expression, catalogue) == [complaint]


def test_no_engine_is_up_or_down_before_a_model_serves() -> None:
    assert not re.search(r"^ecenet_engine_up", Metrics().expose().decode(), re.MULTILINE)
