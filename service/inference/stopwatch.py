"""Seconds per stage of one request, for ``Server-Timing`` and the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

WorkStage = Literal["read", "decode", "queue", "infer", "post", "encode"]
Stage = Literal["read", "wait", "decode", "queue", "infer", "post", "encode"]
WORK_STAGES: tuple[WorkStage, ...] = get_args(WorkStage)
STAGES: tuple[Stage, ...] = get_args(Stage)


class Interval(NamedTuple):
    """When a stage was gone through, by ``time.perf_counter``."""

    stage: Stage
    started: float
    ended: float


class Stopwatch:
    """Collects the stages in the order in which they end.

    Stages: ``read`` the body, ``wait`` for a codec thread, ``decode`` and resize the image, ``queue`` until the batch
    starts, ``infer`` the batch, ``post`` the logits to a label map, ``encode`` the answer.

    Attributes:
        seconds: Of each stage.
        intervals: When they were; a stage may be gone through more than once.
        started: When the watch was made, by ``time.perf_counter``.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.intervals: list[Interval] = []
        self.started = time.perf_counter()

    def add(self, stage: Stage, seconds: float, *, ago_s: float = 0.0) -> None:
        """Count ``seconds``, which ended ``ago_s`` ago, to a stage, on top of what it has."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        ended = time.perf_counter() - ago_s
        self.intervals.append(Interval(stage, ended - seconds, ended))

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Count the time of the body to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def total_s(self) -> float:
        """Seconds since the watch was made."""
        return time.perf_counter() - self.started

    def server_timing(self) -> str:
        """Value of the ``Server-Timing`` header, in milliseconds."""
        entries = [*self.seconds.items(), ("total", self.total_s())]
        return ", ".join(f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in entries)
