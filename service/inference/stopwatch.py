"""Times of the stages of one request, for ``Server-Timing``, the metrics and the traces."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple, get_args

WorkStage = Literal["read", "decode", "queue", "infer", "post", "encode"]
Stage = Literal["read", "wait", "decode", "queue", "infer", "post", "encode"]
WORK_STAGES: tuple[WorkStage, ...] = get_args(WorkStage)
STAGES: tuple[Stage, ...] = get_args(Stage)


class Interval(NamedTuple):
    """One pass through a stage, by ``time.perf_counter``."""

    stage: Stage
    started: float
    ended: float


class Stopwatch:
    """Collects the stages of a request in the order in which they end.

    Stages: ``read`` the body, ``wait`` for a codec thread, ``decode`` and resize the image, ``queue`` until the batch
    starts, ``infer`` the batch, ``post`` the logits to a label map, ``encode`` the answer.

    Attributes:
        seconds: Total seconds of each stage.
        intervals: Every pass through a stage.
        started: Creation of the stopwatch, by ``time.perf_counter``.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.intervals: list[Interval] = []
        self.started = time.perf_counter()

    def record(self, stage: Stage, started: float, ended: float) -> None:
        """Add a pass through a stage, by ``time.perf_counter``; from any thread."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + ended - started
        self.intervals.append(Interval(stage, started, ended))

    def total_s(self) -> float:
        """Seconds since the stopwatch was created."""
        return time.perf_counter() - self.started

    def server_timing(self) -> str:
        """Value of the ``Server-Timing`` header, in milliseconds."""
        entries = [*self.seconds.items(), ("total", self.total_s())]
        return ", ".join([f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in entries])
