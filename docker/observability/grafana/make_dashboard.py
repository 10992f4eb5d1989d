"""Writes the Grafana dashboard of ``panels.yaml``: ``python docker/observability/grafana/make_dashboard.py``.

A test fails when the file is out of date.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "panels.yaml"
TARGET = FOLDER / "dashboards" / "ecenet.json"

# Grafana 12's; older ones from 10 on read it too.
SCHEMA_VERSION = 41
GRID_WIDTH = 24
_SIZES = {"stat": (4, 4), "timeseries": (8, 8), "heatmap": (12, 8), "table": (12, 6)}
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_REPLICA = 'job=~"$job", instance=~"$instance"'
_LABELS = {"<replica>": _REPLICA, "<model>": f'{_REPLICA}, model=~"$model"'}

_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": "s"},
        "tooltip": {"mode": "single", "yHistogram": True},
    },
    "table": {"showHeader": True},
}
_TABLE_COLUMNS = {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"Value": "replicas"}}}


def dashboard(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Grafana's model of the whole."""
    return {
        "uid": "ecenet",
        "title": "ECENet",
        "description": "The segmentation service: traffic, errors, latency, queue, engine, replicas.",
        "tags": ["ecenet"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair in all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_alerts()]},
        "templating": {"list": list(_variables())},
        "panels": list(_placed(rows)),
    }


def _placed(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every row and panel with its id and its place: from left to right, then below."""
    ids, y = itertools.count(1), 0
    for row in rows:
        header = {"type": "row", "title": row["row"], "collapsed": False, "panels": []}
        yield {"id": next(ids), **header, "gridPos": {"x": 0, "y": y, "w": GRID_WIDTH, "h": 1}}
        x, y, height = 0, y + 1, 0
        for panel in row["panels"]:
            kind = panel.get("kind", "timeseries")
            width = panel.get("width", _SIZES[kind][0])
            if x + width > GRID_WIDTH:
                x, y, height = 0, y + height, 0
            place = {"x": x, "y": y, "w": width, "h": _SIZES[kind][1]}
            yield {"id": next(ids), **_panel(kind, panel), "gridPos": place}
            x, height = x + width, max(height, place["h"])
        y += height


def _panel(kind: str, panel: dict[str, Any]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if "limit" in panel:
        steps.append({"color": "red", "value": panel["limit"]})
    defaults = {"unit": panel.get("unit", "short"), "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if kind == "timeseries":
        defaults["custom"] = _lines(stacked=panel.get("stacked", False), limited="limit" in panel)
    return {
        "type": kind,
        "title": panel["title"],
        "description": panel["description"],
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[kind],
        "targets": [_target(kind, ref_id, **query) for ref_id, query in zip("ABC", panel["queries"], strict=False)],
        "transformations": [_TABLE_COLUMNS] if kind == "table" else [],
    }


def _lines(*, stacked: bool, limited: bool) -> dict[str, Any]:
    return {
        "fillOpacity": 30 if stacked else 0,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if limited else "off"},
    }


def _target(kind: str, ref_id: str, expr: str, legend: str = "__auto") -> dict[str, Any]:
    for name, labels in _LABELS.items():
        expr = expr.replace(name, labels)
    target = {"refId": ref_id, "datasource": _DATASOURCE, "expr": expr, "legendFormat": legend}
    if kind == "table":
        return {**target, "format": "table", "instant": True, "range": False}
    return {**target, "format": "heatmap" if kind == "heatmap" else "time_series", "range": True}


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    yield _choice("job", "label_values(ecenet_ready, job)")
    yield _choice("instance", 'label_values(ecenet_ready{job=~"$job"}, instance)')
    yield _choice("model", f"label_values(ecenet_request_seconds_count{{{_REPLICA}}}, model)")


def _choice(name: str, query: str) -> dict[str, Any]:
    """A choice among a label's values, at first all."""
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # with the time range: replicas come and go
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _alerts() -> dict[str, Any]:
    """Vertical lines where an alert fired."""
    return {
        "name": "Alerts",
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'max by (alertname, severity) (ALERTS{alertname=~"Ecenet.*", alertstate="firing"})',
        "titleFormat": "{{alertname}}",
        "tagKeys": "severity",
        "step": "1m",
    }


def render() -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(yaml.safe_load(SOURCE.read_text(encoding="utf-8"))), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
