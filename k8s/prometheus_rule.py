"""Writes the PrometheusRule of Kubernetes from the rules that Prometheus reads: ``python k8s/prometheus_rule.py``.

The rules are kept in ``docker/observability/rules.yaml`` alone; a test fails when the written file differs from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docker" / "observability" / "rules.yaml"
TARGET = ROOT / "k8s" / "components" / "prometheus-operator" / "prometheus-rule.yaml"
_HEADER = "# Made from docker/observability/rules.yaml by `python k8s/prometheus_rule.py`; change it there.\n"


class _Dumper(yaml.SafeDumper):
    """Expressions of several lines stay blocks of several lines."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def prometheus_rule(rules: dict[str, Any]) -> dict[str, Any]:
    """The object of the Prometheus Operator with the groups of a rules file."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "ecenet",
            # What the Prometheus of kube-prometheus-stack selects by; yours may differ.
            "labels": {"app.kubernetes.io/name": "ecenet", "release": "kube-prometheus-stack"},
        },
        "spec": {"groups": rules["groups"]},
    }


def render(source: Path = SOURCE) -> str:
    """The manifest of a rules file, as text."""
    rule = prometheus_rule(yaml.safe_load(source.read_text(encoding="utf-8")))
    text: str = yaml.dump(rule, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return _HEADER + text


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
