"""The benchmark of the path to the engine: right figures of known loads, and of real processes."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import processes
from benchmarks.feed.__main__ import arrangements, medians
from benchmarks.feed.measure import Load, Memory, SleepingService, exam_of, started
from benchmarks.feed.report import Figures, report
from benchmarks.feed.sleeping import Sleep, SleepingEngine, SleepingModel, sleeping_manifest

LOAD = Load(100.0, 2.0, 10.0, 3.0, 1.0, 0.5, 8.0, 0.0)
FIGURES = Figures(LOAD, LOAD, LOAD, LOAD, Memory(200.0, 300.0))


def cells(table: str, title: str, below: int = 0) -> list[str]:
    """The cells behind the goal in the first row with a title, or so many rows below."""
    lines = table.splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith(f"| {title}")) + below
    return lines[row].strip("| ").split(" | ")[2:]


def test_report_compares_with_the_first_arrangement() -> None:
    twice = replace(LOAD, images_per_s=250.0, p99_ms=5.0, p50_ms=2.25)
    table = report({"one process": FIGURES, "2 workers": replace(FIGURES, crowd=twice, alone=twice)})
    assert cells(table, "images/s") == ["100", "250"]
    assert cells(table, "images/s", below=1) == ["1.00", "2.50"]
    assert cells(table, "p99 ms", below=1) == ["1.00", "0.50"]
    assert cells(table, "  more than the first arrangement") == ["0.00", "0.25"]
    assert cells(table, "engine process") == ["0.50", "0.50"]
    assert cells(table, "memory MiB, what is shared") == ["200", "200"]


def test_medians_are_those_of_each_figure() -> None:
    rounds = [
        replace(FIGURES, crowd=replace(LOAD, p99_ms=p99, p50_ms=p50), memory=Memory(p99, 1.0))
        for p99, p50 in ((1.0, 9.0), (5.0, 7.0), (30.0, 8.0))
    ]
    median = medians(rounds)
    assert (median.crowd.p99_ms, median.crowd.p50_ms, median.memory.pss_mib) == (5.0, 8.0, 5.0)


def test_baseline_comes_first_and_one_process_before_the_workers(tmp_path: Path) -> None:
    names = [service.name for service in arrangements([2, 4], tmp_path)]
    assert names == ["baseline", "one process", "2 workers", "4 workers"]
    command = arrangements([2], tmp_path)[0].command(tmp_path, 80)
    assert command[1].startswith(f"PYTHONPATH={tmp_path}:")
    assert arrangements([2], None)[1].command(tmp_path, 80)[-2:] == ["--workers", "2"]


def test_engine_that_sleeps_gives_the_same_street_to_every_image() -> None:
    manifest = sleeping_manifest((32, 64))
    engine = SleepingEngine(manifest, Sleep(0.0, 0.01), 4)
    before = time.perf_counter()
    rows = engine.infer(np.zeros((3, 32, 64, 3), np.uint8))
    assert time.perf_counter() - before >= 0.03
    assert rows.shape == (3, manifest.num_classes, 8, 16)
    assert (rows[0] == rows[2]).all()
    assert len(np.unique(rows[0].argmax(0))) > 2


def test_process_of_the_engine_is_written_down(tmp_path: Path) -> None:
    model = SleepingModel(sleeping_manifest((32, 64)), Sleep(0.0, 0.0), 2, tmp_path / "pid")
    (found,) = model.find()
    assert set(model.load(found).seconds) == {1, 2}
    assert int((tmp_path / "pid").read_text()) == os.getpid()


def test_main_thread_is_a_part_of_its_process() -> None:
    def work() -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    total_s, main_s = processes.cpu_s(os.getpid()), processes.main_thread_cpu_s(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    others_s = processes.cpu_s(os.getpid()) - total_s - (processes.main_thread_cpu_s(os.getpid()) - main_s)
    assert others_s >= 0.07  # clocks of 10 ms
    assert 0 < processes.pss_mib(os.getpid()) <= processes.rss_mib(os.getpid())


@pytest.mark.parametrize("workers", [0, 2])
def test_real_processes_answer_rightly_and_are_told_apart(workers: int) -> None:
    exam = exam_of((90, 120), (64, 96))
    options = ("--workers", str(workers), "--input", "64x96", "--fixed-ms", "1", "--image-ms", "0")
    with started(SleepingService("feed", "", "", "/segment", options=options), exam) as subject:
        load, memory = subject.measure(exam, 4, 1.0), subject.memory()
        count = len(subject.server.pids())
    assert load.wrong == 0
    assert load.images_per_s > 0
    assert 1 <= load.batch <= 4
    assert load.p50_ms <= load.p99_ms
    assert 0 < load.loop_cpu_ms < load.request_cpu_ms
    assert 20 < memory.pss_mib <= memory.rss_mib
    if workers:
        assert count == 2 + workers
        assert 0 < load.engine_cpu_ms < load.request_cpu_ms
    else:
        assert count == 1
        assert load.engine_cpu_ms == load.request_cpu_ms
