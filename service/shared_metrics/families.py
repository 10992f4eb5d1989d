"""Counters and histograms whose values are the sums over the pages of all processes.

They have the part of the interface of prometheus_client's metrics that the service uses, and write Prometheus's text
format themselves. The start of each line is kept, so that a scrape takes a tenth of prometheus_client's time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Generic, TypeVar

from prometheus_client import utils

from service.shared_metrics.metric_pages import Labels, MetricPages, sane

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

Child = TypeVar("Child", "Count", "Observations")


class Count:
    """A counter with its labels."""

    __slots__ = ("_lock", "_values")

    def __init__(self, values: memoryview[float], lock: Lock) -> None:
        self._values = values
        self._lock = lock

    def inc(self) -> None:
        """Count one event."""
        with self._lock:
            self._values[0] += 1


class Observations:
    """A histogram with its labels."""

    __slots__ = ("_bounds", "_lock", "_values")

    def __init__(self, bounds: Sequence[float], values: memoryview[float], lock: Lock) -> None:
        self._bounds = bounds
        self._values = values
        self._lock = lock

    def observe(self, amount: float) -> None:
        """Count an amount, and add it to the sum."""
        bucket = bisect_left(self._bounds, amount)
        with self._lock:
            self._values[bucket] += 1
            self._values[-1] += amount


class _Family(Generic[Child]):
    """A metric: its children by the values of their labels."""

    def __init__(self, name: str, kind: str, documentation: str, labelnames: Sequence[str], pages: MetricPages) -> None:
        self._name = name
        self._labelnames = labelnames
        self._pages = pages
        self._head = f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"
        self._children: dict[Labels, Child] = {}
        self._starts: dict[Labels, list[str]] = {}

    def labels(self, *values: str) -> Child:
        """The child with these labels; it is shown from here on."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._make(values)
        return child

    def text(self) -> str:
        """All series in Prometheus's text format, summed over all processes."""
        lines = [self._head]
        for labels, views in self._pages.slots(self._name).items():
            totals = [sum(map(sane, column)) for column in zip(*views, strict=False)]
            starts = self._starts.get(labels) or self._starts.setdefault(labels, self._line_starts(labels))
            lines += [
                f"{start} {_number(total)}\n" for start, total in zip(starts, self._samples(totals), strict=False)
            ]
        return "".join(lines)

    def _make(self, labels: Labels) -> Child:
        raise NotImplementedError

    def _line_starts(self, labels: Labels) -> list[str]:
        raise NotImplementedError

    def _samples(self, totals: list[float]) -> Iterable[float]:
        raise NotImplementedError

    def _start(self, suffix: str, labels: Labels, le: str | None = None) -> str:
        pairs = dict(zip(self._labelnames, labels, strict=False)) | ({} if le is None else {"le": le})
        inside = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in sorted(pairs.items()))
        return f"{self._name}{suffix}{{{inside}}}"


class SharedCounter(_Family[Count]):
    """A counter over all processes."""

    def __init__(self, name: str, documentation: str, labelnames: Sequence[str], pages: MetricPages) -> None:
        """``name`` is without ``_total``."""
        super().__init__(f"{name}_total", "counter", documentation, labelnames, pages)

    def _make(self, labels: Labels) -> Count:
        return Count(self._pages.claim(self._name, labels, 1), self._pages.lock)

    def _line_starts(self, labels: Labels) -> list[str]:
        return [self._start("", labels)]

    def _samples(self, totals: list[float]) -> list[float]:
        return totals


class SharedHistogram(_Family[Observations]):
    """A histogram over all processes."""

    def __init__(
        self, name: str, documentation: str, labelnames: Sequence[str], buckets: Sequence[float], pages: MetricPages
    ) -> None:
        """``buckets`` are upper bounds without infinity."""
        super().__init__(name, "histogram", documentation, labelnames, pages)
        self._bounds = tuple(buckets)

    def _make(self, labels: Labels) -> Observations:
        values = self._pages.claim(self._name, labels, len(self._bounds) + 2)
        return Observations(self._bounds, values, self._pages.lock)

    def _line_starts(self, labels: Labels) -> list[str]:
        buckets = [self._start("_bucket", labels, _number(bound)) for bound in (*self._bounds, math.inf)]
        return [*buckets, self._start("_count", labels), self._start("_sum", labels)]

    def _samples(self, totals: list[float]) -> Iterator[float]:
        count = 0.0
        for bucket in totals[:-1]:
            count += bucket
            yield count
        yield count
        yield totals[-1]


def _number(value: float) -> str:
    """A number as Prometheus writes it."""
    return str(utils.floatToGoString(value))  # type: ignore[no-untyped-call]
