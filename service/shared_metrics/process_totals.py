"""Metrics of a supervisor and its children, as if they were one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_CPU = "process_cpu_seconds"
_START = "process_start_time_seconds"
# Reads of the processes until none of them has ended meanwhile.
_ATTEMPTS = 3


class ProcessTotals(Collector):
    """Sums over processes: CPU seconds, memory, file descriptors and their limit; the start is the supervisor's.

    The CPU seconds of children that have ended count on, so the counter never falls. Memory that the processes share
    counts in each of them.
    """

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        """``pids`` gives the supervisor and its children, the supervisor first."""
        self._pids = pids
        self._pid = 0
        self._one = ProcessCollector(pid=lambda: self._pid, registry=None)

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``."""
        for _ in range(_ATTEMPTS):
            pids = self._pids()
            ended_s = ended_children_cpu_s(pids[0])
            families = self._sums(pids)
            if ended_children_cpu_s(pids[0]) == ended_s:
                break
        for name, family in families.items():
            yield _plus(family, ended_s) if name == _CPU else family

    def _sums(self, pids: Sequence[int]) -> dict[str, Metric]:
        families = self._read(pids[0])
        for pid in pids[1:]:
            for name, family in self._read(pid).items():
                if name in families and name != _START:
                    families[name] = _plus(families[name], family.samples[0].value)
        return families

    def _read(self, pid: int) -> dict[str, Metric]:
        """The metrics of one process; none if it has ended."""
        self._pid = pid
        return {family.name: family for family in self._one.collect()}


def _plus(family: Metric, amount: float) -> Metric:
    """``family`` with ``amount`` added to its one sample."""
    (sample,) = family.samples
    family.samples = [sample._replace(value=sample.value + amount)]
    return family


def ended_children_cpu_s(pid: int) -> float:
    """CPU seconds of those children of a process that have ended and that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def with_children(pid: int) -> list[int]:
    """A process and its children, the process first."""
    lists = (path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid, *sorted(int(child) for children in lists for child in children.split())]
