"""A clock that the test holds."""

from __future__ import annotations


class Clock:
    """Gives the seconds in ``now``, which a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
