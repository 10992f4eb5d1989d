"""Expected times of batches: measured at warm-up by their size, scaled by how the latest batches compare."""

from __future__ import annotations

from collections.abc import Mapping

_SMOOTHING = 0.2
# A batch counts as at most so many times slower than expected: one pause of the machine does not make the engine slow.
_MOST_TIMES_SLOWER = 2.0
# Mean deviations between the expected time and a safe one.
_SAFE_DEVIATIONS = 2.0
# An engine that had a slow time gets no new batches to measure if all images seem too late for it.
_RELAXATION = 0.98


class BatchTimes:
    """Seconds of a batch by its size; 0 as long as nothing is known."""

    def __init__(self, measured: Mapping[int, float] | None = None) -> None:
        """``measured`` has the seconds of batches by their size."""
        self._measured = dict(sorted((measured or {}).items()))
        self._factor = 1.0
        self._deviation = 0.0

    def note(self, size: int, seconds: float) -> None:
        """Learn from a batch that has ended."""
        if size not in self._measured:
            self._measured = dict(sorted({**self._measured, size: seconds / self._factor}.items()))
        usual = self._measured[size]
        if usual <= 0:
            return
        error = min(seconds / usual, _MOST_TIMES_SLOWER * self._factor) - self._factor
        self._factor += _SMOOTHING * error
        self._deviation += _SMOOTHING * (abs(error) - self._deviation)

    def relax(self) -> None:
        """Expect slightly shorter batches: the engine was idle, because it seemed too slow for all waiting images."""
        self._factor *= _RELAXATION
        self._deviation *= _RELAXATION

    def expected(self, size: int) -> float:
        """Seconds that a batch will take, in the mean."""
        return self._factor * self._usual(size)

    def safe(self, size: int) -> float:
        """Seconds that a batch will hardly exceed."""
        return (self._factor + _SAFE_DEVIATIONS * self._deviation) * self._usual(size)

    def _usual(self, size: int) -> float:
        """Interpolate between the sizes that were measured; beyond the largest, in proportion to it."""
        if size <= 0 or not self._measured:
            return 0.0
        if size in self._measured:
            return self._measured[size]
        smaller = max((known for known in self._measured if known < size), default=None)
        larger = min((known for known in self._measured if known > size), default=None)
        if smaller is None:
            assert larger is not None
            return self._measured[larger]
        if larger is None:
            return self._measured[smaller] * size / smaller
        share = (size - smaller) / (larger - smaller)
        return self._measured[smaller] + share * (self._measured[larger] - self._measured[smaller])
