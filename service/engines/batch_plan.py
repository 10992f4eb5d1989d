"""Batches of any size on an engine that is prepared for a few. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.engines.base import EngineError


@dataclass(frozen=True, slots=True)
class Run:
    """Images ``start`` to ``stop``, exclusive, in a batch of ``size``; rows beyond them are padding."""

    start: int
    stop: int
    size: int


def prepared_sizes(least: int, most: int, limit: int | None = None) -> tuple[int, ...]:
    """Batch sizes to prepare an engine for, ascending: the powers of two of its profile, and the profile's ends.

    Args:
        least: Smallest batch of the profile.
        most: Largest batch of the profile.
        limit: Largest batch that will be asked for.

    Raises:
        EngineError: No profile has these ends.
    """
    if not 1 <= least <= most:
        raise EngineError(f"the engine's profile is for batches of {least} to {most}, expected 1 <= least <= most")
    largest = most if limit is None else max(least, min(most, limit))
    powers = {1 << power for power in range(largest.bit_length()) if 1 << power >= least}
    return tuple(sorted({least, largest} | powers))


def plan_runs(count: int, sizes: Sequence[int]) -> list[Run]:
    """Runs that cover ``count`` images in order: full ones of the largest size, then one of the next size that fits.

    Args:
        count: Images, at least 1.
        sizes: What the engine is prepared for, ascending.
    """
    starts = range(0, count, sizes[-1])
    stops = [min(start + sizes[-1], count) for start in starts]
    return [
        Run(start, stop, next(size for size in sizes if size >= stop - start))
        for start, stop in zip(starts, stops, strict=True)
    ]
