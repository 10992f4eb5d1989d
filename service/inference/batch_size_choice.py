"""Defaults that follow from what the warm-up measured. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A larger batch is taken if it saves so much of each image's time: it makes all of its images wait for the last.
_WORTHWHILE_GAIN = 0.05
_LONGEST_WINDOW_S = 0.010
_UNMEASURED_WINDOW_S = 0.002
# A machine under load is slower than in its warm-up, but not by so much.
_TIMEOUT_FACTOR = 10.0
_LEAST_TIMEOUT_S = 10.0
_UNMEASURED_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to run an engine.

    Attributes:
        max_batch_size: Images of a batch.
        window_s: Longest wait of an image for others, of an idle engine.
        engine_timeout_s: From when on a batch that has not come back is stuck.
        seconds_per_image: Expected, in batches of this size; 0 if nothing was measured.
    """

    max_batch_size: int
    window_s: float
    engine_timeout_s: float
    seconds_per_image: float


def tune(
    seconds: Mapping[int, float],
    *,
    most: int,
    max_batch_size: int | None = None,
    window_s: float | None = None,
    engine_timeout_s: float | None = None,
) -> Tuning:
    """What pays, by the measured times of batches; values that are given are kept.

    Args:
        seconds: Time of a batch by its size.
        most: Largest batch that the engine takes.
        max_batch_size: Wanted; never more than ``most``.
        window_s: Wanted.
        engine_timeout_s: Wanted.
    """
    size = min(max_batch_size or size_that_pays(seconds, most), most)
    return Tuning(
        max_batch_size=size,
        window_s=window_that_pays(seconds, size) if window_s is None else window_s,
        engine_timeout_s=engine_timeout_s or _patience_s(seconds),
        seconds_per_image=_seconds_per_image(seconds, size),
    )


def size_that_pays(seconds: Mapping[int, float], most: int) -> int:
    """The smallest batch size whose images take hardly longer than at the best; ``most`` if that is unmeasured."""
    if most not in seconds:
        return most
    per_image = {size: value / size for size, value in seconds.items() if size <= most}
    best = min(per_image.values())
    return min(size for size, value in per_image.items() if value * (1 - _WORTHWHILE_GAIN) <= best)


def window_that_pays(seconds: Mapping[int, float], max_batch_size: int) -> float:
    """Half of what a second image in a batch saves, at most 10 ms; none where it saves nothing, 2 ms if unmeasured."""
    if max_batch_size == 1:
        return 0.0
    if not {1, 2} <= set(seconds):
        return _UNMEASURED_WINDOW_S
    return min(_LONGEST_WINDOW_S, max(0.0, 2 * seconds[1] - seconds[2]) / 2)


def _patience_s(seconds: Mapping[int, float]) -> float:
    if not seconds:
        return _UNMEASURED_TIMEOUT_S
    return max(_LEAST_TIMEOUT_S, _TIMEOUT_FACTOR * max(seconds.values()))


def _seconds_per_image(seconds: Mapping[int, float], size: int) -> float:
    """Of the largest measured batch that is not larger than ``size``."""
    measured = max((candidate for candidate in seconds if candidate <= size), default=None)
    return 0.0 if measured is None else seconds[measured] / measured
