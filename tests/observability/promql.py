"""Search of PromQL expressions for metrics, labels and values of labels that do not exist."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import promql_parser
from promql_parser import AggregateExpr, BinaryExpr, MatrixSelector, VectorSelector

# Labels that Prometheus puts on every series of a target, and those that ours may have, see prometheus.yaml.
TARGET_LABELS = frozenset({"job", "instance", "namespace", "wanted_engine"})
# Series that Prometheus makes itself.
SYNTHETIC = {"up": dict[str, set[str]](), "ALERTS": {"alertname": set[str](), "alertstate": set(), "severity": set()}}

Labels = Mapping[str, Set[str]]
# The labels of each metric, and their values.
Catalogue = Mapping[str, Labels]


def catalogue_of(exposition: str) -> dict[str, dict[str, set[str]]]:
    """Metrics, labels and values of labels in an exposition of Prometheus's text format."""
    catalogue: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in exposition.splitlines():
        if (match := re.match(r"([a-z_]+)(?:\{(.*)\})? ", line)) is not None:
            labels = catalogue[match[1]]
            for name, value in re.findall(r'(\w+)="([^"]*)"', match[2] or ""):
                labels[name].add(value)
    return catalogue


def add_recorded(catalogue: Catalogue, rules: Iterable[Mapping[str, Any]]) -> dict[str, Labels]:
    """The catalogue with what recording rules make of it, which has the labels that the rule groups by."""
    everything = dict(catalogue)
    for rule in rules:
        if "record" in rule:
            grouped = {label for label in _grouping(promql_parser.parse(rule["expr"])) if label != "le"}
            everything[rule["record"]] = {label: set() for label in grouped}
    return everything


def complaints(expression: str, catalogue: Catalogue) -> list[str]:
    """Name each part of an expression that the catalogue does not have.

    Raises:
        ValueError: It does not parse.
    """
    found, known = [], set(TARGET_LABELS)
    tree = promql_parser.parse(expression)
    for selector in (node for node in _nodes(tree) if isinstance(node, VectorSelector)):
        labels = {**SYNTHETIC, **catalogue}.get(selector.name or "")
        if labels is None:
            found.append(f"no metric {selector.name}")
            continue
        known |= labels.keys()
        found += _wrong_matchers(selector, labels)
    return found + [f"no label {label}" for label in sorted(set(_grouping(tree)) - known)]


def _wrong_matchers(selector: VectorSelector, labels: Labels) -> Iterator[str]:
    for matcher in selector.matchers.matchers:
        if matcher.name in TARGET_LABELS:
            continue
        if matcher.name not in labels:
            yield f"{selector.name} has no label {matcher.name}"
            continue
        values = labels[matcher.name]
        for part in matcher.value.split("|"):
            if values and not any(re.fullmatch(part, value) for value in values):
                yield f'{selector.name} has no {matcher.name}="{part}"'


def _grouping(tree: Any) -> Iterator[str]:
    """Labels by which is aggregated or matched."""
    for node in _nodes(tree):
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            yield from node.modifier.labels
        if isinstance(node, BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            yield from node.modifier.matching.labels


def _nodes(tree: Any) -> Iterator[Any]:
    """A tree of expressions, from the root down."""
    yield tree
    if isinstance(tree, MatrixSelector):
        yield tree.vector_selector
    children = [getattr(tree, name, None) for name in ("lhs", "rhs", "expr", "param")]
    for child in (*children, *getattr(tree, "args", ())):
        if child is not None:
            yield from _nodes(child)
