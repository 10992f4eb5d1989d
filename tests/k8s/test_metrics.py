"""Metrics that autoscalers ask Prometheus for exist; alerts and dashboards come with them.

That rules and dashboards name what exists is tested where they are kept, ``tests/observability``.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import K8S, ROOT, Build, Object, of_kind, render
from tests.observability.promql import Catalogue, catalogue_of, complaints
from tests.support.live_service import LiveService

ADAPTER = yaml.safe_load((K8S / "components/hpa/prometheus-adapter-values.yaml").read_text(encoding="utf-8"))
PLAIN = Build("overlays/cpu")
SLEEPING = Build("overlays/cpu", ("prometheus-operator", "keda", "scale-to-zero-ingress-nginx", "api-keys"))
BEHIND_GATEWAY = Build(
    "overlays/cpu", ("prometheus-operator", "gateway-route", "keda", "scale-to-zero-gateway", "no-surge")
)
AWAKE = Build("overlays/gpu", ("api-keys", "prometheus-operator", "engine-cache-shared", "no-surge", "priority"))
DASHBOARDS = ROOT / "docker" / "observability" / "grafana" / "dashboards"
# Of ingress-nginx and of Envoy Gateway's proxies; what else is there a replica tells itself.
PROXIES: Catalogue = {
    "nginx_ingress_controller_requests": {"exported_namespace": set(), "ingress": set()},
    "envoy_http_downstream_rq_total": {"envoy_http_conn_manager_prefix": set()},
}


@pytest.fixture
def catalogue(live_service: LiveService) -> Catalogue:
    return {**catalogue_of(live_service.metrics), **PROXIES}


def the(kind: str, build: Build) -> Object:
    """The one object of a kind in a build."""
    (item,) = of_kind(render(build), kind)
    return item


def alerts(build: Build) -> set[str]:
    groups = the("PrometheusRule", build)["spec"]["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}


def queries(build: Build = SLEEPING) -> list[str]:
    return [trigger["metadata"]["query"] for trigger in the("ScaledObject", build)["spec"]["triggers"]]


def adapter_query(rule: dict[str, Any], series: str) -> str:
    """The expression that the adapter makes for pods of one namespace."""
    query: str = rule["metricsQuery"].replace("<<.GroupBy>>", "instance").replace("<<.Series>>", series)
    return query.replace("<<.LabelMatchers>>", 'namespace="ecenet"')


@pytest.mark.parametrize("build", [SLEEPING, BEHIND_GATEWAY], ids=str)
def test_keda_asks_for_what_is_there(catalogue: Catalogue, build: Build) -> None:
    namespace = the("ScaledObject", build)["metadata"]["namespace"]
    assert len(queries(build)) == 2
    for query in queries(build):
        assert complaints(query, catalogue) == []
        assert f'namespace="{namespace}"' in query or "envoy_" in query


def test_requests_to_the_whole_gateway_wake_one_replica_and_no_more() -> None:
    trigger = the("ScaledObject", BEHIND_GATEWAY)["spec"]["triggers"][1]["metadata"]
    assert float(trigger["activationThreshold"]) == 0
    # Replicas wanted are requests a second over the threshold, rounded up.
    assert float(trigger["threshold"]) >= 100_000


def test_a_metric_that_nobody_has_is_found(catalogue: Catalogue) -> None:
    planted = [query.replace("ecenet_in_flight", "ecenet_inflight") for query in queries()]
    assert [found for query in planted for found in complaints(query, catalogue)] == ["no metric ecenet_inflight"]


def test_the_adapter_makes_the_autoscalers_metric_of_one_that_is_there(catalogue: Catalogue) -> None:
    (rule,) = ADAPTER["rules"]["custom"]
    series = rule["seriesQuery"].partition("{")[0]
    assert re.fullmatch(rule["name"]["matches"], series)
    assert complaints(adapter_query(rule, series), catalogue) == []
    (metric,) = the("HorizontalPodAutoscaler", PLAIN)["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["resources"]["overrides"] == {name: {"resource": name} for name in ("namespace", "pod")}


def test_both_autoscalers_want_the_same() -> None:
    hpa, keda = the("HorizontalPodAutoscaler", PLAIN)["spec"], the("ScaledObject", SLEEPING)["spec"]
    target = hpa["metrics"][0]["pods"]["target"]["averageValue"]
    assert keda["triggers"][0]["metadata"]["threshold"] == target
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]


def test_a_service_that_may_sleep_raises_no_alert_for_being_absent() -> None:
    assert alerts(AWAKE) - alerts(SLEEPING) == {"EcenetAbsent"}


def test_every_dashboard_is_in_the_config_map() -> None:
    maps = {item["metadata"]["name"]: item for item in of_kind(render(AWAKE), "ConfigMap")}
    dashboards = maps["ecenet-dashboards"]
    assert dashboards["data"] == {path.name: path.read_text(encoding="utf-8") for path in DASHBOARDS.glob("*.json")}
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_targets_have_the_labels_that_rules_ask_for() -> None:
    monitor = the("ServiceMonitor", AWAKE)["spec"]
    pod = the("Deployment", AWAKE)["spec"]["template"]["metadata"]["labels"]
    assert set(monitor["podTargetLabels"]) <= set(pod)
    assert the("Service", AWAKE)["metadata"]["labels"][monitor["jobLabel"]] == "ecenet"


def test_prometheus_may_come_in() -> None:
    (policy,) = [item for item in of_kind(render(PLAIN), "NetworkPolicy") if item["metadata"]["name"] == "ecenet"]
    (rule,) = policy["spec"]["ingress"]
    (expression,) = rule["from"][0]["namespaceSelector"]["matchExpressions"]
    assert ADAPTER["prometheus"]["url"].removesuffix(".svc").rpartition(".")[2] in expression["values"]
