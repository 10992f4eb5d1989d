"""The time of an engine on this machine: of an image alone, and of each image under load."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from service.engines.base import Engine
from service.engines.runtimes import PrecisionName, RuntimeName
from service.engines.streams import concurrent_runs

# Long enough for the fastest engine's quickest run to be seen, short enough for a start with eight of them.
_BUDGET_S = 0.4
_LEAST_RUNS = 3
# Several runs at once cost memory: they must save this share of each image's time.
_LEAST_GAIN = 0.05


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of an engine, the quickest of several runs: other work on the machine only adds to them.

    Attributes:
        alone: Of one image while nothing else runs.
        per_image: Of each image under load, in the engine's largest batch or with all its streams busy.
        num_streams: Runs at once that ``per_image`` needs; 1 if more save too little.
    """

    alone: float
    per_image: float
    num_streams: int = 1

    @property
    def score(self) -> float:
        """The product of both times: the smaller, the better for few and for many users."""
        return self.alone * self.per_image


@dataclass(frozen=True, slots=True)
class Candidate:
    """A runtime and a precision that could serve."""

    runtime: RuntimeName
    precision: PrecisionName

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of a candidate.

    Attributes:
        candidate: The runtime and precision.
        timing: None if it cannot serve.
        fault: Why it cannot serve, one sentence; empty if it can.
    """

    candidate: Candidate
    timing: Timing | None
    fault: str = ""

    def __str__(self) -> str:
        if self.timing is None:
            return f"{self.candidate}: {self.fault}"
        times = f"{self.timing.alone:.1f} ms alone, {self.timing.per_image:.1f} ms an image under load"
        streams = f" in {self.timing.num_streams} streams" if self.timing.num_streams > 1 else ""
        return f"{self.candidate} {times}{streams}"


def time_engine(engine: Engine, budget_s: float = _BUDGET_S) -> Timing:
    """Time an engine that is warmed up; takes about twice ``budget_s``, or three runs of each kind.

    Raises:
        Exception: Whatever the runtime raises.
    """
    alone = _quickest_ms(partial(_run, engine, 1), budget_s)
    streams = concurrent_runs(engine)
    if streams == 1:
        batches = [_quickest_ms(partial(_run, engine, size), budget_s) / size for size in engine.warm_up_sizes[1:]]
        return Timing(alone, min([alone, *batches]))
    images = 2 * streams
    with ThreadPoolExecutor(streams) as threads:
        per_image = _quickest_ms(lambda: list(threads.map(_run, [engine] * images, [1] * images)), budget_s) / images
    return Timing(alone, per_image, streams) if per_image < alone * (1 - _LEAST_GAIN) else Timing(alone, alone)


def _run(engine: Engine, size: int) -> None:
    engine.infer(np.zeros((size, *engine.graph.input_size, 3), np.uint8))


def _quickest_ms(run: Callable[[], object], budget_s: float) -> float:
    times: list[float] = []
    while len(times) < _LEAST_RUNS or sum(times) < budget_s:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)
