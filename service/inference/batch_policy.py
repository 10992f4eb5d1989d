"""Batch policy: batch size, window and timeout of an engine, chosen from the timings of its warm-up. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A larger batch makes all of its images wait for the last; it must save this share of each image's time.
_MIN_GAIN = 0.05
_MAX_WINDOW_S = 0.010
_UNMEASURED_WINDOW_S = 0.002
# A machine under load is slower than in its warm-up, but not by this factor.
_TIMEOUT_FACTOR = 10.0
_MIN_TIMEOUT_S = 10.0
_UNMEASURED_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """Limits of an engine's batches.

    Attributes:
        max_batch_size: Most images of a batch.
        window_s: Longest wait of an image for others while the engine is idle.
        engine_timeout_s: Seconds after which a batch that has not come back is stuck.
        seconds_per_image: Expected in batches of this size; 0 if nothing was measured.
    """

    max_batch_size: int
    window_s: float
    engine_timeout_s: float
    seconds_per_image: float


def choose_batch_policy(
    seconds: Mapping[int, float],
    *,
    engine_limit: int,
    max_batch_size: int | None = None,
    window_s: float | None = None,
    engine_timeout_s: float | None = None,
) -> BatchPolicy:
    """Choose a policy from the measured times of batches; values that are given are kept.

    Args:
        seconds: Time of a batch by its size.
        engine_limit: Largest batch that the engine takes.
        max_batch_size: Configured value, cut to ``engine_limit``.
        window_s: Configured value.
        engine_timeout_s: Configured value.
    """
    size = min(max_batch_size or best_batch_size(seconds, engine_limit), engine_limit)
    return BatchPolicy(
        max_batch_size=size,
        window_s=best_window_s(seconds, size) if window_s is None else window_s,
        engine_timeout_s=engine_timeout_s or _default_timeout_s(seconds),
        seconds_per_image=_seconds_per_image(seconds, size),
    )


def best_batch_size(seconds: Mapping[int, float], engine_limit: int) -> int:
    """Choose the smallest size within 5% of the best time per image; ``engine_limit`` if that is unmeasured."""
    if engine_limit not in seconds:
        return engine_limit
    per_image = {size: value / size for size, value in seconds.items() if size <= engine_limit}
    best = min(per_image.values())
    return min(size for size, value in per_image.items() if value * (1 - _MIN_GAIN) <= best)


def best_window_s(seconds: Mapping[int, float], max_batch_size: int) -> float:
    """Choose half of the time that a second image in a batch saves, 0 to 10 ms; 2 ms if unmeasured."""
    if max_batch_size == 1:
        return 0.0
    if not {1, 2} <= set(seconds):
        return _UNMEASURED_WINDOW_S
    return min(_MAX_WINDOW_S, max(0.0, 2 * seconds[1] - seconds[2]) / 2)


def _default_timeout_s(seconds: Mapping[int, float]) -> float:
    if not seconds:
        return _UNMEASURED_TIMEOUT_S
    return max(_MIN_TIMEOUT_S, _TIMEOUT_FACTOR * max(seconds.values()))


def _seconds_per_image(seconds: Mapping[int, float], size: int) -> float:
    """Take the time per image of the largest measured batch up to ``size``."""
    measured = max((candidate for candidate in seconds if candidate <= size), default=None)
    return 0.0 if measured is None else seconds[measured] / measured
