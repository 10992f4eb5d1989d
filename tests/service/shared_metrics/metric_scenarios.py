"""Processes that count in shared pages; each function runs in an interpreter of its own."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from functools import partial

from service.shared_metrics.families import SharedCounter, SharedHistogram
from service.shared_metrics.metric_pages import MetricPages
from tests.support.forked import fork, wait_all

BOUNDS = (0.1, 1.0)


def counter(pages: MetricPages) -> SharedCounter:
    return SharedCounter("events", "Events.", ["kind"], pages)


def histogram(pages: MetricPages) -> SharedHistogram:
    return SharedHistogram("times", "Times.", ["kind"], BOUNDS, pages)


def count(pages: MetricPages, index: int, kind: str, times: int = 1) -> None:
    pages.open(index)
    child = counter(pages).labels(kind)
    for _ in range(times):
        child.inc()


def die_after(job: Callable[[], None]) -> None:
    job()
    os.kill(os.getpid(), signal.SIGKILL)


def counts_of_three() -> str:
    pages = MetricPages.create(4)
    wait_all(*[fork(partial(count, pages, index, f"k{index % 2}", index + 1)) for index in range(3)])
    pages.open(3)
    return counter(pages).text()


def killed_and_replaced() -> list[str]:
    pages = MetricPages.create(2)
    pages.open(1)
    events, texts = counter(pages), []
    for _ in range(2):
        status = wait_all(fork(lambda: die_after(lambda: count(pages, 0, "a", 3))))
        assert status == [-signal.SIGKILL]
        texts.append(events.text())
    return texts


def histograms_of_two() -> str:
    pages = MetricPages.create(2)

    def observe() -> None:
        pages.open(0)
        times = histogram(pages)
        for amount in (0.1, 0.5, 7.0):
            times.labels("a").observe(amount)

    pages.open(1)
    times = histogram(pages)
    times.labels("a").observe(0.25)
    wait_all(fork(observe))
    return times.text()


def count_in_threads(pages: MetricPages, index: int, times: int) -> None:
    pages.open(index)
    child = counter(pages).labels("a")

    def run() -> None:
        for _ in range(times):
            child.inc()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def totals_under_load(processes: int, times: int) -> list[float]:
    """Totals that were read while all counted, and the last one."""
    pages = MetricPages.create(processes + 1)
    pages.open(processes)
    events = counter(pages)
    events.labels("a")
    running = {fork(partial(count_in_threads, pages, index, times)) for index in range(processes)}
    totals = []
    while running:
        totals.append(float(events.text().split()[-1]))
        pid, status = os.waitpid(-1, os.WNOHANG)
        assert status == 0
        running.discard(pid)
    return [*totals, float(events.text().split()[-1])]


def label_sets_of_a_process_killed_anywhere(seed: int) -> list[list[int]]:
    """Pairs of label sets that a process said to have counted, and that are counted, for ten processes in turn."""
    pages, dice, pairs = MetricPages.create(2), random.Random(seed), []
    pages.open(1)
    events, told = counter(pages), 0
    for turn in range(10):
        reading, writing = os.pipe()
        pid = fork(partial(_count_new_kinds, pages, turn, writing))
        os.close(writing)
        told += len(os.read(reading, dice.randrange(1, 200)))
        os.kill(pid, signal.SIGKILL)
        wait_all(pid)
        told += len(_rest(reading))
        pairs.append([told, sum(int(float(line.split()[-1])) for line in events.text().splitlines()[2:])])
    return pairs


def _count_new_kinds(pages: MetricPages, turn: int, writing: int) -> None:
    pages.open(0)
    events = counter(pages)
    for number in range(1000):
        events.labels(f"{turn}-{number}").inc()
        os.write(writing, b".")
    signal.pause()


def _rest(reading: int) -> bytes:
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read()
