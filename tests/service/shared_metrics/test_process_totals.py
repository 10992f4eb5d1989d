"""Sums over a supervisor and its children."""

from __future__ import annotations

import os
import resource
import signal
import time

from service.shared_metrics.process_totals import ProcessTotals, with_children
from tests.support.forked import fork, fresh, wait_all


def totals(pids: list[int]) -> dict[str, float]:
    return {sample.name: sample.value for family in ProcessTotals(lambda: pids).collect() for sample in family.samples}


def work(seconds: float) -> None:
    while time.process_time() < seconds:
        pass


def cpu_seconds_of_a_child() -> dict[str, float]:
    """The total while a child that has worked is there, and after its end."""
    reading, writing = os.pipe()

    def job() -> None:
        work(0.2)
        os.write(writing, b".")
        signal.pause()

    pid = fork(job)
    os.read(reading, 1)
    alive = totals([os.getpid(), pid])["process_cpu_seconds_total"]
    os.kill(pid, signal.SIGKILL)
    wait_all(pid)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = totals([os.getpid(), pid])["process_cpu_seconds_total"]
    return {"alive": alive, "ended": ended, "used": used.ru_utime + used.ru_stime}


def sums_of_two() -> dict[str, list[float]]:
    """Supervisor, child and their sums, by name."""
    pid = fork(signal.pause)
    one, child, both = (totals(pids) for pids in ([os.getpid()], [pid], with_children(os.getpid())))
    return {name: [one[name], child[name], both[name]] for name in both}


def test_cpu_seconds_of_a_child_count_on_after_its_end() -> None:
    seconds = fresh(cpu_seconds_of_a_child)
    assert seconds["used"] >= 0.18
    assert seconds["used"] <= seconds["alive"] <= seconds["ended"]


def test_memory_and_handles_are_added_and_the_start_is_the_supervisors() -> None:
    sums = fresh(sums_of_two)
    for name in ("process_open_fds", "process_max_fds", "process_virtual_memory_bytes"):
        supervisor, child, both = sums[name]
        assert supervisor + child == both
        assert min(supervisor, child) > 0
    memory = sums["process_resident_memory_bytes"]
    assert max(memory[:2]) < memory[2] < 1.2 * sum(memory[:2])
    start = sums["process_start_time_seconds"]
    assert start[2] == start[0]
    assert abs(start[0] - time.time()) < 120
