"""Model of one replica for the simulation: its measured times and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

Samples = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured times, from which the simulation draws.

    Attributes:
        overhead_s: Seconds of a request that are no stage of the service: HTTP on both sides, hashing. Half of them
            is before the other stages and half after them, one request at a time, as on an event loop.
        before_s: Seconds in a codec thread before the engine, decode and resize, while the engine is idle.
        contended_before_s: The same while the engine runs, which may want the same cores; empty if there is no
            difference.
        after_s: Seconds in a codec thread after it: labels and encoding.
        engine_fixed_s: The part of a batch's seconds that does not depend on its size.
        engine_per_image_s: The part that each image adds.
        engine_jitter: Factors around 1: a batch's measured seconds over what the two above give.
        contention_s: What a batch takes longer for each image that is decoded meanwhile.
        handoff_s: Seconds from the end of a batch to the start of the next, when images wait already but no batch was
            formed ahead, for each image of the batch that has ended: the event loop passes their rows on first.
    """

    overhead_s: Samples
    before_s: Samples
    after_s: Samples
    engine_fixed_s: float
    engine_per_image_s: float
    engine_jitter: Samples = (1.0,)
    handoff_s: Samples = (0.0,)
    contended_before_s: Samples = ()
    contention_s: float = 0.0

    def engine_s(self, size: int) -> float:
        """Expected seconds of a batch."""
        return self.engine_fixed_s + self.engine_per_image_s * size

    def contended_engine_s(self, size: int) -> float:
        """The same where as many images are decoded meanwhile as the batch holds."""
        return self.engine_s(size) + self.contention_s * size

    def draw_engine_s(self, size: int, random: Random) -> float:
        """Seconds of one batch."""
        return self.engine_s(size) * random.choice(self.engine_jitter)

    def before_engine_s(self, *, busy: bool) -> Samples:
        """Seconds before the engine, beside an engine that is idle or busy."""
        return (self.contended_before_s or self.before_s) if busy else self.before_s


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the service that matter here, by the names that it gives them.

    Attributes:
        codec_threads: Threads that decode and encode.
        max_batch_size: Images of a batch.
        window_s: Longest wait of the oldest image for others, of an idle engine.
        max_requests_in_flight: Requests inside at once, in any stage; one more is refused with 503.
        request_timeout_s: Seconds from arrival to answer; then 504.
        forms_ahead: Whether a full batch is formed while the engine still runs the one before, so that it can begin at
            once; the service does so unless the engine runs on the CPU.
    """

    codec_threads: int
    max_batch_size: int
    window_s: float
    max_requests_in_flight: int = 64
    request_timeout_s: float = 30.0
    forms_ahead: bool = False


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """One replica."""

    costs: Costs
    limits: Limits

    @property
    def capacity_per_s(self) -> float:
        """Images a second that the narrowest of engine, codec threads and event loop can bear, in full batches."""
        costs, limits = self.costs, self.limits
        batch_s = costs.contended_engine_s(limits.max_batch_size) * mean(costs.engine_jitter)
        handoff_s = 0.0 if limits.forms_ahead else mean(costs.handoff_s)
        seconds = (
            batch_s / limits.max_batch_size + handoff_s,
            (mean(costs.before_engine_s(busy=True)) + mean(costs.after_s)) / limits.codec_threads,
            mean(costs.overhead_s),
        )
        return 1 / max(seconds)


def mean(samples: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(samples) / len(samples)
