"""Counts of requests and pixels inside the service, kept within limits; in this process, or over all processes."""

from __future__ import annotations

import threading
from typing import Literal, Protocol, get_args

# Requests inside, their pixels, and the requests whose image is on its way to the queue of an engine.
Count = Literal["requests", "pixels", "expected"]


class Ledger(Protocol):
    """Counts of a process, and their totals over all processes; safe in threads."""

    def total(self, count: Count) -> int:
        """Give the sum over all processes."""
        ...

    def add(self, count: Count, number: int) -> None:
        """Add to the count of this process; a negative number takes back."""

    def add_within(self, count: Count, number: int, limit: int, *, alone: bool = False) -> bool:
        """Add to the count of this process unless the total would exceed ``limit``; gives whether it was added.

        Args:
            count: The count.
            number: What to add.
            limit: Largest total.
            alone: True to add to a total of 0 in any case.
        """
        ...


class LocalLedger:
    """The ledger of a single process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Count, int] = dict.fromkeys(get_args(Count), 0)

    def total(self, count: Count) -> int:
        """See ``Ledger``."""
        return self._counts[count]

    def add(self, count: Count, number: int) -> None:
        """See ``Ledger``."""
        with self._lock:
            self._counts[count] += number

    def add_within(self, count: Count, number: int, limit: int, *, alone: bool = False) -> bool:
        """See ``Ledger``."""
        with self._lock:
            total = self._counts[count]
            if total + number > limit and not (alone and total == 0):
                return False
            self._counts[count] = total + number
            return True
