"""The dashboard: made of its description, whole, without overlaps, and every expression names what exists."""

from __future__ import annotations

import itertools
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.promql import Catalogue, complaints
from tests.observability.shipped import FOLDER, read
from tests.observability.tools import approved

GRAFANA = FOLDER / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "ecenet.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
SCRAPE_INTERVAL_S = 15


def substituted(expression: str) -> str:
    """An expression as Grafana sends it when all is chosen."""
    expression = expression.replace("$__rate_interval", f"{4 * SCRAPE_INTERVAL_S}s")
    return re.sub(r"\$(\w+)", lambda match: VARIABLES[match[1]]["allValue"], expression)


def expressions() -> list[str]:
    """Those of panels, variables and annotations."""
    panels = [target["expr"] for panel in PANELS for target in panel["targets"]]
    queries = [variable["definition"] for variable in VARIABLES.values() if variable["type"] == "query"]
    chosen = [re.fullmatch(r"label_values\((.*), (\w+)\)", query) for query in queries]
    variables = [f"count by ({match[2]}) ({match[1]})" for match in chosen if match is not None]
    assert len(variables) == len(queries)
    annotations = [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    return [substituted(expression) for expression in (*panels, *variables, *annotations)]


def test_dashboard_was_made_of_its_description() -> None:
    render = runpy.run_path(str(GRAFANA / "make_dashboard.py"))["render"]
    assert render() == (GRAFANA / "dashboards" / "ecenet.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_what_exists(expression: str, catalogue: Catalogue) -> None:
    assert complaints(expression, catalogue) == []


def test_a_wrong_metric_name_is_found(catalogue: Catalogue) -> None:
    planted = [expression.replace("ecenet_queue_depth", "ecenet_queue_length") for expression in expressions()]
    found = [complaint for expression in planted for complaint in complaints(expression, catalogue)]
    assert found.count("no metric ecenet_queue_length") == 1


def test_prometheus_parses_the_expressions(tmp_path: Path) -> None:
    rules = [{"record": f"expression:{number}", "expr": text} for number, text in enumerate(expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    told = approved("promtool", "check", "rules", "--lint=none", "rules.yaml", folder=tmp_path)
    assert f"{len(rules)} rules found" in told


def test_every_metric_of_the_service_is_shown_or_recorded(exposition: str) -> None:
    shown = " ".join(expressions()) + json.dumps(read("rules.yaml"))
    families = set(re.findall(r"^# TYPE (ecenet_\w+) ", exposition, re.MULTILINE))
    assert families
    assert [family for family in families if not re.search(rf"\b{family}(_bucket|_sum|_count)?\b", shown)] == []


def test_panels_and_rows_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


def test_panels_fill_the_grid_without_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        assert columns.start >= 0
        assert columns.stop <= 24
        own = set(itertools.product(columns, lines))
        assert not own & cells, panel["title"]
        cells |= own


def test_each_panel_tells_unit_and_what_to_see() -> None:
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert len(panel["description"].split()) > 4, panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_job_instance_and_model_can_be_chosen() -> None:
    assert list(VARIABLES) == ["datasource", "job", "instance", "model"]
    assert VARIABLES["datasource"]["type"] == "datasource"
    for name in ("job", "instance", "model"):
        assert VARIABLES[name]["includeAll"]
        assert any(f'{name}=~"${name}"' in target["expr"] for panel in PANELS for target in panel["targets"])


def test_limits_are_those_of_the_alerts() -> None:
    text = json.dumps(read("rules.yaml"))
    for panel in PANELS:
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
            if step["value"] is not None:
                assert re.search(rf"(>|>=) {step['value']:g}\b", text), panel["title"]


def test_provisioning_leads_to_prometheus_and_to_the_dashboard() -> None:
    (source,) = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == f"{SCRAPE_INTERVAL_S}s"
    assert read("prometheus.yaml")["global"]["scrape_interval"] == f"{SCRAPE_INTERVAL_S}s"
    (provider,) = read("grafana/provisioning/dashboards/ecenet.yaml")["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
