"""The shipped configurations with all durations shortened alike: minutes become seconds, and nothing else changes."""

from __future__ import annotations

import copy
import re
from typing import Any

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)")
# A range in an expression: rate(...[5m]).
_RANGE = re.compile(r"\[(\d+(?:ms|s|m|h|d))\]")


def quickened(document: Any, factor: int) -> Any:
    """A document in which every value that is a duration, and every range of an expression, is a ``factor``-th."""
    if isinstance(document, dict):
        return {key: quickened(value, factor) for key, value in document.items()}
    if isinstance(document, list):
        return [quickened(value, factor) for value in document]
    if not isinstance(document, str):
        return document
    if _DURATION.fullmatch(document):
        return _shortened(document, factor)
    return _RANGE.sub(lambda match: f"[{_shortened(match[1], factor)}]", document)


def at_addresses(prometheus: dict[str, Any], service: str, alertmanager: str) -> dict[str, Any]:
    """Prometheus's configuration with the service and Alertmanager at other addresses, and no other jobs."""
    changed = copy.deepcopy(prometheus)
    (job,) = [job for job in changed["scrape_configs"] if job["job_name"] == "ecenet"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [service]}]
    changed["scrape_configs"] = [job]
    changed["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}]
    return changed


def told_at(alertmanager: dict[str, Any], url: str) -> dict[str, Any]:
    """Alertmanager's configuration with another webhook."""
    changed = copy.deepcopy(alertmanager)
    changed["receivers"][0]["webhook_configs"][0]["url"] = url
    return changed


def _shortened(duration: str, factor: int) -> str:
    match = _DURATION.fullmatch(duration)
    assert match is not None
    return f"{round(int(match[1]) * _MILLISECONDS[match[2]] / factor)}ms"
