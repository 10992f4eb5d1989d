from __future__ import annotations

import json
import re

import pytest

from tests.observability.quickened import at_addresses, quickened, told_at
from tests.observability.shipped import read

DURATION = re.compile(r'(?<=[":\[])\d+(?:ms|s|m|h|d)(?=["\]])')


def test_durations_and_ranges_become_shorter_alike() -> None:
    rule = {
        "alert": "X",
        "for": "5m",
        "expr": "avg_over_time(a:rate5m[6h]) > 5 and rate(b[15s]) < 2.5",
        "labels": {"n": 3},
    }
    assert quickened([rule], 30) == [
        {
            "alert": "X",
            "for": "10000ms",
            "expr": "avg_over_time(a:rate5m[720000ms]) > 5 and rate(b[500ms]) < 2.5",
            "labels": {"n": 3},
        }
    ]


@pytest.mark.parametrize("name", ["prometheus.yaml", "rules.yaml", "alertmanager.yaml"])
def test_nothing_else_of_what_is_shipped_changes(name: str) -> None:
    shipped, quick = json.dumps(read(name)), json.dumps(quickened(read(name), 30))
    assert DURATION.sub("", quick) == DURATION.sub("", shipped)
    assert shipped != quick


def test_only_addresses_differ() -> None:
    shipped = read("prometheus.yaml")
    changed = at_addresses(shipped, "127.0.0.1:1", "127.0.0.1:2")
    (job,) = changed["scrape_configs"]
    assert job == {"job_name": "ecenet", "static_configs": [{"targets": ["127.0.0.1:1"]}]}
    assert changed["alerting"] == {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:2"]}]}]}
    assert {key: changed[key] for key in ("global", "rule_files")} == {
        key: shipped[key] for key in ("global", "rule_files")
    }
    shipped = read("alertmanager.yaml")
    changed = told_at(shipped, "http://127.0.0.1:3/")
    assert json.dumps(changed) == json.dumps(shipped).replace("http://replace-me.invalid/alerts", "http://127.0.0.1:3/")
