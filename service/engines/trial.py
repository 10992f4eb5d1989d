"""The time of an engine on this machine: of an image alone, and of each image under load."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from service.engines.base import Engine, EngineError
from service.engines.runtimes import PrecisionName, RuntimeName
from service.engines.streams import concurrent_runs

# Of each kind of run in one round. Other work on the machine varies: rounds that are spread out meet it less often.
_BUDGET_S = 0.1
# Several runs at once cost memory: they must save this share of each image's time.
_LEAST_GAIN = 0.05
# A candidate further down the list must save this share of the score, about half of it in each time. What differs by
# less changes places from one measurement to the next.
_LEAST_ADVANTAGE = 0.1


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of an engine, the quickest of several runs: other work on the machine only adds to them.

    Attributes:
        alone: Of one image while nothing else runs.
        per_image: Of each image of the best batch, which the engine shares out over its streams.
        num_streams: Runs at once that ``per_image`` needs.
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
    """Time an engine that is warmed up, in one round: each of its batch sizes for ``budget_s``, or one run.

    Raises:
        Exception: Whatever the runtime raises.
    """
    alone = _quickest_ms(partial(_run, engine, 1), budget_s)
    batches = [_quickest_ms(partial(_run, engine, size), budget_s) / size for size in engine.warm_up_sizes[1:]]
    return Timing(alone, min(batches, default=alone), concurrent_runs(engine))


def quickest(rounds: Sequence[Timing]) -> Timing:
    """The least times of an engine's rounds; one stream if more save too little."""
    alone, per_image = min(each.alone for each in rounds), min(each.per_image for each in rounds)
    num_streams = rounds[0].num_streams
    if num_streams > 1 and per_image > alone * (1 - _LEAST_GAIN):
        return Timing(alone, alone)
    return Timing(alone, min(alone, per_image), num_streams)


def best_trial(trials: Sequence[Trial]) -> tuple[Candidate, Timing]:
    """The first candidate whose score is near the least one: an equal measurement gives an equal choice.

    Raises:
        EngineError: None can serve; the text has the fault of each.
    """
    timed = [(trial.candidate, trial.timing) for trial in trials if trial.timing is not None]
    if not timed:
        raise EngineError(f"no runtime can be used: {'; '.join(map(str, trials))}")
    least = min(timing.score for _, timing in timed)
    return next(pair for pair in timed if pair[1].score * (1 - _LEAST_ADVANTAGE) <= least)


def _run(engine: Engine, size: int) -> None:
    engine.infer(np.zeros((size, *engine.graph.input_size, 3), np.uint8))


def _quickest_ms(run: Callable[[], object], budget_s: float) -> float:
    times: list[float] = []
    while not times or sum(times) < budget_s:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)
